"""Apply an initializer to all gates of a cell's bias or matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .._checks import fail
from ._draw import Initializer, in_wide
from ._gates import GateBias
from ._matrix import GateMatrix, Sizes


def bias(
    init: Initializer | GateBias,
    key: Array,
    names: Sequence[str],
    hidden_size: int,
    dtype: Any = jnp.float32,
) -> Array:
    """Draw the biases `[G*H]` of the gates called `names`, in that order.

    A `GateBias` draws all gates together; a plain initializer is called for each gate, with shape
    `(H,)` and another key.
    """
    if isinstance(init, GateBias):
        return init.gates(key, names, hidden_size, dtype)
    if isinstance(init, GateMatrix):
        remedy = "gate matrices set w_ih and w_hh alone"
        raise fail("init", f"{init} for a bias", "zeros(), uniform() or a GateBias", remedy)
    keys = jax.random.split(key, len(names))
    return jnp.concatenate([in_wide(init, k, (hidden_size,), dtype) for k in keys])


def two_biases(
    init: Initializer | GateBias,
    key: Array,
    names: Sequence[str],
    hidden_size: int,
    dtype: Any = jnp.float32,
) -> tuple[Array, Array]:
    """Draw (b, b_hh), `[G*H]` each, for a cell that adds two biases.

    A plain initializer draws both alike; a `GateBias` determines b_hh itself.
    """
    if isinstance(init, GateBias):
        return init.two(key, names, hidden_size, dtype)
    b = bias(init, key, names, hidden_size, dtype)
    return b, bias(init, jax.random.fold_in(key, 1), names, hidden_size, dtype)


def blocks(
    init: Initializer | GateMatrix,
    key: Array,
    fan_in: int,
    gates: int,
    hidden_size: int,
    dtype: Any = jnp.float32,
    window: Sequence[int] = (),
    sizes: Sizes | None = None,
) -> Array:
    """Draw a matrix `[fan_in, G*H]` of `gates` blocks `[fan_in, H]`, each with another key.

    fan_in is D for w_ih and H for w_hh. A `window` makes it the kernel of a convolution,
    `[*window, fan_in, G*H]`. A `GateMatrix` draws all gates together, from the cell's
    `sizes`. ValueError for a `GateBias`, which is for biases only.
    """
    if isinstance(init, GateBias):
        wanted = "a plain initializer such as orthogonal()"
        raise fail("init", f"{init} for a matrix", wanted, "gate biases set b alone")
    if fan_in == 0:  # An empty matrix; many initializers would divide by fan_in.
        return jnp.zeros((*window, 0, gates * hidden_size), dtype)
    if isinstance(init, GateMatrix):
        shape = (*window, fan_in, gates * hidden_size)
        return init.gates(key, shape, sizes or Sizes(fan_in, hidden_size), dtype)
    keys = jax.random.split(key, gates)
    shape = (*window, fan_in, hidden_size)
    return jnp.concatenate([in_wide(init, k, shape, dtype) for k in keys], axis=-1)
