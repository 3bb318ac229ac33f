"""The system of Lorenz (1963), as a cell: its trajectories, and how far another's are from them.

    x' = 10 (y - x)      y' = x (28 - z) - y      z' = x y - 8/3 z

A step is `DT` of time, `SUBSTEPS` steps of Runge and Kutta's fourth order. As a cell without inputs
it takes every diagnostic of the library that a network takes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._cells.base import Cell, State
from ..._typing import Array, Carry, Key, Params
from ..._unroll import unroll

__all__ = ["DT", "SUBSTEPS", "Lorenz", "divergence", "no_inputs", "trajectories"]
__dir__ = __all__.copy

DT, SUBSTEPS = 0.025, 5
SETTLED = 400
"""Steps after which a trajectory is on the attractor."""
BINS, REACH, SMOOTHING = 30, 2.0, 1e-5
"""Bins a coordinate, standard deviations that they cover, and what is added to each count."""


def velocity(params: Params, s: Array) -> Array:
    """The right-hand side at states s [*batch, 3]."""
    x, y, z = s[..., 0], s[..., 1], s[..., 2]
    parts = (params["sigma"] * (y - x), x * (params["rho"] - z) - y, x * y - params["beta"] * z)
    return jnp.stack(parts, axis=-1)


@dataclasses.dataclass(frozen=True)
class Lorenz(Cell):
    """The Lorenz system; a step is `DT` of time, whatever its input."""

    hidden_size: int = 3

    def init(self, key: Key, input_size: int) -> Params:
        """The classical parameters; nothing is drawn."""
        del key, input_size
        return self.classical()

    def classical(self) -> Params:
        """The parameters with which Lorenz found chaos."""
        return {"sigma": jnp.array(10.0), "rho": jnp.array(28.0), "beta": jnp.array(8 / 3)}

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Advance by `DT`."""
        del x
        s, dt = carry.h, DT / SUBSTEPS
        for _ in range(SUBSTEPS):
            k1 = velocity(params, s)
            k2 = velocity(params, s + dt / 2 * k1)
            k3 = velocity(params, s + dt / 2 * k2)
            k4 = velocity(params, s + dt * k3)
            s = s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return State(s), s


def no_inputs(steps: int, *batch: int) -> Array:
    """Inputs of a network that runs by itself: zeros [steps, *batch, 1]."""
    return jnp.zeros((steps, *batch, 1))


def trajectories(key: Key, count: int, steps: int) -> Array:
    """States on the attractor from `count` random starts, [steps, count, 3]."""
    system = Lorenz()
    start = jnp.ones((count, 3)) + jax.random.normal(key, (count, 3))
    xs = no_inputs(SETTLED + steps, count)
    return unroll(system, system.classical(), xs, State(start))[1][SETTLED:]


def divergence(truth: Any, generated: Any) -> float:
    """D_stsp: the Kullback-Leibler divergence of two clouds of states, as histograms.

        D = sum_k p_k ln(p_k / q_k)     p of the truth, q of what was generated

    over 30^3 bins that cover two standard deviations of the truth on either side, each count plus
    1e-5, as in the authors' code of Mikhaeil et al. (2022).

    Args:
        truth, generated: [..., 3], in units in which the truth has mean 0 and variance 1.

    Returns:
        Nats; inf if what was generated is not finite.
    """
    generated = np.reshape(generated, (-1, 3))
    if not np.isfinite(generated).all():
        return float("inf")
    p, q = _histogram(np.reshape(truth, (-1, 3))), _histogram(generated)
    return float(np.sum(p * np.log(p / q)))


def _histogram(states: np.ndarray) -> np.ndarray:
    counts, _ = np.histogramdd(states, BINS, [(-REACH, REACH)] * 3)
    smooth = counts + SMOOTHING
    return smooth / smooth.sum()
