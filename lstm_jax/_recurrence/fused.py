"""`implementation="fused"`: the inputs projected in one matmul, then the recurrence primitive.

Its lowering rules decide what runs: by default `base.run` as XLA compiles it.
"""

from typing import Any

from .._cells.closures import CLOSED_OVER, closes_over_traced
from .._cells.contract import Recurrent, options
from .._numerics import varying_as, zero_where
from .._products import by_kernel
from .._sequence import Sequence, Wanted
from .._typing import Carry, Params
from .base import Operands
from .inferred import recurrence_of
from .primitive import recurrence
from .record import Asked


def why_not(cell: Recurrent, platform: str) -> str | None:
    """The cell must factor into matmuls and an elementwise update."""
    del platform
    if not cell.factors:
        return f"{_brief(cell)} does not factor into matmuls and an elementwise update"
    return f"{type(cell).__name__} {CLOSED_OVER}" if closes_over_traced(cell) else None


def _brief(cell: Any) -> str:
    """The cell's name, and the fields that make it another than the plain one of its size."""
    given = {name: value for name, value in options(cell).items() if name != "hidden_size"}
    chosen = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{type(cell).__name__}({chosen})" if chosen else type(cell).__name__


def unroll(
    cell: Recurrent,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    wanted: Wanted,
    asked: Asked,
) -> tuple[Carry, Any]:
    """(final carry, (ys, all carries))."""
    params, xs, _ = cell.prepare(params, seq.xs, seq.carry)
    with by_kernel(asked.implementation == "native") as made:
        wx = cell.project(params, xs)
    # A plain projection is made by the kernel as it goes.
    x, *projection = next((operands for y, operands in made if y is wx), (wx,))
    ops = Operands(
        weights=cell.weights(params),
        extras=varying_as(cell.extras(params), (seq.carry, x)),
        carry=seq.carry,
        origin=seq.origin,
        wx=varying_as(x, seq.carry),
        valid=seq.valid,
        restart=seq.restart,
        noise=seq.noise,
        projection=tuple(projection) or None,
    )
    final, carries, _ = recurrence(recurrence_of(cell, ops), reverse, ops, asked)
    ys = cell.emit(params, carries, xs.dtype) if wanted.ys else None
    ys = ys if seq.valid is None else zero_where(~seq.valid, ys)
    return final, (ys, carries if wanted.carries else None)
