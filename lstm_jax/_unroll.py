"""`unroll`: run a cell or net over a sequence, with padding and restarts; `which`: report how."""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ._arguments import explained
from ._cells.closures import CLOSED_OVER, closes_over_traced
from ._cells.contract import Recurrent, check_fit, check_inputs, sizes_of
from ._checks import check_bool, check_choice, check_flags, check_key
from ._net import Net, Walk, Walked, cells_of, check_net
from ._numerics import batch_zero, expand_to, varying_as, zero_unless
from ._recurrence import select
from ._recurrence.engines import newton
from ._recurrence.record import Asked
from ._remat import Remat, chunk_length, rematerialized
from ._sequence import Sequence, check_lengths, restarts_before, valid_steps
from ._static import compiled_for
from ._typing import Array, Carry, Key, Params


@explained
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
    """Scan a cell or net over time; like `lax.scan` it returns the carry first.

    These rules hold for every implementation, both directions and every `remat`:

    * A step that is not valid leaves the carry as it is and gives a zero output. What xs holds
      there, NaN and Inf included, reaches neither values nor gradients.
    * The final carry is the one after the last valid step; a sequence of length 0 returns its
      initial carry.
    * `resets[t]` puts the carry back to `cell.initial_carry` before step t, valid or not, and cuts
      the gradient there. So a sequence with resets may be cut into chunks anywhere. A NaN in the
      carry goes no further than a reset; the gradient of a step that ran on a NaN may be NaN, be
      it masked or not, so where a given carry may hold one, reset it before the first step.
    * `reverse` walks from the last step to the first; ys stay aligned to xs, and a reset keeps the
      same steps together: walking backwards the carry restarts before step t if resets[t + 1].
      A chunk does not see resets[0] of the chunk after it: where that is set, pass no carry.

    Args:
        cell: a cell such as `LSTM(128)`, your own `Cell`, or a net: `stack(LSTM(128), GRU(64))`.
        params: the parameters, as from `cell.init`.
        xs: [T, *batch, D], floating-point; zero or more batch axes; T may be 0.
            (An `embedding` takes integers [T, *batch], a `ConvLSTM` images [T, *batch, ..., D].)
        carry: the carry before the first step, leaves [*batch, H]; None: `cell.initial_carry`.
        seq_lengths: [*batch] integers in [0, T]: steps t < seq_lengths are valid.
        mask: [T, *batch] bool, True where a step is valid; it may have gaps and left padding.
            Together with `seq_lengths`, a step is valid where both say so.
        resets: [T, *batch] bool, True where a step starts a new episode. resets[0] is True where
            the chunk before ended an episode: see `resets_from_dones(dones, previous)`.
        reverse: walk backwards in time.
        time_major: False if xs is [*batch, T, D], and mask and resets [*batch, T]; ys and the
            carries of all steps are then returned with the axes in that order too.
        key: a random key for training: it alone determines dropout, zoneout and noise, which are
            the same for every implementation and `remat`. None: evaluation.
        return_carries: return the carry after every step, leaves [T, *batch, H], in place of ys.
            At a step that is not valid it is the carry held there.
        remat: what the backward pass recomputes. None: nothing; "minimal": everything, only the
            inputs are kept; an int k: the carry is kept every k steps and the rest recomputed chunk
            by chunk; "sqrt": k = ceil(sqrt(T)).
        implementation: None (the fastest that can run the cell), a name, or names to try in order;
            see `which` and `inspect`. The kernels, "native" for CPUs, "pallas_tpu" for TPUs and
            "cuda" for NVIDIA's GPUs, cannot run every transformation of a cell; XLA then runs it,
            unless the kernel is the only or the last name. Those for TPUs and GPUs run only if
            they are named, until a committed result shows them right and faster on this kind of
            device; "newton" only if it is named.

    Returns:
        (carry, ys): the final carry, leaves [*batch, H], and ys [T, *batch, H] in the compute
        dtype; or (carry, carries) with `return_carries`.

    Raises:
        ValueError: a wrong shape, dtype, length or name; the message says which, and the remedy.
        NotImplementedError: the implementation asked for cannot run this cell, or is a parallel
            scan over time and T is symbolic. Also when the program is lowered, if a kernel alone
            was asked for and cannot run a part of it: a derivative of a derivative, an export,
            arrays split over devices outside `shard_map`, or a gradient or weight mask for each
            sequence of its own. The latter errors do not occur for T = 0 or an empty batch, where
            nothing runs.
        ExceptionGroup: several implementations were asked for and none can run this cell.
    """
    given = cell, params, xs, carry, seq_lengths, mask, resets
    return called(*given, reverse, time_major, key, return_carries, remat, implementation, None)


def called(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None,
    seq_lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    time_major: bool,
    key: Key | None,
    return_carries: bool,
    remat: Remat,
    implementation: select.Choice,
    iterations: int | None,
) -> Any:
    """Check the arguments of `unroll` or, with `iterations`, of `unroll_newton`; then run it."""
    check_net("cell", cell, "unroll(cell, params, xs)")
    for name, flag in (
        ("reverse", reverse),
        ("time_major", time_major),
        ("return_carries", return_carries),
    ):
        check_bool(name, flag)
    check_key("key", key, optional=True)
    cell = compiled_for(cell)
    select.named(implementation)  # A net may have no cell.
    asked = tuple(select.asked(c, implementation) for c in cells_of(cell))
    letters = "[T, *batch" if time_major else "[*batch, T"
    shape = f"{letters}, D]" if cell.input_ndim else f"{letters}]"
    xs = check_inputs("xs", xs, shape, 1 + cell.input_ndim)
    traced = closes_over_traced(cell)  # A cache would let the traced value leak.
    closed = [c for c in cells_of(cell) if c.factors and closes_over_traced(c)] if traced else []
    if closed and implementation is None:
        warnings.warn(f"plain scan, the slowest, runs {cell}: it {CLOSED_OVER}", stacklevel=4)
    input_size, axes = sizes_of(cell, xs.shape)
    mask = check_flags("mask", mask, axes, f"{letters}]")
    resets = check_flags("resets", resets, axes, f"{letters}]")
    steps, batch = (axes[0], axes[1:]) if time_major else (axes[-1], axes[:-1])
    seq_lengths = check_lengths(seq_lengths, steps, batch)
    params = check_fit(cell, params, carry, input_size, batch, kept=not traced)
    chunk = chunk_length(remat, steps)
    options = _Options(asked, reverse, time_major, return_carries, chunk, iterations)
    run = _unroll if traced else _jitted
    return run(cell, options, params, xs, carry, seq_lengths, mask, resets, key)


class _Options(NamedTuple):
    """Static options of a compiled unroll, besides the cell and the shapes."""

    asked: tuple[Asked, ...]  # one for each cell of a net, in the order in which they run
    reverse: bool
    time_major: bool
    return_carries: bool
    chunk: int | None
    iterations: int | None = None  # of Newton's method, if its certificate is wanted


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
) -> tuple[Any, ...]:
    """Run `unroll` on checked arguments; jitted below, so callers without jit compile once."""
    if not options.time_major:
        time_axis = xs.ndim - 1 - cell.input_ndim
        xs = jnp.moveaxis(xs, time_axis, 0)
        flags = (None if x is None else jnp.moveaxis(x, time_axis, 0) for x in (mask, resets))
        mask, resets = flags
    valid = valid_steps(mask, seq_lengths, xs.shape[0])
    xs = zero_unless(valid, xs)
    run: Any = _unroll_net if isinstance(cell, Net) else _unroll_cell
    final, (ys, carries, *more) = run(cell, options, params, xs, carry, valid, resets, key)
    results = carries if options.return_carries else ys
    if not options.time_major:
        results = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time_axis), results)
    return (final, results, *more)


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
    """Unroll a net by layers; `options.asked[i]` belongs to the i-th cell of `cells_of(net)`."""
    asked = iter(options.asked)

    def layer(part, params, xs, carry, key, reverse):
        if isinstance(part, Net):
            return part.walk(Walk(layer, valid, reverse), params, xs, carry, key)
        given = options._replace(asked=(next(asked),), reverse=reverse)
        final, results = _unroll_cell(part, given, params, xs, carry, valid, resets, key)
        return Walked(final, *results)

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
) -> tuple[Carry, Any]:
    """Unroll one cell; random numbers are drawn before `remat` cuts the sequence into chunks."""
    seq = prepared(cell, params, xs, carry, valid, resets, options.reverse)
    if key is not None:
        params, xs, noise = cell.training(key, params, seq.xs)
        seq = seq._replace(xs=xs, noise=lax.stop_gradient(noise))
    start = varying_as((seq.carry, seq.origin), (params, seq))
    seq = seq._replace(carry=start[0], origin=start[1])
    dtype = str(cell.compute_dtype(params, seq.xs))
    (asked,) = options.asked
    asked = dataclasses.replace(asked, input_size=seq.xs.shape[-1], dtype=dtype)

    def run(cell: Recurrent, params: Params, seq: Sequence) -> tuple[Carry, Any]:
        chosen = select.for_steps(asked, cell, seq.xs.shape[0])
        run_one = select.unroll_of(chosen.implementation)
        if options.iterations:
            run_one = functools.partial(newton.certified, iterations=options.iterations)
        one = functools.partial(run_one, cell, reverse=options.reverse, asked=chosen)
        return rematerialized(one, params, seq, options.chunk, options.reverse)

    return cell.whole(run, params, seq, options.reverse)


def evaluated(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None,
    valid: Array | None,
    resets: Array | None,
    *,
    key: Key | None,
    reverse: bool,
) -> tuple[Carry, Any]:
    """Unroll one cell on checked arguments, by default: (final carry, (ys, all carries))."""
    options = _Options((select.asked(cell, None),), reverse, True, True, None)
    return _unroll_cell(cell, options, params, xs, carry, valid, resets, key)


def prepared(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None,
    valid: Array | None,
    resets: Array | None,
    reverse: bool,
) -> Sequence:
    """Build the `Sequence` that an implementation takes: typed carries, and restarts for resets."""
    batch = xs.shape[1 : xs.ndim - cell.input_ndim]
    origin = _typed(cell, params, xs, cell.initial_carry(params, batch))
    carry = origin if carry is None else _typed(cell, params, xs, carry)
    if resets is None:
        return Sequence(xs, carry, None, valid, None)
    return Sequence(xs, carry, origin, valid, restarts_before(resets, reverse))


def _typed(cell: Recurrent, params: Params, xs: Array, carry: Carry) -> Carry:
    """Convert `carry` to the dtypes that it keeps over time, and shard it as xs is."""
    zero = batch_zero(xs, cell.input_ndim)
    dtypes = cell.types_of_carry(params)

    def typed(leaf: Array, dtype: Any) -> Array:
        return jnp.asarray(leaf, dtype) + expand_to(zero, leaf).astype(dtype)

    return jax.tree.map(typed, carry, dtypes)


def which(
    cell: Recurrent | Net, *, platform: str | None = None, implementation: select.Choice = None
) -> Any:
    """Report which implementation `unroll` runs for a cell, and why the others do not run.

    It knows the cell alone, and `inspect` the shapes of a call, which may be for another one: a
    sequence of a single step goes to XLA ("fused"), unless "native" is named.

    Args:
        cell: a cell or a net.
        platform: "cpu", "gpu" or "tpu"; None: JAX's default.
        implementation: as in `unroll`.

    Returns:
        `Which(implementation, platform, rejected)`, which prints as a list; for a net a tuple of
        these, one for each cell in the order in which they run, which prints so too.

    Raises:
        ValueError, NotImplementedError, ExceptionGroup: for the same reasons as `unroll`.
    """
    check_net("cell", cell)
    hash(cell)  # Raises where `unroll` would: for an array in a field.
    if platform is not None:
        check_choice("platform", platform, select.PLATFORMS)
    select.named(implementation)
    if isinstance(cell, Net):
        each = [select.select(c, implementation, platform) for c in cells_of(cell)]
        return select.WhichOfNet(each)
    return select.select(cell, implementation, platform)
