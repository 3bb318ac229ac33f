"""The step f_t with its mask and restart: all at once for given carries, or one after the other."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...._cells.contract import Recurrent
from ...._numerics import choose, expand_to
from ...._sequence import Sequence
from ...._typing import Array, Carry, Params

TIMED = ("xs", "valid", "restart", "noise")
"""Fields of a `Sequence` with an axis of time."""


def stepped(cell: Recurrent, params: Params, seq: Sequence, before: Carry) -> tuple[Carry, Array]:
    """(f_t(s_{t-1}), y_t) of all steps at once, for any carries s_{t-1} `before` them."""
    before = restarted(seq, before)
    new, ys = cell.unchecked_step(params, before, seq.xs, seq.noise)
    new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, before)
    return choose(seq.valid, new, before), ys


def outputs(cell: Recurrent, params: Params, seq: Sequence, carries: Carry) -> Array:
    """The y_t of all steps, for the carries s_t after them.

    No step runs once more if it need not: its cotangents would be clipped apart from those of the
    steps after it.
    """
    if cell.own_step:
        return stepped(cell, params, seq, previous(seq.carry, carries))[1]
    params, xs, _ = cell.prepare(params, seq.xs, seq.carry)
    return cell.emit(params, carries, xs.dtype)


def restarted(seq: Sequence, before: Carry) -> Carry:
    """The carries before all steps, put back to the origin where the sequence restarts."""
    if seq.restart is None:
        return before
    origin = jax.tree.map(
        lambda leaf, all_t: jnp.broadcast_to(leaf, all_t.shape), seq.origin, before
    )
    return choose(seq.restart, origin, before)


def guess(seq: Sequence) -> Carry:
    """The first carry at every step."""
    steps = seq.xs.shape[0]
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), seq.carry)


def previous(first: Carry, carries: Carry) -> Carry:
    """The carry before each step: s_0 .. s_{T-1}."""
    return jax.tree.map(lambda s, all_t: jnp.concatenate([s[None], all_t])[:-1], first, carries)


def step(cell: Recurrent, params: Params, seq: Sequence, carry: Carry, inputs: Any) -> Carry:
    """f_t(carry) of one step; inputs: its x, valid, restart and noise."""
    once = seq._replace(**dict(zip(TIMED, inputs, strict=True)))
    return stepped(cell, params, once, carry)[0]


def looped(cell: Recurrent, params: Params, seq: Sequence, found: Carry, converged: Array) -> Carry:
    """The carries `found` where their sequence `converged`; step by step where it did not.

    The loop takes no step if all did. It is no `lax.cond`, of which `vmap` runs both branches.
    """
    timed = tuple(getattr(seq, name) for name in TIMED)

    def put(all_t: Array, leaf: Array, t: Array) -> Array:
        leaf = jnp.where(expand_to(converged, leaf), all_t[t], leaf)
        return lax.dynamic_update_index_in_dim(all_t, leaf, t, 0)

    def after(t: Array, state: Any) -> Any:
        carry, carries = state
        inputs = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, t, keepdims=False), timed)
        carry = step(cell, params, seq, carry, inputs)
        return carry, jax.tree.map(lambda all_t, leaf: put(all_t, leaf, t), carries, carry)

    steps = jnp.where(jnp.all(converged), 0, seq.xs.shape[0]).astype(jnp.int32)
    return lax.fori_loop(jnp.zeros_like(steps), steps, after, (seq.carry, found))[1]
