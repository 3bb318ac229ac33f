"""The recurrence, its linearisation and the transpose of that as launches of a kernel.

Each function has the arguments and results of the function of its name in `equations.py`, except
that results have one batch axis and the kernel's dtypes.

Raises:
    Untranslatable: the kernel cannot run the call; the message is one line that says why.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax

from ...._typing import Carry
from ... import equations
from ...elementwise import steps
from ...flat import flattened
from ...spec import Recurrence
from .launch import Field, Launch, field, flags
from .printed import OPERATIONS
from .sources import KINDS, Leaf

DTYPES = ("float32",)
NARROW = ("bfloat16", "float16")
EXACT = {"ROUNDED": 0}
"""What enters the product is rounded only as far as W is narrow."""


def run(
    recurrence: Recurrence,
    reverse: bool,
    ops: equations.Operands,
    kept: equations.Ran | None = None,
) -> equations.Ran:
    """Run the recurrence; see `equations.run`."""
    kept = kept or equations.all_kept(ops)
    cell, (ops,) = flattened(recurrence, (ops,), DTYPES, NARROW)
    # h is rounded where it enters the product.
    rounded, cell = cell.rounded, dataclasses.replace(cell, rounded=None)
    length, batch = jax.tree.leaves(ops.wx)[0].shape[:2]

    def stacked(leaf: Any, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((length, *leaf.shape), dtype)

    u = jax.ShapeDtypeStruct((length, batch, *cell.u.shape), cell.u.dtype)
    pre = (u,) if cell.additive else (ops.wx, u)
    program = steps.run(cell, OPERATIONS, steps.step_of(ops.carry, pre, ops))
    carries = jax.tree.map(stacked, ops.carry, cell.stored)
    given = (
        field("carry", ops.carry, 1, "load_carry"),
        field("origin", _origin(ops, ops.origin), 1),
        field("wx", ops.wx, 2, "load_wx"),
        field("extras", ops.extras, 0, "load_extras"),
        field("noise", ops.noise, 2, "load_noise"),
        *flags(ops),
    )
    made = (
        field("final", ops.carry, 1, "store_final", kept.final),
        field("carries", carries, 2, "store_carries", kept.carries),
        field("u", u, 2, "store_u", kept.u),
    )
    numbers = {
        "ADDITIVE": int(cell.additive),
        "KEPT_U": int(bool(kept.u)),
        "ROUNDED": KINDS[str(rounded)],
    }
    whole: Any = equations.Ran(ops.carry, carries, cast(Any, u))
    like = equations.only(kept, whole)
    launch = Launch("run", cell, reverse, ops, program, length, batch, given, made, numbers)
    return _like(like, launch())


def linearized(
    recurrence: Recurrence, reverse: bool, res: equations.Residuals, d: equations.Tangents
) -> equations.Outputs:
    """Compute the tangents of the carries; see `equations.linearized`."""
    cell, (res, d) = flattened(recurrence, (res, d), DTYPES, NARROW)
    program = steps.linearized(cell, OPERATIONS, steps.step_of(res.carry, res.pre, res))
    like = equations.Outputs(d.carry, res.carries)
    given = (
        *_point(res),
        field("dextras", d.extras, 0, "load_dextras"),
        field("dcarry", d.carry, 1, "load_dcarry"),
        field("dorigin", _origin(res, d.origin), 1),
        field("dpre", d.pre, 2, "load_dpre"),
        *flags(res),
    )
    made = (
        field("final", like.final, 1, "store_final"),
        field("carries", like.carries, 2, "store_carries"),
    )
    length, batch = res.pre[-1].shape[:2]
    launch = Launch("linearized", cell, reverse, res, program, length, batch, given, made, EXACT)
    return _like(like, launch())


def transposed(
    recurrence: Recurrence, reverse: bool, res: equations.Residuals, cts: equations.Outputs
) -> equations.Tangents:
    """Backpropagation through time; see `equations.transposed`."""
    cell, (res, cts) = flattened(recurrence, (res, cts), DTYPES, NARROW)
    # The kernel adds ct_t itself, outside of the program.
    apart = jax.tree.map(lambda _: None, cts.final)
    program = steps.transposed(cell, OPERATIONS, steps.step_of(res.carry, res.pre, res), apart)
    given = (*_point(res), field("ct", cts.final, 1, "load_ct"), _stacked(cts), *flags(res))
    origin = None if res.restart is None else cts.final
    like = equations.Tangents(res.extras, cts.final, origin, res.pre)
    made = (
        field("sums", like.extras, 0, "store_sum"),
        field("dcarry", like.carry, 1, "store_ct"),
        field("dorigin", like.origin, 1),
        field("dpre", like.pre, 2, "store_dpre"),
    )
    length, batch = res.pre[-1].shape[:2]
    launch = Launch("transposed", cell, reverse, res, program, length, batch, given, made, EXACT)
    return _like(like, launch())


def _point(res: equations.Residuals) -> tuple[Field, ...]:
    return (
        field("carry", res.carry, 1, "load_carry"),
        field("origin", _origin(res, res.origin), 1),
        field("carries", res.carries, 2, "load_carries"),
        field("pre", res.pre, 2, "load_pre"),
        field("extras", res.extras, 0, "load_extras"),
        field("noise", res.noise, 2, "load_noise"),
    )


def _origin(point: Any, origin: Carry | None) -> Carry | None:
    return None if point.restart is None else origin


def _stacked(cts: equations.Outputs) -> Field:
    """The cotangents of the carries of all steps, of which some may be None."""
    given = jax.tree.leaves(cts.carries, is_leaf=lambda leaf: leaf is None)
    sizes = [leaf.n for leaf in field("", cts.final, 1).leaves]
    leaves = [
        Leaf(n, KINDS[str(ct.dtype)] if ct is not None else 0, ct is not None)
        for n, ct in zip(sizes, given, strict=True)
    ]
    return Field("cts", tuple(leaves), tuple(ct for ct in given if ct is not None), "load_cts")


def _like(tree: Any, leaves: Sequence[Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
