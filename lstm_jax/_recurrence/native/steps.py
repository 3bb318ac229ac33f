"""What the kernel's machine does at each step: a cell's update, its tangent, its pullback.

A program does not tell how many sequences there are, so each is translated once.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._typing import Carry, Params, Pre
from .. import base
from ..spec import Recurrence
from . import library
from .program import Program, translate


class Step(NamedTuple):
    """The types of what one step sees, of leaves without axes of time and of the batch."""

    carry: Carry
    pre: tuple[Pre, ...]
    extras: Params
    noise: Any


def run(cell: Recurrence, step: Step) -> Program:
    """carry, pre, extras, noise -> carry. cell: one that is hashable, as a `flat.Flat` is."""
    return _once(_run, cell, step)


def linearized(cell: Recurrence, step: Step) -> Program:
    """carry, pre, extras, noise, dcarry, dpre, dextras -> dcarry."""
    return _once(_linearized, cell, step)


def transposed(cell: Recurrence, step: Step, stacked: Carry) -> Program:
    """carry, pre, extras, noise, ct, ct_t -> dcarry, dpre, dextras.

    stacked: as the carry; a leaf is None where there is no ct_t to add.
    """
    return _once(_transposed, cell, step, stacked)


def _once(make: Callable[..., Program], cell: Recurrence, *types: Any) -> Program:
    leaves, tree = jax.tree.flatten(types)
    return _made(make, cell, tuple(leaves), tree, jnp.result_type(float))


@functools.lru_cache(maxsize=1024)
def _made(make: Callable[..., Program], cell: Recurrence, leaves: Any, tree: Any, widest: Any):
    del widest  # float64 where JAX has it, on which the types of constants depend.
    return make(cell, *tree.unflatten(leaves))


def _run(cell: Recurrence, step: Step) -> Program:
    return _program(lambda c, p, e, z: base.advance(cell, z)(c, p, e), *_point(step))


def _linearized(cell: Recurrence, step: Step) -> Program:
    def tangent(c, p, e, z, dc, dp, de):
        return jax.jvp(base.advance(cell, z), (c, p, e), (dc, dp, de))[1]

    return _program(tangent, *_point(step), _rows(step.carry), _rows(step.pre), (step.extras, True))


def _transposed(cell: Recurrence, step: Step, stacked: Carry) -> Program:
    def pullback(c, p, e, z, ct, ct_t):
        _, pull = jax.vjp(base.advance(cell, z), c, p, e)
        return pull(base.added(ct, ct_t))

    # The cotangents of pre may take its place, which comes after the carry in both.
    first, last = _count(step.carry), _count((step.carry, step.pre))
    aliases = {k: k for k in range(first, last)}
    return _program(pullback, *_point(step), _rows(step.carry), _rows(stacked), aliases=aliases)


def _count(tree: Any) -> int:
    return len(jax.tree.leaves(tree))


def _rows(tree: Any) -> tuple[Any, bool]:
    return tree, False


def _point(step: Step) -> list[tuple[Any, bool]]:
    return [_rows(step.carry), _rows(step.pre), (step.extras, True), _rows(step.noise)]


def _program(
    function: Callable[..., Any],
    *arguments: tuple[Any, bool],
    aliases: Mapping[int, int] = MappingProxyType({}),
) -> Program:
    """The program of `function` of trees; each comes with whether all rows share it."""
    leaves, tree = jax.tree.flatten(tuple(tree for tree, _ in arguments))
    shared = [s for tree, s in arguments for _ in jax.tree.leaves(tree)]

    def flat(*values):
        return jax.tree.leaves(function(*tree.unflatten(values)))

    types = [(leaf.shape, leaf.dtype, s) for leaf, s in zip(leaves, shared, strict=True)]
    return translate(flat, types, library.operations(), aliases)
