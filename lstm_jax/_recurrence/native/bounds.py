"""Whether a program stays within its arrays.

What the translator cannot prove it refuses (`Writer.fitted`, `Writer.proven`), so a program that
fails here is a defect of the translator. The machine itself checks nothing.
"""

from collections.abc import Mapping, Sequence

from .instructions import CONSTANTS, SCRATCH, Instruction, View

REDUCTIONS = ("sum", "largest")
"""Instructions whose result is one number a row."""


def check(
    code: Sequence[Instruction],
    arrays: Mapping[int, View],
    registers: Mapping[int, tuple[int, bool]],
    constants: int,
) -> None:
    """Raise unless each operand lies in its array and has as many rows and elements as are used.

    Args:
        arrays: the whole of each argument and result, by its base.
        registers: (elements a row, whether they are batched) of each.
        constants: how many there are.

    Raises:
        RuntimeError: a defect of the translator; the message shows the instruction.
    """
    for it in code:
        inputs = all(_within(v, it.n, arrays, registers, constants) for v in it.inputs)
        out = _within(it.out, 1 if it.op in REDUCTIONS else it.n, arrays, registers, constants)
        # One row of a result cannot take in those of an operand, unless it is their sum.
        rows = it.op == "accumulate" or it.out.batched >= any(v.batched for v in it.inputs)
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
    """Whether n elements a row of `view` lie in what it is a view of."""
    size, batched = constants, False
    if view.base == SCRATCH:
        size, batched = (0, False) if view.root is None else registers.get(view.root, (0, False))
    elif view.base != CONSTANTS:
        size, batched = arrays[view.base].n, arrays[view.base].batched
    row = size if batched else 0
    inside = 0 <= view.offset and view.offset + (n - 1) * view.elem < size
    return inside and view.elem in (0, 1) and (view.row, view.batched) == (row, batched)
