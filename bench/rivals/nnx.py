"""Contender flax.nnx: nnx.RNN with OptimizedLSTMCell, GRUCell or SimpleCell; nnx.Bidirectional.

It uses the functional API (split, merge) under jax.jit, which dispatches faster than nnx.jit.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax import interop

from .. import compiled
from ..compiled import Model
from ..contender import Program, refuse
from ..problem import Problem

NAME = "flax.nnx"
INSTALL = "pip install flax"


def program(problem: Problem, mode: str) -> Program:
    return compiled.program(model(problem), problem, mode)


def model(problem: Problem) -> Model:
    refuse(problem, resets=False)
    case = problem.case
    options: dict[str, Any] = {}
    if problem.lengths is not None:
        options["seq_lengths"] = jnp.asarray(problem.lengths)
    sizes = [case.D, *[case.N] * (case.L - 1)]
    parts = [nnx.split(_layer(problem, size), nnx.Param, ...) for size in sizes]

    def forward(trees: Any, xs: Any) -> Any:
        for (graph, params, rest), tree in zip(parts, trees, strict=True):
            xs = nnx.merge(graph, _filled(params, tree), _copy(rest))(xs, **options)
        return xs

    def weights(params: Any) -> Any:
        tree = interop.to_nnx(problem.net, params)
        return list(tree["layers"].values()) if case.L > 1 else [tree]

    def params(trees: Any) -> Any:
        tree = {"layers": dict(enumerate(trees))} if case.L > 1 else trees[0]
        return _without_b_hn(interop.from_nnx(tree)[1])

    return Model(forward, weights, params)


def _filled(template: Any, tree: Any) -> Any:
    """Copy the state `template`, and fill it with the arrays of `tree`."""
    state = _copy(template)  # The next line changes it.
    nnx.replace_by_pure_dict(state, tree)
    return state


def _copy(state: Any) -> Any:
    """Copy variables, as nnx forbids changing those from outside a trace."""
    return jax.tree.map(lambda leaf: leaf, state)


def _without_b_hn(params: Any) -> Any:
    """Remove the gradient of b_hn, which nnx's GRU lacks."""
    return {
        key: _without_b_hn(inner) if isinstance(inner, dict) else inner
        for key, inner in params.items()
        if key != "b_hn"
    }


def _layer(problem: Problem, input_size: int) -> nnx.Module:
    def one() -> nnx.RNN:
        return nnx.RNN(_cell(problem, input_size), rngs=nnx.Rngs(0))

    if problem.case.bidirectional:
        return nnx.Bidirectional(one(), one(), rngs=nnx.Rngs(0))
    return one()


def _cell(problem: Problem, input_size: int) -> Any:
    case = problem.case
    options: dict[str, Any] = {"dtype": case.dtype, "param_dtype": case.dtype, "rngs": nnx.Rngs(0)}
    # The weights are replaced, and the default initializer, orthogonal, lacks bfloat16.
    options["recurrent_kernel_init"] = nnx.initializers.zeros_init()
    kinds = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}
    if case.cell in kinds:
        return kinds[case.cell](input_size, case.H, **options)
    activation = jnp.tanh if case.cell == "rnn" else jax.nn.relu
    return nnx.SimpleCell(input_size, case.H, activation_fn=activation, **options)
