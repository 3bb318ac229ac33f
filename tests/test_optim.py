"""Clipped SGD: against torch and optax, on gradients that overflow or hold NaN, and in use."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lstm_jax.optim
from lstm_jax import _numerics

pytestmark = pytest.mark.sampled

# Optax types a state as any tree, which has no fields.
optim: Any = lstm_jax.optim

W = {"w": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.array([0.5, -2.0, 3.0])}


def tree(values, dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), values)


def gradients(step, scale=1.0):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: scale * rng.standard_normal(x.shape), W)


def norm64(x):
    return np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(x)))


def assert_trees_close(a, b, **kwargs):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **kwargs), a, b)


def run(tx, params, grads):
    state, update = tx.init(params), jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


# ------------------------------------------------------------------------- parity


@pytest.mark.grid
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ],
)
def test_same_steps_as_torch(options):
    torch = pytest.importorskip("torch")
    weights = {name: torch.nn.Parameter(torch.tensor(w)) for name, w in W.items()}
    sgd = torch.optim.SGD(weights.values(), lr=0.1, **options)
    # Norms from about 0.3 to 12: some steps are clipped and some are not.
    steps = [gradients(n, scale) for n, scale in enumerate([0.1, 1, 4, 0.2, 0.1, 3])]
    for step in steps:
        for name, w in weights.items():
            w.grad = torch.tensor(step[name])
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.5)
        sgd.step()
    with jax.enable_x64(True):
        tx = optim.clipped_sgd(0.1, 1.5, **options)
        params, state = run(tx, tree(W, jnp.float64), [tree(g, jnp.float64) for g in steps])
        # torch divides by norm + 1e-6.
        assert_trees_close(params, {n: w.detach().numpy() for n, w in weights.items()}, rtol=2e-6)
    assert 0 < state.clipped < len(steps)


def test_same_steps_as_the_optax_chain():
    grads = [tree(gradients(n, scale)) for n, scale in enumerate([0.1, 1, 4, 0.2])]
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9))
    expected, _ = run(reference, tree(W), grads)
    params, _ = run(optim.clipped_sgd(0.1, momentum=0.9), tree(W), grads)
    assert_trees_close(params, expected, rtol=1e-6)


def test_weight_decay_is_added_after_the_clip():
    tx = optim.clipped_sgd(1.0, max_norm=1.0, weight_decay=2.0)
    w = jnp.array([10.0, 0.0])
    updates, _ = jax.jit(tx.update)(jnp.array([0.0, 5.0]), tx.init(w), w)
    np.testing.assert_allclose(updates, [-20.0, -1.0], rtol=1e-6)


def test_gradients_below_max_norm_pass_bit_for_bit():
    g = tree(gradients(0, 0.1))
    tx = optim.clip_by_global_norm(1.0)
    clipped, _ = tx.update(g, tx.init(g))
    jax.tree.map(np.testing.assert_array_equal, clipped, g)


def test_no_max_norm_is_plain_sgd():
    g = tree(gradients(0, 1e6))
    tx = optim.clipped_sgd(0.5, max_norm=None)
    updates, state = tx.update(g, tx.init(g))
    jax.tree.map(lambda u, g: np.testing.assert_array_equal(u, -0.5 * g), updates, g)
    assert state.clipped == 0 and state.count == 1
    np.testing.assert_allclose(state.norm_before, norm64(g), rtol=1e-6)
    np.testing.assert_allclose(state.norm_after, norm64(g), rtol=1e-6)


# ------------------------------------------------------------------------- the norm


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18, 1e25, 1e37])
def test_global_norm_neither_overflows_nor_underflows(scale):
    g = tree(gradients(0, scale))
    np.testing.assert_allclose(optim.global_norm(g), norm64(g), rtol=1e-6)


def test_global_norm_of_nothing_and_of_zeros():
    assert optim.global_norm({}) == 0
    assert optim.global_norm(tree({"w": np.zeros((2, 3)), "none": np.zeros((0, 3))})) == 0
    assert optim.global_norm(jnp.full(3, 1e-42, jnp.float32)) == 0


def test_global_norm_accumulates_half_precision_in_float32():
    norm = jax.jit(optim.global_norm)(jnp.ones(100_000, jnp.bfloat16))
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, np.sqrt(100_000), rtol=1e-6)
    mixed = {"half": jnp.full(3, 300.0, jnp.float16), "single": jnp.full(1, 4.0)}
    np.testing.assert_allclose(jax.jit(optim.global_norm)(mixed), norm64(mixed), rtol=1e-6)


def test_global_norm_of_float64_is_float64():
    with jax.enable_x64(True):
        g = {"a": jnp.full(2, 1e200, jnp.float64), "b": jnp.ones(1, jnp.float32)}
        norm = jax.jit(optim.global_norm)(g)
        assert norm.dtype == jnp.float64
        np.testing.assert_allclose(norm, 1e200 * np.sqrt(2), rtol=1e-14)


def test_global_norm_reports_nan_and_inf():
    assert jnp.isnan(optim.global_norm([jnp.array([1.0, jnp.nan]), jnp.array([jnp.inf])]))
    assert optim.global_norm([jnp.array([1.0, -jnp.inf])]) == jnp.inf


def test_global_norm_derivative():
    g = jnp.array([3.0, -4.0, 0.0])
    grad = jax.jit(jax.grad(optim.global_norm))
    np.testing.assert_allclose(grad(g), [0.6, -0.8, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(grad(jnp.zeros(3)), np.zeros(3))
    hessian = jax.jit(jax.hessian(optim.global_norm))(g)
    expected = (np.eye(3) - np.outer(g, g) / 25) / 5
    np.testing.assert_allclose(hessian, expected, atol=1e-6)


def test_clip_is_differentiable_through():
    # d/ds of the clipped gradient along s*g is 0, and of the plain gradient it is g.
    def first(scale, max_norm):
        tx = optim.clip_by_global_norm(max_norm)
        return tx.update(scale * jnp.array([3.0, 4.0]), optax.EmptyState())[0][0]

    slope = jax.jit(jax.grad(first))
    np.testing.assert_allclose(slope(1.0, 1.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(slope(1.0, 10.0), 3.0, rtol=1e-6)


# ------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("scale", [1e18, 1e25, 1e38])
def test_finite_gradients_whose_square_overflows_are_clipped(scale):
    g = tree({"w": np.full(6, scale), "b": np.array([-scale, 0.0, 0.0])})
    tx = optim.clipped_sgd(1.0, max_norm=0.7)
    updates, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates["w"], np.full(6, -0.7 / np.sqrt(7)), rtol=1e-6)
    np.testing.assert_allclose(norm64(updates), 0.7, rtol=1e-6)
    assert state.clipped == 1 and state.skipped == 0
    np.testing.assert_allclose(state.norm_after, 0.7, rtol=1e-7)


def test_norm_beyond_the_dtype_is_still_clipped():
    g = jnp.full(10_000, 3e38)
    tx = optim.clipped_sgd(1.0)
    updates, state = jax.jit(tx.update)(g, tx.init(g))
    np.testing.assert_allclose(updates, np.full(10_000, -0.01), rtol=1e-5)
    assert state.norm_before == jnp.inf and state.norm_after == 1 and state.skipped == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    entries=st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8),
    exponent=st.integers(-20, 37),
    max_norm=st.floats(1e-3, 1e3),
)
def test_clip_bounds_the_norm_and_keeps_the_direction(entries, exponent, max_norm):
    g = jnp.asarray(np.float64(10.0) ** exponent * np.array(entries), jnp.float32)
    clipped, state = _clip_once(g, jnp.float32(max_norm))
    before, after = norm64(g), norm64(clipped)
    assert after <= max_norm * (1 + 1e-6)
    assert state.norm_after <= max_norm * (1 + 1e-6)
    np.testing.assert_allclose(state.norm_after, after, rtol=2e-6, atol=1e-30)
    expected = np.asarray(g, np.float64) * min(1.0, max_norm / max(before, 1e-300))
    np.testing.assert_allclose(-clipped, expected, rtol=3e-6, atol=1e-30)


@jax.jit
def _clip_once(g, max_norm):
    tx = optim.clipped_sgd(1.0, max_norm)
    return tx.update(g, tx.init(g))


# ------------------------------------------------------------------------- skipping


@pytest.mark.parametrize("bad, max_norm", [(np.nan, 1.0), (-np.inf, 1.0), (np.inf, None)])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad, max_norm):
    tx = optim.clipped_sgd(0.1, max_norm, momentum=0.9, weight_decay=0.1)
    good, broken = tree(gradients(0)), tree(gradients(1))
    broken["w"] = broken["w"].at[1, 2].set(bad)
    params, state = run(tx, tree(W), [good])
    updates, after = jax.jit(tx.update)(broken, state, params)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, np.zeros(u.shape)), updates)
    jax.tree.map(np.testing.assert_array_equal, after.inner, state.inner)
    assert (after.count, after.skipped, after.clipped) == (2, 1, state.clipped)
    assert after.norm_after == 0
    np.testing.assert_array_equal(after.norm_before, abs(bad))


def test_training_goes_on_after_a_skipped_step_as_if_it_never_was():
    tx = optim.clipped_sgd(lambda count: 0.1 / (1.0 + count.astype(jnp.float32)), momentum=0.9)
    good = [tree(gradients(n)) for n in range(4)]
    broken = jax.tree.map(lambda g: g * jnp.nan, good[0])
    expected, _ = run(tx, tree(W), good)
    params, state = run(tx, tree(W), [broken, *good[:2], broken, broken, *good[2:]])
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert (state.count, state.skipped) == (7, 3)


def test_schedule_sees_the_number_of_steps_taken():
    tx = optim.clipped_sgd(lambda count: jnp.where(count == 0, 1.0, 0.5), max_norm=None)
    state = tx.init(jnp.ones(1))
    steps, update = [], jax.jit(tx.update)
    for g in [jnp.nan, 1.0, jnp.inf, 1.0]:
        updates, state = update(jnp.full(1, g), state)
        steps.append(float(updates[0]))
    assert steps == [0.0, -1.0, 0.0, -0.5]


@pytest.mark.parametrize("max_norm", [None, math.inf, 10.0])
def test_derivatives_through_a_step_that_does_not_clip(max_norm):
    """That of -0.1 w w, as without the limit: inf has no derivative that could spoil it."""

    def change(w):
        tx = optim.clipped_sgd(0.1, max_norm)
        return tx.update(w * w, tx.init(w))[0].sum()

    w = jnp.asarray([1.0, -2.0, 0.0])
    np.testing.assert_allclose(jax.grad(change)(w), [-0.2, 0.4, 0.0], rtol=1e-6)


def test_derivatives_through_a_skipped_step_are_zero():
    def change(learning_rate, g):
        tx = optim.clipped_sgd(learning_rate, momentum=0.9)
        return tx.update(g, tx.init(g))[0].sum()

    slope = jax.jit(jax.grad(change))
    assert slope(0.1, jnp.array([jnp.nan, 1.0])) == 0
    np.testing.assert_allclose(slope(0.1, jnp.array([0.5, 0.25])), -0.75, rtol=1e-6)


def test_clip_by_global_norm_is_loud_about_gradients_that_are_not_finite():
    tx = optim.clip_by_global_norm(1.0)
    g = {"a": jnp.array([1.0, jnp.inf]), "b": jnp.ones(2, jnp.bfloat16)}
    clipped, _ = jax.jit(tx.update)(g, tx.init(g))
    assert all(jnp.isnan(c).all() for c in jax.tree.leaves(clipped))


# ------------------------------------------------------------------------- the state


def test_state_rides_in_a_scan():
    tx = optim.clipped_sgd(optax.linear_schedule(0.1, 0.0, 10), momentum=0.9, weight_decay=0.01)
    params = {"w": jnp.ones((2, 3), jnp.float32), "half": jnp.ones(3, jnp.bfloat16)}
    grads = jax.tree.map(lambda p: jnp.stack([p, 1e-3 * p, p * jnp.nan, 1e30 * p]), params)

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), optim.report(state)

    (params, state), log = jax.lax.scan(body, (params, tx.init(params)), grads)
    assert jax.tree.map(lambda p: p.dtype.name, params) == {"w": "float32", "half": "bfloat16"}
    np.testing.assert_array_equal(log["clipped"], [1, 1, 1, 2])
    np.testing.assert_array_equal(log["skipped"], [0, 0, 1, 1])
    np.testing.assert_array_equal(log["steps"], [1, 2, 3, 4])
    np.testing.assert_allclose(log["clip_rate"], [1, 1 / 2, 1 / 3, 1 / 2], rtol=1e-6)
    assert all(bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(params))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_those_of_init(dtype):
    tx = optim.clipped_sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    params = tree(W, dtype)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(tree(gradients(0), dtype), state, params)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert state.count.dtype == state.clipped.dtype == state.skipped.dtype == jnp.int32
    assert state.norm_before.dtype == state.norm_after.dtype == jnp.float32


def test_momentum_of_bfloat16_parameters_is_kept_in_float32():
    # 200 steps of 1 under momentum 0.99 reach 86.6; in bfloat16 the buffer would stall short of it.
    tx = optim.clipped_sgd(1.0, max_norm=None, momentum=0.99)
    g = jnp.ones(1, jnp.bfloat16)
    state = jax.lax.fori_loop(0, 200, lambda _, s: tx.update(g, s)[1], tx.init(g))
    np.testing.assert_allclose(jax.tree.leaves(state.inner)[0], (1 - 0.99**200) / 0.01, rtol=1e-4)


def test_state_may_be_donated():
    tx = optim.clipped_sgd(0.1, momentum=0.9)
    params = tree(W)
    update = jax.jit(tx.update, donate_argnums=1)
    updates, state = update(tree(gradients(0)), tx.init(params), params)
    assert state.count == 1 and norm64(updates) > 0


def test_vmap_clips_each_member_by_its_own_norm():
    tx = optim.clipped_sgd(1.0, momentum=0.5)
    g = jnp.array([[3.0, 4.0], [0.3, 0.4], [jnp.nan, 1.0]])
    state = jax.vmap(tx.init)(g)
    updates, state = jax.jit(jax.vmap(tx.update))(g, state)
    np.testing.assert_allclose(updates, [[-0.6, -0.8], [-0.3, -0.4], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(state.clipped, [1, 0, 0])
    np.testing.assert_array_equal(state.skipped, [0, 0, 1])


def test_second_call_does_not_retrace():
    tx, traces = optim.clipped_sgd(0.1, momentum=0.9), []

    @jax.jit
    def update(g, state):
        traces.append(state)
        return tx.update(g, state)

    state = tx.init(tree(W))
    for n in range(3):
        _, state = update(tree(gradients(n)), state)
    assert len(traces) == 1


# ------------------------------------------------------------------------- report and optax


def test_report_reads_the_last_step_and_the_counts():
    tx = optim.clipped_sgd(0.1, max_norm=2.0)
    state = tx.init(jnp.ones(2))
    assert optim.report(state)["clip_rate"] == 0
    _, state = jax.jit(tx.update)(jnp.array([0.6, 0.8]), state)
    _, state = jax.jit(tx.update)(jnp.array([6.0, 8.0]), state)
    seen = {name: float(value) for name, value in optim.report(state).items()}
    assert seen == pytest.approx(
        dict(norm_before=10, norm_after=2, clip_rate=0.5, clipped=1, skipped=0, steps=2)
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.chain(optax.clip(100.0), tx),
        lambda tx: optax.multi_transform({"a": tx, "b": optax.set_to_zero()}, {"w": "a", "b": "b"}),
        lambda tx: optax.masked(tx, {"w": True, "b": False}),
    ],
    ids=["chain", "multi_transform", "masked"],
)
def test_report_finds_the_state_inside_another(wrap):
    tx = wrap(optim.clipped_sgd(0.1, momentum=0.9))
    params = tree(W)
    _, state = jax.jit(tx.update)(tree(gradients(0, 10.0)), tx.init(params), params)
    assert optim.report(state)["steps"] == 1 and optim.report(state)["clipped"] == 1


def test_hyperparameters_can_be_injected():
    make = optax.inject_hyperparams(optim.clipped_sgd)
    grads = [tree(gradients(n, 3.0)) for n in range(3)]
    options = dict(learning_rate=0.1, max_norm=0.5, momentum=0.9)
    params, state = run(make(**options), tree(W), grads)
    expected, _ = run(optim.clipped_sgd(**options), tree(W), grads)
    assert_trees_close(params, expected, rtol=1e-6)
    assert optim.report(state)["clipped"] == 3


@pytest.mark.parametrize("states, count", [(0, 0), (2, 2)])
def test_report_wants_one_state(states, count):
    tx = optax.chain(optax.identity(), *[optim.clipped_sgd(0.1) for _ in range(states)])
    with pytest.raises(ValueError, match=f"state: got {count} ClippedSGDState.*wanted one"):
        optim.report(tx.init(jnp.ones(2)))


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, match",
    [
        (dict(max_norm=0.0), "max_norm: got 0.0, wanted a positive number or None; pass max_norm"),
        (dict(max_norm=-1), "max_norm: got -1"),
        (dict(max_norm=float("nan")), "max_norm: got nan"),
        (dict(learning_rate=-0.1), "learning_rate: got -0.1, wanted a number >= 0"),
        (dict(momentum=-0.1), r"momentum: got -0.1, wanted a number in \[0, 1\)"),
        (dict(momentum=1.0), r"momentum: got 1.0, wanted a number in \[0, 1\)"),
        (dict(nesterov=True), "nesterov: got True with momentum=None, wanted momentum > 0"),
        (dict(weight_decay=-1e-4), "weight_decay: got -0.0001, wanted a number >= 0"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(arguments, match):
    with pytest.raises(ValueError, match=match) as error:
        optim.clipped_sgd(**({"learning_rate": 0.1} | arguments))
    assert ";" in str(error.value)


def test_clip_by_global_norm_checks_max_norm():
    with pytest.raises(ValueError, match="max_norm: got 0, wanted a positive number"):
        optim.clip_by_global_norm(0)


def test_weight_decay_needs_params():
    tx = optim.clipped_sgd(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_only_real_floating_gradients(dtype):
    with pytest.raises(ValueError, match=f"updates: got a leaf of dtype {jnp.dtype(dtype)}"):
        optim.global_norm(jnp.ones(2, dtype))


# ------------------------------------------------------------------------- on the cliff


def cliff(params):
    """E = (sigmoid(x_50) - 0.7)^2 of x_t = w sigmoid(x_tm1) + b, x_0 = 0.5 (Pascanu eq. 8)."""
    w, b = params
    x, _ = jax.lax.scan(lambda x, _: (w * jax.nn.sigmoid(x) + b, None), 0.5 + 0 * b, None, 50)
    return (jax.nn.sigmoid(x) - 0.7) ** 2


def descend(start, learning_rate, max_norm):
    """2,000 steps of full-batch descent: the end, the last E seen, the largest step, the report."""
    tx = optim.clipped_sgd(learning_rate, max_norm)

    def body(carry, _):
        params, state = carry
        e, grad = jax.value_and_grad(cliff)(params)
        updates, state = tx.update(grad, state, params)
        step = jnp.sqrt(jnp.sum(jnp.square(updates)))
        return (optax.apply_updates(params, updates), state), (e, step)

    (params, state), (es, steps) = jax.lax.scan(body, (start, tx.init(start)), None, 2000)
    return params, es[-1], steps.max(), optim.report(state)


def descend_from_neighbours(start, learning_rate, max_norm):
    # On the wall an error grows 1,000-fold a step, so a single plain run is one draw of the
    # rounding: 32 starts 1e-13 apart stand for all of them.
    with jax.enable_x64(True):
        starts = jnp.asarray(np.array(start) + 1e-13 * np.arange(32)[:, None])
        run = jax.jit(jax.vmap(lambda s: descend(s, learning_rate, max_norm)))
        return jax.tree.map(np.asarray, run(starts))


@pytest.mark.grid
@pytest.mark.parametrize("start", [(5.2, -2.66), (5.0, -2.55)])
def test_clipping_keeps_descent_on_the_cliff(start):
    # One step off the wall throws plain descent onto a plateau that it rarely leaves; clipped
    # descent rides the wall down to the valley where it ends.
    _, e_plain, step_plain, _ = descend_from_neighbours(start, 0.05, None)
    end, e, step, seen = descend_from_neighbours(start, 0.05, 1.0)
    assert np.median(e_plain) > 0.05
    assert (e < 2e-5).all()
    np.testing.assert_allclose(end, np.broadcast_to((4.409, -2.237), end.shape), atol=2e-3)
    np.testing.assert_allclose(step, 0.05, rtol=1e-12)
    assert np.median(step_plain) > 50 * 0.05
    assert (seen["clip_rate"] > 0.01).all() and (seen["skipped"] == 0).all()


def test_too_small_a_clip_bounces_on_the_wall():
    end, e, step, _ = descend_from_neighbours((5.2, -2.66), 0.01, 0.1)
    np.testing.assert_allclose(end, np.broadcast_to((5.081, -2.662), end.shape), atol=6e-4)
    np.testing.assert_allclose(e, 0.268, atol=2e-3)
    np.testing.assert_allclose(step, 0.001, rtol=1e-12)


@pytest.mark.parametrize("shape", [(128, 512), (60, 8, 16), (33, 5), (3,)])
@pytest.mark.parametrize("place", [0, -1, slice(None)])
def test_a_nan_anywhere_is_seen_in_any_shape(shape, place):
    """XLA's maximum over an axis loses NaN on a CPU where it takes several columns at a time."""
    grads = np.ones(shape, np.float32)
    grads.reshape(-1)[place] = np.nan
    tx = optim.clipped_sgd(0.1)
    params = jnp.zeros(shape)
    updates, state = jax.jit(tx.update)(jnp.asarray(grads), tx.init(params), params)
    assert state.skipped == 1 and not np.asarray(updates).any()
    assert np.isnan(jax.jit(optim.global_norm)(jnp.asarray(grads)))


def test_the_largest_of_a_row_with_nan_is_nan():
    x = jnp.ones((480, 16)).at[::2, 3].set(jnp.nan)
    got = jax.jit(lambda x: (_numerics.largest(x, axis=1), _numerics.largest(x)))(x)
    np.testing.assert_array_equal(np.isnan(got[0]), np.arange(480) % 2 == 0)
    assert np.isnan(got[1]) and got[0][1] == 1
