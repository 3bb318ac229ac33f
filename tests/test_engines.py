"""A new engine: one file (numpy_engine.py) and one row of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_engine
import pytest
import registry

import lstm_jax as lj
from lstm_jax._recurrence import engines

T, B, D, H = 5, 3, 2, 4


@pytest.fixture
def numpy(monkeypatch):
    monkeypatch.setitem(engines.IMPLEMENTATIONS, "numpy", numpy_engine.ENGINE)


def problem(case, rng):
    """(params, xs), and flags: a gap, padding and a restart."""
    cell = case.make(H)
    params = registry.random_params(cell, D, rng)
    valid = np.arange(T)[:, None] < np.array([5, 3, 4])
    valid[1, 0] = False
    flags = {"mask": valid, "resets": np.eye(T, B, -2, dtype=bool)}
    return cell, registry.cast((params, rng.standard_normal((T, B, D))), jnp.float32), flags


@pytest.mark.sampled
@registry.cells()
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_it_serves_every_cell_that_factors(case, reverse, numpy, rng):
    cell, (params, xs), flags = problem(case, rng)
    if "fused" not in case.implementations:
        with pytest.raises(NotImplementedError, match="numpy: .* does not factor"):
            lj.unroll(cell, params, xs, implementation="numpy")
        return

    def value(params, xs, implementation):
        options = flags | {"reverse": reverse, "implementation": implementation}
        final, ys = lj.unroll(cell, params, xs, **options)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(final))

    ones = jax.tree.map(jnp.ones_like, (params, xs))

    def everything(params, xs, implementation):
        given = params, xs
        tangent = jax.jvp(lambda p, x: value(p, x, implementation), given, ones)
        return jax.grad(value, (0, 1))(params, xs, implementation), tangent

    seen, wanted = (
        jax.jit(everything, static_argnums=2)(params, xs, name)
        for name in (("numpy", "fused"), "scan")
    )
    registry.assert_close(seen, wanted, 2e-5)


def test_the_program_says_who_runs_it(numpy):
    cell = lj.LSTM(H)
    params, xs = cell.init(jax.random.key(0), D), jnp.ones((T, B, D))

    def value(params):
        return jnp.sum(lj.unroll(cell, params, xs, implementation="numpy")[1])

    found = lj.inspect(jax.jit(jax.grad(value)), params)
    assert [(each.implementation, each.call) for each in found] == [
        ("numpy", "run"),
        ("numpy", "transposed"),
    ]
