"""The recurrence, its linearisation and the transpose of that as loops of a Pallas kernel.

Each function has the arguments and results of the function of its name in `equations.py`, except
that results have one batch axis and the kernel's dtypes.

Raises:
    Untranslatable: the kernel cannot run the call; the message is one line that says why.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...._typing import Array, Carry, Pre
from ... import equations
from ...equations import added, advance, joined, only
from ...flat import Flat, flattened
from ...spec import Recurrence
from . import contacts
from .blocks import LANES
from .loop import loop
from .operands import Earlier, Inputs

TYPES = ("float32",)
"""Names of the dtypes in which the kernel computes."""


def run(
    recurrence: Recurrence,
    reverse: bool,
    ops: equations.Operands,
    kept: equations.Ran | None = None,
) -> equations.Ran:
    """Run the recurrence; see `equations.run`."""
    final, carries, u = (None, None, None) if kept is None else kept
    cell, (ops,) = _flattened(recurrence, equations.projected(ops))
    stored = cell.flat.stored

    def step(at: Inputs, carry: Carry) -> tuple[Any, Any, Any]:
        (w, extras), origin, (valid, restart), (wx, noise), *_ = at
        carry = _choose(restart, origin, carry) if restart is not None else carry
        pre = joined(recurrence, wx, _recur(cell, w, carry))
        carry = _choose(valid, advance(cell.flat, noise)(carry, pre, extras), carry)
        kept = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), carry, stored)
        return carry, (), (only(carries, kept), only(u, pre[-1].astype(cell.kept)))

    given = Inputs(
        (cell.w, ops.extras), _origin(ops), (ops.valid, ops.restart), (ops.wx, ops.noise)
    )
    last, _, stacked = loop(step, given, ops.carry, reverse=reverse)
    return equations.Ran(only(final, last), *stacked)


def linearized(
    recurrence: Recurrence, reverse: bool, res: equations.Residuals, d: equations.Tangents
) -> equations.Outputs:
    """Compute the tangents of the carries; see `equations.linearized`."""
    cell, (res, d) = _flattened(recurrence, res, d)

    def step(at: Inputs, dcarry: Carry) -> tuple[Any, Any, Any]:
        (w, extras, dextras), (origin, dorigin), (valid, restart), (pre, dpre, noise), *_ = at
        previous = at.earlier
        if restart is not None:
            dcarry = _choose(restart, dorigin, dcarry)
            previous = _choose(restart, origin, previous)
        dpre = (*dpre[:-1], dpre[-1] + _dot(jax.tree.leaves(dcarry)[0], w, dpre[-1]))
        pre = cell.with_u(pre, dpre[-1].dtype)
        primals, tangents = (previous, pre, extras), (dcarry, dpre, dextras)
        _, dnew = jax.jvp(advance(cell.flat, noise), primals, tangents)
        dcarry = _choose(valid, dnew, dcarry)
        return dcarry, (), dcarry

    given = Inputs(
        (cell.w, res.extras, d.extras),
        (_origin(res), d.origin if res.restart is not None else None),
        (res.valid, res.restart),
        (cell.with_u(res.pre, cell.kept), d.pre, res.noise),
        earlier=Earlier(res.carry, res.carries),
    )
    last, _, stacked = loop(step, given, d.carry, reverse=reverse)
    return equations.Outputs(last, stacked)


def transposed(
    recurrence: Recurrence, reverse: bool, res: equations.Residuals, cts: equations.Outputs
) -> equations.Tangents:
    """Backpropagation through time; see `equations.transposed`."""
    cell, (res, cts) = _flattened(recurrence, res, cts)

    def step(at: Inputs, state: Any) -> tuple[Any, Any, Any]:
        (w, extras), origin, (valid, restart), (pre, noise), ct_t, previous = at
        ct, dorigin = state
        ct = added(ct, ct_t)
        through = ct if valid is None else _choose(valid, ct, _zeros(ct))
        previous = _choose(restart, origin, previous) if restart is not None else previous
        pre = cell.with_u(pre, cell.flat.u.dtype)
        _, pullback = jax.vjp(advance(cell.flat, noise), previous, pre, extras)
        dprevious, dpre, dextras = pullback(through)
        dprevious = _plus_recur_transposed(dprevious, w, dpre[-1])
        if valid is not None:
            dprevious = added(dprevious, _choose(valid, _zeros(ct), ct))
        if restart is not None:
            back = _choose(restart, dprevious, _zeros(ct))
            dorigin = added(dorigin, back)
            dprevious = _choose(restart, _zeros(ct), dprevious)
        return (dprevious, dorigin), dextras, cell.with_u(dpre, cell.kept)

    given = Inputs(
        (None if cell.w is None else cell.w.T, res.extras),
        _origin(res),
        (res.valid, res.restart),
        (cell.with_u(res.pre, cell.kept), res.noise),
        cts.carries,
        Earlier(res.carry, res.carries),
    )
    dorigin = _zeros(cts.final) if res.restart is not None else None
    state, dextras, dpre = loop(step, given, (cts.final, dorigin), reverse=reverse, back=True)
    dcarry, dorigin = state
    return equations.Tangents(dextras, dcarry, dorigin, dpre)


class _Kernel(NamedTuple):
    """A recurrence as the kernel computes it.

    Attributes:
        flat: its elementwise part; the carry is as in the recurrence, not a `Rounded`.
        rounded: narrower dtype to which h is rounded before the matmul of `run`, or None.
        w: the recurrent matrix [H, M]; None if u has no elements. It is in bfloat16 if the weights
            are, or if the TPU would round it before each product: so it takes half the VMEM.
        kept: dtype of u_t and of its cotangent for all steps: bfloat16 if the weights are, as that
            of wx_t is. They are what the derivatives read and write most, and a TPU takes longer
            for that than for a step.
    """

    flat: Flat
    rounded: Any
    w: Array | None
    kept: Any

    def with_u(self, pre: tuple[Pre, ...], dtype: Any) -> tuple[Pre, ...]:
        """Convert u, or wx + u, to `dtype`."""
        return (*pre[:-1], pre[-1].astype(dtype))


def _flattened(recurrence: Recurrence, *operands: Any) -> tuple[_Kernel, list[Any]]:
    """Return the recurrence for the kernel, and the operands in flat form."""
    flat, given = flattened(recurrence, operands, TYPES)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(operands[0].weights)}
    dtype = jnp.bfloat16 if kinds == {jnp.dtype(jnp.bfloat16)} else flat.u.dtype
    w = given[0].weights[0] if given[0].weights else None
    w = w.astype(jnp.bfloat16 if contacts.rounds() else dtype) if w is not None else None
    return _Kernel(dataclasses.replace(flat, rounded=None), flat.rounded, w, dtype), given


def _recur(cell: _Kernel, w: Array | None, carry: Carry) -> Array:
    """Compute u = h @ w, with h rounded as the cell's `recur` does it."""
    h = jax.tree.leaves(carry)[0]
    like = jax.ShapeDtypeStruct((h.shape[0], *cell.flat.u.shape), cell.flat.u.dtype)
    return _dot(h if cell.rounded is None else h.astype(cell.rounded), w, like)


def _dot(h: Array, w: Array | None, like: Any) -> Array:
    """Compute h @ w with h in the dtype of w; zeros like `like` without w.

    It is a sum of products by as many rows of w as a matrix unit holds. libtpu 0.0.52 would split
    it so too, but then loads one register of w in most cycles, not two: a step of an LSTM of B 8,
    H 512 in bfloat16 takes 515 cycles on a TPU v5e as one product, and 395 as four.
    """
    if w is None:
        return jnp.zeros(like.shape, like.dtype)
    parts = [slice(k, k + LANES) for k in range(0, w.shape[0], LANES)]
    each = [
        jnp.dot(h[:, k].astype(w.dtype), w[k], preferred_element_type=like.dtype) for k in parts
    ]
    return _sum(each)


def _sum(terms: Sequence[Array]) -> Array:
    """Sum in pairs, and these in pairs: they become known one by one, and none waits for all."""
    if len(terms) == 1:
        return terms[0]
    pairs = [terms[k] + terms[k + 1] for k in range(0, len(terms) - 1, 2)]
    return _sum([*pairs, *terms[2 * len(pairs) :]])


def _plus_recur_transposed(dcarry: Carry, w: Array | None, du: Array) -> Carry:
    """Add du @ w to the first leaf of `dcarry`."""
    if w is None:
        return dcarry
    dh, *others = jax.tree.leaves(dcarry)
    return jax.tree.structure(dcarry).unflatten([dh + _dot(du, w, dh), *others])


def _choose(flag: Array | None, yes: Any, no: Any) -> Any:
    """Select rows of two trees by a flag [B, 1] of 1.0 or 0.0; None: all are `yes`."""
    if flag is None:
        return yes
    return jax.tree.map(lambda a, b: lax.select(_repeated(flag, a) > 0.5, a, b), yes, no)


def _repeated(flag: Array, like: Array) -> Array:
    return jnp.broadcast_to(flag.reshape(-1, *[1] * (like.ndim - 1)), like.shape)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _origin(ops: Any) -> Any:
    return None if ops.restart is None else ops.origin
