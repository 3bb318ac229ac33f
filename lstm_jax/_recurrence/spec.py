"""A cell as the engine sees it."""

import dataclasses
from typing import Any

from .._cells.contract import Recurrent
from .._typing import Array, Carry, Params, Pre


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """A cell that factors, with operands of certain types.

    additive: `update` depends on wx and u through wx + u alone.
    """

    cell: Recurrent
    additive: bool

    def __repr__(self) -> str:
        return repr(self.cell)

    def recur(self, weights: Params, carry: Carry) -> Array:
        """The cell's own."""
        return self.cell.recur(weights, carry)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any = None) -> Carry:
        """The cell's own."""
        return self.cell.advance(carry, wx, u, extras, noise)
