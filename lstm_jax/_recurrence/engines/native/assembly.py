"""Assembly of an elementwise program for the kernel: allocate registers, encode instructions."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...elementwise.instructions import Instruction
from ...elementwise.program import Program
from . import library
from .bounds import check
from .registers import allocated, coalesced, placed


class Assembled(NamedTuple):
    """A program as the kernel reads it: encoded instructions, constants, and sizes."""

    code: np.ndarray  # int32 [instructions, 19]
    constants: np.ndarray
    scratch: int  # elements of all registers together
    block: int  # rows that are computed at a time


BLOCK = 512
"""Elements that a register aims at, so that several registers fit the L1 cache."""


@lru_cache(maxsize=1024)
def assembled(program: Program) -> Assembled:
    """Assemble `program` for the kernel, which computes a block of rows at a time."""
    widest = max((math.prod(shape) for shape in program.shapes), default=1)
    block = max(1, min(64, BLOCK // max(1, widest // 4)))
    registers = dict(program.registers)
    rows = {root: n for root, (n, _) in registers.items()}
    elements = {root: n * (block if batched else 1) for root, (n, batched) in registers.items()}
    code = coalesced(list(program.code), rows, dict(program.aliases))
    places, scratch = allocated(code, elements)
    check(code, dict(program.arrays), registers, len(program.numbers()))
    encoded = [_encoded(it, places, library.operations()) for it in code]
    numbers = np.asarray(encoded, np.int32).reshape(-1, 19)
    return Assembled(numbers, program.numbers(), scratch, block)


def _encoded(it: Instruction, places: Mapping[int, int], operations: Sequence[str]) -> list[int]:
    """Encode one instruction in the layout of `struct Instruction` in kernel.cc."""
    views = [it.out, *it.inputs]
    views += [it.inputs[0]] * (4 - len(views))
    op, each_row = operations.index(it.op), int(it.out.batched)
    operands = [placed(v, places)[:4] for v in views]  # The layout of struct Operand.
    return [op, it.n, each_row, *itertools.chain(*operands)]
