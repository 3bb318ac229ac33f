"""What competes: the contract of a contender, and what most of them share.

A contender is a module or object with

    NAME        as tables show it
    INSTALL     what to install where its library is missing
    program(problem, mode) -> Program

`program` compiles, and raises `Cannot` with a reason where the library has no such network or mode.

Modes, each of which computes the same numbers whoever computes them:

    fwd      ys, of xs and weights, nothing kept for a gradient
    train    loss = mean(ys^2) and its gradients with respect to weights and xs
    jvp      ys and its tangent, along tangents of weights and xs
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .problem import Problem

MODES = ("fwd", "train", "jvp")

Answer = dict[str, Any]
"""What a mode computed, in our names and layouts: ys [T, B, N] and so on, as NumPy arrays."""


class Cannot(Exception):
    """A contender has no such network, or no such mode."""


@dataclasses.dataclass
class Program:
    """One mode of one contender, compiled.

    Attributes:
        call: run it once; returns what it computes, perhaps still in flight.
        wait: wait for what `call` returned.
        answer: what `call` returned, for comparison.
        lower_s, compile_s: seconds; None where the library has no such stage.
        memory: bytes by name, as the compiler knows them.
        device_peak: bytes that were in use on the accelerator at most; None: not known.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], None]
    answer: Callable[[Any], Answer]
    lower_s: float | None = None
    compile_s: float | None = None
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    device_peak: Callable[[], int] | None = None


def refuse(problem: Problem, resets: bool = True) -> None:
    """Raise `Cannot` for what no rival has; `resets=False`: for resets too."""
    case = problem.case
    if case.inputs != "linear":
        raise Cannot(f"has no inputs={case.inputs!r}")
    if case.heads > 1:
        raise Cannot("has no recurrent matrix of several heads")
    if problem.resets is not None:
        if not resets:
            raise Cannot("has no resets within a sequence")
        if case.L > 1 or case.bidirectional:
            raise Cannot("is written out here for resets in one layer and direction alone")


def one_bias(tree: Any) -> Any:
    """Gradients of two biases as those of our one; b_hn is the reset part of the second."""
    if "w_ih" not in tree:
        return {key: one_bias(inner) for key, inner in tree.items()}
    rest = {key: leaf for key, leaf in tree.items() if key != "b_hh"}
    if "b_hh" in tree and tree["w_ih"].shape[-1] == 3 * tree["w_hh"].shape[0]:
        rest["b_hn"] = np.asarray(tree["b_hh"])[2 * tree["w_hh"].shape[0] :]
    return rest
