"""Elementwise programs for one time step: a cell's update, its tangent and its pullback.

A program does not depend on the batch size, so each is translated once for all batch sizes.
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
from .program import Program, translate

Operations = tuple[str, ...]
"""Names of the instructions that an engine has."""


class Step(NamedTuple):
    """Shapes and dtypes of the inputs of one step, without time and batch axes."""

    carry: Carry
    pre: tuple[Pre, ...]
    extras: Params
    noise: Any


def step_of(carry: Carry, pre: tuple[Pre, ...], given: Any) -> Step:
    """Make the `Step` of flat operands. given: operands or residuals, for `extras` and `noise`."""
    dtype = pre[-1].dtype
    timed = types_of(pre, 2, dtype), types_of(given.extras, 0, dtype)
    return Step(types_of(carry, 1, dtype), *timed, types_of(given.noise, 2, dtype))


def types_of(tree: Any, axes: int, dtype: Any) -> Any:
    """Shapes of leaves without their first `axes` axes, in the dtype that a kernel computes in."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], dtype), tree)


def run(cell: Flat, operations: Operations, step: Step) -> Program:
    """Translate the update: (carry, pre, extras, noise) -> carry."""
    return _once(_run, cell, operations, step)


def linearized(cell: Flat, operations: Operations, step: Step) -> Program:
    """Translate the tangent: (carry, pre, extras, noise, dcarry, dpre, dextras) -> dcarry."""
    return _once(_linearized, cell, operations, step)


def transposed(cell: Flat, operations: Operations, step: Step, stacked: Carry) -> Program:
    """Translate the pullback: (carry, pre, extras, noise, ct, ct_t) -> (dcarry, dpre, dextras).

    stacked: types of ct_t, the cotangent of this step's carry among those of all steps; a leaf is
        None where there is nothing to add to ct.
    """
    return _once(_transposed, cell, operations, step, stacked)


def _once(make: Callable[..., Program], cell: Flat, operations: Operations, *types: Any) -> Program:
    leaves, tree = jax.tree.flatten(types)
    return _made(make, cell, operations, tuple(leaves), tree, jnp.result_type(float))


@functools.lru_cache(maxsize=1024)
def _made(
    make: Callable[..., Program],
    cell: Flat,
    operations: Operations,
    leaves: Any,
    tree: Any,
    widest: Any,
) -> Program:
    del widest  # For the cache key: the types of constants depend on jax_enable_x64.
    return make(cell, operations, *tree.unflatten(leaves))


def _run(cell: Flat, operations: Operations, step: Step) -> Program:
    return _program(
        operations, lambda c, p, e, z: equations.advance(cell, z)(c, p, e), *_point(step)
    )


def _linearized(cell: Flat, operations: Operations, step: Step) -> Program:
    def tangent(c, p, e, z, dc, dp, de):
        return jax.jvp(equations.advance(cell, z), (c, p, e), (dc, dp, de))[1]

    return _program(
        operations, tangent, *_point(step), _rows(step.carry), _rows(step.pre), (step.extras, True)
    )


def _transposed(cell: Flat, operations: Operations, step: Step, stacked: Carry) -> Program:
    def pullback(c, p, e, z, ct, ct_t):
        _, pull = jax.vjp(equations.advance(cell, z), c, p, e)
        return pull(equations.added(ct, ct_t))

    # dpre may overwrite pre; both come second, after the carry, so the indices agree.
    first, last = _count(step.carry), _count((step.carry, step.pre))
    aliases = {k: k for k in range(first, last)}
    return _program(
        operations, pullback, *_point(step), _rows(step.carry), _rows(stacked), aliases=aliases
    )


def _count(tree: Any) -> int:
    return len(jax.tree.leaves(tree))


def _rows(tree: Any) -> tuple[Any, bool]:
    return tree, False


def _point(step: Step) -> list[tuple[Any, bool]]:
    return [_rows(step.carry), _rows(step.pre), (step.extras, True), _rows(step.noise)]


def _program(
    operations: Operations,
    function: Callable[..., Any],
    *arguments: tuple[Any, bool],
    aliases: Mapping[int, int] = MappingProxyType({}),
) -> Program:
    """Translate a function of trees; each argument is (tree of types, True if rows share it)."""
    leaves, tree = jax.tree.flatten(tuple(tree for tree, _ in arguments))
    shared = [s for tree, s in arguments for _ in jax.tree.leaves(tree)]

    def flat(*values):
        return jax.tree.leaves(function(*tree.unflatten(values)))

    types = [(leaf.shape, leaf.dtype, s) for leaf, s in zip(leaves, shared, strict=True)]
    return translate(flat, types, operations, aliases)
