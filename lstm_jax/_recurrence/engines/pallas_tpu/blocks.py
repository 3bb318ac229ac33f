"""Sizes of blocks: how many sequences and steps of each array lie in VMEM at a time."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...jaxprs import Untranslatable

MEMORY = 48 * 2**20
"""Bytes of VMEM that a kernel may take in all; a TPU v5e or v6e has 128 MiB."""

TIMED = 12 * 2**20
"""Bytes of VMEM for the blocks of arrays of all steps, two blocks of each."""

STEPS = 32
"""Most steps in a block: the first block is loaded, and the last written, while nothing runs."""

ROUND = 4
"""Steps in one round of the loop inside a block.

In the schedule that libtpu 0.0.52 makes for a TPU v5e, a step of an LSTM of B 32, H 256 in bfloat16
takes 202 cycles with 1, 163 with 4 and 157 with 8; its transpose 223, 206 and 199.
"""

LANES = 128


class Blocks(NamedTuple):
    """A plan of blocks.

    Attributes:
        rows: sequences in a block.
        steps: time steps in a block.
        memory: bytes of VMEM to ask for.
    """

    rows: int
    steps: int
    memory: int


def padded(shape: Sequence[int], dtype: Any) -> int:
    """Bytes that an array [..., m, n] takes in VMEM, in tiles of 128 lanes."""
    *lead, m, n = (1, 1, *shape)[-max(2, len(shape)) :]
    itemsize = np.dtype(dtype).itemsize
    sublanes = 8 * max(1, 4 // itemsize)
    tiles = math.ceil(m / sublanes) * math.ceil(n / LANES)
    return math.prod(lead) * tiles * sublanes * LANES * itemsize


def plan(
    steps: int, batch: int, shared: int, rows: Sequence[Any], timed: Sequence[Any], hidden: int
) -> Blocks:
    """Choose the largest blocks that fit.

    Args:
        steps, batch: T and B.
        shared: bytes of what is in VMEM all the time.
        rows: (n, dtype) of each array [B, n].
        timed: (n, dtype) of each array [T, B, n].
        hidden: H, for the error.

    Raises:
        Untranslatable: the recurrent matrix and one step of 8 sequences do not fit.
    """
    for size in _sizes(batch):
        step = 2 * sum(padded((size, n), dtype) for n, dtype in timed)
        fixed = shared + 2 * sum(padded((size, n), dtype) for n, dtype in rows)
        fixed += 4 * step + 2**20  # Values of one step, which the compiler keeps in VMEM too.
        if fixed + step <= MEMORY:
            room = max(step, min(TIMED, MEMORY - fixed))
            count = _steps(steps, min(STEPS, room // step))
            return Blocks(size, count, fixed + count * step)
    fits = int(hidden * math.sqrt(max(0, MEMORY - 2**22) / max(shared, 1)))
    raise Untranslatable(
        f"H = {hidden} takes {shared >> 20} MiB of VMEM for its matrices, of {MEMORY >> 20};"
        f" a hidden size of {fits // LANES * LANES or LANES} fits"
    )


def _sizes(batch: int) -> list[int]:
    """Candidates for the number of sequences in a block, the largest first."""
    halves = [batch]
    while halves[-1] > 16:
        halves.append(math.ceil(halves[-1] / 2 / 16) * 16)
        if halves[-1] == halves[-2]:
            halves.pop()
            break
    return halves if batch <= 8 else [*halves, 8]


def _steps(steps: int, most: int) -> int:
    """The largest divisor of T that is at most `most`, unless that is less than half of it."""
    most = min(steps, most)
    divisor = next(n for n in range(most, 0, -1) if steps % n == 0)
    return divisor if 2 * divisor > most else most
