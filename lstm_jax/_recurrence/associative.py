"""`implementation="associative"`: all steps of a cell that is affine in its state, at once.

A stretch of steps is an affine map h -> a h + b, and so is one stretch after another:

    (a_1, b_1) then (a_2, b_2)  =  (a_1 a_2, a_2 b_1 + b_2)

Composition of maps is associative, so a scan over it takes log2(T) rounds in place of T steps
(Blelloch 1990; Martin & Cundy 2018, arXiv 1709.04057). A stretch that holds a restart forgets what
came before the last one in it, which leaves it associative (Blelloch's segmented scan).

A product of many a near one is a sum of their logarithms where the cell gives these
(`Affine.logarithmic`): the paper of minGRU takes them of b and h too, which then must be positive.
Here b and h stay what they are. Nothing is divided and gates in [0, 1] cannot overflow, so that is
stable, a carry may have any sign, and where one is put in the sequence continues: chunks are one
unroll.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent
from .._cells.linear import Affine
from .._numerics import cast, choose, expand_to, zero_where
from .._sequence import Sequence, Wanted
from .._typing import Array, Carry, Params
from .record import Asked, described, named


def why_not(cell: Recurrent, platform: str) -> str | None:
    """The cell must be an `Affine` as its class wrote it."""
    del platform
    if isinstance(cell, Affine) and type(cell).update is Affine.update and cell.factors:
        return None
    return f"the state of {type(cell).__name__} does not enter its step as a h + b"


class Stretch(NamedTuple):
    """h -> a h + b, over the steps since the last restart. Leaves [T, *batch, ...].

    a: or its logarithm, where the cell is `logarithmic`.
    restarted: whether there was one, so that h is the origin; None where there never is.
    """

    a: Array
    b: Array
    restarted: Array | None


def unroll(
    cell: Affine,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    wanted: Wanted,
    asked: Asked,
) -> tuple[Carry, Any]:
    """(final carry, (ys, all carries))."""
    params, xs, carry = cell.prepare(params, seq.xs, seq.carry)
    compose = functools.partial(then, logarithmic=cell.logarithmic)
    steps = _steps(cell, params, xs, seq)
    with named(described(asked, cell, xs.shape[0], carry, reverse)):
        so_far = lax.associative_scan(compose, steps, reverse=reverse)
    a = jnp.exp(so_far.a) if cell.logarithmic else so_far.a
    h = a * _start(seq, so_far).astype(a.dtype) + so_far.b
    carries = cell.state(h.astype(carry.h.dtype))
    final = cell.state(carries.h[0 if reverse else -1]) if len(h) else carry
    ys = cell.emit(params, carries, xs.dtype) if wanted.ys else None
    ys = ys if seq.valid is None else zero_where(~seq.valid, ys)
    return final, (ys, carries if wanted.carries else None)


def then(first: Stretch, second: Stretch, logarithmic: bool) -> Stretch:
    """One stretch after another."""
    a, b, restarted = first
    if restarted is not None and second.restarted is not None:
        # The identity, and not a product with zero: what came before may be NaN.
        a, b = choose(second.restarted, identity(a, b, logarithmic), (a, b))
        restarted = restarted | second.restarted
    if logarithmic:
        return Stretch(a + second.a, jnp.exp(second.a) * b + second.b, restarted)
    return Stretch(a * second.a, second.a * b + second.b, restarted)


def identity(a: Array, b: Array, logarithmic: bool) -> tuple[Array, Array]:
    """h -> h, in the shapes of a and b."""
    return (jnp.zeros_like if logarithmic else jnp.ones_like)(a), jnp.zeros_like(b)


def _steps(cell: Affine, params: Params, xs: Array, seq: Sequence) -> Stretch:
    """Each step by itself; one that is not valid is the identity."""
    given: Any = cell.extras(params)
    given = given if seq.noise is None else {**given, "noise": seq.noise}
    wx, given = cast((cell.project(params, xs), given), cell.accumulation(xs.dtype))
    a, b = cell.affine(wx, **given)
    if seq.valid is not None:
        a, b = choose(seq.valid, (a, b), identity(a, b, cell.logarithmic))
    return Stretch(a, b, seq.restart)


def _start(seq: Sequence, so_far: Stretch) -> Array:
    """The h that each stretch from the first step or the last restart begins with. [T or 1, ...]"""
    h = seq.carry.h[None]
    if seq.origin is None or so_far.restarted is None:
        return h
    return jnp.where(expand_to(so_far.restarted, h), seq.origin.h[None], h)
