"""Penalties on activations, margins around orthogonality, projections after an update."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import regularizers as r

pytestmark = pytest.mark.sampled

T, B, H = 5, 3, 4


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


def test_activation_penalties_are_means_over_what_is_valid(rng):
    ys, mask = rng.standard_normal((T, B, H)), rng.random((T, B)) < 0.6
    resets = rng.random((T, B)) < 0.3
    assert r.activation(ys) == pytest.approx(np.mean(ys**2))
    assert r.activation(ys, mask=mask) == pytest.approx(np.mean(ys[mask] ** 2))
    pairs = mask[1:] & mask[:-1] & ~resets[1:]
    change, norms = np.diff(ys, axis=0)[pairs], np.diff(np.linalg.norm(ys, axis=-1), axis=0)[pairs]
    given = {"mask": mask, "resets": resets}
    assert r.temporal_activation(ys, **given) == pytest.approx(np.mean(change**2))
    assert r.norm_stabilizer(ys, **given) == pytest.approx(np.mean(norms**2))


@pytest.mark.parametrize("penalty", [r.activation, r.temporal_activation, r.norm_stabilizer])
def test_padding_and_zeros_give_no_nan(penalty):
    ys = np.zeros((T, B, H))
    ys[0] = np.nan
    mask = np.arange(T)[:, None].repeat(B, axis=1) > 0
    both = jax.jit(jax.value_and_grad(lambda ys, mask: penalty(ys, mask=mask)))
    value, gradient = both(ys, mask)
    assert value == 0 and not np.any(gradient)
    assert both(ys, np.zeros((T, B), bool))[0] == 0


@pytest.mark.parametrize("penalty", [r.activation, r.temporal_activation, r.norm_stabilizer])
def test_shapes_that_do_not_fit_are_named(penalty):
    with pytest.raises(ValueError, match="mask: got shape"):
        penalty(jnp.zeros((T, B, H)), mask=np.zeros((T, B + 1), bool))
    with pytest.raises(ValueError, match=r"wanted \[T, \*batch, H\]"):
        penalty(jnp.zeros(T))


def test_the_margin_is_free_and_beyond_it_the_square(rng):
    q, _ = np.linalg.qr(rng.standard_normal((2, H, H)))
    s = np.array([0.7, 0.95, 1.05, 1.5])
    w = np.concatenate([q[0] * s @ q[1], q[0]], axis=1)
    wanted = 0.2**2 + 0.4**2
    assert r.singular_value_margin(w, 0.1, H) == pytest.approx(wanted)
    assert r.singular_value_margin(w, 0.6, H) == 0
    direction = rng.standard_normal(w.shape)
    margin = jax.jit(lambda w: r.singular_value_margin(w, 0.1, H))
    slope = jax.jvp(margin, (w,), (direction,))[1]
    ends = [margin(w + e * direction) for e in (1e-6, -1e-6)]
    assert slope == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_clipped_singular_values_are_the_nearest_matrix(rng):
    w = rng.standard_normal((H, 3 * H))
    seen = r.clip_singular_values(w, 0.5, 1.2)
    for before, after in zip(
        np.split(w, 3, axis=1), np.split(np.asarray(seen), 3, axis=1), strict=True
    ):
        u, s, vt = np.linalg.svd(before)
        np.testing.assert_allclose(after, u * np.clip(s, 0.5, 1.2) @ vt, atol=1e-12)


@pytest.mark.grid
def test_the_bound_holds_after_every_update(rng):
    net = lj.stack(lj.LSTM(H), lj.GRU(H))
    drawn = jax.jit(net.init, static_argnums=1)(jax.random.key(0), 2)
    params = jax.tree.map(lambda w: 3 * np.asarray(w), drawn)
    tx = optax.chain(lj.clipped_sgd(0.5), r.keep_singular_values(0.0, 1.0))
    grads = jax.tree.map(lambda w: rng.standard_normal(w.shape).astype(w.dtype), params)

    @jax.jit
    def updated(params) -> Any:
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    new = updated(params)
    for name, gates in (("0", 4), ("1", 3)):
        for block in np.split(np.asarray(new[name]["w_hh"]), gates, axis=1):
            assert np.linalg.norm(block, 2) <= 1 + 1e-6
        assert np.linalg.norm(new[name]["w_ih"], 2) > 1


def test_a_projection_of_one_gate_leaves_the_others(rng):
    w = rng.standard_normal((6, 18))
    before, after = (np.split(np.asarray(a), 3, axis=1) for a in (w, _of_last(w)))
    np.testing.assert_allclose(after[:2], before[:2], rtol=1e-6)
    assert np.linalg.norm(after[2], 2) == pytest.approx(1.8, rel=1e-5)
    same = r.clip_singular_values(w.tolist(), 0.0, 1.8, gates=(np.int64(2),))
    np.testing.assert_allclose(same, _of_last(w), rtol=1e-6, atol=1e-6)
    for gates in ((3,), (-1,), (1, 1), (), 2, ("n",), (True,)):
        with pytest.raises(ValueError, match="gates: got .*from 0 to 2"):
            r.clip_singular_values(w, 0.0, 1.0, gates=gates)


def _of_last(w):
    """`w` after an update that changes nothing, with the last of three gates bounded."""
    tx = r.keep_singular_values(0.0, 1.8, gates=(2,))
    params = {"w_hh": jnp.asarray(w)}

    @jax.jit
    def updated(params) -> Any:
        still = jax.tree.map(jnp.zeros_like, params)
        updates, _ = tx.update(still, tx.init(params), params)
        return optax.apply_updates(params, updates)

    return updated(params)["w_hh"]


@pytest.mark.parametrize(("bounds", "named"), [((-0.1, 1.0), "low"), ((2.0, 1.0), "low, high")])
def test_impossible_bounds_are_refused(bounds, named):
    with pytest.raises(ValueError, match=f"^{named}: got"):
        r.keep_singular_values(*bounds)
    with pytest.raises(ValueError, match=f"^{named}: got"):
        r.clip_singular_values(np.eye(3), *bounds)


def test_a_projection_without_its_matrix_is_refused():
    tx = r.keep_singular_values(0.0, 1.0)
    params = {"w": jnp.eye(3)}
    with pytest.raises(ValueError, match="names: got"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="params: got None"):
        tx.update(params, tx.init(params))
