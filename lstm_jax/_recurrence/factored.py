"""Unroll of a cell that factors: input projection, recurrence primitive, outputs.

All engines share it; the primitive carries the name of the engine that is to run it.
"""

from typing import Any

from .._cells.contract import Recurrent
from .._numerics import varying_as, zero_unless
from .._sequence import Sequence
from .._typing import Carry, Params
from .engines import engine_of
from .equations import Operands
from .inferred import recurrence_of
from .matmuls import projected
from .primitive import recurrence
from .record import Asked


def unroll(
    cell: Recurrent,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    asked: Asked,
) -> tuple[Carry, Any]:
    """Unroll one cell and return (final carry, (ys, carries of all steps))."""
    params, xs, _ = cell.prepare(params, seq.xs, seq.carry)
    if engine_of(asked.implementation).projects:
        wx, projection = projected(cell.project, params, xs)
    else:
        wx, projection = cell.project(params, xs), None
    ops = Operands(
        weights=cell.weights(params),
        extras=varying_as(cell.extras(params), (seq.carry, wx)),
        carry=seq.carry,
        origin=seq.origin,
        wx=varying_as(wx, seq.carry),
        valid=seq.valid,
        restart=seq.restart,
        noise=seq.noise,
        projection=projection,
    )
    final, carries, _ = recurrence(recurrence_of(cell, ops), reverse, ops, asked)
    return final, (zero_unless(seq.valid, cell.emit(params, carries, xs.dtype)), carries)
