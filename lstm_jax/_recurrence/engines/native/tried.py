"""Trial translation: check that the kernel can run the `recur` and `update` of a cell."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...._cells.contract import Recurrent, param_shapes
from ...._static import compiled_for
from ... import equations, inferred
from ...jaxprs import Untranslatable, without_devices
from . import calls, library


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None if the kernel is built and can run the cell on this platform, or why not."""
    if platform != "cpu":
        return f"the kernel is one for a CPU, and the platform is {platform}"
    return library.why_not() or inferred.why_not(cell) or _untranslated(cell)


def _untranslated(cell: Recurrent) -> str | None:
    try:
        with without_devices():
            return _tried(compiled_for(cell), jnp.result_type(float))
    except Exception as error:  # Any failure disqualifies "native"; "fused" raises it.
        return f"it could not be tried ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=1024)
def _tried(cell: Recurrent, widest: Any) -> str | None:
    """Return None if the cell's recurrence translates, or why it does not."""
    del widest  # For the cache key: the cell's dtypes depend on jax_enable_x64.
    if cell.input_ndim != 1:
        return f"its x_t has {cell.input_ndim} axes, where the kernel is tried with one"
    params = param_shapes(cell, INPUTS)
    try:
        jax.eval_shape(functools.partial(_try, cell), params)
    except Untranslatable as error:
        return str(error)
    return None


STEPS, BATCH, INPUTS = 2, 3, 5
"""Sizes of the trial; any others would do."""


def _try(cell: Any, params: Any) -> Any:
    """Build the kernel's call of the recurrence, for parameters of these shapes and dtypes."""
    xs = jnp.zeros((STEPS, BATCH, INPUTS), jax.tree.leaves(params)[0].dtype)
    params, xs, carry = cell.prepare(params, xs, cell.initial_carry(params, (BATCH,)))
    wx = cell.project(params, xs)
    ops = equations.Operands(cell.weights(params), cell.extras(params), carry, None, wx, None, None)
    return calls.run(inferred.recurrence_of(cell, ops), False, ops)
