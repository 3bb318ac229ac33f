"""Instructions of an elementwise program, and views, the addresses of their operands."""

from collections.abc import Mapping
from typing import Any, NamedTuple

SCRATCH, CONSTANTS, FIRST = 0, 1, 2
"""Numbers of the arrays that a program addresses: registers, constants, then arguments, results."""


class View(NamedTuple):
    """Address of a value: one row for each sequence, at fixed distances in an array.

    Attributes:
        base: number of the array.
        offset: position of the first element in the array, or in the register `root`.
        row: distance between rows; 0 if all rows share the value.
        elem: distance between the elements of a row; 0 if one number stands for all.
        n: number of elements in a row.
        batched: False if all rows share the value.
        root: number of the register that the value lies in; None for other arrays.
    """

    base: int
    offset: int
    row: int
    elem: int
    n: int
    batched: bool
    root: int | None = None

    def within(self, place: "View") -> "View":
        """Address of this part of a register after the register has moved to `place`."""
        offset, elem = place.offset + self.offset * place.elem, self.elem * place.elem
        return place._replace(offset=offset, elem=elem, n=self.n)


class Instruction(NamedTuple):
    """One operation out = op(inputs) on n numbers in each row."""

    op: str
    n: int
    out: View
    inputs: tuple[View, ...]

    def reads(self) -> list[int]:
        """List the registers that the instruction reads."""
        return [v.root for v in self.inputs if v.root is not None]

    def moved(self, places: Mapping[Any, View]) -> "Instruction":
        """Rewrite the instruction for registers that have moved to `places`."""
        if not places:
            return self
        views = (self.out, *self.inputs)
        out, *inputs = [v.within(places[v.root]) if v.root in places else v for v in views]
        return Instruction(self.op, self.n, out, tuple(inputs))


Code = list[Instruction]
