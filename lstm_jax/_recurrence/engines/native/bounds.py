"""Bounds check of a program: every operand must lie within its array.

The translator refuses what it cannot prove (`Writer.fitted`, `Writer.proven`), so a program that
fails here is a defect of the translator. The kernel itself checks nothing.
"""

from collections.abc import Mapping, Sequence

from ...elementwise.instructions import CONSTANTS, SCRATCH, Instruction, View

REDUCTIONS = ("sum", "largest")
"""Instructions whose result is one number in each row."""


def check(
    code: Sequence[Instruction],
    arrays: Mapping[int, View],
    registers: Mapping[int, tuple[int, bool]],
    constants: int,
) -> None:
    """Raise unless each operand lies in its array and has as many rows and elements as are used.

    Args:
        arrays: by base, a view of the whole of each argument and result.
        registers: by number, (elements in a row, batched or not) of each register.
        constants: number of constants.

    Raises:
        RuntimeError: the translator has a defect; the message shows the instruction.
    """
    for it in code:
        inputs = all([_within(v, it.n, arrays, registers, constants) for v in it.inputs])
        out = _within(it.out, 1 if it.op in REDUCTIONS else it.n, arrays, registers, constants)
        # A result with one row needs operands with one row, unless it sums the rows.
        rows = it.op == "accumulate" or it.out.batched >= any([v.batched for v in it.inputs])
        number = it.out.elem or it.op in REDUCTIONS or it.n == 1
        if not (inputs and out and rows and number and it.out.base != CONSTANTS):
            raise RuntimeError(f"a defect of lstm_jax: {it} reads or writes outside of its arrays")


def _within(
    view: View,
    n: int,
    arrays: Mapping[int, View],
    registers: Mapping[int, tuple[int, bool]],
    constants: int,
) -> bool:
    """Check that n elements in each row of `view` lie in its array or register."""
    size, batched = constants, False
    if view.base == SCRATCH:
        size, batched = (0, False) if view.root is None else registers.get(view.root, (0, False))
    elif view.base != CONSTANTS:
        size, batched = arrays[view.base].n, arrays[view.base].batched
    row = size if batched else 0
    inside = 0 <= view.offset and view.offset + (n - 1) * view.elem < size
    return inside and view.elem in (0, 1) and (view.row, view.batched) == (row, batched)
