"""Contender Keras 3 on JAX: SimpleRNN, LSTM, GRU, Bidirectional, by `stateless_call`.

On a GPU Keras's LSTM uses cuDNN where it can.
"""

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # Before the import of keras, which reads it.

import jax.numpy as jnp
import keras
import numpy as np

from lstm_jax import interop

from .. import compiled
from ..cases import Case
from ..compiled import Model
from ..contender import Cannot, Program, one_bias, refuse
from ..problem import Problem
from . import INSTALL as INSTALL

NAME = "keras"


def program(problem: Problem, mode: str) -> Program:
    refuse(problem, resets=False)
    if keras.backend.backend() != "jax":
        raise Cannot(f"runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")
    return compiled.program(_model(problem), problem, mode)


def _model(problem: Problem) -> Model:
    case = problem.case
    keras.config.set_floatx(case.dtype)  # For what has no dtype option, such as the first carry.
    layers = [_layer(problem, size) for size in (case.D, *[case.N] * (case.L - 1))]
    others = [[v.value for v in layer.non_trainable_variables] for layer in layers]
    mask = None if problem.lengths is None else jnp.asarray(problem.mask.T)

    def forward(weights: Any, xs: Any) -> Any:
        for layer, own, other in zip(layers, weights, others, strict=True):
            xs = layer.stateless_call(own, other, xs, mask=mask)[0]
        return xs

    def weights(params: Any) -> Any:
        arrays = interop.to_keras(problem.net, params)
        count = len(arrays) // case.L
        return [arrays[n : n + count] for n in range(0, len(arrays), count)]

    def params(weights: Any) -> Any:
        options: Any = {"bidirectional": case.bidirectional, "double_bias": True}
        arrays = [np.asarray(array) for own in weights for array in own]
        return one_bias(interop.from_keras(arrays, **options)[1])

    return Model(forward, weights, params)


def _layer(problem: Problem, input_size: int) -> Any:
    case = problem.case
    layer = _one_way(case)
    if case.bidirectional:
        layer = keras.layers.Bidirectional(layer, dtype=case.dtype)
    layer.build((case.B, case.T, input_size))
    return layer


def _one_way(case: Case) -> Any:
    options: dict[str, Any] = {"return_sequences": True, "dtype": case.dtype}
    # The weights are replaced, and the default initializer, orthogonal, lacks bfloat16.
    options["recurrent_initializer"] = "zeros"
    if case.cell == "lstm":
        return keras.layers.LSTM(case.H, **options)
    if case.cell == "gru":
        return keras.layers.GRU(case.H, reset_after=True, **options)
    activation = "tanh" if case.cell == "rnn" else "relu"
    return keras.layers.SimpleRNN(case.H, activation=activation, **options)
