"""The recurrence, its linearisation and the transpose of that as calls of the kernel.

Each function has the arguments and results of the function of its name in `equations.py`, except
that results have one batch axis and the kernel's dtypes.

Raises:
    Untranslatable: the kernel cannot run the call; the message is one line that says why.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ... import equations
from ...elementwise import steps
from ...flat import Flat, Rounded, flattened
from ...spec import Recurrence
from . import library
from .assembly import Assembled, assembled


def run(
    recurrence: Recurrence,
    reverse: bool,
    ops: equations.Operands,
    kept: equations.Ran | None = None,
) -> equations.Ran:
    """Run the recurrence; see `equations.run`."""
    kept = kept or equations.all_kept(ops)
    flat, (ops,) = flattened(recurrence, (ops,), library.TYPES)
    if flat.rounded is None:
        return _run(flat, reverse, ops, kept)
    ops = ops._replace(carry=flat.beside(ops.carry), origin=flat.beside(ops.origin))
    both = kept._replace(final=Rounded(False, kept.final), carries=Rounded(False, kept.carries))
    ran = _run(flat, reverse, ops, both)
    return ran._replace(final=ran.final.carry, carries=ran.carries.carry)


def _run(cell: Flat, reverse: bool, ops: equations.Operands, kept: equations.Ran) -> equations.Ran:
    length = jax.tree.leaves(ops.wx)[0].shape[0]

    def stacked(leaf: Any, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((length, *leaf.shape), dtype)

    rows = jax.tree.leaves(ops.carry)[0].shape[:1]
    u = jax.ShapeDtypeStruct((length, *rows, *cell.u.shape), cell.u.dtype)
    wx = jax.eval_shape(equations.projected, ops).wx
    pre = (u,) if cell.additive else (wx, u)
    step = steps.step_of(ops.carry, pre, ops)
    call = _Call(cell, reverse, ops, ops.wx, u, _program(steps.run, cell, step))
    call.projection = ops.projection or ()
    call.stacked = _bits(jax.tree.leaves((kept.carries, kept.u)))
    operands = (ops.carry, _origin(ops), ops.wx, ops.extras, ops.noise)
    carries = jax.tree.map(stacked, ops.carry, cell.stored)
    all_steps = equations.only((kept.carries, kept.u), (carries, u))
    # The sums wx + u of an additive cell may overwrite wx.
    place = ops.wx if cell.additive and kept.u and not call.projection else None
    final, carries, u = call("run", operands, equations.Ran(ops.carry, *all_steps), place)
    return equations.Ran(equations.only(kept.final, final), carries, u)


def linearized(
    recurrence: Recurrence, reverse: bool, res: equations.Residuals, d: equations.Tangents
) -> equations.Outputs:
    """Compute the tangents of the carries; see `equations.linearized`."""
    cell, (res, d) = flattened(recurrence, (res, d), library.TYPES)
    step = steps.step_of(res.carry, res.pre, res)
    call = _Call(cell, reverse, res, res.pre, res.pre[-1], _program(steps.linearized, cell, step))
    origin = None if res.restart is None else d.origin
    operands = (*_point(res), d.extras, d.carry, origin, d.pre)
    return call("linearized", operands, equations.Outputs(d.carry, res.carries))


def transposed(
    recurrence: Recurrence, reverse: bool, res: equations.Residuals, cts: equations.Outputs
) -> equations.Tangents:
    """Backpropagation through time; see `equations.transposed`."""
    cell, (res, cts) = flattened(recurrence, (res, cts), library.TYPES)
    # With masks or restarts the kernel adds ct_t itself, outside of the program.
    flags = res.valid is not None or res.restart is not None
    dtype, step = res.pre[-1].dtype, steps.step_of(res.carry, res.pre, res)
    stacked = (
        jax.tree.map(lambda _: None, cts.final) if flags else steps.types_of(cts.carries, 2, dtype)
    )
    call = _Call(
        cell, reverse, res, res.pre, res.pre[-1], _program(steps.transposed, cell, step, stacked)
    )
    given = jax.tree.leaves(cts.carries, is_leaf=lambda leaf: leaf is None)
    call.stacked = _bits(ct is not None for ct in given)
    origin = None if res.restart is None else cts.final
    like = equations.Tangents(res.extras, cts.final, origin, res.pre)
    # The cotangent of p may overwrite p.
    return call("transposed", (*_point(res), cts.final, cts.carries), like, res.pre)


def _program(of: Callable[..., Any], cell: Flat, *types: Any) -> Assembled:
    """Translate and assemble one function of `steps`."""
    return assembled(of(cell, library.operations(), *types))


def _point(res: equations.Residuals) -> tuple[Any, ...]:
    return res.carry, _origin(res), res.carries, res.pre, res.extras, res.noise


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def _origin(ops: Any) -> Any:
    return None if ops.restart is None else ops.origin


class _Call:
    """A call of the kernel, of any of its three functions.

    Attributes:
        ops: operands or residuals, for the fields that all three functions need.
        pre: a tree with as many leaves as the kernel gets arrays of inputs to the update.
        stacked: bits that say which arrays of all steps are present.
        projection: (w,), (w, b), or () if wx is given.
    """

    stacked = 0
    projection: tuple[Any, ...] = ()

    def __init__(self, cell: Flat, reverse: bool, ops: Any, pre: Any, u: Any, program: Assembled):
        self.cell, self.reverse, self.ops, self.pre, self.u = cell, reverse, ops, pre, u
        self.program = program

    def __call__(self, name: str, operands: Any, like: Any, places: Any = None) -> Any:
        """Call the kernel: results typed as `like`, the last of which may overwrite `places`."""
        weights = jax.tree.leaves(self.ops.weights)
        flags = [x for x in (self.ops.valid, self.ops.restart) if x is not None]
        args = [*weights, *self.projection, *jax.tree.leaves(operands), *flags]
        outs, tree = jax.tree.flatten(like)
        dtype = self.u.dtype
        return tree.unflatten(
            jax.ffi.ffi_call(
                f"lstm_jax_{name}_{library.TYPES[str(dtype)]}",
                [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in outs],
                vmap_method="expand_dims",
                input_output_aliases=_aliases(args, outs, places),
            )(
                *args,
                call=self._numbers(weights, outs[0].ndim),
                code=self.program.code.reshape(-1),
                constants=self.program.constants.astype(dtype),
            )
        )

    def _numbers(self, weights: list[Any], axes: int) -> np.ndarray:
        """List the static parameters in the order that the kernel tells (`PARAMETERS`)."""
        ops, (steps, batch, width) = self.ops, self.u.shape
        given = {
            "steps": steps,
            "batch": batch,
            "width": width,
            "reverse": self.reverse,
            "additive": self.cell.additive,
            "carries": _count(ops.carry),
            "pre": _count(self.pre),
            "extras": _count(ops.extras),
            "noise": _count(ops.noise),
            "weights": weights[0].shape[0] if weights else 0,
            "valid": ops.valid is not None,
            "restart": ops.restart is not None,
            "stacked": self.stacked,
            "projection": len(self.projection),
            "block": self.program.block,
            "scratch": self.program.scratch,
            "axes": axes,
        }
        return np.asarray([given[name] for name in library.parameters()], np.int32)


def _count(tree: Any) -> int:
    return len(jax.tree.leaves(tree))


def _aliases(args: list[Any], outs: list[Any], places: Any) -> dict[int, int]:
    """Map each operand in `places` to the result that overwrites it, where their types match."""
    wanted = jax.tree.leaves(places)
    same = {id(arg): k for k, arg in enumerate(args)}
    first = len(outs) - len(wanted)  # The results that overwrite operands are the last ones.
    pairs = {same[id(place)]: first + k for k, place in enumerate(wanted)}
    return {
        a: o
        for a, o in pairs.items()
        if (args[a].shape, args[a].dtype) == (outs[o].shape, outs[o].dtype)
    }
