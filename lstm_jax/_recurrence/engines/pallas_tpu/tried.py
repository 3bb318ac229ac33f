"""Trial of a cell: whether Pallas can lower its recurrence, with both derivatives, for a TPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...._cells.contract import Recurrent, param_shapes
from ...._static import compiled_for
from ... import equations, inferred
from ...jaxprs import Untranslatable, without_devices
from . import calls, contacts


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None if a kernel can run the cell on this platform, or one line that says why not."""
    if platform not in contacts.platforms():
        return f"it runs on a TPU, and the platform is {platform}"
    return inferred.why_not(cell) or _refused(cell)


def _refused(cell: Recurrent) -> str | None:
    try:
        with without_devices():
            return _tried(compiled_for(cell), jnp.result_type(float))
    except Exception as error:  # Any failure disqualifies "pallas_tpu"; "fused" raises it.
        return f"Pallas cannot lower it ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=1024)
def _tried(cell: Recurrent, widest: Any) -> str | None:
    """Return None if the cell's recurrence can be lowered, or why it cannot."""
    del widest  # For the cache key: the cell's dtypes depend on jax_enable_x64.
    if cell.input_ndim != 1:
        return f"its x_t has {cell.input_ndim} axes, where the kernel is tried with one"
    params = param_shapes(cell, INPUTS)
    try:
        with contacts.for_a_device():
            jax.jit(functools.partial(_try, cell)).trace(params).lower(lowering_platforms=("tpu",))
    except Untranslatable as error:
        return str(error)
    return None


STEPS, BATCH, INPUTS = 2, 3, 5
"""Sizes of the trial; any others would do."""


def _try(cell: Any, params: Any) -> Any:
    """Call the kernel three times, for parameters of these shapes and dtypes."""
    xs = jnp.zeros((STEPS, BATCH, INPUTS), jax.tree.leaves(params)[0].dtype)
    params, xs, carry = cell.prepare(params, xs, cell.initial_carry(params, (BATCH,)))
    wx, weights, extras = cell.project(params, xs), cell.weights(params), cell.extras(params)
    flags = jnp.ones((STEPS, BATCH), bool)
    ops = equations.Operands(weights, extras, carry, carry, wx, flags, flags)
    recurrence = inferred.recurrence_of(cell, ops)
    ran = calls.run(recurrence, False, ops)
    pre = (ran.u,) if recurrence.additive else (wx, ran.u)
    carries = jax.tree.map(lambda x, like: x.astype(like.dtype), ran.carries, carry)
    res = equations.Residuals(weights, extras, carry, carry, carries, pre, flags, flags)
    tangents = equations.Tangents(extras, carry, carry, pre)
    return (
        calls.linearized(recurrence, False, res, tangents),
        calls.transposed(recurrence, False, res, equations.Outputs(carry, carries)),
    )
