"""Contenders of lstm_jax: each implementation that runs the case."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import lstm_jax as lj
from lstm_jax._recurrence import engines

from . import compiled
from .cases import Case
from .compiled import Model
from .contender import Program
from .problem import Problem, net_of

PREFIX = "lstm_jax "


@dataclasses.dataclass(frozen=True)
class Ours:
    """A contender: one implementation of lstm_jax."""

    implementation: str
    INSTALL = "pip install lstm-jax"

    @property
    def NAME(self) -> str:
        return PREFIX + self.implementation

    def program(self, problem: Problem, mode: str) -> Program:
        return compiled.program(model(problem, self.implementation), problem, mode)


def model(problem: Problem, implementation: str) -> Model:
    """The model of lstm_jax: `unroll` as a user calls it, time-major."""
    flags: Any = {"seq_lengths": problem.lengths, "resets": problem.resets}
    run = functools.partial(lj.unroll, problem.net, implementation=implementation, **flags)
    return Model(
        lambda params, xs: run(params, xs)[1], _same, _same, batch_major=False, zero_padded=True
    )


def _same(params: Any) -> Any:
    return params


def contenders(case: Case, wanted: Sequence[str] | None) -> list[Ours]:
    """The `wanted` implementations; None: all that can run the case but "newton".

    `bench.newton` measures that one, beside its iterations."""
    if wanted is not None:
        return [Ours(name) for name in wanted]
    names = [name for name in engines.IMPLEMENTATIONS if name != "newton"]
    return [Ours(name) for name in names if _runs(case, name)]


def _runs(case: Case, implementation: str) -> bool:
    try:
        lj.which(net_of(case), implementation=implementation)
    except NotImplementedError:
        return False
    return True


def default(case: Case) -> str:
    """Name of the contender with the default implementation."""
    chosen = lj.which(net_of(case))
    first = chosen[0] if isinstance(chosen, tuple) else chosen
    return PREFIX + first.implementation
