"""Trial of a cell: whether its recurrence, with both derivatives, can be printed as a kernel."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ...._cells.contract import Recurrent
from ... import equations, inferred, trial
from . import calls, device
from .plan import Device


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None if a kernel can run the cell on this platform, or one line that says why not."""
    missing = device.why_not(platform) or inferred.why_not(cell)
    return missing or trial.refusal(_attempt(device.here()), cell, "it cannot be printed")


@functools.cache
def _attempt(gpu: Device) -> Callable[[Recurrent, Any], None]:
    """Make the trial for a GPU: the same function whenever it is that GPU's."""

    def translated(cell: Recurrent, params: Any) -> None:
        with device.of(gpu), device.trying():
            jax.eval_shape(functools.partial(_try, cell), params)

    return translated


def _try(cell: Any, params: Any) -> Any:
    """Build the calls of the recurrence and its derivatives, for parameters of these types."""
    ops = trial.operands(cell, params)
    recurrence = inferred.recurrence_of(cell, ops)
    ran = calls.run(recurrence, False, ops)
    pre = (ran.u,) if recurrence.additive else (ops.wx, ran.u)
    given = ops.weights, ops.extras, ops.carry, None
    res = equations.Residuals(*given, ran.carries, pre, None, None)
    tangents = equations.Tangents(ops.extras, ops.carry, None, pre)
    return (
        calls.linearized(recurrence, False, res, tangents),
        calls.transposed(recurrence, False, res, equations.Outputs(ops.carry, ran.carries)),
    )
