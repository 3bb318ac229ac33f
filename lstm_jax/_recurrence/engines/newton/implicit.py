"""Derivatives of carries that solve s_t = f_t(s_{t-1}), however they were found.

They follow from the equation itself,

    ds_t = J_t ds_{t-1} + (df_t/dtheta) dtheta        theta: parameters, inputs, first carry

which is solved exactly: in parallel where J_t is whole, else by a loop. Its transpose is
backpropagation through time. Cotangents that are clipped at each step need the loop: the parallel
scan goes through products of J_t, which no clip has seen.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...._cells.contract import Recurrent
from ...._cells.wrappers import ClipCotangents, Wrapper
from ...._sequence import Sequence
from ...._typing import Carry, Params
from .iteration import scanned
from .steps import TIMED, previous, step, stepped
from .vectors import Dense, layout_of


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def attached(cell: Recurrent, params: Params, seq: Sequence, carries: Carry) -> Carry:
    """The carries s_1 .. s_T of all steps, with the derivatives of a solution."""
    del cell, params, seq
    return carries


@attached.defjvp
def _attached_jvp(cell: Recurrent, primals: Any, tangents: Any) -> tuple[Carry, Carry]:
    params, seq, _ = primals
    carries = attached(cell, *primals)

    def at(params: Params, seq: Sequence) -> Carry:
        return stepped(cell, params, seq, previous(seq.carry, carries))[0]

    _, direct = jax.jvp(at, primals[:2], tangents[:2])
    parallel = isinstance(layout_of(seq.carry), Dense) and not _clips(cell)
    moved = _in_parallel if parallel else _in_order
    return carries, moved(cell, params, seq, previous(seq.carry, carries), direct)


def _clips(cell: Any) -> bool:
    """True if a wrapper of the cell clips cotangents."""
    while isinstance(cell, Wrapper):
        if isinstance(cell, ClipCotangents):
            return True
        cell = cell.cell
    return False


def _in_parallel(
    cell: Recurrent, params: Params, seq: Sequence, before: Carry, direct: Carry
) -> Carry:
    layout = Dense(seq.carry)
    _, slopes = layout.linearized(cell, params, seq, before)
    return layout.carry(scanned(slopes, layout.vector(direct)))


def _in_order(
    cell: Recurrent, params: Params, seq: Sequence, before: Carry, direct: Carry
) -> Carry:
    def after(tangent: Carry, inputs: Any) -> tuple[Carry, Carry]:
        added, at, once = inputs
        along = functools.partial(step, cell, params, seq, inputs=once)
        through = jax.jvp(along, (at,), (tangent,))[1]
        tangent = jax.tree.map(jnp.add, added, through)
        return tangent, tangent

    zero = jax.tree.map(jnp.zeros_like, seq.carry)
    timed = tuple(getattr(seq, name) for name in TIMED)
    return lax.scan(after, zero, (direct, before, timed))[1]
