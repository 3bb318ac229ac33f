"""Carries as vectors, and the derivatives J_t = df_t/ds between them: whole, or a block a unit.

A whole J_t of N numbers takes N^2 numbers a step, and N^3 operations in the scan over time, so a
large carry has a block for each unit alone, over the leaves of the carry at that unit.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ...._cells.contract import Recurrent
from ...._numerics import at_least_float32, choose, common_dtype, row, varying_as, zero_unless
from ...._sequence import Sequence
from ...._typing import Array, Carry, Params
from .steps import restarted, stepped

DENSE = 32
"""The largest carry, in numbers, whose J_t is computed whole."""


def size_of(carry: Carry) -> int:
    """N, the numbers of one carry."""
    return sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))


class Dense:
    """A carry as one vector [..., N] of all its leaves; J_t is whole, [..., N, N]."""

    axes = 1
    """Axes of a vector beside those of time and batch."""

    def __init__(self, like: Carry) -> None:
        self.leaves, self.tree = jax.tree.flatten(like)
        self.dtype = at_least_float32(common_dtype(*self.leaves))

    def vector(self, carry: Carry) -> Array:
        return jnp.concatenate([leaf.astype(self.dtype) for leaf in jax.tree.leaves(carry)], -1)

    def carry(self, vector: Array) -> Carry:
        parts, start = [], 0
        for leaf in self.leaves:
            parts.append(vector[..., start : start + leaf.shape[-1]].astype(leaf.dtype))
            start += leaf.shape[-1]
        return self.tree.unflatten(parts)

    def linearized(
        self, cell: Recurrent, params: Params, seq: Sequence, before: Carry
    ) -> tuple[Array, Array]:
        """(f_t, J_t) of every step, J_t by N tangents."""
        vector = self.vector(before)

        def function(vector: Array) -> Array:
            return self.vector(stepped(cell, params, seq, self.carry(vector))[0])

        value, linear = jax.linearize(function, vector)
        nothing = varying_as(jnp.zeros_like(vector), vector)
        units = jnp.eye(vector.shape[-1], dtype=vector.dtype)
        return value, jax.vmap(lambda e: linear(nothing + row(e, nothing)), out_axes=-1)(units)


class Blocks:
    """A carry as the numbers of each unit [..., H, n], n leaves; J_t is a block [n, n] for each.

    The block has what a unit's own numbers do to it: through `update`, and through the entries of
    `recur` from the unit to its own gates. For an `update` that looks across units it is a guess.
    """

    axes = 2
    """Axes of a vector beside those of time and batch."""

    def __init__(self, like: Carry) -> None:
        self.leaves, self.tree = jax.tree.flatten(like)
        self.dtype = at_least_float32(common_dtype(*self.leaves))

    def vector(self, carry: Carry) -> Array:
        return jnp.stack([leaf.astype(self.dtype) for leaf in jax.tree.leaves(carry)], -1)

    def carry(self, vector: Array) -> Carry:
        parts = [vector[..., n].astype(leaf.dtype) for n, leaf in enumerate(self.leaves)]
        return self.tree.unflatten(parts)

    def linearized(
        self, cell: Recurrent, params: Params, seq: Sequence, before: Carry
    ) -> tuple[Array, Array]:
        """(f_t, the blocks of J_t) of every step, by a tangent for each leaf."""
        value = self.vector(stepped(cell, params, seq, before)[0])
        blocks = self._of_update(cell, params, seq, restarted(seq, before))
        if seq.valid is not None:
            same = jnp.eye(len(self.leaves), dtype=blocks.dtype)
            blocks = choose(seq.valid, blocks, jnp.broadcast_to(same, blocks.shape))
        if seq.restart is not None:
            blocks = zero_unless(~seq.restart, blocks)
        return value, blocks

    def _of_update(self, cell: Recurrent, params: Params, seq: Sequence, before: Carry) -> Array:
        """The blocks of every step, as if it were valid and did not restart."""
        params, xs, before = cell.prepare(params, seq.xs, before)
        wx, u = cell.project(params, xs), cell.recur(cell.weights(params), before)

        def function(carry: Carry, u: Array) -> Array:
            return self.vector(cell.advance(carry, wx, u, cell.extras(params), seq.noise))

        _, linear = jax.linearize(function, before, u)
        tangents = self._tangents(cell, cell.weights(params), before, u)
        return jnp.stack([linear(*each) for each in tangents], -1)

    def _tangents(
        self, cell: Recurrent, weights: Params, before: Carry, u: Array
    ) -> Iterator[tuple[Carry, Array]]:
        """For each leaf: ones in it, and what each unit alone then does to u at its own gates."""
        leaves = jax.tree.leaves(before)
        zeros = [varying_as(jnp.zeros_like(leaf), leaf) for leaf in leaves]
        for n, leaf in enumerate(leaves):
            size = leaf.shape[-1]
            rows = [jnp.eye(size, dtype=x.dtype) * float(m == n) for m, x in enumerate(leaves)]
            moved = cell.recur(weights, self.tree.unflatten(rows))  # [H, G*H], of each unit alone.
            gates = jnp.moveaxis(moved.reshape(size, -1, size), 0, -1)
            own = jnp.diagonal(gates, axis1=1, axis2=2).reshape(-1)
            ones = self.tree.unflatten([*zeros[:n], zeros[n] + 1, *zeros[n + 1 :]])
            nothing = varying_as(jnp.zeros_like(u), u)
            yield ones, nothing + row(own, nothing)


def layout_of(carry: Carry) -> Dense | Blocks:
    """The form of vectors for a carry of this size."""
    return Dense(carry) if size_of(carry) <= DENSE else Blocks(carry)
