"""Trial translation: check that the kernel can run the `recur` and `update` of a cell."""

import functools
from typing import Any

import jax

from ...._cells.contract import Recurrent
from ... import inferred, trial
from . import calls, library


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None if the kernel is built and can run the cell on this platform, or why not."""
    if platform != "cpu":
        return f"the kernel is one for a CPU, and the platform is {platform}"
    missing = library.why_not() or inferred.why_not(cell)
    return missing or trial.refusal(_translated, cell, "it could not be tried")


def _translated(cell: Recurrent, params: Any) -> None:
    jax.eval_shape(functools.partial(_try, cell), params)


def _try(cell: Any, params: Any) -> Any:
    """Build the kernel's call of the recurrence, for parameters of these shapes and dtypes."""
    ops = trial.operands(cell, params)
    return calls.run(inferred.recurrence_of(cell, ops), False, ops)
