"""State tracking by hand: parity in one unit, and words of a group by reflections.

No training: the weights are written down, as in the proofs of Grazzi et al. (2025), arXiv
2411.12537, theorems 1 and 3. A unit h_t = a h_{t-1} + (1 - a) with 0 < a < 1 sees ones only and
comes to a standstill in finite precision, so that it cannot tell an even number of them from an
odd one; with a = -1 it alternates for ever. A permutation of n is a product of at most n - 1 swaps,
and a swap is a reflection, I - 2 v v' with v = (e_i - e_j) / sqrt(2), whose eigenvalues are -1 and
1: so linear steps with such factors spell every word.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._cells.linear import MinGRU
from ..._typing import Array, Key
from ..._unroll import unroll
from ...data import GroupWords, Parity

__all__ = ["parity_by_hand", "reflections", "standstill", "standstill_in_theory", "words_by_hand"]
__dir__ = __all__.copy

ULP = 2.0**-24
"""Distance of neighbouring float32 numbers below 1."""


def standstill_in_theory(decay: float) -> float:
    """Ones after which the state no longer moves: its step (1 - a) a^k is below ULP / 2."""
    return float(np.log(ULP / (2 * (1 - decay))) / np.log(decay))


def standstill(decay: float, steps: int) -> int:
    """Ones after which a MinGRU's unit, h_t = a h_{t-1} + 1 - a in float32, repeats its state."""
    # sigmoid(i) = 1 - a, and g(0.5) = 1.
    b = jnp.array([np.log((1 - decay) / decay), 0.5], jnp.float32)
    ys = unroll(MinGRU(1), {"w_ih": jnp.zeros((1, 2)), "b": b}, jnp.zeros((steps, 1)))[1]
    moves = np.flatnonzero(np.diff(np.asarray(ys)[:, 0]))
    return int(moves[-1]) + 2 if moves.size else 1


@functools.partial(jax.jit, static_argnums=(1, 2))
def parity_by_hand(key: Key, length: int, batch_size: int) -> Array:
    """Share of the steps of long sequences at which one signed unit knows the parity."""
    batch = Parity(length).sample(key, batch_size)
    shut = 1e4  # tanh and sigmoid of it are 1 in any precision.
    # A zero: a = 1 and nothing is added. A one: a = -1 and 1 is added. So h is 0 or 1.
    params = {"w_ih": jnp.array([[-shut, 0.0], [shut, 0.0]]), "b": jnp.array([0.0, 0.5])}
    ys = unroll(MinGRU(1, True), params, batch.xs)[1][..., 0]
    return jnp.mean((ys > 0.5) == (batch.targets == 1))


def reflections(permutation: Any) -> np.ndarray:
    """The reflections whose product moves entry i to permutation[i]: rows v, the first one first.

    A cycle of k takes k - 1 of them.
    """
    n, seen, rows = len(permutation), set(), []
    for start in range(n):
        place = int(permutation[start])
        while start not in seen and place != start:
            v = np.zeros(n)
            v[[start, place]] = np.sqrt(0.5), -np.sqrt(0.5)
            rows.append(v)
            seen.add(place)
            place = int(permutation[place])
    return np.array(rows).reshape(-1, n)


@functools.partial(jax.jit, static_argnums=(1, 2))
def words_by_hand(key: Key, task: GroupWords, batch_size: int) -> Array:
    """Share of the steps at which a state that letters reflect, in float32, spells the product."""
    elements = task.permutations
    n = elements.shape[1]
    vs = np.zeros((len(elements), n - 1, n), np.float32)  # A row of zeros reflects nothing.
    for element, permutation in enumerate(elements):
        rows = reflections(permutation)
        vs[element, : len(rows)] = rows
    batch = task.sample(key, batch_size)

    def step(h: Array, letter: Array) -> tuple[Array, Array]:
        for m in range(n - 1):
            v = jnp.asarray(vs)[letter, m]
            h = h - 2 * v * jnp.sum(h * v, axis=-1, keepdims=True)
        return h, h

    start = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32), (batch_size, n))
    states = lax.scan(step, start, batch.xs.argmax(-1))[1]
    # Entry i has been moved to place product[i].
    products = jnp.asarray(elements)[batch.targets]
    found = jnp.take_along_axis(jnp.round(states), products, axis=-1)
    return jnp.mean(jnp.all(found == start[None], axis=-1))
