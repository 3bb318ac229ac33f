"""Properties inferred from the jaxpr of a cell's `update`; no cell declares them.

A cell is additive if `update` uses only the sum of wx and u: an engine may then keep the sum in
place of both. A cell must also be given everything that it computes with as an operand; otherwise
derivatives would be incomplete, and a compiled program would hold a value traced elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer

from .._cells.closures import CLOSED_OVER, closes_over_traced
from .._cells.contract import Recurrent, options
from .._jax import Literal, inner_jaxpr, name_of, needed
from .._typing import Carry, Pre
from . import equations
from .jaxprs import without_devices
from .spec import Recurrence


def why_not(cell: Recurrent) -> str | None:
    """Return None if engines can run the cell, or one line that says why they cannot.

    The cell must factor into matmuls and an elementwise update, and close over no traced value.
    """
    if not cell.factors:
        return f"{_brief(cell)} does not factor into matmuls and an elementwise update"
    return f"{type(cell).__name__} {CLOSED_OVER}" if closes_over_traced(cell) else None


def _brief(cell: Any) -> str:
    """Name of the cell with those of its fields, except the size, that are not at their default."""
    given = {name: value for name, value in options(cell).items() if name != "hidden_size"}
    chosen = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{type(cell).__name__}({chosen})" if chosen else type(cell).__name__


def recurrence_of(cell: Recurrent, ops: equations.Operands) -> Recurrence:
    """Build the `Recurrence` of a cell, for operands of these shapes and dtypes.

    Raises:
        NotImplementedError: the cell computes with a traced value that is not an operand.
    """
    with without_devices():
        given = jax.eval_shape(equations.projected, _plain(ops))
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
"""Primitives f of one operand with f(a + b) = f(a) + f(b)."""


def _is_additive(jaxpr: Any, carry: Carry, wx: Pre, u: Any) -> bool:
    """True if wx and u are used only as wx + u, or as sums of matching parts (slices) of both."""
    leaves, place = jax.tree.leaves(wx), len(jax.tree.leaves(carry))
    bare = jax.tree_util.treedef_is_leaf(jax.tree.structure(wx))
    if not bare or leaves[0].shape != u.shape:
        return False
    marks: list[Any] = [None] * len(jaxpr.invars)
    marks[place], marks[place + 1] = ("wx",), ("u",)
    try:
        return not any(_outputs(jaxpr, marks, u.dtype))
    except _Apart:
        return False


class _Apart(Exception):
    """Raised when `update` uses wx or u without the other."""


def _outputs(jaxpr: Any, marks: Sequence[Any], dtype: Any) -> list[Any]:
    """Compute the marks of the results of a jaxpr, from those of its inputs.

    A mark says that a value is a part of wx or of u, and which part; None: it is neither.
    """
    env = dict(zip(jaxpr.invars, marks, strict=True))
    for eqn in needed(jaxpr):
        given = _marks_of(eqn.invars, env)
        if any(given):
            env |= zip(eqn.outvars, _after(eqn, given, dtype), strict=True)
    return _marks_of(jaxpr.outvars, env)


def _marks_of(atoms: Sequence[Any], env: Mapping[Any, Any]) -> list[Any]:
    return [None if isinstance(atom, Literal) else env.get(atom) for atom in atoms]


def _after(eqn: Any, marks: list[Any], dtype: Any) -> list[Any]:
    """Compute the marks of the results of one equation; raise `_Apart` if wx or u is used alone."""
    name, inner = name_of(eqn), inner_jaxpr(eqn)
    if inner is not None and not name.startswith("custom"):
        return _outputs(inner.jaxpr, marks, dtype)
    if name == "add" and {m and m[0] for m in marks} == {"wx", "u"}:
        if marks[0][1:] == marks[1][1:]:
            return [None]
    elif name == "convert_element_type" and marks == [("wx",)] and eqn.params["new_dtype"] == dtype:
        return marks  # `equations.joined` converts wx to the dtype of u in the same way.
    elif name in PARTS:
        part = (name, str(eqn.params))
        return [(*marks[0], *part, k) for k in range(len(eqn.outvars))]
    raise _Apart
