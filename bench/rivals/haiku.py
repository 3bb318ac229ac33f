"""Contender dm-haiku: hk.dynamic_unroll of LSTM or a ReLU VanillaRNN, DeepRNN, ResetCore.

Its GRU (reset gate before the matmul) is another network than that of the cases; it has no tanh
RNN.
"""

from typing import Any

import haiku as hk
import jax

from lstm_jax import interop

from .. import compiled
from ..cases import Case
from ..compiled import Model
from ..contender import Program, one_bias, refuse
from ..problem import Problem
from . import INSTALL as INSTALL

NAME = "haiku"


def program(problem: Problem, mode: str) -> Program:
    return compiled.program(model(problem), problem, mode)


def model(problem: Problem) -> Model:
    refuse(problem)
    case, resets = problem.case, problem.resets

    def unroll(xs: Any) -> Any:
        cores = [_core(case) for _ in range(case.L)]
        core = cores[0] if case.L == 1 else hk.DeepRNN(cores)
        start = jax.tree.map(lambda s: s.astype(xs.dtype), core.initial_state(case.B))
        if resets is None:
            return hk.dynamic_unroll(core, xs, start)[0]
        return hk.dynamic_unroll(hk.ResetCore(core), (xs, resets), start)[0]

    return Model(
        forward=hk.without_apply_rng(hk.transform(unroll)).apply,
        weights=lambda params: interop.to_haiku(problem.net, params),
        params=lambda tree: one_bias(interop.from_haiku(tree, double_bias=True)[1]),
        batch_major=False,
    )


def _core(case: Case) -> hk.RNNCore:
    if case.cell == "lstm":
        return hk.LSTM(case.H)
    return hk.VanillaRNN(case.H, double_bias=False)
