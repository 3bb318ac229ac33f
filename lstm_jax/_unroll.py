"""`unroll`: a cell over a whole sequence, with every question of padding and restarts decided."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._cells.base import Cell, check_carry, check_inputs, check_params
from ._checks import check_choice, check_flags
from ._numerics import batch_zero, expand_to, zero_where
from ._recurrence import select
from ._remat import Remat, chunk_length, rematerialized
from ._sequence import Sequence, check_lengths, lengths_to_mask, restarts_before
from ._typing import Array, Carry, Key, Params


def unroll(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    time_major: bool = True,
    key: Key | None = None,
    return_carries: bool = False,
    remat: Remat = None,
    implementation: select.Choice = None,
) -> tuple[Carry, Any]:
    """Scan a cell over time, in `lax.scan`'s grammar: carry first.

    The same whatever the implementation, the direction and remat:

    * A step that is not valid leaves the carry as it is and gives a zero output. What xs holds
      there, NaN and Inf included, reaches neither values nor gradients.
    * The final carry is the one after the last valid step; a sequence of length 0 returns its
      initial carry.
    * `resets[t]` puts the carry back to `cell.initial_carry` before step t, valid or not, and cuts
      the gradient there. So a sequence with resets may be cut into chunks anywhere. A NaN that the
      carry held goes no further; steps that ran on one have NaN for a derivative, so mask them
      out if the parameters are to learn from the rest.
    * `reverse` walks from the last step to the first; ys stay aligned to xs, and a reset keeps the
      same steps together: walking backwards the carry restarts before step t if resets[t + 1].
      A chunk does not see that flag of the chunk after it: where it is set, begin with no carry.

    Args:
        cell: such as `LSTM(128)`, or a user's own `Cell`.
        params: as from `cell.init`.
        xs: [T, *batch, D], floating-point; any number of batch axes, none included; T may be 0.
        carry: the carry before the first step, leaves [*batch, H]; None: `cell.initial_carry`.
        seq_lengths: [*batch] integers in [0, T]: steps t < seq_lengths are valid.
        mask: [T, *batch] bool, True where a step is valid: gaps and left padding too. Together with
            `seq_lengths`, a step is valid where both say so.
        resets: [T, *batch] bool, True where a step starts a new episode.
        reverse: walk backwards in time.
        time_major: False if xs come as [*batch, T, D] and mask and resets as [*batch, T]; ys and
            the carries of all steps go out in the same order.
        key: a key means training: cells that draw noise draw it from this key. None: evaluation.
        return_carries: return the carry after every step, leaves [T, *batch, H], in place of ys.
            At a step that is not valid it is the carry held there.
        remat: what the backward pass recomputes. None: nothing; "minimal": everything, only the
            inputs are kept; an int k: the carry is kept every k steps and the rest recomputed chunk
            by chunk; "sqrt": k = ceil(sqrt(T)).
        implementation: None (the best that applies), a name, or names to try in order; see `which`.

    Returns:
        (carry, ys): the final carry, leaves [*batch, H], and ys [T, *batch, H] in the compute
        dtype; or (carry, carries) with `return_carries`.

    Raises:
        ValueError: a wrong shape, dtype, length or name; the message says which and what would do.
        NotImplementedError: the implementation asked for cannot run this cell.
        ExceptionGroup: several were asked for and none can.
    """
    del key  # Drawn from by cells with noise; those here have none.
    chosen = select.select(cell, implementation).implementation
    letters = "[T, *batch" if time_major else "[*batch, T"
    xs = check_inputs("xs", xs, f"{letters}, D]", 1 + cell.input_ndim)
    check_params(cell, params, xs.shape[-1])
    axes = xs.shape[: xs.ndim - cell.input_ndim]
    mask = check_flags("mask", mask, axes, f"{letters}]")
    resets = check_flags("resets", resets, axes, f"{letters}]")
    steps, batch = (axes[0], axes[1:]) if time_major else (axes[-1], axes[:-1])
    seq_lengths = check_lengths(seq_lengths, steps, batch)
    chunk = chunk_length(remat, steps)
    options = _Options(chosen, reverse, time_major, return_carries, chunk)
    return _unroll(cell, options, params, xs, carry, seq_lengths, mask, resets)


class _Options(NamedTuple):
    """What a compiled unroll is specialised to, besides the cell and the shapes."""

    implementation: str
    reverse: bool
    time_major: bool
    return_carries: bool
    chunk: int | None


@functools.partial(jax.jit, static_argnums=(0, 1))
def _unroll(
    cell: Cell,
    options: _Options,
    params: Params,
    xs: Array,
    carry: Carry | None,
    seq_lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
) -> tuple[Carry, Any]:
    """`unroll` of checked arguments. Compiled here, so that a caller without jit compiles once."""
    if not options.time_major:
        time_axis = xs.ndim - 1 - cell.input_ndim
        xs = jnp.moveaxis(xs, time_axis, 0)
        flags = (None if x is None else jnp.moveaxis(x, time_axis, 0) for x in (mask, resets))
        mask, resets = flags
    seq = _prepare(cell, params, xs, carry, seq_lengths, mask, resets, options.reverse)

    def run(seq: Sequence) -> tuple[Carry, Any]:
        chosen = select.IMPLEMENTATIONS[options.implementation]
        given = {"reverse": options.reverse, "return_carries": options.return_carries}
        return chosen.unroll(cell, params, seq, **given)

    final, ys = rematerialized(run, seq, options.chunk, options.reverse)
    if not options.time_major:
        ys = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time_axis), ys)
    return final, ys


def _prepare(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    seq_lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
) -> Sequence:
    """The arguments, time-major, in the engine's terms."""
    origin = _typed(
        cell, params, xs, cell.initial_carry(params, xs.shape[1 : xs.ndim - cell.input_ndim])
    )
    if carry is None:
        carry = origin
    else:
        check_carry(carry, origin)
        carry = _typed(cell, params, xs, carry)
    valid = mask
    if seq_lengths is not None:
        within = lengths_to_mask(seq_lengths, xs.shape[0])
        valid = within if mask is None else mask & within
    xs = xs if valid is None else zero_where(~valid, xs)
    if resets is None:
        return Sequence(xs, carry, None, valid, None)
    return Sequence(xs, carry, origin, valid, restarts_before(resets, reverse))


def _typed(cell: Cell, params: Params, xs: Array, carry: Carry) -> Carry:
    """`carry` in the dtypes that the engine keeps, and varying over devices where xs does."""
    zero = batch_zero(xs, cell.input_ndim)
    dtypes = cell.carry_dtypes(cell.compute_dtype(params, xs))

    def typed(leaf: Array, dtype: Any) -> Array:
        return jnp.asarray(leaf, dtype) + expand_to(zero, leaf).astype(dtype)

    return jax.tree.map(typed, carry, dtypes)


def which(
    cell: Cell, *, platform: str | None = None, implementation: select.Choice = None
) -> select.Which:
    """Which implementation `unroll` runs, and why the others do not.

    Args:
        cell: the cell.
        platform: "cpu", "gpu" or "tpu"; None: JAX's default.
        implementation: as in `unroll`.

    Returns:
        `Which(implementation, platform, rejected)`; it prints as a list.

    Raises:
        ValueError, NotImplementedError, ExceptionGroup: as `unroll`.
    """
    if platform is not None:
        check_choice("platform", platform, select.PLATFORMS)
    return select.select(cell, implementation, platform)
