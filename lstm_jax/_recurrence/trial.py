"""Trial of a cell by an engine, before it is chosen: on shapes alone, once for equal cells."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cells.contract import Recurrent, param_shapes
from .._static import compiled_for
from .equations import Operands
from .jaxprs import Untranslatable, without_devices

STEPS, BATCH, INPUTS = 2, 3, 5
"""Sizes of the trial; any others would do."""


def refusal(attempt: Callable[[Recurrent, Any], Any], cell: Recurrent, failed: str) -> str | None:
    """Return None if `attempt` succeeds for a cell, or one line that says why it does not.

    Args:
        attempt: a function of a cell and the types of its parameters; the same one in every call.
        failed: what to say before an error that is no `Untranslatable`.
    """
    try:
        with without_devices():
            return _tried(attempt, compiled_for(cell), jnp.result_type(float))
    except Exception as error:  # Any failure disqualifies the engine; "fused" raises it.
        return f"{failed} ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=1024)
def _tried(attempt: Callable[[Any, Any], Any], cell: Recurrent, widest: Any) -> str | None:
    del widest  # For the cache key: the cell's dtypes depend on jax_enable_x64.
    if cell.input_ndim != 1:
        return f"its x_t has {cell.input_ndim} axes, where the kernel is tried with one"
    params = param_shapes(cell, INPUTS)
    try:
        attempt(cell, params)
    except Untranslatable as error:
        return str(error)
    return None


def operands(cell: Any, params: Any) -> Operands:
    """Make operands of the trial's sizes, without masks and restarts."""
    xs = jnp.zeros((STEPS, BATCH, INPUTS), jax.tree.leaves(params)[0].dtype)
    params, xs, carry = cell.prepare(params, xs, cell.initial_carry(params, (BATCH,)))
    wx = cell.project(params, xs)
    return Operands(cell.weights(params), cell.extras(params), carry, None, wx, None, None)
