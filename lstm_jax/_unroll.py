"""`unroll`: a cell or net over a whole sequence, with padding and restarts decided."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ._cells.closures import CLOSED_OVER, closes_over_traced
from ._cells.contract import Recurrent, check_fit, check_inputs, sizes_of
from ._checks import check_bool, check_choice, check_flags, check_key
from ._net import Net, Walk, Walked, cells_of, check_net
from ._numerics import batch_zero, expand_to, varying_as, zero_unless
from ._recurrence import select
from ._recurrence.record import Asked
from ._remat import Remat, chunk_length, rematerialized
from ._sequence import Sequence, Wanted, check_lengths, restarts_before, valid_steps
from ._static import compiled_for
from ._typing import Array, Carry, Key, Params


def unroll(
    cell: Recurrent | Net,
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
        cell: such as `LSTM(128)`, a user's own `Cell`, or a net: `stack(LSTM(128), GRU(64))`.
        params: as from `cell.init`.
        xs: [T, *batch, D], floating-point; any number of batch axes, none included; T may be 0.
            (An `embedding` takes integers [T, *batch], a `ConvLSTM` images [T, *batch, ..., D].)
        carry: the carry before the first step, leaves [*batch, H]; None: `cell.initial_carry`.
        seq_lengths: [*batch] integers in [0, T]: steps t < seq_lengths are valid.
        mask: [T, *batch] bool, True where a step is valid: gaps and left padding too. Together with
            `seq_lengths`, a step is valid where both say so.
        resets: [T, *batch] bool, True where a step starts a new episode. Where an episode ended
            with the chunk before, resets[0] says so: `resets_from_dones(dones, previous)`.
        reverse: walk backwards in time.
        time_major: False if xs come as [*batch, T, D] and mask and resets as [*batch, T]; ys and
            the carries of all steps go out in the same order.
        key: a key means training: dropout, zoneout and noise are drawn from it, and from it alone:
            the same whatever the implementation and remat. None: evaluation.
        return_carries: return the carry after every step, leaves [T, *batch, H], in place of ys.
            At a step that is not valid it is the carry held there.
        remat: what the backward pass recomputes. None: nothing; "minimal": everything, only the
            inputs are kept; an int k: the carry is kept every k steps and the rest recomputed chunk
            by chunk; "sqrt": k = ceil(sqrt(T)).
        implementation: None (the best that applies), a name, or names to try in order; see `which`
            and `inspect`. "native", the kernel of the CPU, cannot run all that JAX makes of a
            cell; XLA then serves, unless nothing is named after "native".

    Returns:
        (carry, ys): the final carry, leaves [*batch, H], and ys [T, *batch, H] in the compute
        dtype; or (carry, carries) with `return_carries`.

    Raises:
        ValueError: a wrong shape, dtype, length or name; the message says which and what would do.
        NotImplementedError: the implementation asked for cannot run this cell; or, where the
            program is lowered, "native" alone was asked for and cannot run this part of it:
            derivatives of derivatives, exports, arrays split over devices outside `shard_map`, a
            gradient or a mask of each sequence where all sequences need one. Of no step or no
            sequence there is nothing to run, and no error.
        ExceptionGroup: several were asked for and none can.
    """
    check_net("cell", cell, "unroll(cell, params, xs)")
    for name, flag in (
        ("reverse", reverse),
        ("time_major", time_major),
        ("return_carries", return_carries),
    ):
        check_bool(name, flag)
    check_key("key", key, optional=True)
    cell = compiled_for(cell)
    asked = tuple(select.asked(c, implementation) for c in cells_of(cell))
    letters = "[T, *batch" if time_major else "[*batch, T"
    shape = f"{letters}, D]" if cell.input_ndim else f"{letters}]"
    xs = check_inputs("xs", xs, shape, 1 + cell.input_ndim)
    traced = closes_over_traced(cell)  # Then nothing may be kept for it.
    if traced and implementation is None and any(c.factors for c in cells_of(cell)):
        warnings.warn(f"plain scan, the slowest, runs {cell}: it {CLOSED_OVER}", stacklevel=2)
    input_size, axes = sizes_of(cell, xs.shape)
    mask = check_flags("mask", mask, axes, f"{letters}]")
    resets = check_flags("resets", resets, axes, f"{letters}]")
    steps, batch = (axes[0], axes[1:]) if time_major else (axes[-1], axes[:-1])
    seq_lengths = check_lengths(seq_lengths, steps, batch)
    params = check_fit(cell, params, carry, input_size, batch, kept=not traced)
    chunk = chunk_length(remat, steps)
    options = _Options(asked, reverse, time_major, return_carries, chunk)
    run = _unroll if traced else _jitted
    return run(cell, options, params, xs, carry, seq_lengths, mask, resets, key)


class _Options(NamedTuple):
    """What a compiled unroll is specialised to, besides the cell and the shapes."""

    asked: tuple[Asked, ...]  # of each cell of a net, in the order in which they run
    reverse: bool
    time_major: bool
    return_carries: bool
    chunk: int | None


def _unroll(
    cell: Recurrent | Net,
    options: _Options,
    params: Params,
    xs: Array,
    carry: Carry | None,
    seq_lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    key: Key | None,
) -> tuple[Carry, Any]:
    """`unroll` of checked arguments. Compiled here, so that a caller without jit compiles once."""
    if not options.time_major:
        time_axis = xs.ndim - 1 - cell.input_ndim
        xs = jnp.moveaxis(xs, time_axis, 0)
        flags = (None if x is None else jnp.moveaxis(x, time_axis, 0) for x in (mask, resets))
        mask, resets = flags
    valid = valid_steps(mask, seq_lengths, xs.shape[0])
    xs = zero_unless(valid, xs)
    run: Any = _unroll_net if isinstance(cell, Net) else _unroll_cell
    final, (ys, carries) = run(cell, options, params, xs, carry, valid, resets, key)
    results = carries if options.return_carries else ys
    if not options.time_major:
        results = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time_axis), results)
    return final, results


_jitted = jax.jit(_unroll, static_argnums=(0, 1))


def _unroll_net(
    net: Net,
    options: _Options,
    params: Params,
    xs: Array,
    carry: Carry | None,
    valid: Array | None,
    resets: Array | None,
    key: Key | None,
) -> tuple[Carry, Any]:
    """Layer by layer. `options.asked` are used up in the order of `cells_of`."""
    asked = iter(options.asked)

    def layer(part, params, xs, carry, key, reverse):
        if isinstance(part, Net):
            return part.walk(Walk(layer, valid, reverse), params, xs, carry, key)
        given = options._replace(asked=(next(asked),), reverse=reverse)
        wanted = Wanted(ys=True, carries=options.return_carries)
        arguments = (params, xs, carry, valid, resets, key)
        final, (ys, carries) = _unroll_cell(part, given, *arguments, wanted=wanted)
        return Walked(final, ys, carries)

    if carry is None:
        carry = net.initial_carry(params, xs.shape[1 : xs.ndim - net.input_ndim])
    walked = net.walk(Walk(layer, valid, options.reverse), params, xs, carry, key)
    return walked.final, (walked.ys, walked.carries)


def _unroll_cell(
    cell: Recurrent,
    options: _Options,
    params: Params,
    xs: Array,
    carry: Carry | None,
    valid: Array | None,
    resets: Array | None,
    key: Key | None,
    wanted: Wanted | None = None,
) -> tuple[Carry, Any]:
    """One cell, with what a key changes drawn before anything is cut into chunks.

    wanted: None: what `options` ask for.
    """
    wanted = wanted or Wanted(ys=not options.return_carries, carries=options.return_carries)
    seq = _prepare(cell, params, xs, carry, valid, resets, options.reverse)
    if key is not None:
        params, xs, noise = cell.training(key, params, seq.xs)
        seq = seq._replace(xs=xs, noise=lax.stop_gradient(noise))
    start = varying_as((seq.carry, seq.origin), (params, seq))
    seq = seq._replace(carry=start[0], origin=start[1])
    dtype = str(cell.compute_dtype(params, seq.xs))
    (asked,) = options.asked
    asked = dataclasses.replace(asked, input_size=seq.xs.shape[-1], dtype=dtype)

    def run(params: Params, seq: Sequence) -> tuple[Carry, Any]:
        chosen = select.IMPLEMENTATIONS[asked.implementation]
        return chosen.unroll(cell, params, seq, reverse=options.reverse, wanted=wanted, asked=asked)

    return rematerialized(run, params, seq, options.chunk, options.reverse)


def _prepare(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None,
    valid: Array | None,
    resets: Array | None,
    reverse: bool,
) -> Sequence:
    """The arguments in the engine's terms."""
    batch = xs.shape[1 : xs.ndim - cell.input_ndim]
    origin = _typed(cell, params, xs, cell.initial_carry(params, batch))
    carry = origin if carry is None else _typed(cell, params, xs, carry)
    if resets is None:
        return Sequence(xs, carry, None, valid, None)
    return Sequence(xs, carry, origin, valid, restarts_before(resets, reverse))


def _typed(cell: Recurrent, params: Params, xs: Array, carry: Carry) -> Carry:
    """`carry` in the dtypes that the engine keeps, and split over devices as xs is."""
    zero = batch_zero(xs, cell.input_ndim)
    dtypes = cell.types_of_carry(params)

    def typed(leaf: Array, dtype: Any) -> Array:
        return jnp.asarray(leaf, dtype) + expand_to(zero, leaf).astype(dtype)

    return jax.tree.map(typed, carry, dtypes)


def which(
    cell: Recurrent | Net, *, platform: str | None = None, implementation: select.Choice = None
) -> Any:
    """Which implementation `unroll` runs, and why the others do not.

    Args:
        cell: the cell, or a net.
        platform: "cpu", "gpu" or "tpu"; None: JAX's default.
        implementation: as in `unroll`.

    Returns:
        `Which(implementation, platform, rejected)`; it prints as a list. Of a net a tuple of them,
        one for each cell in the order in which they run.

    Raises:
        ValueError, NotImplementedError, ExceptionGroup: as `unroll`.
    """
    check_net("cell", cell)
    hash(cell)  # Which refuses what `unroll` does: an array in a field.
    if platform is not None:
        check_choice("platform", platform, select.PLATFORMS)
    if isinstance(cell, Net):
        return tuple(select.select(c, implementation, platform) for c in cells_of(cell))
    return select.select(cell, implementation, platform)
