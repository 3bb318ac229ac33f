"""Elementwise programs for one time step: a cell's update, its tangent and its pullback.

Each is translated once for all batch sizes, and checked for the batch size of every call.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._typing import Carry, Params, Pre
from .. import equations
from ..flat import Flat
from .program import Elementwise, Program, check_for, translate

Operations = tuple[str, ...]
"""Names of the instructions that an engine has."""


class Step(NamedTuple):
    """Shapes and dtypes of the inputs of one step, without time and batch axes.

    rows: number of sequences.
    """

    carry: Carry
    pre: tuple[Pre, ...]
    extras: Params
    noise: Any
    rows: int


def step_of(carry: Carry, pre: tuple[Pre, ...], given: Any) -> Step:
    """Make the `Step` of flat operands. given: operands or residuals, for `extras` and `noise`."""
    dtype, rows = pre[-1].dtype, pre[-1].shape[1]
    timed = types_of(pre, 2, dtype), types_of(given.extras, 0, dtype)
    return Step(types_of(carry, 1, dtype), *timed, types_of(given.noise, 2, dtype), rows)


def types_of(tree: Any, axes: int, dtype: Any) -> Any:
    """Shapes of leaves without their first `axes` axes, in the dtype that a kernel computes in."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], dtype), tree)


def run(cell: Flat, operations: Operations, step: Step) -> Program:
    """Translate the update: (carry, pre, extras, noise) -> carry."""
    return _translated(_run, operations, cell, step)


def linearized(cell: Flat, operations: Operations, step: Step) -> Program:
    """Translate the tangent: (carry, pre, extras, noise, dcarry, dpre, dextras) -> dcarry."""
    return _translated(_linearized, operations, cell, step)


def transposed(cell: Flat, operations: Operations, step: Step, stacked: Carry) -> Program:
    """Translate the pullback: (carry, pre, extras, noise, ct, ct_t) -> (dcarry, dpre, dextras).

    stacked: types of ct_t, the cotangent of this step's carry among those of all steps; a leaf is
        None where there is nothing to add to ct.
    """
    return _translated(_transposed, operations, cell, step, stacked)


def _translated(
    make: Callable[..., Elementwise], operations: Operations, cell: Flat, step: Step, *types: Any
) -> Program:
    """Translate the function that `make` returns, and check it for the number of sequences."""
    leaves, tree = jax.tree.flatten((step._replace(rows=0), *types))
    function = _made(make, cell, tuple(leaves), tree, jnp.result_type(float))
    program = translate(function, operations)
    check_for(function, step.rows)
    return program


@functools.lru_cache(maxsize=1024)
def _made(
    make: Callable[..., Elementwise], cell: Flat, leaves: Any, tree: Any, widest: Any
) -> Elementwise:
    del widest  # For the cache key: the types of constants depend on jax_enable_x64.
    return make(cell, *tree.unflatten(leaves))


def _run(cell: Flat, step: Step) -> Elementwise:
    return _elementwise(lambda c, p, e, z: equations.advance(cell, z)(c, p, e), *_point(step))


def _linearized(cell: Flat, step: Step) -> Elementwise:
    def tangent(c, p, e, z, dc, dp, de):
        return jax.jvp(equations.advance(cell, z), (c, p, e), (dc, dp, de))[1]

    given = _rows(step.carry), _rows(step.pre), (step.extras, True)
    return _elementwise(tangent, *_point(step), *given)


def _transposed(cell: Flat, step: Step, stacked: Carry) -> Elementwise:
    def pullback(c, p, e, z, ct, ct_t):
        _, pull = jax.vjp(equations.advance(cell, z), c, p, e)
        return pull(equations.added(ct, ct_t))

    # dpre may overwrite pre; both come second, after the carry, so the indices agree.
    first, last = _count(step.carry), _count((step.carry, step.pre))
    aliases = {k: k for k in range(first, last)}
    return _elementwise(pullback, *_point(step), _rows(step.carry), _rows(stacked), aliases=aliases)


def _count(tree: Any) -> int:
    return len(jax.tree.leaves(tree))


def _rows(tree: Any) -> tuple[Any, bool]:
    return tree, False


def _point(step: Step) -> list[tuple[Any, bool]]:
    return [_rows(step.carry), _rows(step.pre), (step.extras, True), _rows(step.noise)]


def _elementwise(
    function: Callable[..., Any],
    *arguments: tuple[Any, bool],
    aliases: Mapping[int, int] = MappingProxyType({}),
) -> Elementwise:
    """Flatten a function of trees; each argument is (tree of types, True if rows share it)."""
    leaves, tree = jax.tree.flatten(tuple(tree for tree, _ in arguments))
    shared = [s for tree, s in arguments for _ in jax.tree.leaves(tree)]

    def flat(*values):
        return jax.tree.leaves(function(*tree.unflatten(values)))

    types = [(leaf.shape, leaf.dtype, s) for leaf, s in zip(leaves, shared, strict=True)]
    return Elementwise(flat, types, aliases)
