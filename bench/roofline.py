"""Roofline: the least floating-point operations, bytes and time of a case.

One forward pass over the valid steps (T * B without padding):

    F = 2 * steps * G*H * sum over layers of directions * (D_l + H/heads)

with D_l the layer's input size (0 for projected inputs), and without the H of a cell that has no
recurrent matmul. Only matmuls count. The
gradient with respect to weights and inputs costs 3 F: each product x @ w has two more, dy @ w^T and
x^T @ dy. So does the tangent: x @ w, dx @ w and x @ dw.

Unavoidable bytes, with s bytes per number and P weights; anything else could stay on the chip:

    fwd      s * (|xs| + P + |ys|)        read xs and weights, write ys
    train    2 s * (|xs| + P)             read xs and weights, write their gradients
    jvp      2 s * (|xs| + P + |ys|)      as fwd, each with its tangent

    floor = max(F / (FLOP/s of a large matmul), bytes / (bytes/s of a large copy))

The floor ignores latency: T dependent steps take longer. And it counts transfers at the speed of
main memory: a case that fits in the caches may be faster.
"""

from typing import Any

import jax
import numpy as np

from .cases import APART, Case
from .problem import Problem

TIMES = {"fwd": 1, "train": 3, "jvp": 3}
"""Matmuls of a mode, in forward passes."""


def flops(case: Case, steps: int, mode: str) -> float:
    """Floating-point operations of the matmuls."""
    directions = 2 if case.bidirectional else 1
    sizes = [case.D if case.inputs == "linear" else 0, *[case.N] * (case.L - 1)]
    recurrent = 0 if case.cell in APART else case.H / case.heads
    rows = sum(size + recurrent for size in sizes)
    return 2.0 * steps * case.G * case.H * directions * rows * TIMES[mode]


def least_bytes(problem: Problem, mode: str) -> float:
    """Bytes that must be read and written once."""
    case = problem.case
    weights = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    xs, ys = problem.steps * case.input_size, problem.steps * case.N
    numbers = {"fwd": xs + weights + ys, "train": 2 * (xs + weights)}
    numbers["jvp"] = 2 * numbers["fwd"]
    return float(numbers[mode] * np.dtype(case.dtype).itemsize)


def floor(problem: Problem, mode: str, ceilings: Any) -> dict[str, float]:
    """Least {"flops", "bytes"} of a problem, and the "seconds" that they take at the ceilings."""
    work, moved = flops(problem.case, problem.steps, mode), least_bytes(problem, mode)
    seconds = max(work / ceilings["flops_per_s"], moved / ceilings["bytes_per_s"])
    return {"flops": work, "bytes": moved, "seconds": seconds}
