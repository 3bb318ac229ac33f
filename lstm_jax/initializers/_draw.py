"""Helpers of the initializers: the dtype to draw in, and checks of arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from .._checks import fail, is_real, shown

Initializer = Callable[..., Array]


def wide(dtype: Any) -> Any:
    """The dtype to draw in: float32 for 16-bit dtypes, else `dtype`."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise fail("dtype", jnp.dtype(dtype), "a real floating dtype", "pass jnp.float32")
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def in_wide(init: Initializer, key: Array, shape: Sequence[int], dtype: Any) -> Array:
    return init(key, tuple(shape), wide(dtype)).astype(dtype)


def check_number(name: str, value: Any, at_least: float = -math.inf) -> None:
    # Arrays are refused because they do not hash, so a cell that holds one would not either.
    if not is_real(value) or not at_least <= float(value) < math.inf:
        wanted = "a finite Python number" + (f" >= {at_least}" if at_least > -math.inf else "")
        raise fail(name, shown(value), wanted, "convert arrays with float()")


def check_initializer(name: str, value: Any) -> None:
    """Raise unless `value` is a plain initializer, to be called as init(key, shape, dtype)."""
    if isinstance(value, type) or not callable(value):
        remedy = f"call it: {value.__name__}()" if isinstance(value, type) else "see initializers"
        raise fail(name, shown(value), "an initializer, such as orthogonal()", remedy)


def check_matrix(init: Initializer, shape: Sequence[int]) -> None:
    if len(shape) < 2:
        remedy = "use zeros(), constant() or uniform() for biases"
        raise fail("shape", f"{tuple(shape)} for {init}", "[fan_in, fan_out]", remedy)


def check_square(init: Initializer, shape: Sequence[int]) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        remedy = "use it for w_hh, and orthogonal() or glorot_uniform() for w_ih"
        raise fail("shape", f"{tuple(shape)} for {init}", "[H, H]", remedy)
