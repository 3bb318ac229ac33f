"""Instructions of the kernel's machine, and where their operands lie."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

SCRATCH, CONSTANTS, FIRST = 0, 1, 2
"""The first two arrays of the machine; then come the operands and the results."""


class View(NamedTuple):
    """Where a value lies: an array, an offset, the distances between its rows and its elements.

    n: its elements a row; batched: False if all rows share it; root: the register that it keeps
    alive, in which the offset counts then.
    """

    base: int
    offset: int
    row: int
    elem: int
    n: int
    batched: bool
    root: int | None = None

    def operand(self) -> tuple[int, int, int, int]:
        """As struct Operand in kernel.cc."""
        return self.base, self.offset, self.row, self.elem

    def within(self, place: "View") -> "View":
        """This part of a register, after the register has moved to `place`."""
        offset, elem = place.offset + self.offset * place.elem, self.elem * place.elem
        return place._replace(offset=offset, elem=elem, n=self.n)


@dataclasses.dataclass
class Instruction:
    """out = op(inputs), n numbers a row."""

    op: str
    n: int
    out: View
    inputs: tuple[View, ...]

    def reads(self) -> list[int]:
        """The registers that it reads."""
        return [v.root for v in self.inputs if v.root is not None]

    def moved(self, places: Mapping[int, View]) -> "Instruction":
        """The same after registers have moved."""

        def at(view: View) -> View:
            place = None if view.root is None else places.get(view.root)
            return view.within(place) if place else view

        return Instruction(self.op, self.n, at(self.out), tuple(map(at, self.inputs)))


Code = list[Instruction]
