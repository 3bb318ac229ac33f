"""Proof that a function does for a call's batch what its translation does: two jaxprs compared."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._jax import Literal, inner_jaxpr, name_of, needed
from .jaxprs import OTHER_ROWS, ROWS, Untranslatable


def check_alike(translated: Any, trace: Callable[[int], Any], rows: Any, what: str) -> None:
    """Raise unless a function computes for `rows` sequences what it computes for ROWS of them.

    Args:
        translated: the function's closed jaxpr for ROWS sequences.
        trace: makes the function's closed jaxpr for a number of sequences.
        rows: number of sequences in the call; may be symbolic.
        what: name of the function in the message.

    Raises:
        Untranslatable: the two differ, or an axis was mistaken for the batch axis.
    """
    rows = rows if isinstance(rows, int) and rows != ROWS else OTHER_ROWS
    if not _alike(translated, trace(rows), rows):
        raise Untranslatable(f"{what} looks at the number of sequences, or has an axis as long")


def _alike(one: Any, other: Any, rows: int) -> bool:
    """Compare two closed jaxprs that may differ in the batch axis alone: ROWS here, `rows` there.

    The batch axis is one axis of an array. Its size may also come first among numbers in the
    parameters of an equation, such as a new shape; anywhere else it is a number as any other.
    """
    constants = [_numbers(c) for c in one.consts], [_numbers(c) for c in other.consts]
    (these, name), (those, name_there) = _computing(one.jaxpr, rows), _computing(other.jaxpr, ROWS)
    if constants[0] != constants[1] or len(these) != len(those) or one.effects != other.effects:
        return False
    for x, y in zip(these, those, strict=True):
        if not _same_names(x.invars, name, y.invars, name_there) or not _same(x, y, rows):
            return False
    return _same_names(one.jaxpr.outvars, name, other.jaxpr.outvars, name_there)


def _computing(jaxpr: Any, rows: int) -> tuple[list[Any], dict[Any, Any]]:
    """Return the equations that compute, and a name of each variable.

    For one sequence JAX leaves out equations that only reshape, such as the repetition of a row; so
    they are left out, and their results have the names of their operands.
    """
    number = itertools.count()
    name: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], number, strict=False))
    computing = []
    for eqn in needed(jaxpr):
        value, out = (*eqn.invars, None)[0], eqn.outvars[0]
        reshapes = eqn.primitive.name in RESHAPING and name_of(eqn) in RESHAPING
        if reshapes and _size(value, rows) == _size(out, rows):
            name[out] = _numbers(value.val) if isinstance(value, Literal) else name[value]
        else:
            computing.append(eqn)
            name.update(zip(eqn.outvars, number, strict=False))
    return computing, name


RESHAPING = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "reduce_sum")
"""Primitives that keep all numbers in their order, if they do not change how many there are."""


def _shape(atom: Any, rows: int) -> tuple[int, ...]:
    """Shape for `rows` sequences; the batch axis is any one of size ROWS, if there is but one."""
    shape = atom.aval.shape
    if shape.count(ROWS) != 1:
        return shape
    at = shape.index(ROWS)
    return (*shape[:at], rows, *shape[at + 1 :])


def _size(atom: Any, rows: int) -> int:
    return math.prod(_shape(atom, rows))


def _same_names(
    atoms: Sequence[Any],
    name: Mapping[Any, Any],
    there: Sequence[Any],
    name_there: Mapping[Any, Any],
) -> bool:
    """True if atoms are variables of the same names, or literals of the same numbers."""
    if len(atoms) != len(there):
        return False
    for x, y in zip(atoms, there, strict=True):
        one = _numbers(x.val) if isinstance(x, Literal) else name[x]
        if one != (_numbers(y.val) if isinstance(y, Literal) else name_there[y]):
            return False
    return True


def _same(x: Any, y: Any, rows: int) -> bool:
    """True if two equations have the same primitive, parameters and types."""
    if x.primitive is not y.primitive:
        return False
    if x.primitive.name in ("reduce_sum", "reduce_max"):
        return _same_types(x.invars, y.invars, rows) and _axes(x, rows) == _axes(y, ROWS)
    if not _same_types((*x.invars, *x.outvars), (*y.invars, *y.outvars), rows):
        return False
    inner = inner_jaxpr(x)
    if inner is not None:
        there = inner_jaxpr(y)
        return there is not None and _alike(inner, there, rows)
    if x.primitive.name == "custom_jvp_call":  # Its name stands for its whole program.
        return name_of(x) == name_of(y) == "exp_neg_sq"
    return _same_parameters(x, y, rows)


def _same_types(atoms: Sequence[Any], there: Sequence[Any], rows: int) -> bool:
    if len(atoms) != len(there):
        return False
    for x, y in zip(atoms, there, strict=True):
        if x.aval.dtype != y.aval.dtype or _shape(x, rows) != y.aval.shape:
            return False
    return True


def _axes(eqn: Any, rows: int) -> list[int]:
    """Axes of a reduction, but for those of size one, over which JAX may reduce or not."""
    shape = _shape(eqn.invars[0], rows)
    return [axis for axis in eqn.params["axes"] if shape[axis] != 1]


def _same_parameters(x: Any, y: Any, rows: int) -> bool:
    """Compare values; programs among them, and rules of derivatives, by their text."""
    for name, value in x.params.items():
        other = y.params[name]
        if isinstance(value, tuple) and value[:1] == (ROWS,):
            value = (rows, *value[1:])
        if value != other and ADDRESS.sub("", str(value)) != ADDRESS.sub("", str(other)):
            return False
    return True


ADDRESS = re.compile(" at 0x[0-9a-f]+")


def _numbers(constant: Any) -> bytes:
    """Bytes of a constant, or of its first row where all of its rows are the same."""
    rows = np.atleast_1d(np.asarray(constant))
    first = rows[:1].tobytes()
    return first if rows.tobytes() == first * len(rows) else rows.tobytes()
