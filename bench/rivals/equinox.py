"""Contender equinox: LSTMCell or GRUCell in a lax.scan over one sequence, vmapped over the batch.

This is the form of its documentation: batch-major, one layer after the other.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from lstm_jax import interop

from .. import compiled
from ..compiled import Model
from ..contender import Cannot, Program, refuse
from ..problem import Problem
from . import INSTALL as INSTALL

NAME = "equinox"
KINDS = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}


def program(problem: Problem, mode: str) -> Program:
    refuse(problem)
    if problem.case.cell not in KINDS:
        raise Cannot("has LSTMCell and GRUCell alone")
    return compiled.program(_model(problem), problem, mode)


def _model(problem: Problem) -> Model:
    case = problem.case
    resets = None if problem.resets is None else jnp.asarray(problem.resets.T)

    def layer(cell: Any, xs: Any, resets: Any) -> Any:
        """Run one layer over a sequence [T, D]."""
        zeros = jnp.zeros(case.H, xs.dtype)
        start = (zeros, zeros) if case.cell == "lstm" else zeros

        def step(carry: Any, inputs: Any) -> Any:
            x, reset = inputs
            if reset is not None:
                carry = jax.tree.map(lambda a, b: jnp.where(reset, a, b), start, carry)
            carry = cell(x, carry)
            return carry, carry[0] if case.cell == "lstm" else carry

        return jax.lax.scan(step, start, (xs, resets))[1]

    def forward(cells: Any, xs: Any) -> Any:
        for cell in cells:
            xs = jax.vmap(layer, in_axes=(None, 0, 0))(cell, xs, resets)
        return xs

    return Model(forward, lambda params: _cells(problem, params), _params)


def _cells(problem: Problem, params: Any) -> list[Any]:
    arrays = interop.to_equinox(problem.net, params)
    layers = arrays if problem.case.L > 1 else [arrays]
    sizes = [problem.case.D, *[problem.case.H] * (problem.case.L - 1)]
    return [_cell(problem, size, layer) for size, layer in zip(sizes, layers, strict=True)]


def _cell(problem: Problem, input_size: int, arrays: Any) -> Any:
    kind = KINDS[problem.case.cell]
    cell = eqx.filter_eval_shape(lambda key: kind(input_size, problem.case.H, key=key),
                                 jax.random.key(0))  # fmt: skip
    return eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in arrays], cell, [*arrays.values()]
    )


def _params(cells: Any) -> Any:
    return interop.from_equinox(cells if len(cells) > 1 else cells[0])[1]
