"""The cliff of Pascanu, Mikolov & Bengio (2013), figure 6: an exploding gradient, and clipping.

    x_t = w sigmoid(x_{t-1}) + b,   x_0 = 0.5,   E(w, b) = (sigmoid(x_50) - 0.7)^2

S_t = sigmoid(x_t) is an RNN of one unit with W = w, no input and bias b: S_t = sigmoid(w S_{t-1} +
b) from S_0 = sigmoid(0.5), and E = (S_50 - 0.7)^2. The error has a steep wall where x_0 is an
unstable fixed point: b = 0.5 - sigmoid(0.5) w, for w > 1 / sigmoid'(0.5).

Everything is in float64, as rounding errors of float32 grow on the wall like the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .. import optim
from .._cells.rnn import RNN, RNNState
from .._numerics import sigmoid
from .._typing import Array
from .._unroll import unroll

__all__ = [
    "CELL",
    "STARTS",
    "STEPS_OF_TIME",
    "STEPS_PER_CALL",
    "Descent",
    "descend",
    "error",
    "neighbours",
    "surface",
]
__dir__ = __all__.copy

CELL = RNN(1, sigmoid)
STEPS_OF_TIME = 50
STEPS_PER_CALL = 200
STARTS = ((5.2, -2.66), (5.0, -2.55))


def error(w: Array, b: Array) -> Array:
    """Compute E(w, b) for float64 scalars."""
    params = {"w_ih": jnp.zeros((1, 1)), "w_hh": w.reshape(1, 1), "b": b.reshape(1)}
    start = RNNState(sigmoid(jnp.full((1,), 0.5)))
    carry, _ = unroll(CELL, params, jnp.zeros((STEPS_OF_TIME, 1)), start)
    return (carry.h[0] - 0.7) ** 2


class Descent(NamedTuple):
    """Trajectories of full-batch gradient descent from several starts.

    Attributes:
        points: [starts, steps + 1, 2], (w, b) at each step.
        errors: [starts, steps + 1], E at these points.
        norms: [starts, steps], norms of the gradient before clipping.
    """

    points: np.ndarray
    errors: np.ndarray
    norms: np.ndarray


def descend(
    max_norm: float | None,
    learning_rate: float = 0.05,
    steps: int = 2000,
    starts: Any = STARTS,
    progress: Callable[[float], Any] = lambda share: None,
) -> Descent:
    """Run clipped gradient descent on E, in float64; `max_norm=None` does not clip.

    progress: called now and then with the share of the steps that were done since.
    """
    tx = optim.clipped_sgd(learning_rate, max_norm)

    def step(state: Any, _: None) -> Any:
        point, opt_state = state
        value, grad = jax.value_and_grad(lambda p: error(p[0], p[1]))(point)
        updates, opt_state = tx.update(grad, opt_state)
        return (optax.apply_updates(point, updates), opt_state), (point, value, opt_state)

    @functools.partial(jax.jit, static_argnums=1)
    def run(states: Any, steps: int) -> Any:
        return jax.vmap(lambda state: lax.scan(step, state, length=steps))(states)

    with jax.enable_x64(True):
        points = jnp.asarray(starts, jnp.float64)
        states: Any = points, jax.vmap(tx.init)(points)
        parts = []
        for begin in range(0, steps, STEPS_PER_CALL):
            states, part = run(states, min(STEPS_PER_CALL, steps - begin))
            parts.append(jax.device_get(part))
            progress(STEPS_PER_CALL / steps)
        last = jax.vmap(lambda p: error(p[0], p[1]))(states[0])
    points, errors, opt_states = jax.tree.map(lambda *p: np.concatenate(p, axis=1), *parts)
    points = np.concatenate([points, np.asarray(states[0])[:, None]], axis=1)
    return Descent(points, np.append(errors, np.asarray(last)[:, None], 1), opt_states.norm_before)


def surface(w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute E on the grid of w [M] and b [N]: [N, M], float64."""
    over_w = jax.vmap(error, in_axes=(0, None))
    with jax.enable_x64(True):
        grid = jax.jit(jax.vmap(over_w, in_axes=(None, 0)))
        return np.asarray(grid(jnp.asarray(w, jnp.float64), jnp.asarray(b, jnp.float64)))


def neighbours(start: tuple[float, float], count: int = 32) -> np.ndarray:
    """Make `count` starts that differ by 1e-13 in b, [count, 2].

    The wall throws an unclipped descent to a place that depends on the last bits of its start, so
    only a share of many trajectories is meaningful.
    """
    shifts = 1e-13 * np.arange(count)
    return np.asarray(start) + np.stack([np.zeros(count), shifts], axis=1)
