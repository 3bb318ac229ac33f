"""Interleaved timing: one sample of every program a round, in a new random order each round.

A machine that slows down then slows all of them down. A sample is a loop of calls that takes at
least 5 ms; their number is chosen once a program. Before each sample comes a pause until the last
program's threads that still spin are asleep, and where calls are short one that does not count. On
a CPU each call of a sample is waited for, since JAX would run several at a time; on an accelerator,
which runs them in order, the last one is.
"""

import dataclasses
import gc
import random
import statistics
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

from .contender import Program
from .others import settle

SHORTEST = 5e-3
FEWEST = 3
"""Samples of each program, whatever the budget."""

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass
class Samples:
    """Seconds a call, one number a sample, each the mean over `inner` calls."""

    inner: int
    seconds: list[float] = dataclasses.field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The samples themselves, their median and their quartiles."""
        low, middle, high = quartiles(self.seconds)
        return {"inner": self.inner, "samples": self.seconds,
                "q1": low, "median": middle, "q3": high}  # fmt: skip


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile, of a value or more."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, statistics.median(values), high


def interleave(
    programs: dict[Key, Program],
    samples: int,
    budget: float,
    seed: int = 0,
    tick: Callable[[int], None] = lambda done: None,
) -> dict[Key, Samples]:
    """Samples of each program.

    Args:
        programs: warm ones: each has run before.
        samples: how many of each.
        budget: seconds after which no new round begins; there are `FEWEST` rounds at the least.
        seed: of the orders.
        tick: called after every round.
    """
    taken = {key: Samples(_inner(program)) for key, program in programs.items()}
    rng, start = random.Random(seed), time.perf_counter()
    for done in range(samples):
        if done >= FEWEST and time.perf_counter() - start > budget:
            break
        for key in rng.sample(list(programs), len(programs)):
            taken[key].seconds.append(_sample(programs[key], taken[key].inner))
        tick(done + 1)
    return taken


def _inner(program: Program) -> int:
    """How many calls take `SHORTEST` seconds."""
    fastest = min(_timed(program, 1) for _ in range(2))
    return max(1, -int(-SHORTEST // fastest))


def _sample(program: Program, inner: int) -> float:
    settle()
    if inner > 1:
        program.wait(program.call())
    return _timed(program, inner) / inner


def _timed(program: Program, calls: int) -> float:
    """Seconds of so many calls; no collection of garbage falls into them."""
    each = jax.default_backend() == "cpu"
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for n in range(calls):
            out = program.call()
            if each or n == calls - 1:
                program.wait(out)
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()
