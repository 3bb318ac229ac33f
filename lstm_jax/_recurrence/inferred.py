"""What is inferred from a cell's `update`, never promised by a flag.

Whether the cell is additive, so that the engine may keep the sum of wx and u in the place of both;
and that all it computes with is handed to it, so that every derivative is complete and no compiled
program holds on to a value that was traced elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.core import Tracer

from .._cells.closures import CLOSED_OVER
from .._cells.contract import Recurrent
from .._jax import Literal, inner_jaxpr, name_of, needed
from .._typing import Carry, Pre
from . import base
from .native.jaxprs import without_devices
from .spec import Recurrence


def recurrence_of(cell: Recurrent, ops: base.Operands) -> Recurrence:
    """`cell` as it is with these operands.

    Raises:
        NotImplementedError: it computes with a traced value that is none of them.
    """
    with without_devices():
        given = jax.eval_shape(base.projected, _plain(ops))
        first = jax.tree.map(_without_time, (given.wx, given.noise))
        weights, carry, extras = given.weights, given.carry, given.extras
        recur, u = jax.make_jaxpr(cell.recur, return_shape=True)(weights, carry)
        advance = jax.make_jaxpr(cell.advance)(carry, first[0], u, extras, first[1])
    for value in (*recur.consts, *advance.consts):
        if isinstance(value, Tracer):
            remedy = 'or use implementation="scan"'
            raise NotImplementedError(f"{type(cell).__name__} {CLOSED_OVER}; {remedy}")
    return Recurrence(cell, _is_additive(advance.jaxpr, carry, first[0], u))


def _plain(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _without_time(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


# ---- additive ------------------------------------------------------------------------------------
PARTS = ("split", "slice", "reshape", "squeeze", "copy", "clip_cotangent")
"""Primitives of one operand of which the sum's is the sum of the terms'."""


def _is_additive(jaxpr: Any, carry: Carry, wx: Pre, u: Any) -> bool:
    """Whether of the inputs wx and u nothing is used but their sum, or a sum of the same parts."""
    leaves, place = jax.tree.leaves(wx), len(jax.tree.leaves(carry))
    if [leaf.shape for leaf in leaves] != [u.shape]:
        return False
    marks: list[Any] = [None] * len(jaxpr.invars)
    marks[place], marks[place + 1] = ("wx",), ("u",)
    try:
        return not any(_outputs(jaxpr, marks, u.dtype))
    except _Apart:
        return False


class _Apart(Exception):
    """wx or u is used without the other."""


def _outputs(jaxpr: Any, marks: Sequence[Any], dtype: Any) -> list[Any]:
    """The marks of the results. A mark names wx or u, and then which part of it a value is."""
    env = dict(zip(jaxpr.invars, marks, strict=True))

    def mark(atom: Any) -> Any:
        return None if isinstance(atom, Literal) else env.get(atom)

    for eqn in needed(jaxpr):
        given = [mark(atom) for atom in eqn.invars]
        if any(given):
            env |= zip(eqn.outvars, _after(eqn, given, dtype), strict=True)
    return [mark(atom) for atom in jaxpr.outvars]


def _after(eqn: Any, marks: list[Any], dtype: Any) -> list[Any]:
    """The marks of an equation's results."""
    name, inner = name_of(eqn), inner_jaxpr(eqn)
    if inner is not None and not name.startswith("custom"):
        return _outputs(inner.jaxpr, marks, dtype)
    if name == "add" and {m and m[0] for m in marks} == {"wx", "u"}:
        if marks[0][1:] == marks[1][1:]:
            return [None]
    elif name == "convert_element_type" and marks == [("wx",)] and eqn.params["new_dtype"] == dtype:
        return marks  # As `base.joined` converts it.
    elif name in PARTS:
        part = (name, str(eqn.params))
        return [(*marks[0], *part, k) for k in range(len(eqn.outvars))]
    raise _Apart
