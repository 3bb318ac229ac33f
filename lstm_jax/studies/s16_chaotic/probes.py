"""What S16 measures: of the Lorenz system, and of networks that were trained on it.

The system is a cell, so that what is said of it and of the networks is by the same diagnostics.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ... import diagnostics, optim
from ..._cells.base import State
from ..._layers import Readout
from ..._typing import Array, Key
from ..._unroll import unroll
from .forcing import LENGTH, MAX_NORM, forced, windows
from .lorenz import DT, Lorenz, no_inputs

__all__ = ["FREE", "PROBED", "Found", "exponents_of_system", "growth_of_system", "of_networks"]
__dir__ = __all__.copy

FREE = (16, 500, 2000)
"""Runs of a network by itself: how many, steps to settle, steps that count."""
EXPONENTS = (500, 4000)
"""Steps to settle and steps that count, for Lyapunov exponents."""
PROBED = 256
"""States of the system from which gradients are followed."""


def exponents_of_system(starts: Array) -> np.ndarray:
    """The Lyapunov exponents of the system in nats per unit of time, from starts [runs, 3]."""
    system, (settle, steps) = Lorenz(), EXPONENTS

    def exponents(start: Array) -> Array:
        xs = no_inputs(settle + steps).astype(start.dtype)
        params = {name: x.astype(start.dtype) for name, x in system.classical().items()}
        return diagnostics.lyapunov_spectrum(
            system, params, xs, State(start), warmup=settle
        ).exponents

    with jax.enable_x64(True):
        each = jax.jit(jax.vmap(exponents))(jnp.asarray(starts, jnp.float64))
        return np.asarray(each).mean(axis=0) / DT


@jax.jit
def growth_of_system(data: Array, key: Key) -> Array:
    """Growth of the system's gradients by lag, nats per unit of time, from states [..., 3]."""
    states, system = jax.random.choice(key, data.reshape(-1, 3), (PROBED,)), Lorenz()
    norms = diagnostics.gradient_norms_by_lag(
        system,
        system.classical(),
        no_inputs(LENGTH, len(states)),
        lambda ys: jnp.sum(ys[-1]),
        State(states),
    )
    return diagnostics.slope_per_step(diagnostics.mean_log_norms(norms.h)) / DT


def _by_itself(net: Readout, params: Any, start: Array) -> tuple[Array, Array]:
    """(states of a network that runs by itself, its largest exponent in nats per unit of time)."""
    count, settle, steps = FREE
    carry = forced(net, params, start[:count])
    _, ys = unroll(net, params, no_inputs(settle + steps, count), carry)
    one = jax.tree.map(lambda leaf: leaf[0], carry)
    settle, steps = EXPONENTS
    spectrum = diagnostics.lyapunov_spectrum(
        net, params, no_inputs(settle + steps), one, exponents=1, warmup=settle
    )
    return ys[FREE[1] :], spectrum.exponents[0] / DT


def _gradients(net: Readout, params: Any, states: Array) -> tuple[Array, Array]:
    """(ln |dE/dh| by lag, ln of the factor by which a clip of dE/dparams to 1 scales it).

    E is the squared error of the last step alone, of a network that was forced at the first.
    """

    def error(y: Array) -> Array:
        return jnp.mean((y - states[-1]) ** 2)

    xs, carry = no_inputs(LENGTH, states.shape[1]), forced(net, params, states[0])
    norms = diagnostics.gradient_norms_by_lag(net, params, xs, lambda ys: error(ys[-1]), carry)
    grads = jax.grad(lambda p: error(unroll(net, p, xs, carry)[1][-1]))(params)
    clip = jnp.minimum(0.0, jnp.log(MAX_NORM) - jnp.log(optim.global_norm(grads)))
    return diagnostics.mean_log_norms(norms.h)[::-1], clip


class Found(NamedTuple):
    """What was found out about all networks, leaves [networks, S, ...].

    Attributes:
        states: of the networks by themselves, [networks, S, steps, runs, 3].
        exponents: the largest of each, nats per unit of time.
        norms: ln |dE/dh| by lag, [networks, S, LENGTH].
        clip: ln of the factor by which the clip scales the gradient.
        slopes: growth of the norms with the lag, nats per unit of time.
    """

    states: np.ndarray
    exponents: np.ndarray
    norms: np.ndarray
    clip: np.ndarray
    slopes: np.ndarray


def of_networks(net: Readout, params: Any, data: Array) -> Found:
    """Measure networks with parameters [networks, S, ...], from states of the data."""
    probed = windows(data, jax.random.key(2), FREE[0])

    def of_one(params: Any) -> tuple[Array, ...]:
        states, exponent = _by_itself(net, params, data[0])
        norms, clip = _gradients(net, params, probed)
        slope = diagnostics.slope_per_step(norms[::-1]) / DT  # It takes the order of time.
        return states, exponent, norms, clip, slope

    return Found(*map(np.asarray, jax.jit(jax.vmap(jax.vmap(of_one)))(params)))
