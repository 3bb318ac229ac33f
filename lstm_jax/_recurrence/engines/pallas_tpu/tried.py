"""Trial of a cell: whether Pallas can lower its recurrence, with both derivatives, for a TPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...._cells.contract import Recurrent
from ... import equations, inferred, trial
from . import calls, contacts


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None if a kernel can run the cell on this platform, or one line that says why not."""
    if platform not in contacts.platforms():
        return f"it runs on a TPU, and the platform is {platform}"
    return inferred.why_not(cell) or trial.refusal(_lowered, cell, "Pallas cannot lower it")


def _lowered(cell: Recurrent, params: Any) -> None:
    with contacts.for_a_device():
        jax.jit(functools.partial(_try, cell)).trace(params).lower(lowering_platforms=("tpu",))


def _try(cell: Any, params: Any) -> Any:
    """Call the kernel three times, for parameters of these shapes and dtypes."""
    ops = trial.operands(cell, params)
    flags, carry = jnp.ones((trial.STEPS, trial.BATCH), bool), ops.carry
    ops = ops._replace(origin=carry, valid=flags, restart=flags)
    recurrence = inferred.recurrence_of(cell, ops)
    ran = calls.run(recurrence, False, ops)
    pre = (ran.u,) if recurrence.additive else (ops.wx, ran.u)
    carries = jax.tree.map(lambda x, like: x.astype(like.dtype), ran.carries, carry)
    given = ops.weights, ops.extras, carry, carry
    res = equations.Residuals(*given, carries, pre, flags, flags)
    tangents = equations.Tangents(ops.extras, carry, carry, pre)
    return (
        calls.linearized(recurrence, False, res, tangents),
        calls.transposed(recurrence, False, res, equations.Outputs(carry, carries)),
    )
