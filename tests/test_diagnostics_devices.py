"""Diagnostics inside `shard_map`: each device's are those of its own part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lstm_jax as lj
from lstm_jax import diagnostics

T, B, D, H = 6, 4, 2, 3


@pytest.fixture
def problem(rng):
    cell = lj.LSTM(H)
    return cell, registry.random_params(cell, D, rng), rng.standard_normal((B, T, D)).astype("f")


def on_devices(function, params, xs):
    """A function of parameters that all devices have and of one example, on four devices."""
    over = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    each = jax.vmap(function, (None, 0))
    specs = P(), P("data")
    return jax.jit(jax.shard_map(each, mesh=over, in_specs=specs, out_specs=P("data")))(params, xs)


def last(ys):
    return jnp.sum(ys[-1])


FUNCTIONS = {
    "weight_gradient": lambda cell, p, x: diagnostics.weight_gradient_by_lag(cell, p, x, last),
    "weight_norms": lambda cell, p, x: diagnostics.weight_gradient_norms_by_lag(cell, p, x, last),
    "lyapunov": lambda cell, p, x: diagnostics.lyapunov_spectrum(cell, p, x).exponents,
    "leading": lambda cell, p, x: diagnostics.leading_singular_values(cell, p, x, count=2).logs,
    "products": lambda cell, p, x: diagnostics.jacobian_product_singular_values(cell, p, x),
    "fixed_points": lambda cell, p, x: (
        diagnostics.fixed_points(
            cell, p, x[0], lj.LSTMState(jnp.tile(x[:2, :1], H), jnp.tile(x[2:4, :1], H))
        ).speed
    ),
}


@pytest.mark.parametrize(
    "name", ["weight_norms", *(pytest.param(n, marks=pytest.mark.grid) for n in sorted(FUNCTIONS))]
)
def test_diagnostics_of_each_device(name, problem):
    cell, params, xs = problem
    function = functools.partial(FUNCTIONS[name], cell)
    wanted = jax.jit(jax.vmap(function, (None, 0)))(params, xs)
    seen, wanted = jax.device_get((on_devices(function, params, xs), wanted))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), seen, wanted)


@pytest.mark.grid
def test_seeds_over_explicit_axes():
    """LAPACK's loop over matrices takes no axis that is split."""
    over = jax.make_mesh((4,), ("seed",), axis_types=(AxisType.Explicit,))
    keys = jax.random.split(jax.random.key(0), 4)

    def margin(key):
        params = lj.LSTM(H).init(key, D)
        return params, lj.regularizers.singular_value_margin(params["w_hh"], 0.1)

    wanted = jax.jit(jax.vmap(margin))(keys)
    with jax.set_mesh(over):
        keys = jax.device_put(keys, jax.NamedSharding(over, P("seed")))
        seen = jax.jit(jax.vmap(margin))(keys)
    assert jax.typeof(seen[1]).sharding.spec == P("seed")
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-6)


@pytest.mark.parametrize("diagnostic", ["lyapunov", "leading", "products"])
def test_a_net_without_a_cell_has_no_jacobian(diagnostic, rng):
    net = lj.stack(lj.dense(D), jnp.tanh)
    params = registry.random_params(net, D, rng)
    with pytest.raises(ValueError, match="cell: got a net without a cell"):
        FUNCTIONS[diagnostic](net, params, np.ones((T, D), "f"))
    assert lj.regularizers.omega(net, params, np.ones((T, D), "f"), last) == 0
