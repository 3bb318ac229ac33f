"""Operands of a loop: what a block of each is, and how a step reads its value from a block."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...._typing import Array
from . import contacts


class Earlier(NamedTuple):
    """A carry of which each step is given the value before that step."""

    first: Any  # before the first step, leaves [B, ...]
    stacked: Any  # after each step, leaves [T, B, ...]


class Inputs(NamedTuple):
    """Operands of a loop; and in one step the values of that step.

    Attributes:
        shared: arrays of any shape, which all sequences and steps share.
        rows: leaves [B, ...], which all steps share.
        flags: leaves [T, B] of bool; a step gets 1.0 or 0.0, [B, 1].
        timed: leaves [T, B, ...].
        cotangents: leaves [T, B, ...]; they are zero in rows that are added.
        earlier: an `Earlier` or (); a step gets a tree like its `first`.
    """

    shared: Any = ()
    rows: Any = ()
    flags: Any = ()
    timed: Any = ()
    cotangents: Any = ()
    earlier: Any = ()


class Leaf(NamedTuple):
    """One operand. kind: a field of `Inputs`, or "state"; stacked: that of an `Earlier`."""

    kind: str
    array: Array
    stacked: Any = None

    def in_step(self, rows: int) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the value in a step of `rows` sequences."""
        if self.kind == "shared":
            return jax.ShapeDtypeStruct(self.array.shape, self.array.dtype)
        if self.kind == "flags":
            return jax.ShapeDtypeStruct((rows, 1), np.float32)
        tail = self.array.shape[2 if self.kind in ("timed", "cotangents") else 1 :]
        dtype = self.array.dtype if self.stacked is None else self.stacked.dtype
        return jax.ShapeDtypeStruct((rows, *tail), dtype)


def leaves_of(given: Inputs) -> tuple[list[Leaf], Any]:
    """List the operands, and return the structure of their values in a step."""
    leaves, values = [], given
    for kind, value in zip(Inputs._fields, given, strict=True):
        if isinstance(value, Earlier):
            pairs = zip(jax.tree.leaves(value.first), jax.tree.leaves(value.stacked), strict=True)
            leaves += [Leaf(kind, *pair) for pair in pairs]
            values = values._replace(earlier=value.first)
        else:
            leaves += [Leaf(kind, leaf) for leaf in jax.tree.leaves(value)]
    return leaves, jax.tree.structure(values)


class Place(NamedTuple):
    """Sizes of a loop and of its blocks.

    Attributes:
        batch, length: B and T.
        rows, steps: sequences and steps in a block.
        reverse: True if the sequence runs from T - 1 to 0.
        back: True if the loop runs against the order of the sequence.
    """

    batch: int
    length: int
    rows: int
    steps: int
    reverse: bool
    back: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Number of blocks of sequences, and of steps."""
        return math.ceil(self.batch / self.rows), math.ceil(self.length / self.steps)

    @property
    def down(self) -> bool:
        """True if the loop runs from T - 1 to 0."""
        return self.reverse != self.back

    def at(self, k: Any) -> Any:
        """The block of steps that comes at the k-th place."""
        return self.grid[1] - 1 - k if self.down else k

    def now(self, k: Any) -> "Now":
        """The block at hand inside a kernel; k: its place in the order of the loop."""
        number, count = self.at(k), np.int32(self.steps)
        if self.length % self.steps:
            count = jnp.minimum(count, self.length - number * self.steps)
        begins = number == (self.grid[1] - 1 if self.reverse else 0)
        return Now(begins, count)

    def of_rows(self, n: int, dtype: Any) -> tuple[Any, Any]:
        """Type and block of an array [B, n]."""
        size = self.grid[0] * self.rows
        block = contacts.block((self.rows, n), lambda b, k: (b, 0))
        return jax.ShapeDtypeStruct((size, n), dtype), block

    def of_steps(self, n: int, dtype: Any) -> tuple[Any, Any]:
        """Type and block of an array [T, B, n]."""
        size = self.grid[0] * self.rows
        block = contacts.block((self.steps, self.rows, n), lambda b, k: (self.at(k), b, 0))
        return jax.ShapeDtypeStruct((self.length, size, n), dtype), block

    def of_sums(self, shape: Sequence[int], dtype: Any) -> tuple[Any, Any]:
        """Type and block of sums over steps and the sequences of a block, [blocks, *shape]."""
        block = contacts.block((None, *shape), lambda b, k: (b, 0, 0))
        return jax.ShapeDtypeStruct((self.grid[0], *shape), dtype), block


class Now(NamedTuple):
    """The block of steps at hand, inside a kernel.

    Attributes:
        begins: True if the sequence begins in it.
        count: number of steps in it.
    """

    begins: Any
    count: Any


# ---- kinds of operands ---------------------------------------------------------------------------
class Operand(NamedTuple):
    """Arrays of an operand, with the block of each.

    read: function (references to the blocks, number t of a step in the block, `Now`) -> value.
    """

    arrays: Sequence[Array]
    blocks: Sequence[Any]
    read: Callable[[Sequence[Any], Any, Now], Array]


def operand(leaf: Leaf, place: Place) -> Operand:
    """Make the operand of a leaf."""
    return KINDS[leaf.kind](leaf, place)


def two_axes(shape: Sequence[int]) -> tuple[int, int]:
    """The shape [m, n] with the same elements and the same last axis."""
    return math.prod(shape[:-1]), (shape or (1,))[-1]


def _shared(leaf: Leaf, place: Place) -> Operand:
    shape = leaf.array.shape
    array, read = leaf.array.reshape(two_axes(shape)), lambda ref: ref[...]
    if array.dtype == jnp.bfloat16 and array.shape[0] % 2 == 0:
        array, read = _in_words(array), lambda ref: contacts.halves(ref[...])
    block = contacts.block(array.shape, lambda b, k: (0, 0), fixed=True)
    return Operand([array], [block], lambda refs, t, now: read(refs[0]).reshape(shape))


def _in_words(matrix: Array) -> Array:
    """Put each two rows of a bfloat16 matrix into one row of 32-bit words.

    That is the form in which a register holds them; as rows of 16 bits, each register of the matrix
    takes two loads and an "or", and loading the matrix is what a step of few sequences waits for.
    """
    pairs = matrix.reshape(-1, 2, matrix.shape[1]).swapaxes(1, 2)
    return lax.bitcast_convert_type(pairs, np.uint32)


def _rows(leaf: Leaf, place: Place) -> Operand:
    mode = "edge" if leaf.kind == "rows" else "constant"
    array = _widened(_merged(leaf.array, 1), 0, place, mode)
    _, block = place.of_rows(array.shape[1], array.dtype)
    shape = leaf.in_step(place.rows).shape
    return Operand([array], [block], lambda refs, t, now: refs[0][...].reshape(shape))


def _timed(leaf: Leaf, place: Place) -> Operand:
    mode = "edge" if leaf.kind == "timed" else "constant"
    array = _widened(_merged(leaf.array, 2), 1, place, mode)
    _, block = place.of_steps(array.shape[2], array.dtype)
    shape = leaf.in_step(place.rows).shape
    return Operand([array], [block], lambda refs, t, now: refs[0][t].reshape(shape))


def _flags(leaf: Leaf, place: Place) -> Operand:
    """Flags with time in lanes; a step selects its lane."""
    blocks, size = place.grid[1], place.steps
    flags = _widened(leaf.array.astype(np.float32), 1, place, "edge")
    flags = jnp.pad(flags, [(0, blocks * size - place.length), (0, 0)])
    flags = flags.reshape(blocks, size, -1).swapaxes(1, 2)
    block = contacts.block((None, place.rows, size), lambda b, k: (place.at(k), b, 0))

    def read(refs: Sequence[Any], t: Any, now: Now) -> Array:
        lanes = lax.broadcasted_iota(np.int32, (place.rows, size), 1)
        return jnp.sum(jnp.where(lanes == t, refs[0][...], 0), axis=1, keepdims=True)

    return Operand([flags], [block], read)


def _earlier(leaf: Leaf, place: Place) -> Operand:
    """The value before a step lies in the same block, or at the edge of its neighbour."""
    first = _widened(_merged(leaf.array, 1), 0, place, "edge").astype(leaf.stacked.dtype)
    stacked = _widened(_merged(leaf.stacked, 2), 1, place, "edge")
    n, dtype, last = stacked.shape[2], stacked.dtype, place.length - 1

    def edge(b: Any, k: Any) -> Any:
        at = place.at(k) * place.steps
        return (
            jnp.minimum(at + place.steps, last) if place.reverse else jnp.maximum(at - 1, 0),
            b,
            0,
        )

    def read(refs: Sequence[Any], t: Any, now: Now) -> Array:
        first, stacked, neighbour = refs
        before = jnp.where(now.begins, first[...], neighbour[0])
        if place.reverse:
            inside = stacked[jnp.minimum(t + 1, place.steps - 1)]
            before = jnp.where(t == now.count - 1, before, inside)
        else:
            before = jnp.where(t == 0, before, stacked[jnp.maximum(t - 1, 0)])
        return before.reshape(shape)

    shape = leaf.in_step(place.rows).shape
    blocks = [
        place.of_rows(n, dtype)[1],
        place.of_steps(n, dtype)[1],
        contacts.block((1, place.rows, n), edge),
    ]
    return Operand([first, stacked, stacked], blocks, read)


KINDS: dict[str, Callable[[Leaf, Place], Operand]] = {
    "shared": _shared,
    "rows": _rows,
    "state": _rows,
    "flags": _flags,
    "timed": _timed,
    "cotangents": _timed,
    "earlier": _earlier,
}


def _merged(array: Array, lead: int) -> Array:
    """Merge all axes after the first `lead` into one."""
    return array.reshape(*array.shape[:lead], math.prod(array.shape[lead:]))


def _widened(array: Array, axis: int, place: Place, mode: str) -> Array:
    """Add sequences along `axis` up to a multiple of the block."""
    more = place.grid[0] * place.rows - place.batch
    if not more:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, more)
    return jnp.pad(array, widths, mode=mode)
