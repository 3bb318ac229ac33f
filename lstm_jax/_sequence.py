"""A batch of sequences: its inputs, carry, valid steps and restarts."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from ._checks import as_array, check_flags, check_shape, concrete, fail
from ._typing import Array, Carry


class Sequence(NamedTuple):
    """A batch of sequences, checked, time-major, with padding set to zero.

    Attributes:
        xs: the inputs [T, *batch, D].
        carry: the carry before the first step.
        origin: the carry after a restart.
        valid: [T, *batch] bool; None: all steps are valid.
        restart: [T, *batch] bool; None: no restart.
        noise: random numbers of training, leaves [T, *batch, ...], or None.
    """

    xs: Array
    carry: Carry
    origin: Carry | None
    valid: Array | None
    restart: Array | None
    noise: Any = None


def lengths_to_mask(seq_lengths: Array, steps: int) -> Array:
    """Convert lengths [*batch] to a mask [T, *batch]: mask[t] = t < seq_lengths."""
    t = jnp.arange(steps, dtype=jnp.int32).reshape((steps,) + (1,) * jnp.ndim(seq_lengths))
    return t < jnp.asarray(seq_lengths, jnp.int32)[None]


def valid_steps(mask: Any, seq_lengths: Any, steps: int) -> Array | None:
    """Mask [T, *batch] of the steps that both arguments call valid; None if neither is given."""
    valid = None if mask is None else jnp.asarray(mask)
    if seq_lengths is None:
        return valid
    within = lengths_to_mask(seq_lengths, steps)
    return within if valid is None else within & valid


def check_lengths(seq_lengths: Any, steps: int, batch: tuple[int, ...]) -> Any:
    """Convert `seq_lengths` to an array; raise unless it is integers in [0, T], [*batch].

    Values are checked unless they are traced. None stays None.
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
    """Mask of the steps before which the carry restarts. [T, *batch] bool -> [T, *batch] bool

    resets[t] means that an episode starts at step t: forwards, the carry restarts before step t.
    Backwards, the first step of an episode is its last one, t if another episode starts at t + 1.
    """
    if not reverse:
        return resets
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])], axis=0)


def resets_from_dones(dones: Array, previous: Array | None = None) -> Array:
    """Convert `dones` (step t ended an episode) to `resets` (step t starts one).

        resets[t] = dones[t-1],   resets[0] = previous

    If the carry is kept from one rollout to the next, keep the last flag too:

        resets = resets_from_dones(dones, last)
        last = dones[-1]

    Args:
        dones: [T, *batch] bool, True where step t was the last step of its episode.
        previous: [*batch] bool, `dones[-1]` of the rollout before. None: this is the first
            rollout, or its carry is already restarted; otherwise an episode that has ended would
            go on in this rollout.

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
