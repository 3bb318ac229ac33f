"""Records of the engine that runs each call, and errors where another was asked for by name."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ..._jax import Primitive
from ..equations import Operands
from ..record import Inspected, described, named, refusal
from .binding import FUNCTIONS, Static


@contextlib.contextmanager
def run_by(
    engine: str, primitive: Primitive, static: Static, leaves: Sequence[Any], why: str | None
) -> Iterator[None]:
    """Record that `engine` runs the operations inside this context, as one call.

    Args:
        why: reason why no faster engine runs the call; None if there is none faster.

    Raises:
        NotImplementedError: another engine was asked for by name; see `check_asked`.
    """
    if engine != static.engine:
        check_asked(primitive, static, leaves, why)
    with named(_record(primitive, static, leaves, implementation=engine, why=why)):
        yield


def check_asked(
    primitive: Primitive, static: Static, leaves: Sequence[Any], why: str | None
) -> None:
    """Raise NotImplementedError if an engine was asked for by name, unless T or the batch is 0.

    why: reason why that engine does not run the call.
    """
    if static.engine != "fused" and static.asked.strict:
        record = _record(primitive, static, leaves)
        if 0 not in (record.steps, *record.batch):
            raise refusal(static.engine, str(why))


def _record(
    primitive: Primitive, static: Static, leaves: Sequence[Any], **others: Any
) -> Inspected:
    point, cell = static.tree.unflatten(leaves)[0], static.recurrence.cell
    timed = point.wx if isinstance(point, Operands) else point.pre
    steps, call = jax.tree.leaves(timed)[0].shape[0], FUNCTIONS[primitive].__name__
    return described(static.asked, cell, steps, point.carry, static.reverse, call=call, **others)
