"""`implementation="fused"`: the inputs projected in one matmul, then the recurrence primitive.

Its lowering rules decide what runs: by default `base.run` as XLA compiles it.
"""

from typing import Any

import jax

from .._cells.contract import Recurrent, options
from .._numerics import zero_where
from .._products import by_kernel
from .._sequence import Sequence
from .._typing import Carry, Params
from .base import Operands
from .primitive import recurrence
from .record import Asked


def why_not(cell: Recurrent, platform: str) -> str | None:
    """The cell must factor into matmuls and an elementwise update."""
    del platform
    if cell.factors:
        return None
    return f"{_brief(cell)} does not factor into matmuls and an elementwise update"


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
    return_carries: bool,
    asked: Asked,
) -> tuple[Carry, Any]:
    """(final carry, ys), or (final carry, all carries)."""
    params, xs, _ = cell.prepare(params, seq.xs, seq.carry)
    with by_kernel(asked.implementation == "native") as made:
        wx = cell.project(params, xs)
    # A plain projection is made by the kernel as it goes.
    x, *projection = next((operands for y, operands in made if y is wx), (wx,))
    ops = Operands(
        weights=cell.weights(params),
        extras=_like_batch(cell.extras(params), x),
        carry=seq.carry,
        origin=seq.origin,
        wx=x,
        valid=seq.valid,
        restart=seq.restart,
        noise=seq.noise,
        projection=tuple(projection) or None,
    )
    final, carries, _ = recurrence(cell, reverse, ops, asked)
    if return_carries:
        return final, carries
    ys = cell.emit(params, carries, xs.dtype)
    return final, ys if seq.valid is None else zero_where(~seq.valid, ys)


def _like_batch(extras: Params, wx: Any) -> Params:
    """`extras`, typed as varying where the batch does: `shard_map` sums their cotangents then.

    Elsewhere they are left alone: under `vmap` the zero would be each member's own.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return extras
    zero = sum(leaf[:0].sum() for leaf in jax.tree.leaves(wx))
    return jax.tree.map(lambda leaf: leaf + zero, extras)
