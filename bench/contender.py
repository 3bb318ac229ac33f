"""The interface of a contender, and helpers.

A contender is a module or object with

    NAME        its name in tables
    INSTALL     how to install its library
    program(problem, mode) -> Program

`program` compiles, or raises `Cannot` with a reason if the library has no such network or mode.

Modes, in which all contenders compute the same numbers:

    fwd      ys from xs and weights, without residuals for a gradient
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
"""Result of a mode in our names and layouts, such as ys [T, B, N], as NumPy arrays."""


class Cannot(Exception):
    """Raised if a contender has no such network or mode."""


@dataclasses.dataclass
class Program:
    """The compiled program of one contender and mode.

    Attributes:
        call: runs it once; the result may still be in flight.
        wait: waits for a result of `call`.
        answer: converts a result of `call` to an `Answer`.
        lower_s, compile_s: seconds; None if the library has no such stage.
        memory: bytes by name, as planned by the compiler.
        device_peak: the peak of bytes in use on the accelerator; None: unknown.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], None]
    answer: Callable[[Any], Answer]
    lower_s: float | None = None
    compile_s: float | None = None
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    device_peak: Callable[[], int] | None = None


def refuse(problem: Problem, resets: bool = True) -> None:
    """Raise `Cannot` for networks that no rival has, and with `resets=False` for resets."""
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
    """Convert gradients of two biases to those of our b and b_hn."""
    if "w_ih" not in tree:
        return {key: one_bias(inner) for key, inner in tree.items()}
    rest = {key: leaf for key, leaf in tree.items() if key != "b_hh"}
    if "b_hh" in tree and tree["w_ih"].shape[-1] == 3 * tree["w_hh"].shape[0]:
        rest["b_hn"] = np.asarray(tree["b_hh"])[2 * tree["w_hh"].shape[0] :]
    return rest
