"""What a batch of sequences is made of: valid steps, restarts, and the order of the axes."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from ._checks import as_array, check_flags, check_shape, concrete, fail
from ._typing import Array, Carry


class Sequence(NamedTuple):
    """One batch of sequences, checked, time-major, with padding set to zero.

    xs: [T, *batch, D]; carry: the carry before the first step; origin: the carry after a restart;
    valid, restart: [T, *batch] bool or None (all steps valid, no restart); noise: what training
    drew, leaves [T, *batch, ...], or None.
    """

    xs: Array
    carry: Carry
    origin: Carry | None
    valid: Array | None
    restart: Array | None
    noise: Any = None


class Wanted(NamedTuple):
    """Which results of all steps somebody asked for."""

    ys: bool
    carries: bool


def lengths_to_mask(seq_lengths: Array, steps: int) -> Array:
    """mask[t] = t < seq_lengths. seq_lengths: [*batch] int -> [T, *batch] bool."""
    t = jnp.arange(steps, dtype=jnp.int32).reshape((steps,) + (1,) * jnp.ndim(seq_lengths))
    return t < jnp.asarray(seq_lengths, jnp.int32)[None]


def check_lengths(seq_lengths: Any, steps: int, batch: tuple[int, ...]) -> Any:
    """`seq_lengths` as an array; raise unless it is [*batch] of integers in [0, T].

    Values are checked where they are known. None stays None.
    """
    if seq_lengths is None:
        return None
    seq_lengths = as_array("seq_lengths", seq_lengths)
    check_shape("seq_lengths", seq_lengths, batch, "[*batch]", "pass one length a sequence")
    if not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
        seen = f"dtype {seq_lengths.dtype}"
        raise fail("seq_lengths", seen, "an integer dtype", "pass whole lengths")
    values = concrete(seq_lengths)
    if values is not None and values.size and (values.min() < 0 or values.max() > steps):
        seen = f"values from {values.min()} to {values.max()}"
        raise fail("seq_lengths", seen, f"values in [0, T] = [0, {steps}]", "clip or pad")
    return seq_lengths


def restarts_before(resets: Array, reverse: bool) -> Array:
    """Where the carry restarts, in the order in which the steps are walked.

    resets[t] starts an episode at t, so forwards the carry restarts before step t. Backwards the
    same episodes are walked from their ends: step t comes first in its episode if t + 1 starts
    another. resets: [T, *batch] bool -> [T, *batch] bool.
    """
    if not reverse:
        return resets
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])], axis=0)


def resets_from_dones(dones: Array, previous: Array | None = None) -> Array:
    """resets[t] = dones[t-1], resets[0] = previous: from "t ended an episode" to "t starts one".

    Rollout by rollout, with the carry kept from one to the next, the last flag goes along:

        resets = resets_from_dones(dones, last)
        last = dones[-1]

    Args:
        dones: [T, *batch] bool, True where step t was the last one of its episode.
        previous: [*batch] bool, `dones[-1]` of the chunk before, which ends with step -1. None:
            nothing comes before, or the carry that comes with this chunk was restarted already.
            An episode that ended there goes on in this chunk otherwise.

    Returns:
        [T, *batch] bool, for `unroll`'s `resets`.

    Raises:
        ValueError: a wrong shape or dtype.
    """
    dones = as_array("dones", dones)
    if dones.ndim == 0:
        raise fail("dones", "shape ()", "[T, *batch]", "pass one flag a step and sequence")
    check_flags("dones", dones, dones.shape, "[T, *batch]")
    previous = check_flags("previous", previous, dones.shape[1:], "[*batch]")
    first = jnp.zeros_like(dones[:1]) if previous is None else jnp.asarray(previous)[None]
    return jnp.concatenate([first, dones], axis=0)[: dones.shape[0]]
