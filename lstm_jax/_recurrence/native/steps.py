"""What the kernel's machine does at each step: a cell's update, its tangent, its pullback."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from ..._cells.contract import Recurrent
from ..._typing import Carry, Params, Pre
from .. import base
from . import library
from .program import Program, translate

BATCH = 65537
"""A number of rows that no axis of a cell should have as its size."""


class Step(NamedTuple):
    """The types of what one step sees. No leaf has an axis of time; those of extras are shared."""

    carry: Carry  # leaves [B, ...]
    pre: tuple[Pre, ...]
    extras: Params
    noise: Any


def run(cell: Recurrent, step: Step) -> Program:
    """carry, pre, extras, noise -> carry."""
    return _program(lambda c, p, e, z: base.advance(cell, z)(c, p, e), *_point(step))


def linearized(cell: Recurrent, step: Step) -> Program:
    """carry, pre, extras, noise, dcarry, dpre, dextras -> dcarry."""

    def tangent(c, p, e, z, dc, dp, de):
        return jax.jvp(base.advance(cell, z), (c, p, e), (dc, dp, de))[1]

    return _program(tangent, *_point(step), _rows(step.carry), _rows(step.pre), (step.extras, True))


def transposed(cell: Recurrent, step: Step, stacked: Carry) -> Program:
    """carry, pre, extras, noise, ct, ct_t -> dcarry, dpre, dextras.

    stacked: as the carry; a leaf is None where there is no ct_t to add.
    """

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

    def typed(leaf, shared):
        shape = leaf.shape if shared else (BATCH, *leaf.shape[1:])
        return shape, leaf.dtype, shared

    leaves, tree = jax.tree.flatten(tuple(tree for tree, _ in arguments))
    shared = [s for tree, s in arguments for _ in jax.tree.leaves(tree)]

    def flat(*values):
        return jax.tree.leaves(function(*tree.unflatten(values)))

    types = [typed(leaf, s) for leaf, s in zip(leaves, shared, strict=True)]
    return translate(flat, types, library.operations(), BATCH, aliases)
