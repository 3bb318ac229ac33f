"""Local smoothness against the gradient's norm: closed forms, and a network's own Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax import diagnostics


@pytest.mark.parametrize("at", [-1.5, 0.3, 4.0])
def test_the_smoothness_of_powers_and_exponentials_grows_with_the_gradient(at, x64):
    """x^4: |f''| = 12 (|f'| / 4)^(2/3), no L_0 + L_1 |f'| below it for large x; e^x: |f''| = f'."""
    quartic = diagnostics.local_smoothness(lambda x: x**4, jnp.asarray(at))
    np.testing.assert_allclose(quartic.gradient_norm, 4 * abs(at) ** 3, rtol=1e-14)
    wanted = 12 * (quartic.gradient_norm / 4) ** (2 / 3)
    np.testing.assert_allclose(quartic.smoothness, wanted, rtol=1e-12)
    exponential = diagnostics.local_smoothness(jnp.exp, jnp.asarray(at))
    np.testing.assert_allclose(exponential.smoothness, exponential.gradient_norm, rtol=1e-14)


def test_points_along_a_step_take_the_largest(x64):
    """e^x between x and x + d: (e^(td) - 1) / (td) e^x, which grows with t; d < 0: it falls."""
    x, many = (
        jnp.asarray(0.7),
        jax.jit(lambda d: diagnostics.local_smoothness(jnp.exp, jnp.asarray(0.7), d, points=4)),
    )
    for d, t in ((0.5, 1.0), (-0.5, 0.25)):
        wanted = np.exp(x) * np.expm1(t * d) / (t * d)
        np.testing.assert_allclose(many(jnp.asarray(d)).smoothness, wanted, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_no_gradient_is_too_small_or_too_large(scale):
    """Of a paraboloid it is the scale, wherever: |H d| of a raw d would be 0 or Inf."""

    def loss(params):
        return scale * jnp.sum(params["w"] ** 2) / 2

    params = {"w": jnp.ones(3)}
    for options in ({}, {"direction": {"w": jnp.asarray([1e-3, -0.25, 0.0])}, "points": 3}):
        seen = diagnostics.local_smoothness(loss, params, **options)
        np.testing.assert_allclose(seen.smoothness, scale, rtol=1e-4)
        np.testing.assert_allclose(seen.gradient_norm, scale * 3**0.5, rtol=1e-6)


def test_a_step_that_moves_nothing_is_nan():
    """1 + 1e-9 is 1 in float32: the gradient did not change, and nobody knows how it would."""
    step = jnp.asarray([1e-9, 0.0])
    seen = diagnostics.local_smoothness(lambda p: jnp.sum(p**2), jnp.ones(2), step, points=2)
    assert np.isnan(seen.smoothness)
    moved = diagnostics.local_smoothness(lambda p: jnp.sum(p**2), jnp.ones(2), 1e3 * step, points=2)
    np.testing.assert_allclose(moved.smoothness, 2, rtol=1e-6)


@pytest.mark.grid
def test_of_a_network_it_is_the_hessian_along_the_direction(rng, x64):
    cell = lj.RNN(3)
    params = registry.cast(registry.random_params(cell, 2, rng), np.float64)
    xs = jnp.asarray(rng.standard_normal((5, 2)))
    direction = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), params)

    def loss(params):
        return jnp.mean(lj.unroll(cell, params, xs)[1] ** 2)

    seen = jax.jit(lambda p, d: diagnostics.local_smoothness(loss, p, d))(params, direction)
    gradient = jax.jit(jax.grad(loss))
    plus = gradient(jax.tree.map(lambda p, d: p + 1e-5 * d, params, direction))
    minus = gradient(jax.tree.map(lambda p, d: p - 1e-5 * d, params, direction))
    change = jax.tree.map(lambda a, b: (a - b) / 2e-5, plus, minus)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (change, direction)]
    wanted = np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    np.testing.assert_allclose(seen.smoothness, wanted, rtol=1e-6)


def test_errors_name_the_argument():
    params = {"w": jnp.ones(2)}

    def loss(params):
        return jnp.sum(params["w"] ** 2)

    smoothness = diagnostics.local_smoothness
    with pytest.raises(ValueError, match="direction: got .* wanted a tree like params"):
        smoothness(loss, params, jnp.ones(2))
    with pytest.raises(ValueError, match=r"direction: got a leaf of shape \(3,\)"):
        smoothness(loss, params, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="points: got 0"):
        smoothness(loss, params, points=0)
    with pytest.raises(ValueError, match="loss: got a function that gives"):
        smoothness(lambda p: p["w"], params)
    assert jnp.isnan(smoothness(loss, {"w": jnp.zeros(2)}).smoothness)
