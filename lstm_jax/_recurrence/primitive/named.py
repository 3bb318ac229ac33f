"""The primitives' records: who runs a call, and an error where another was asked for by name."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ..._jax import Primitive
from .. import base
from ..record import Inspected, described, named, refusal
from ..spec import Recurrence
from .batching import Vmapped
from .binding import FUNCTIONS, Static


@contextlib.contextmanager
def by_kernel(primitive: Primitive, static: Static, leaves: Sequence[Any]) -> Iterator[None]:
    """Within it stand the operations of a call that the kernel runs."""
    with named(_record(primitive, static, leaves, implementation="native", why=None)):
        yield


@contextlib.contextmanager
def by_xla(
    primitive: Primitive, static: Static, leaves: Sequence[Any], why: str | None
) -> Iterator[None]:
    """Within it stand the operations of a call that XLA runs.

    Raises:
        NotImplementedError: as `check_asked`.
    """
    check_asked(primitive, static, leaves, why)
    with named(_record(primitive, static, leaves, implementation="fused", why=why)):
        yield


def check_asked(
    primitive: Primitive, static: Static, leaves: Sequence[Any], why: str | None
) -> None:
    """Raise NotImplementedError if the kernel was asked for by name, and has something to compute.

    why: why the kernel does not run it.
    """
    if static.native and static.asked.strict:
        record = _record(primitive, static, leaves)
        if 0 not in (record.steps, *record.batch):
            raise refusal("native", str(why))


def _record(
    primitive: Primitive, static: Static, leaves: Sequence[Any], **others: Any
) -> Inspected:
    point, cell = static.tree.unflatten(leaves)[0], static.cell
    while isinstance(cell, Vmapped | Recurrence):
        cell = cell.cell
    timed = point.wx if isinstance(point, base.Operands) else point.pre
    steps, call = jax.tree.leaves(timed)[0].shape[0], FUNCTIONS[primitive].__name__
    return described(static.asked, cell, steps, point.carry, static.reverse, call=call, **others)
