"""Losses: their formulas, their masks, and that nothing masked is ever felt."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax import losses

pytestmark = pytest.mark.sampled

T, B, C = 5, 3, 4
CLASS_LOSSES = [losses.softmax_cross_entropy, losses.bits_per_character]
ELEMENT_LOSSES = [losses.mean_squared_error, losses.binary_cross_entropy]


def logits_and_labels(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(T, B, C)).astype(np.float32)
    return logits, rng.integers(0, C, size=(T, B)).astype(np.int32)


def outputs_and_targets(seed=0):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(T, B, C)).astype(np.float32)
    return outputs, rng.integers(0, 2, size=(T, B, C)).astype(np.float32)


def some_mask(seed=0):
    mask = np.random.default_rng(seed).random((T, B)) < 0.5
    mask[0, 0], mask[1, 1] = True, False
    return mask


def cross_entropies(logits, labels):
    """NumPy, float64: -log softmax(logits)[label], [T, B]."""
    exps = np.exp(logits.astype(np.float64))
    probabilities = exps / exps.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(probabilities, labels[..., None], -1)[..., 0])


def elements(loss, outputs, targets):
    """NumPy, float64: the loss of each element, [T, B, C]."""
    outputs = outputs.astype(np.float64)
    if loss is losses.mean_squared_error:
        return (outputs - targets) ** 2
    p = 1.0 / (1.0 + np.exp(-outputs))
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


@pytest.mark.parametrize("loss", ELEMENT_LOSSES)
def test_element_losses_are_their_formulas(loss):
    outputs, targets = outputs_and_targets()
    mask, expected = some_mask(), elements(loss, outputs, targets)
    np.testing.assert_allclose(loss(outputs, targets), expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(outputs, targets, mask), expected[mask].mean(), rtol=1e-5)
    single = np.random.default_rng(1).random((T, B, C)) < 0.3
    np.testing.assert_allclose(loss(outputs, targets, single), expected[single].mean(), rtol=1e-5)


def test_cross_entropy_bits_and_accuracy_are_their_formulas():
    (logits, labels), mask = logits_and_labels(), some_mask()
    expected = cross_entropies(logits, labels)
    hits = logits.argmax(-1) == labels
    for where, kept in [(None, np.ones((T, B), bool)), (mask, mask)]:
        nats = losses.softmax_cross_entropy(logits, labels, where)
        np.testing.assert_allclose(nats, expected[kept].mean(), rtol=1e-5)
        bits = losses.bits_per_character(logits, labels, where)
        np.testing.assert_allclose(bits, expected[kept].mean() / math.log(2), rtol=1e-5)
        accuracy = losses.accuracy(logits, labels, where)
        np.testing.assert_allclose(accuracy, hits[kept].mean(), rtol=1e-6)


def test_known_values():
    uniform, labels = np.zeros((T, B, 8), np.float32), np.zeros((T, B), np.int32)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(uniform, labels), math.log(8), rtol=1e-6
    )
    np.testing.assert_allclose(losses.bits_per_character(uniform, labels), 3.0, rtol=1e-6)
    ones = np.ones((T, B, 1), np.float32)
    np.testing.assert_allclose(losses.binary_cross_entropy(0 * ones, ones), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.mean_squared_error(3 * ones, ones), 4.0)
    assert losses.accuracy(np.eye(3, dtype=np.float32), np.array([0, 1, 0])) == np.float32(2 / 3)


def test_large_logits_stay_finite():
    big = np.full((T, B, 2), 1e4, np.float32) * np.array([1, -1], np.float32)
    labels = np.ones((T, B), np.int32)
    np.testing.assert_allclose(losses.softmax_cross_entropy(big, labels), 2e4)
    np.testing.assert_allclose(losses.binary_cross_entropy(big, np.zeros_like(big)), 5e3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("loss", [*ELEMENT_LOSSES, *CLASS_LOSSES])
def test_masked_steps_are_not_felt(loss, bad):
    outputs, targets = (logits_and_labels if loss in CLASS_LOSSES else outputs_and_targets)()
    mask, poisoned_targets = some_mask(), targets.copy()
    poisoned = np.where(mask[..., None], outputs, np.float32(bad))
    poisoned_targets[~mask] = 1_000_000 if loss in CLASS_LOSSES else bad
    both = jax.jit(jax.value_and_grad(loss))
    value, grad = jax.device_get(both(poisoned, poisoned_targets, mask))
    clean, clean_grad = both(outputs, targets, mask)
    assert np.isfinite(value) and value == clean
    np.testing.assert_array_equal(grad, clean_grad)
    np.testing.assert_array_equal(grad[~mask], 0.0)
    assert np.all(np.any(grad[mask] != 0.0, axis=-1))


@pytest.mark.parametrize("loss", ELEMENT_LOSSES)
def test_target_gradient_is_not_poisoned_either(loss):
    outputs, targets = outputs_and_targets()
    mask = some_mask()
    poisoned = np.where(mask[..., None], outputs, np.float32(np.nan))
    grad = np.asarray(jax.jit(jax.grad(loss, argnums=1))(poisoned, targets, mask))
    assert np.all(np.isfinite(grad)) and np.all(grad[~mask] == 0.0)


def test_valid_nan_is_not_hidden():
    (logits, labels), mask = logits_and_labels(), some_mask()
    logits[0, 0, 0] = np.nan
    assert np.isnan(losses.softmax_cross_entropy(logits, labels, mask))
    assert np.isnan(losses.mean_squared_error(logits, logits, mask))


def test_label_out_of_range_is_nan_not_a_wrong_number():
    logits, labels = logits_and_labels()
    labels[2, 1] = C
    assert np.isnan(losses.softmax_cross_entropy(logits, labels))


@pytest.mark.parametrize("loss", [*ELEMENT_LOSSES, *CLASS_LOSSES])
def test_nothing_valid_is_zero(loss):
    outputs, targets = (logits_and_labels if loss in CLASS_LOSSES else outputs_and_targets)()
    given = outputs * np.nan, targets, np.zeros((T, B), bool)
    value, grad = jax.jit(jax.value_and_grad(loss))(*given)
    assert value == 0.0
    np.testing.assert_array_equal(grad, 0.0)
    assert loss(outputs[:0], targets[:0]) == 0.0


def test_accuracy_of_nothing_is_zero():
    logits, labels = logits_and_labels()
    assert losses.accuracy(logits, labels, np.zeros((T, B), bool)) == 0.0


@pytest.mark.grid
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_reduced_in_float32(dtype):
    # A float16 sum stops at 65504, a bfloat16 sum of ones at 256.
    n = 70_000
    ones, zeros = np.ones((n, 1), dtype), np.zeros((n, 2), dtype)
    value = jax.jit(losses.mean_squared_error)(ones, 0 * ones, np.ones(n, bool))
    assert value.dtype == jnp.float32 and value == 1.0
    labels = np.zeros(n, np.int32)
    value, grad = jax.jit(jax.value_and_grad(losses.softmax_cross_entropy))(zeros, labels)
    np.testing.assert_allclose(value, math.log(2), rtol=1e-5)
    assert value.dtype == jnp.float32 and grad.dtype == dtype
    assert jax.jit(losses.accuracy)(zeros, labels) == 1.0


@pytest.mark.grid
def test_float64_stays_and_float32_does_not_grow():
    with jax.enable_x64(True):
        (logits, labels), mask = logits_and_labels(), some_mask()
        wide = logits.astype(np.float64)
        value = jax.jit(losses.softmax_cross_entropy)(wide, labels, mask)
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, cross_entropies(wide, labels)[mask].mean(), rtol=1e-13)
        for loss in CLASS_LOSSES + [losses.accuracy]:
            assert jax.eval_shape(loss, logits, labels, mask).dtype == np.float32
        for loss in ELEMENT_LOSSES:
            assert jax.eval_shape(loss, logits, np.ones_like(wide), mask).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_any_integer_label_dtype(dtype):
    logits, labels = logits_and_labels()
    mask, same = some_mask(), labels.astype(dtype)
    for loss in CLASS_LOSSES + [losses.accuracy]:
        assert loss(logits, same, mask) == loss(logits, labels, mask)


def test_bool_and_int_targets():
    outputs, targets = outputs_and_targets()
    expected = losses.binary_cross_entropy(outputs, targets)
    assert losses.binary_cross_entropy(outputs, targets.astype(bool)) == expected
    assert losses.binary_cross_entropy(outputs, targets.astype(np.int32)) == expected


@pytest.mark.parametrize("loss", [*ELEMENT_LOSSES, *CLASS_LOSSES, losses.accuracy])
def test_jit_and_vmap_agree(loss):
    classes = loss not in ELEMENT_LOSSES
    outputs, targets = (logits_and_labels if classes else outputs_and_targets)()
    mask = some_mask()
    expected = loss(outputs, targets, mask)
    np.testing.assert_allclose(jax.jit(loss)(outputs, targets, mask), expected, rtol=1e-6)
    stacked = [np.stack([a, a]) for a in (outputs, targets, mask)]
    np.testing.assert_allclose(jax.vmap(loss)(*stacked), [expected] * 2, rtol=1e-6)


@settings(max_examples=30)
@given(mask=st.lists(st.booleans(), min_size=T * B, max_size=T * B), seed=st.integers(0, 1000))
def test_a_mask_is_the_same_as_dropping_the_steps(mask, seed):
    """Any mask, in float64 NumPy: the mean of what is left, 0 of nothing."""
    (logits, labels), mask = logits_and_labels(seed), np.array(mask).reshape(T, B)
    kept = cross_entropies(logits, labels)[mask]
    expected = kept.mean() if mask.any() else 0.0
    loss = losses.softmax_cross_entropy(logits, labels, mask)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    squares = elements(losses.mean_squared_error, logits, logits[:, :, ::-1])[mask]
    expected = squares.mean() if mask.any() else 0.0
    loss = losses.mean_squared_error(logits, logits[:, :, ::-1], mask)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "mask", "message"),
    [
        ("mean_squared_error", (T, B, 2), (T, B), None, r"targets: got shape \(5, 3\), wanted the"),
        ("mean_squared_error", (T, B, 2), (T, B, 2), (B, T), r"mask: got shape \(3, 5\), wanted"),
        ("binary_cross_entropy", (T, B), (T, B, 1), None, r"labels: got shape \(5, 3, 1\), wanted"),
        ("softmax_cross_entropy", (T, B, 2), (B, T), None, r"labels: got shape \(3, 5\), wanted"),
        ("accuracy", (T, B, 2), (T, B), (T,), r"mask: got shape \(5,\), wanted .* = \(5, 3\); "),
        ("bits_per_character", (), (), None, r"logits: got shape \(\), wanted"),
    ],
)
def test_shape_errors(loss, outputs, targets, mask, message):
    dtype = np.float32 if loss in ("mean_squared_error", "binary_cross_entropy") else np.int32
    mask = None if mask is None else np.ones(mask, bool)
    with pytest.raises(ValueError, match=message):
        getattr(losses, loss)(np.zeros(outputs, np.float32), np.zeros(targets, dtype), mask)


def test_dtype_errors():
    logits, labels = logits_and_labels()
    with pytest.raises(ValueError, match="labels: got dtype float32, wanted an integer dtype"):
        losses.softmax_cross_entropy(logits, labels.astype(np.float32))
    with pytest.raises(ValueError, match="logits: got dtype int32, wanted a floating-point"):
        losses.accuracy(logits.astype(np.int32), labels)
    with pytest.raises(ValueError, match="predictions: got dtype int32"):
        losses.mean_squared_error(logits.astype(np.int32), logits)
    for loss in (losses.softmax_cross_entropy, losses.accuracy):
        with pytest.raises(ValueError, match=r"mask: got dtype float32, wanted dtype bool.*astype"):
            loss(logits, labels, some_mask().astype(np.float32))
    with pytest.raises(ValueError, match="mask: got dtype int32, wanted dtype bool"):
        losses.mean_squared_error(logits, logits, some_mask().astype(np.int32))
