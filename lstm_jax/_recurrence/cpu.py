"""`implementation="native"`: "fused", whose recurrence the CPU runs as one call of a kernel.

The kernel is a matmul and a vector machine that runs a cell's own `update` and its derivatives,
translated from their jaxprs; `why_not` tries the translation. Under `vmap` inputs are a larger
batch, and members with weights of their own a call each. XLA evaluates what a call needs beyond
what was tried there, such as the derivative of a derivative or an export (the table of who runs
what in docs/implementations.md has the rest); where nothing but "native" was asked for, that is an
error.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .._cells.contract import Recurrent, param_shapes
from .._static import compiled_for
from . import base, fused
from .inferred import recurrence_of
from .native import flat, library
from .native.jaxprs import Untranslatable, without_devices

unroll = fused.unroll


def why_not(cell: Recurrent, platform: str) -> str | None:
    """The platform must be a CPU, the kernel built, and the cell must translate."""
    if platform != "cpu":
        return f"the kernel is one for a CPU, and the platform is {platform}"
    return library.why_not() or fused.why_not(cell, platform) or _untranslated(cell)


def _untranslated(cell: Recurrent) -> str | None:
    try:
        with without_devices():
            return _tried(compiled_for(cell), jnp.result_type(float))
    except Exception as error:  # Whatever a user's cell does; "fused" will say it again.
        return f"it could not be tried ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=1024)
def _tried(cell: Recurrent, widest: Any) -> str | None:
    """None if the recurrence and both its derivatives translate, or why one does not."""
    del widest  # float64 where JAX has it, on which the cell's types depend.
    if cell.input_ndim != 1:
        return f"its x_t has {cell.input_ndim} axes, where the kernel is tried with one"
    params = param_shapes(cell, INPUTS)
    try:
        jax.eval_shape(functools.partial(_try, cell), params)
    except Untranslatable as error:
        return str(error)
    return None


STEPS, BATCH, INPUTS = 2, 3, 5
"""Sizes to try with; any would do."""


def _try(cell: Any, params: Any) -> Any:
    """All that the kernel may be asked to do with a cell."""
    xs = jnp.zeros((STEPS, BATCH, INPUTS), jax.tree.leaves(params)[0].dtype)
    params, xs, carry = cell.prepare(params, xs, cell.initial_carry(params, (BATCH,)))
    wx = cell.project(params, xs)
    given = (cell.weights(params), cell.extras(params), carry, None)
    ops = base.Operands(*given, wx, None, None)
    recurrence = recurrence_of(cell, ops)
    _, carries, u = base.run(recurrence, False, ops)
    ran = flat.run(recurrence, False, ops)
    pre = (u,) if recurrence.additive else (wx, u)
    res = base.Residuals(*given, carries, pre, None, None)
    tangents = base.Tangents(given[1], carry, None, pre)
    outs = flat.linearized(recurrence, False, res, tangents)
    return ran, outs, flat.transposed(recurrence, False, res, base.Outputs(carry, carries))
