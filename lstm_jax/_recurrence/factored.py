"""Unroll of a cell that factors: input projection, recurrence primitive, outputs.

All engines share it; the primitive carries the name of the engine that is to run it.
"""

from typing import Any

from .._cells.contract import Recurrent
from .._numerics import varying_as, zero_unless
from .._sequence import Sequence, Wanted
from .._typing import Array, Carry, Params
from . import products
from .engines import IMPLEMENTATIONS, Engine
from .equations import Operands
from .inferred import recurrence_of
from .matmuls import by_products
from .primitive import recurrence
from .record import Asked


def unroll(
    cell: Recurrent,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    wanted: Wanted,
    asked: Asked,
) -> tuple[Carry, Any]:
    """Unroll one cell and return (final carry, (ys, carries of all steps))."""
    params, xs, _ = cell.prepare(params, seq.xs, seq.carry)
    engine = IMPLEMENTATIONS[asked.implementation]
    projection = None
    if isinstance(engine, Engine) and engine.projects:
        projection = _projection(cell, params, xs)
        wx = xs if projection else by_products(cell.project, params, xs)
    else:
        wx = cell.project(params, xs)
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
    ys = zero_unless(seq.valid, cell.emit(params, carries, xs.dtype)) if wanted.ys else None
    return final, (ys, carries if wanted.carries else None)


def _projection(cell: Recurrent, params: Params, xs: Array) -> tuple[Array, ...] | None:
    """Return (w,) or (w, b) with wx = x @ w + b; None if wx is not of a form that engines take."""
    given = cell.projection(params)
    if given is None:
        return None
    w, *biases = given
    sums = cell.accumulation(w.dtype)
    if not products.serves(xs, w, sums):
        return None
    return (w, *([sum(biases[1:], biases[0]).astype(sums)] if biases else []))
