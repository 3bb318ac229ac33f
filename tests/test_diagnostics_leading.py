"""The leading singular values of Jacobian products, against all of them and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from dynamics import given

import lstm_jax as lj
from lstm_jax import diagnostics

leading = jax.jit(
    diagnostics.leading_singular_values, static_argnums=0, static_argnames=("count", "sweeps")
)
every = jax.jit(
    diagnostics.jacobian_product_singular_values, static_argnums=0, static_argnames="every"
)


def problem(cell, rng, steps):
    params = registry.cast(registry.random_params(cell, 2, rng), np.float64)
    return cell, params, jnp.asarray(rng.standard_normal((steps, 2)))


@pytest.mark.grid
@pytest.mark.parametrize(
    "cell",
    [
        lj.LSTM(12),
        pytest.param(lj.GRU(20), marks=pytest.mark.grid),
        pytest.param(lj.stack(lj.GRU(12), lj.RNN(8)), marks=pytest.mark.grid),
    ],
)
def test_they_are_the_first_of_all(cell, rng, x64):
    net = isinstance(cell, lj.Net)
    given = problem(cell, rng, 30)
    if net:
        given = cell, registry.cast(cell.init(jax.random.key(0), 2), np.float64), given[2]
    seen, wanted = leading(*given, count=3), every(*given, every=30)[0, :3]
    assert seen.logs.shape == (3,) and bool(seen.converged) and int(seen.sweeps) <= 5
    np.testing.assert_allclose(seen.logs, wanted, atol=1e-7)
    np.testing.assert_allclose(seen.log_condition, wanted[0] - wanted[2], atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.grid)])
def test_far_beyond_the_floating_point_range(dtype, rng):
    """A_t = U_t D U_{t-1}^T, whose product is U_T D^T U_0^T: ln sigma_i = T ln d_i, to +-800."""
    size, steps = 16, 400
    u = np.linalg.qr(rng.standard_normal((steps + 1, size, size)))[0]
    logs = np.array([2.0, 1.999, 0.0, -0.5, -0.5, -2.0] + [-2.1] * 10)
    matrices = u[1:] * np.exp(logs) @ u[:-1].transpose(0, 2, 1)
    with jax.enable_x64(dtype is np.float64):
        seen = leading(*given(matrices.astype(dtype)), count=6)
    assert seen.logs.dtype == dtype and bool(seen.converged)
    bound = 200 * np.finfo(dtype).eps * steps
    np.testing.assert_allclose(seen.logs, steps * logs[:6], rtol=0, atol=bound)


@pytest.mark.grid
def test_equal_singular_values_need_no_gap(rng, x64):
    """An orthogonal product: no subspace leads, and every one gives 1."""
    w = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    seen = leading(*given(np.broadcast_to(w, (50, 20, 20))), count=4)
    np.testing.assert_allclose(seen.logs, 0, atol=1e-12)
    np.testing.assert_allclose(seen.log_condition, 0, atol=1e-12)
    assert int(seen.sweeps) == 2


@pytest.mark.grid
def test_a_slow_decay_takes_many_sweeps_and_says_so(rng, x64):
    """One step of slowly falling singular values: as far as it goes, from below."""
    sigma = 0.97 ** np.arange(60)
    u, v = (np.linalg.qr(rng.standard_normal((60, 60)))[0] for _ in range(2))
    one = given((u * sigma @ v)[None])
    few = leading(*one, count=3, sweeps=2)
    assert not few.converged and few.change > 1e-3 and np.all(few.logs < np.log(sigma[:3]) + 1e-12)
    many = leading(*one, count=3, sweeps=200)
    assert many.converged
    np.testing.assert_allclose(many.logs, np.log(sigma[:3]), atol=1e-6)


@pytest.mark.grid
def test_a_dead_network_is_no_nan(x64):
    matrices = np.concatenate([np.broadcast_to(0.5 * np.eye(3), (4, 3, 3)), np.zeros((1, 3, 3))])
    alive, dead = leading(*given(matrices[:4]), count=2), leading(*given(matrices), count=2)
    np.testing.assert_allclose(alive.logs, 4 * np.log(0.5), rtol=1e-12)
    np.testing.assert_array_equal(dead.logs, -np.inf)
    assert dead.converged and np.isposinf(dead.log_condition)


@pytest.mark.grid
def test_a_long_contraction_in_float32():
    params = {"w_ih": jnp.zeros((1, 12)), "w_hh": 0.5 * jnp.eye(12), "b": jnp.zeros(12)}
    seen = leading(lj.RNN(12, "identity"), params, jnp.zeros((10_000, 1)), count=2)
    np.testing.assert_allclose(seen.logs, 10_000 * np.log(0.5), rtol=2e-6)


@pytest.mark.grid
def test_vmap_and_each_direction(rng, x64):
    net = lj.bidirectional(lj.GRU(3))
    params = registry.cast(net.init(jax.random.key(0), 2), np.float64)
    xs = jnp.asarray(rng.standard_normal((2, 8, 2)))
    both = functools.partial(diagnostics.leading_singular_values, net, params, count=2)
    seen = jax.jit(jax.vmap(lambda xs: both(xs)))(xs)
    wanted = leading(net.backward, params["backward"], xs[1, ::-1], count=2)
    np.testing.assert_allclose(seen.backward.logs[1], wanted.logs, atol=1e-7)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"count": 4}, "count: got 4, wanted at most N = 3"),
        ({"count": 0}, "count: got 0"),
        ({"count": 1, "sweeps": 0}, "sweeps: got 0"),
        ({"count": 1, "tolerance": 0}, "tolerance: got 0"),
    ],
)
def test_errors_name_the_argument(keywords, match):
    cell = lj.RNN(3)
    params = cell.init(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=match):
        diagnostics.leading_singular_values(cell, params, jnp.zeros((4, 2)), **keywords)
