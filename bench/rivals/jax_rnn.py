"""Contender jax.experimental.rnn: cuDNN's LSTM in JAX, on a GPU and in float32 only."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from lstm_jax import interop

from .. import compiled
from ..compiled import Model
from ..contender import Cannot, Program, one_bias, refuse
from ..problem import Problem

NAME = "jax.experimental.rnn"
INSTALL = "pip install 'jax[cuda13]'"


def program(problem: Problem, mode: str) -> Program:
    case = problem.case
    if jax.default_backend() != "gpu":
        raise Cannot("needs a GPU")
    refuse(problem, resets=False)
    if (case.cell, case.dtype) != ("lstm", "float32"):
        raise Cannot("has an LSTM in float32 alone")
    if mode == "jvp":
        raise Cannot("has no forward mode")
    return compiled.program(_model(problem), problem, mode)


def _model(problem: Problem) -> Model:
    case = problem.case
    sizes = (case.D, case.H, case.L, case.bidirectional)
    zeros = jnp.zeros((case.L * (case.N // case.H), case.B, case.H))
    lengths = jnp.full(case.B, case.T, jnp.int32)
    if problem.lengths is not None:
        lengths = jnp.asarray(problem.lengths)
    run = functools.partial(
        rnn.lstm, seq_lengths=lengths, input_size=case.D, hidden_size=case.H,
        num_layers=case.L, dropout=0.0, bidirectional=case.bidirectional,
    )  # fmt: skip

    def params(weights: Any) -> Any:
        return one_bias(interop.from_cudnn(weights, *sizes, double_bias=True)[1])

    return Model(
        forward=lambda weights, xs: run(xs, zeros, zeros, weights)[0],
        weights=lambda params: interop.to_cudnn(problem.net, params),
        params=params,
    )
