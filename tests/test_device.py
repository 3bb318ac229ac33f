"""Every cell on every implementation that this machine's device runs, in the dtypes that it has.

The oracle is the plain scan on the CPU, in the same dtype: on a machine with a GPU or TPU another
device, elsewhere another program. `python -m bench accelerator` runs this file, and
`implementation=None` picks on such a device only what passes it. Nothing here is in float64, which
TPUs lack.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

T, B, D, H = 5, 11, 2, 4
EXACT, ROUNDED = 1e-4, 0.03
"""Tolerances: of float32, and where operands are rounded to bfloat16 (or TF32) before a matmul."""


def flags(length=T, batch=B):
    """A gap, padding, empty sequences, and restarts."""
    valid = np.arange(length)[:, None] < (length - np.arange(batch)).clip(0)
    valid[1:2, 0] = False
    return {"mask": valid, "resets": np.eye(length, batch, -2, dtype=bool)}


def outcomes(cell, implementation, params, xs, options):
    """(final carry, ys), the gradient of a loss, and its tangent."""

    def run(params, xs):
        final, ys = lj.unroll(cell, params, xs, implementation=implementation, **options)
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (final, ys))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(wide)), (final, ys)

    ones = jax.tree.map(jnp.ones_like, (params, xs))
    gradient, values = jax.grad(run, (0, 1), has_aux=True)(params, xs)
    return values, gradient, jax.jvp(lambda *a: run(*a)[0], (params, xs), ones)[1]


class Setting(NamedTuple):
    """What is computed, for a case of the registry."""

    case: str
    size: int = H
    dtype: str = "float32"
    shape: tuple[int, int] = (T, B)
    flagged: bool = False
    reverse: bool = False
    training: bool = False

    def given(self):
        """(params, xs) on the default device."""
        cell, rng = registry.CASES[self.case].make(self.size), np.random.default_rng(0)
        params = registry.random_params(cell, D, rng)
        return registry.cast((params, rng.standard_normal((*self.shape, D))), self.dtype)

    def outcomes(self, implementation, given):
        """Those of an implementation, on the device on which `given` lies."""
        cell, options = registry.CASES[self.case].make(self.size), {"reverse": self.reverse}
        options |= flags(*self.shape) if self.flagged else {}
        options |= {"key": jax.random.key(7)} if self.training else {}
        return jax.jit(functools.partial(outcomes, cell, implementation, options=options))(*given)


@functools.cache  # One for all implementations.
def oracle(setting):
    """The plain scan's, on the CPU."""
    given = jax.device_put(setting.given(), jax.local_devices(backend="cpu")[0])
    with jax.default_matmul_precision("highest"):
        return setting.outcomes("scan", given)


def check(implementation, setting, tol):
    """Hold an implementation to the oracle."""
    seen = setting.outcomes(implementation, setting.given())
    registry.assert_close(seen, oracle(setting), tol)


@pytest.fixture
def highest():
    """float32 as it stands, where a device would round it."""
    with jax.default_matmul_precision("highest"):
        yield


@registry.grid()
def test_values_gradients_and_tangents_with_gaps_and_restarts(case, implementation, highest):
    check(implementation, Setting(case.name, flagged=True), EXACT)


@pytest.mark.slow
@registry.grid(registry.HARD)
def test_backwards(case, implementation, highest):
    check(implementation, Setting(case.name, flagged=True, reverse=True), EXACT)


@pytest.mark.slow
@registry.grid(registry.MEASURED)
def test_as_users_have_it(case, implementation):
    """At the default precision of matmuls, which on a TPU and on a recent GPU rounds."""
    check(implementation, Setting(case.name, flagged=True), ROUNDED)


@pytest.mark.grid
@registry.grid(registry.MEASURED)
def test_bfloat16(case, implementation):
    check(implementation, Setting(case.name, dtype="bfloat16", flagged=True), ROUNDED)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (37, 9)], ids=["one", "odd"])
@registry.grid(registry.MEASURED)
def test_sizes(case, implementation, shape, highest):
    """No multiple of a block, of lanes, or of the steps of a round."""
    check(implementation, Setting(case.name, size=7, shape=shape), EXACT)


@pytest.mark.slow
@registry.grid([case.name for case in registry.CASES.values() if case.noisy])
def test_training(case, implementation, highest):
    """Noise is the same on every device; where each sequence has its own, "fused" serves."""
    check(registry.asked(implementation), Setting(case.name, training=True), EXACT)
