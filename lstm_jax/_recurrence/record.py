"""Records of what runs each recurrence, written into the program for `lj.inspect` to read.

An implementation puts the operations of a recurrence under a `jax.named_scope` that leads to the
record. JAX keeps such names through its caches and transformations, so they are in the lowered
program and in profiles.
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
    """Choice of implementation for one cell in a call of `unroll`; static under jit.

    Attributes:
        implementation: name of the implementation that was chosen.
        strict: True if no other may run: the user named it, and named none after it.
        automatic: True if the user named none.
        why: reason why no faster implementation was chosen; None if there is none faster.
        input_size: D, the number of features of an input.
        dtype: dtype of the inputs of the cell's matmuls and of ys.
    """

    implementation: str
    strict: bool = False
    automatic: bool = False
    why: str | None = dataclasses.field(default=None, compare=False)  # Follows from the cell.
    input_size: int = 0
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Inspected:
    """One recurrence of a compiled program, as `lj.inspect` lists it.

    Attributes:
        implementation: name of the implementation that runs it. "native" is the CPU kernel;
            "fused" is a loop of XLA between matmuls over all steps; "scan", "associative" and
            "newton" are compiled by XLA too.
        call: "run" (the forward pass), "linearized" (its tangent, forward mode) or "transposed"
            (backpropagation through time). JAX itself differentiates "scan", "associative" and
            "newton", and derivatives a second time; those tangents have no entry of their own.
        cell: the cell, printed.
        steps: T; the steps of one chunk where `remat` cuts the sequence.
        batch: sizes of the batch axes, those of `vmap` included, except around calls that JAX
            itself differentiates; inside `shard_map` the sizes on one device.
        input_size: D, the number of features of an input.
        hidden_size: H, the number of features of the hidden state.
        dtype: dtype of the inputs of the cell's matmuls and of ys.
        reverse: True if the cell runs backwards in time (its transposed call then runs forwards).
        why: reason why no faster implementation runs it; None if there is none faster.
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
    """Build the record of one recurrence.

    Args:
        carry: a carry, whose leaves show the batch axes.
        others: fields of the record that differ from a forward run by the implementation chosen.
    """
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
"""Pattern of the scope's name: the implementation, a number, and a checksum of the record.

The checksum tells names of this process from those in a program that another process made."""

RECORDS: dict[str, Inspected] = {}
"""Records by name, of every recurrence that this process has put into a program."""

_numbers = itertools.count()


@contextlib.contextmanager
def named(record: Inspected) -> Iterator[None]:
    """Name the operations inside this context for `record`; register it unless they raise."""
    checksum = zlib.crc32(repr(record).encode())
    name = f"lstm_jax.{record.implementation}.{next(_numbers)}.{checksum:08x}"
    with jax.named_scope(name):
        yield
    RECORDS[name] = record


def refusal(name: str, why: str) -> NotImplementedError:
    """Build the error for an implementation that was asked for by name and cannot run."""
    remedy = "scan" if name == "fused" else "fused"
    return NotImplementedError(f'{name}: {why}; use implementation="{remedy}" or None')
