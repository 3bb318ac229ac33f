"""The least that a case costs: floating-point operations, bytes, and from both a floor of time.

One forward pass, over the steps that are to do (T * B, less the padding of ragged batches):

    F = 2 * steps * G*H * sum over layers of directions * (D_l + H/heads)

with D_l the layer's input size (0 where the inputs come projected). Only matmuls count. The
gradient with respect to weights and inputs costs 3 F: each product x @ w has two more, dy @ w^T and
x^T @ dy. So does the tangent: x @ w, dx @ w and x @ dw.

Unavoidable bytes, s a number, P the number of weights; what lies between could stay on the chip:

    fwd      s * (|xs| + P + |ys|)        read xs and weights, write ys
    train    2 s * (|xs| + P)             read xs and weights, write their gradients
    jvp      2 s * (|xs| + P + |ys|)      as fwd, each with its tangent

    floor = max(F / (FLOP/s of a large matmul), bytes / (bytes/s of a large copy))

The floor knows of no latency: T dependent steps that each wait for the last take longer. And the
copy is one of memory: a case that stays in the caches may move its bytes faster than that.
"""

from typing import Any

import jax
import numpy as np

from .cases import Case
from .problem import Problem

TIMES = {"fwd": 1, "train": 3, "jvp": 3}
"""Mode to how many forward passes its matmuls are."""


def flops(case: Case, steps: int, mode: str) -> float:
    """Of the matmuls alone."""
    directions = 2 if case.bidirectional else 1
    sizes = [case.D if case.inputs == "linear" else 0, *[case.N] * (case.L - 1)]
    rows = sum(size + case.H / case.heads for size in sizes)
    return 2.0 * steps * case.G * case.H * directions * rows * TIMES[mode]


def least_bytes(problem: Problem, mode: str) -> float:
    """What must be read and written once."""
    case = problem.case
    weights = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    xs, ys = problem.steps * case.input_size, problem.steps * case.N
    numbers = {"fwd": xs + weights + ys, "train": 2 * (xs + weights)}
    numbers["jvp"] = 2 * numbers["fwd"]
    return float(numbers[mode] * np.dtype(case.dtype).itemsize)


def floor(problem: Problem, mode: str, ceilings: Any) -> dict[str, float]:
    """{"flops", "bytes", "seconds"}: what must be done and, at the ceilings, how long it takes."""
    work, moved = flops(problem.case, problem.steps, mode), least_bytes(problem, mode)
    seconds = max(work / ceilings["flops_per_s"], moved / ceilings["bytes_per_s"])
    return {"flops": work, "bytes": moved, "seconds": seconds}
