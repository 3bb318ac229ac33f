"""Observed clips: what they do stays, and the norms and counts are those of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import optim, train

CLIPS = {
    "global norm": optax.clip_by_global_norm(1.0),
    "ours": optim.clip_by_global_norm(1.0),
    "value": optax.clip(0.5),
    "adaptive": optax.adaptive_grad_clip(0.5),
    "block": optax.clip_by_block_rms(0.5),
}
PARAMS = {"w": np.full((2, 3), 2, "f"), "b": np.ones(3, "f")}
SIZES = np.float32([0.01, 3.0, 0.02, 40.0, 0.0])


def gradients(rng):
    return {
        name: SIZES.reshape(-1, *(1,) * p.ndim) * rng.normal(size=(5, *p.shape)).astype("f")
        for name, p in PARAMS.items()
    }


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf, dtype="d")) for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_is_as_it_was_and_tells_of_itself(kind, rng):
    grads, clip = gradients(rng), CLIPS[kind]
    tx = optim.observed(clip)

    def step(state, grads):
        plain, _ = clip.update(grads, clip.init(PARAMS), PARAMS)
        clipped, state = tx.update(grads, state, PARAMS)
        return state, (plain, clipped, optim.report(state))

    _, out = jax.jit(lambda g: jax.lax.scan(step, tx.init(PARAMS), g))(grads)
    plain, clipped, told = jax.device_get(out)
    jax.tree.map(np.testing.assert_array_equal, plain, clipped)
    each = [jax.tree.map(lambda leaf, n=n: leaf[n], (grads, clipped)) for n in range(len(SIZES))]
    changed = [any(np.any(a[name] != b[name]) for name in a) for a, b in each]
    assert changed == [False, True, False, True, False]
    np.testing.assert_array_equal(told["clipped"], np.cumsum(changed))
    np.testing.assert_array_equal(told["steps"], np.arange(1, 6))
    np.testing.assert_allclose(told["clip_rate"], np.cumsum(changed) / np.arange(1, 6), rtol=1e-6)
    np.testing.assert_allclose(told["norm_before"], [norm(a) for a, _ in each], rtol=1e-5)
    np.testing.assert_allclose(told["norm_after"], [norm(b) for _, b in each], rtol=1e-5)


def test_fit_records_the_clip_rate_of_any_optimiser(key):
    clip = optim.observed(optax.clip_by_global_norm(1.0))
    tx = optim.guarded(optax.chain(clip, optax.adamw(1e-2)))

    def loss(params, batch):
        return jnp.sum(batch * params["w"])

    batches = [np.full((2, 3), size, "f") for size in (0.1, 5.0, np.nan, 0.1)]
    lines, told = [], []
    given = {"metrics": lines.append, "fields": ("clip_rate",), "chunk": 1}
    given["progress"] = lambda n, loss, clip_rate: told.append(clip_rate)
    feed = train.Feed(train.make_step(loss, tx), batches)
    _, history = train.fit(feed, train.create({"w": PARAMS["w"]}, tx), key, 4, **given)
    assert history["clipped"].tolist() == [0, 1, 1, 1]
    assert history["steps"].tolist() == [1, 2, 2, 3] and history["not_finite"][-1] == 1
    sizes = np.sqrt(6) * np.float32([0.1, 5.0, np.nan, 0.1])
    np.testing.assert_allclose(history["norm_before"], sizes, rtol=1e-5)
    assert told == [line["clip_rate"] for line in lines] == pytest.approx([0, 1 / 2, 1 / 2, 1 / 3])


@pytest.mark.parametrize("tx", [optax.sgd(0.1), optax.scale(2.0)])
def test_what_is_no_clip_has_no_clip_rate(tx):
    tx = optim.observed(tx)
    _, state = jax.jit(tx.update)(PARAMS, tx.init(PARAMS))
    assert np.isnan(optim.report(state)["clip_rate"])


def test_a_gradient_that_is_not_finite_counts_if_it_is_changed():
    tx = optim.observed(optax.clip(1.0))
    _, state = jax.jit(tx.update)(jnp.asarray([jnp.nan, 0.5]), tx.init(jnp.ones(2)))
    told = optim.report(state)
    assert told["clipped"] == 0 and np.isnan(told["norm_before"]) and told["clip_rate"] == 0
    _, state = jax.jit(tx.update)(jnp.asarray([jnp.inf, 0.5]), tx.init(jnp.ones(2)))
    assert optim.report(state)["clipped"] == 1 and optim.report(state)["norm_before"] == jnp.inf


def test_it_is_one_of_the_kinds_that_report():
    both = optax.chain(optim.observed(optax.clip(1.0)), lj.clipped_sgd(0.1))
    with pytest.raises(ValueError, match="state: got 2 ClippedSGDState or ObservedState inside"):
        optim.report(both.init(PARAMS))
    with pytest.raises(ValueError, match="clip: got 1.0, wanted an optax.GradientTransformation"):
        optim.observed(1.0)
