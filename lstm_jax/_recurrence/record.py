"""Who runs a recurrence: asked for, and then written into the program, where `lj.inspect` reads it.

Whoever runs a recurrence puts its operations under a name, as `jax.named_scope` does. JAX keeps
names through its caches and transformations: they are in the lowered program, and in profiles.
"""

import contextlib
import dataclasses
import itertools
import re
import zlib
from collections.abc import Iterator
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Asked:
    """One recurrence as `unroll` has it run; static under jit.

    Attributes:
        implementation: the name of the one that was chosen.
        strict: whether nothing else may run: that name was asked for, and none to go on to.
        why: why nothing faster was chosen; None if there is nothing faster.
        input_size: D.
        dtype: of the inputs of its matmuls and of ys.
    """

    implementation: str
    strict: bool = False
    why: str | None = dataclasses.field(default=None, compare=False)  # The cell decides it.
    input_size: int = 0
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Inspected:
    """One recurrence of a compiled program, as `lj.inspect` lists it.

    Attributes:
        implementation: who runs it. "native" is the CPU's kernel; "fused" is XLA's loop, between
            matmuls of all steps at once; "scan" and "associative" are XLA's too.
        call: "run", "linearized" (a tangent) or "transposed" (the way back in time). JAX itself
            differentiates "scan", "associative" and what is a derivative already: a tangent is
            then part of the call that it belongs to.
        cell: as it prints.
        steps: T; of one chunk, where `remat` cuts the sequence.
        batch: the batch axes, those of `vmap` included, but for those around what JAX itself
            differentiates; of one device inside `shard_map`.
        input_size: D.
        hidden_size: H.
        dtype: of the inputs of its matmuls and of ys.
        reverse: whether it runs backwards in time (a transposed one then walks forwards).
        why: why nothing faster runs it; None if there is nothing faster.
    """

    implementation: str
    call: str
    cell: str
    steps: int
    batch: tuple[int, ...]
    input_size: int
    hidden_size: int
    dtype: str
    reverse: bool
    why: str | None


def described(
    asked: Asked, cell: Any, steps: int, carry: Any, reverse: bool, **others: Any
) -> Inspected:
    """The record of one recurrence. carry: its leaves give the batch axes; others: what differs
    from a plain run by whom it was asked of."""
    h = jax.tree.leaves(carry)[0]
    return dataclasses.replace(
        Inspected(
            implementation=asked.implementation,
            call="run",
            cell=str(cell),
            steps=steps,
            batch=h.shape[: h.ndim - cell.input_ndim],
            input_size=asked.input_size,
            hidden_size=cell.hidden_size,
            dtype=asked.dtype,
            reverse=reverse,
            why=asked.why,
        ),
        **others,
    )


NAME = re.compile(r"lstm_jax\.[a-z]+\.\d+\.[0-9a-f]{8}")
"""The names of recurrences: who runs it, a number, and a checksum of the record, as a program may
come from another process."""

RECORDS: dict[str, Inspected] = {}
"""Name to record, of every recurrence that this process has put into a program."""

_numbers = itertools.count()


@contextlib.contextmanager
def named(record: Inspected) -> Iterator[None]:
    """Within it, operations stand under a name of the record; if it ends well, that is known."""
    checksum = zlib.crc32(repr(record).encode())
    name = f"lstm_jax.{record.implementation}.{next(_numbers)}.{checksum:08x}"
    with jax.named_scope(name):
        yield
    RECORDS[name] = record


def refusal(name: str, why: str) -> NotImplementedError:
    """What an implementation that was asked for by name raises where it cannot."""
    remedy = "scan" if name == "fused" else "fused"
    return NotImplementedError(f'{name}: {why}; use implementation="{remedy}" or None')
