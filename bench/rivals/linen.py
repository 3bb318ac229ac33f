"""Contender flax.linen: nn.RNN with OptimizedLSTMCell, GRUCell or SimpleCell; nn.Bidirectional.

Resets within a sequence are written with nn.scan, as usual in reinforcement learning with linen.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lstm_jax import interop

from .. import compiled
from ..compiled import Model
from ..contender import Program, refuse
from ..problem import Problem

NAME = "flax.linen"
INSTALL = "pip install flax"


class Resetting(nn.Module):
    """A scan over a cell whose carry restarts where `resets` [T, B] is True."""

    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, xs: Any, resets: Any) -> Any:
        start = self.cell.initialize_carry(jax.random.key(0), xs.shape[1:])

        def step(cell: Any, carry: Any, inputs: Any) -> Any:
            x, reset = inputs
            fresh = jax.tree.map(lambda a, b: jnp.where(reset[:, None], a, b), start, carry)
            return cell(fresh, x)

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        return scan(self.cell, start, (xs, resets))[1]


def program(problem: Problem, mode: str) -> Program:
    return compiled.program(model(problem), problem, mode)


def model(problem: Problem) -> Model:
    refuse(problem)
    net, resets = problem.net, problem.resets
    return Model(
        forward=_forward(problem) if resets is None else _resetting(problem),
        weights=lambda params: interop.to_linen(net, params)["params"],
        params=lambda tree: interop.from_linen({"params": tree})[1],
        batch_major=resets is None,
    )


def _forward(problem: Problem) -> Any:
    layers = [_layer(problem) for _ in range(problem.case.L)]
    options: Any = {} if problem.lengths is None else {"seq_lengths": problem.lengths}

    def forward(params: Any, xs: Any) -> Any:
        trees = (
            [params] if len(layers) == 1 else [params[f"layers_{n}"] for n in range(len(layers))]
        )
        for layer, tree in zip(layers, trees, strict=True):
            xs = layer.apply({"params": tree}, xs, **options)
        return xs

    return forward


def _resetting(problem: Problem) -> Any:
    module = Resetting(_cell(problem))
    return lambda params, xs: module.apply({"params": params}, xs, problem.resets)


def _layer(problem: Problem) -> nn.Module:
    if problem.case.bidirectional:
        return nn.Bidirectional(nn.RNN(_cell(problem)), nn.RNN(_cell(problem)))
    return nn.RNN(_cell(problem))


def _cell(problem: Problem) -> nn.RNNCellBase:
    case = problem.case
    options: dict[str, Any] = {"dtype": case.dtype, "param_dtype": case.dtype}
    # The weights are given, and the default initializer, orthogonal, lacks bfloat16.
    options["recurrent_kernel_init"] = nn.initializers.zeros_init()
    if case.cell == "lstm":
        return nn.OptimizedLSTMCell(case.H, **options)
    if case.cell == "gru":
        return nn.GRUCell(case.H, **options)
    activation = jnp.tanh if case.cell == "rnn" else jax.nn.relu
    return nn.SimpleCell(case.H, activation_fn=activation, **options)
