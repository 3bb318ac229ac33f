"""Interleaved timing: rounds with one sample of every program, in a random order.

So a machine that slows down affects all programs. A sample is a loop of calls that takes at least
5 ms; the number of calls is chosen once for each program. Before each sample there is a pause until
the threads of the last program have stopped spinning and, if calls are short, a warm-up call. On a
CPU every call is waited for, as JAX would run several at once; on an accelerator, which runs them
in order, only the last one.
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
"""Least number of samples of each program, whatever the budget."""

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass
class Samples:
    """Samples in seconds per call, each a mean over `inner` calls."""

    inner: int
    seconds: list[float] = dataclasses.field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The samples, their median and their quartiles."""
        low, middle, high = quartiles(self.seconds)
        return {"inner": self.inner, "samples": self.seconds,
                "q1": low, "median": middle, "q3": high}  # fmt: skip


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of at least one value."""
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
    """Take samples of each program.

    Args:
        programs: programs that have run before.
        samples: number of samples of each.
        budget: seconds after which no new round begins; there are at least `FEWEST` rounds.
        seed: random seed of the orders.
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
    """Number of calls that take `SHORTEST` seconds."""
    fastest = min(_timed(program, 1) for _ in range(2))
    return max(1, -int(-SHORTEST // fastest))


def _sample(program: Program, inner: int) -> float:
    settle()
    if inner > 1:
        program.wait(program.call())
    return _timed(program, inner) / inner


def _timed(program: Program, calls: int) -> float:
    """Time a number of calls in seconds, with garbage collection off."""
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
