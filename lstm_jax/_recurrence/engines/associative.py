"""`implementation="associative"`: a parallel scan over time for cells affine in their state.

Consecutive steps form an affine map h -> a h + b (a stretch). Two stretches form one again:

    (a_1, b_1) then (a_2, b_2)  =  (a_1 a_2, a_2 b_1 + b_2)

Composition of maps is associative, so a scan over it takes log2(T) rounds in place of T steps
(Blelloch 1990; Martin & Cundy 2018, arXiv 1709.04057). A stretch that contains a restart ignores
the state before it; composition stays associative (Blelloch's segmented scan).

Where the cell gives log a (`Affine.logarithmic`), the product of many a near one is computed as a
sum of logarithms. The minGRU paper takes logarithms of b and h too, which then must be positive;
here b and h are not transformed, so a carry may have any sign, and unrolling chunk by chunk equals
one unroll. This is stable: nothing is divided, and gates in [0, 1] cannot overflow.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..._cells.contract import Recurrent
from ..._cells.linear import Affine
from ..._numerics import cast, choose, expand_to, zero_unless
from ..._sequence import Sequence
from ..._typing import Array, Carry, Params
from ..record import Asked, described, named
from .kinds import Walk


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None for an `Affine` cell that keeps its `update`, or why the cell cannot run."""
    del platform
    if isinstance(cell, Affine) and type(cell).update is Affine.update and cell.factors:
        return None
    return f"the state of {type(cell).__name__} does not enter its step as a h + b"


class Stretch(NamedTuple):
    """The affine map h -> a h + b over the steps since the last restart. Leaves [T, *batch, ...].

    Attributes:
        a: the factor, or its logarithm if the cell is `logarithmic`.
        b: the summand.
        restarted: True if the stretch contains a restart, so that h is the carry after a restart;
            None if the sequence has no restarts.
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
    asked: Asked,
) -> tuple[Carry, Any]:
    """Unroll one cell and return (final carry, (ys, carries of all steps))."""
    params, xs, carry = cell.prepare(params, seq.xs, seq.carry)
    compose = functools.partial(then, logarithmic=cell.logarithmic)
    steps = _steps(cell, params, xs, seq)
    with named(described(asked, cell, xs.shape[0], carry, reverse)):
        so_far = lax.associative_scan(compose, steps, reverse=reverse)
    a = jnp.exp(so_far.a) if cell.logarithmic else so_far.a
    h = a * _start(seq, so_far).astype(a.dtype) + so_far.b
    carries = cell.state(h.astype(carry.h.dtype))
    final = cell.state(carries.h[0 if reverse else -1]) if len(h) else carry
    return final, (zero_unless(seq.valid, cell.emit(params, carries, xs.dtype)), carries)


def stretch_of(cell: Affine, params: Params, seq: Sequence, reverse: bool) -> Stretch:
    """Make the stretch of all steps together, leaves [*batch, ...], with a itself, not its log."""
    params, xs, _ = cell.prepare(params, seq.xs, seq.carry)
    compose = functools.partial(then, logarithmic=cell.logarithmic)
    so_far = lax.associative_scan(compose, _steps(cell, params, xs, seq), reverse=reverse)
    a, b, restarted = jax.tree.map(lambda x: x[0 if reverse else -1], so_far)
    return Stretch(jnp.exp(a) if cell.logarithmic else a, b, restarted)


def then(first: Stretch, second: Stretch, logarithmic: bool) -> Stretch:
    """Compose two stretches, `first` before `second`."""
    a, b, restarted = first
    if restarted is not None and second.restarted is not None:
        # Select the identity, as zero times a NaN from before the restart would be NaN.
        a, b = choose(second.restarted, identity(a, b, logarithmic), (a, b))
        restarted = restarted | second.restarted
    if logarithmic:
        return Stretch(a + second.a, jnp.exp(second.a) * b + second.b, restarted)
    return Stretch(a * second.a, second.a * b + second.b, restarted)


def identity(a: Array, b: Array, logarithmic: bool) -> tuple[Array, Array]:
    """Make the identity map h -> h, in the shapes of a and b."""
    return (jnp.zeros_like if logarithmic else jnp.ones_like)(a), jnp.zeros_like(b)


def _steps(cell: Affine, params: Params, xs: Array, seq: Sequence) -> Stretch:
    """Make the stretch of each single step; a step that is not valid is the identity."""
    given: Any = cell.extras(params)
    given = given if seq.noise is None else {**given, "noise": seq.noise}
    wx, given = cast((cell.project(params, xs), given), cell.accumulation(xs.dtype))
    a, b = cell.affine(wx, **given)
    if seq.valid is not None:
        a, b = choose(seq.valid, (a, b), identity(a, b, cell.logarithmic))
    return Stretch(a, b, seq.restart)


def _start(seq: Sequence, so_far: Stretch) -> Array:
    """Select the h before the first step, or after the last restart up to t. [T or 1, ...]"""
    h = seq.carry.h[None]
    if seq.origin is None or so_far.restarted is None:
        return h
    return jnp.where(expand_to(so_far.restarted, h), seq.origin.h[None], h)


# It does more arithmetic in fewer rounds, which pays only on parallel hardware.
WALK = Walk(why_not, unroll, slower_on=("cpu",), parallel=True)
