"""The three functions of `base` as calls of the kernel."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from .. import base
from ..spec import Recurrence
from . import library, steps
from .program import Program


def run(cell: Any, reverse: bool, ops: base.Operands, kept: base.Ran) -> base.Ran:
    """`base.run`, of a cell that says in which dtypes its carries are `stored`."""
    length = jax.tree.leaves(ops.wx)[0].shape[0]

    def stacked(leaf: Any, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((length, *leaf.shape), dtype)

    u = jax.eval_shape(cell.recur, ops.weights, ops.carry)
    u = stacked(u, u.dtype)
    wx = jax.eval_shape(base.projected, ops).wx
    pre = (u,) if cell.additive else (wx, u)
    step = _step(ops.carry, pre, ops)
    call = _Call(cell, reverse, ops, ops.wx, u, steps.run(cell, step))
    call.projection = ops.projection or ()
    call.stacked = _bits(jax.tree.leaves((kept.carries, kept.u)))
    operands = (ops.carry, _origin(ops), ops.wx, ops.extras, ops.noise)
    carries = jax.tree.map(stacked, ops.carry, cell.stored)
    all_steps = base.only((kept.carries, kept.u), (carries, u))
    # The sums of an additive cell take the place of its projected inputs.
    place = ops.wx if cell.additive and kept.u and not call.projection else None
    final, carries, u = call("run", operands, base.Ran(ops.carry, *all_steps), place)
    return base.Ran(base.only(kept.final, final), carries, u)


def linearized(
    cell: Recurrence, reverse: bool, res: base.Residuals, d: base.Tangents
) -> base.Outputs:
    """`base.linearized`."""
    step = _step(res.carry, res.pre, res)
    call = _Call(cell, reverse, res, res.pre, res.pre[-1], steps.linearized(cell, step))
    origin = None if res.restart is None else d.origin
    operands = (*_point(res), d.extras, d.carry, origin, d.pre)
    return call("linearized", operands, base.Outputs(d.carry, res.carries))


def transposed(
    cell: Recurrence, reverse: bool, res: base.Residuals, cts: base.Outputs
) -> base.Tangents:
    """`base.transposed`."""
    # With masks or restarts the kernel adds the cotangents of the step itself.
    flags = res.valid is not None or res.restart is not None
    dtype, step = res.pre[-1].dtype, _step(res.carry, res.pre, res)
    stacked = jax.tree.map(lambda _: None, cts.final) if flags else _types(cts.carries, 2, dtype)
    call = _Call(cell, reverse, res, res.pre, res.pre[-1], steps.transposed(cell, step, stacked))
    given = jax.tree.leaves(cts.carries, is_leaf=lambda leaf: leaf is None)
    call.stacked = _bits(ct is not None for ct in given)
    origin = None if res.restart is None else cts.final
    like = base.Tangents(res.extras, cts.final, origin, res.pre)
    # The cotangent of p takes the place of p.
    return call("transposed", (*_point(res), cts.final, cts.carries), like, res.pre)


def _point(res: base.Residuals) -> tuple[Any, ...]:
    return res.carry, _origin(res), res.carries, res.pre, res.extras, res.noise


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def _origin(ops: Any) -> Any:
    return None if ops.restart is None else ops.origin


def _step(carry: Any, pre: tuple[Any, ...], ops: Any) -> steps.Step:
    dtype = pre[-1].dtype
    timed = _types(pre, 2, dtype), _types(ops.extras, 0, dtype), _types(ops.noise, 2, dtype)
    return steps.Step(_types(carry, 1, dtype), *timed)


def _types(tree: Any, axes: int, dtype: Any) -> Any:
    """The types of leaves without their first axes, as the kernel computes with them."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], dtype), tree)


class _Call:
    """One call of the kernel. ops: the operands or residuals, for what all three calls need."""

    stacked = 0
    projection: tuple[Any, ...] = ()

    def __init__(
        self, cell: Recurrence, reverse: bool, ops: Any, pre: Any, u: Any, program: Program
    ):
        self.cell, self.reverse, self.ops, self.pre, self.u = cell, reverse, ops, pre, u
        self.program = program

    def __call__(self, name: str, operands: Any, like: Any, places: Any = None) -> Any:
        """The results, typed as `like`, of which the last may take the memory of `places`."""
        weights = jax.tree.leaves(self.ops.weights)
        flags = [x for x in (self.ops.valid, self.ops.restart) if x is not None]
        args = [*weights, *self.projection, *jax.tree.leaves(operands), *flags]
        outs, tree = jax.tree.flatten(like)
        dtype = self.u.dtype
        return tree.unflatten(
            jax.ffi.ffi_call(
                f"lstm_jax_{name}_{library.TYPES[str(dtype)]}",
                [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in outs],
                input_output_aliases=_aliases(args, outs, places),
            )(
                *args,
                call=self._numbers(weights),
                code=self.program.code.reshape(-1),
                constants=self.program.constants.astype(dtype),
            )
        )

    def _numbers(self, weights: list[Any]) -> np.ndarray:
        """As struct Call in arguments.h."""
        ops = self.ops
        there = [int(x is not None) for x in (ops.valid, ops.restart)]
        counts = [len(jax.tree.leaves(x)) for x in (ops.carry, self.pre, ops.extras, ops.noise)]
        rows = weights[0].shape[0] if weights else 0
        numbers = [
            *self.u.shape,
            self.reverse,
            self.cell.additive,
            *counts,
            rows,
            *there,
            self.stacked,
            len(self.projection),
        ]
        return np.asarray([*numbers, self.program.block, self.program.scratch], np.int32)


def _aliases(args: list[Any], outs: list[Any], places: Any) -> dict[int, int]:
    """Operand to result: those of `places`, where they have the result's type."""
    wanted = jax.tree.leaves(places)
    same = {id(arg): k for k, arg in enumerate(args)}
    first = len(outs) - len(wanted)  # What takes a place comes last.
    pairs = {same[id(place)]: first + k for k, place in enumerate(wanted)}
    return {
        a: o
        for a, o in pairs.items()
        if (args[a].shape, args[a].dtype) == (outs[o].shape, outs[o].dtype)
    }
