"""The specification of a recurrence that engines run: a cell, and the `vmap`s around it."""

import dataclasses
from typing import Any, NamedTuple

import jax

from .._cells.contract import Recurrent
from .._typing import Array, Carry, Params, Pre


class Members(NamedTuple):
    """One `jax.vmap` around a recurrence. Its new axis is the first of the batch axes.

    weights, extras: True if each element of the new axis (a member) has its own; False if all
        members share them.
    """

    weights: bool
    extras: bool


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """A cell that factors into matmuls and an elementwise update; hashable, so static under jit.

    Attributes:
        cell: the cell, with its wrappers, that defines `recur` and `advance`.
        additive: True if `update` depends on wx and u through wx + u alone.
        members: the `vmap`s around the cell, innermost first.
    """

    cell: Recurrent
    additive: bool
    members: tuple[Members, ...] = ()

    def recur(self, weights: Params, carry: Carry) -> Array:
        """Compute u = recur(W, s), linear in the carry, [*batch, G*H]."""
        function = self.cell.recur
        for each in self.members:
            function = jax.vmap(function, in_axes=(_axis(each.weights), 0))
        return function(weights, carry)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any) -> Carry:
        """Compute s_t = update(s_{t-1}, wx_t, u_t), elementwise over the batch."""
        function = self.cell.advance
        for each in self.members:
            function = jax.vmap(function, in_axes=(0, 0, 0, _axis(each.extras), 0))
        return function(carry, wx, u, extras, noise)


def vmapped(recurrence: Recurrence, members: Members) -> Recurrence:
    """Wrap `recurrence` in one more `vmap`."""
    return dataclasses.replace(recurrence, members=(*recurrence.members, members))


def without_outermost(recurrence: Recurrence) -> Recurrence:
    """Strip the outermost `vmap` from `recurrence`."""
    return dataclasses.replace(recurrence, members=recurrence.members[:-1])


def _axis(own: bool) -> int | None:
    return 0 if own else None
