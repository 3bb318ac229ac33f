"""Parametrisations of orthogonal matrices, and of matrices near one, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax.regularizers import NearOrthogonal, Orthogonal

H, G = 4, 2
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


def blocks(w):
    return np.split(np.asarray(w), np.shape(w)[1] // H, axis=1)


def compiled(kept):
    """Its `free` and `weights`, each compiled as one."""
    return jax.jit(kept.free), jax.jit(kept.weights)


def orthogonal(rng):
    """[H, G*H], an orthogonal matrix for each gate."""
    return np.concatenate([np.linalg.qr(rng.standard_normal((H, H)))[0] for _ in range(G)], axis=1)


def moved(free, rng):
    """The free parameters, all but the constants at random numbers."""

    def move(path, leaf):
        return leaf if path[-1].key == "base" else rng.standard_normal(leaf.shape)

    return jax.tree_util.tree_map_with_path(move, free)


@pytest.mark.parametrize("kept", [Orthogonal(), Orthogonal(map="cayley"), NearOrthogonal()])
def test_an_orthogonal_start_is_kept(kept, rng):
    params = {"inner": {"w_hh": orthogonal(rng), "b": np.ones(2)}}
    seen = kept.weights(kept.free(params))
    np.testing.assert_allclose(seen["inner"]["w_hh"], params["inner"]["w_hh"], atol=1e-12)
    assert seen["inner"]["b"] is params["inner"]["b"]


def test_rotations_in_closed_form():
    """A in a plane: exp turns by the angle, Cayley by twice the arc tangent of its half."""
    angle = 0.7
    for map, turned in (("exp", angle), ("cayley", 2 * np.arctan(angle / 2))):
        free, weights = compiled(Orthogonal(map=map))
        turning = free({"w_hh": np.eye(2)})
        turning["w_hh"]["skew"] = np.array([[[0.0, angle], [0.0, 0.0]]])
        wanted = [[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]]
        np.testing.assert_allclose(weights(turning)["w_hh"], wanted, atol=1e-12)


@pytest.mark.parametrize("map", ["exp", "cayley"])
def test_every_free_parameter_is_orthogonal(map, rng):
    free, weights = compiled(Orthogonal(map=map))
    w = orthogonal(rng)
    seen = weights(moved(free({"w_hh": w}), rng))["w_hh"]
    for block, start in zip(blocks(seen), blocks(w), strict=True):
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-12)
        assert np.linalg.det(block) == pytest.approx(np.linalg.det(start))
        assert np.abs(block - start).max() > 0.1


def test_another_start_becomes_the_nearest_orthogonal_matrix(rng):
    w = rng.standard_normal((H, H))
    values, vectors = np.linalg.eigh(w.T @ w)
    polar = w @ vectors @ np.diag(values**-0.5) @ vectors.T
    free, weights = compiled(Orthogonal())
    np.testing.assert_allclose(weights(free({"w_hh": w}))["w_hh"], polar, atol=1e-10)


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_singular_values_stay_within_the_margin(margin, rng):
    free, weights = compiled(NearOrthogonal(margin=margin))
    drawn = moved(free({"w_hh": orthogonal(rng)}), rng)
    p = np.asarray(drawn["w_hh"]["spectrum"])
    wanted = np.sort(1 + 2 * margin * (1 / (1 + np.exp(-p)) - 0.5))
    for block, s in zip(blocks(weights(drawn)["w_hh"]), wanted, strict=True):
        np.testing.assert_allclose(np.linalg.svd(block)[1][::-1], s, atol=1e-12)


def test_a_start_within_the_margin_is_kept_and_another_is_moved_into_it(rng):
    u, v = blocks(orthogonal(rng))
    inside, outside = np.array([1.07, 1.02, 0.98, 0.93]), np.array([3.0, 1.0, 0.9, 0.0])
    free, weights = compiled(NearOrthogonal(margin=0.1))
    for s, wanted in ((inside, inside), (outside, [1.098, 1.0, 0.902, 0.902])):
        seen = weights(free({"w_hh": u * s @ v}))["w_hh"]
        np.testing.assert_allclose(np.linalg.svd(seen)[1], wanted, atol=1e-12)


@pytest.mark.grid
def test_the_gradient_is_that_of_central_differences_and_zero_for_constants(rng):
    for kept in (Orthogonal(), NearOrthogonal(map="cayley")):
        free = moved(jax.jit(kept.free)({"w_hh": orthogonal(rng)}), rng)
        weight = rng.standard_normal((H, G * H))

        @jax.jit
        def loss(free, kept=kept, weight=weight):
            return jnp.sum(jnp.sin(kept.weights(free)["w_hh"]) * weight)

        gradient = jax.device_get(jax.jit(jax.grad(loss))(free))
        direction = moved(jax.tree.map(np.zeros_like, free), rng)  # Zero for the constants.
        ahead, behind = (
            loss(jax.tree.map(lambda f, d, e=e: f + e * d, free, direction)) for e in (1e-6, -1e-6)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-6)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert (path[-1].key == "base") == (not np.any(leaf))


def test_learning_leaves_a_net_orthogonal():
    """Of two cells, with gates; jitted, vmapped over seeds."""
    net, kept = lj.stack(lj.RNN(3), lj.GRU(H)), Orthogonal(map="cayley")
    xs, tx = jnp.ones((5, 2, 3)), optax.sgd(0.1)

    @jax.jit
    @jax.vmap
    def learn(key):
        free = kept.free(net.init(key, 3))

        def loss(free):
            return jnp.mean(lj.unroll(net, kept.weights(free), xs)[1] ** 2)

        updates, _ = tx.update(jax.grad(loss)(free), tx.init(free))
        return kept.weights(optax.apply_updates(free, updates)), kept.weights(free)

    after, before = learn(jax.random.split(KEY, 2))
    for layer, size in (("0", 3), ("1", H)):
        for n in range(2):
            w = np.asarray(after[layer]["w_hh"][n])
            assert np.abs(w - before[layer]["w_hh"][n]).max() > 1e-4
            for block in np.split(w, w.shape[1] // size, axis=1):
                np.testing.assert_allclose(block.T @ block, np.eye(size), atol=1e-6)


@pytest.mark.parametrize("kept", [Orthogonal(), NearOrthogonal()])
def test_sixteen_bits_stay_sixteen_bits(kept):
    params = lj.RNN(H, param_dtype="bfloat16").init(KEY, 2)
    free = kept.free(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(free)} == {np.dtype(jnp.bfloat16)}
    seen = kept.weights(free)["w_hh"]
    assert seen.dtype == jnp.bfloat16
    np.testing.assert_allclose(seen.astype(float), params["w_hh"].astype(float), atol=0.02)


def test_mistakes_are_named(rng):
    kept, params = Orthogonal(), {"w_hh": np.eye(2), "b": np.ones(2)}
    for call, message in (
        (lambda: Orthogonal("w_hh"), "names: got 'w_hh'"),
        (lambda: Orthogonal(map="log"), "map: got 'log', wanted one of 'exp'"),
        (lambda: NearOrthogonal(margin=2), r"margin: got 2, wanted a Python number in \[0, 1\]"),
        (lambda: kept.free({"b": np.ones(2)}), "params: got .*, wanted a tree with w_hh"),
        (lambda: kept.free({"w_hh": np.ones(2)}), r"w: got shape \(2,\)"),
        (lambda: kept.weights(params), "params: got .*; pass what `free` gives"),
        (lambda: kept.weights(NearOrthogonal().free(params)), "params: got .*wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
