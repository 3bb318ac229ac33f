"""Truncated backpropagation through time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax import lax

from .._checks import check_bool, check_callable, check_positive_int, counted, fail
from .._typing import Array, Carry
from .loop import Info, Loss, TrainState, check_state, make_step

__all__ = ["Stream", "make_tbptt"]
__dir__ = __all__.copy


class Stream(NamedTuple):
    """State of a stream between two calls of `make_tbptt`'s run, if k2 > k1.

    Attributes:
        carry: the carry after the last step, for example to evaluate from.
        start: the carry k2 - k1 steps before, where the next window starts.
        inputs: the inputs of those k2 - k1 steps, leaves [k2 - k1, ...].
        mask: [k2 - k1, *batch] bool, False at steps before the stream began.
    """

    carry: Carry
    start: Carry
    inputs: Any
    mask: Array


jax.export.register_namedtuple_serialization(Stream, serialized_name="lstm_jax.Stream")


def make_tbptt(
    apply: Callable[..., tuple[Carry, Any]],
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    k1: int,
    k2: int | None = None,
    has_aux: bool = False,
    batch_ndim: int = 1,
) -> Callable[..., tuple[TrainState, Any, Info]]:
    """Make a run of truncated backpropagation through time.

    One update follows every k1 steps; its gradient flows back through at most k2 >= k1 steps.
    Window n ends with step e = (n + 1) k1 and starts after s = max(e - k2, 0):

        carry_s                 kept from earlier windows, a constant
        carry_t, output_t       = apply(params_n, carry_{t-1}, input_t)            s < t <= e
        params_{n+1}            = params_n + tx(d loss(outputs, targets) / d params_n)

    Outputs and targets are those of the last k1 steps, so each counts once. The carry crosses from
    window to window, the gradient stops at step s. All windows run in one compiled call.

    With k2 = k1, the usual form, windows do not overlap and each step runs once. With k2 > k1
    windows overlap and each step runs about k2 / k1 times, always with the newest parameters;
    Williams & Peng keep the activations of older parameters instead.

    Args:
        apply: (params, carry, inputs, mask) -> (carry, outputs), a whole window as `unroll` runs
            it; windows have several lengths. Pass `mask` on to `unroll`: [T, *batch] bool, False
            before the stream began; None if k2 = k1.
        loss: (outputs, targets) of k1 steps -> scalar, or (scalar, aux) with `has_aux`.
        tx: the optimiser.
        k1: steps from update to update.
        k2: steps through which the gradient flows back, at least k1; None: k1.
        has_aux: `loss` returns (scalar, aux), as in `jax.value_and_grad`.
        batch_ndim: the number of batch axes, which follow time in the first leaf of the inputs.

    Returns:
        `run(state, carry, inputs, targets) -> (state, carry, history)`.
        carry: the carry before the first step; in a later call the one that the last call
        returned, which continues the stream. Returned: the carry after the last step if k2 = k1,
        else a `Stream`.
        inputs, targets: pytrees with leaves [T, ...], T a multiple of k1. Join streams cut into
        windows [N, k1, B] by `inputs.reshape(-1, B)`. Pass resets, or random keys for noise, as
        part of the inputs.
        history: the info of `make_step` with a leading axis [T / k1].

    Raises:
        ValueError: k1 < 1, k2 < k1; in the call, T below or not a multiple of k1, leaves of
            different T, a `Stream` of another k2 - k1.

    Source: Williams & Peng (1990), BPTT(h; h') with h = k2, h' = k1; Sutskever (2013, thesis).
    """
    check_callable("apply", apply, "a function of params, carry, inputs and a mask")
    check_callable("loss", loss, "a function of outputs and targets")
    check_bool("has_aux", has_aux)
    check_positive_int("batch_ndim", batch_ndim, least=0)
    k2 = _check_window(k1, k2)
    window_loss = _make_window_loss(apply, loss, k1, k2, has_aux)
    run_windows = jax.jit(_make_windows(make_step(window_loss, tx, has_aux=True), k1, k2, has_aux))

    def run(state: TrainState, carry: Any, inputs: Any, targets: Any) -> Any:
        check_state(state)
        _check_sequence(k1, inputs, targets)
        stream = carry
        if not isinstance(carry, Stream):
            stream = _new_stream(carry, inputs, k2 - k1, batch_ndim)
        if stream.mask.shape[0] != k2 - k1:
            seen = f"a Stream of {stream.mask.shape[0]} past steps"
            raise fail("carry", seen, f"k2 - k1 = {k2 - k1}", "pass what this run returned")
        state, stream, history = run_windows(state, stream, inputs, targets)
        return state, stream if k2 > k1 else stream.carry, history

    return run


def _make_window_loss(apply: Callable, loss: Loss, k1: int, k2: int, has_aux: bool) -> Loss:
    """Make the loss of a window of k2 steps -> (value, (carry after k1 steps, last carry, aux))."""

    def window_loss(params: Any, start: Carry, inputs: Any, mask: Any, targets: Any) -> Any:
        start = lax.stop_gradient(start)
        middle, outputs = apply(params, start, _cut(inputs, 0, k1), _cut(mask, 0, k1))
        end = middle
        if k2 > k1:
            end, more = apply(params, middle, _cut(inputs, k1, k2), _cut(mask, k1, k2))
            outputs = _cut(_joined(outputs, more), k2 - k1, k2)
        out = loss(outputs, targets)
        value, aux = out if has_aux else (out, None)
        return value, (middle, end, aux)

    return window_loss


def _make_windows(step: Callable, k1: int, k2: int, has_aux: bool) -> Callable[..., Any]:
    """Make the scan over windows: (state, stream, inputs, targets) -> (state, stream, history)."""

    def run_windows(state: TrainState, stream: Stream, inputs: Any, targets: Any) -> Any:
        length = _length(inputs)
        inputs = _joined(stream.inputs, inputs)
        mask = None
        if k2 > k1:  # Every step of the new inputs is valid.
            mask = _joined(stream.mask, jnp.ones((length, *stream.mask.shape[1:]), bool))

        def body(carry: Any, n: Array) -> Any:
            state, start, _ = carry
            window = _slice((inputs, mask), n * k1, k2)
            state, info = step(state, start, *window, _slice(targets, n * k1, k1))
            start, end, aux = info.pop("aux")
            return (state, start, end), info | ({"aux": aux} if has_aux else {})

        windows = jnp.arange(length // k1, dtype=jnp.int32)
        first = (state, stream.start, stream.carry)
        (state, start, end), history = lax.scan(body, first, windows)
        left = _cut((inputs, stream.mask if mask is None else mask), length, None)
        return state, Stream(end, start, *left), history

    return run_windows


def _new_stream(carry: Carry, inputs: Any, past: int, batch_ndim: int) -> Stream:
    """A stream before its first step: `past` masked steps, over which the carry is held."""
    # Masked inputs are never used; copies of the first one have the right type, random keys too.
    before = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], (past, *x.shape[1:])), inputs)
    batch = jnp.shape(jax.tree.leaves(inputs)[0])[1 : 1 + batch_ndim]
    return Stream(carry, carry, before, jnp.zeros((past, *batch), bool))


def _check_window(k1: int, k2: int | None) -> int:
    """Check k1 and k2; return k2, or k1 if k2 is None."""
    check_positive_int("k1", k1)
    if k2 is None:
        return k1
    check_positive_int("k2", k2)
    if k2 < k1:
        raise fail("k2", k2, f"at least k1 = {k1}", "pass a larger k2, or None for k2 = k1")
    return k2


def _check_sequence(k1: int, inputs: Any, targets: Any) -> None:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((inputs, targets))}
    if len(lengths) != 1 or () in lengths:
        seen = f"leading axes {sorted(lengths)}"
        raise fail("inputs, targets", seen, "one T for all", "pass leaves [T, ...], time first")
    length = _length(inputs)
    if length < k1:
        remedy = f"pass a longer sequence or k1 <= {length}"
        raise fail("inputs", f"T = {length}", f"at least k1 = {k1}", remedy)
    if length % k1:
        left = counted(length % k1, "step")
        remedy = f"drop the last {left}, pad the sequence, or choose a k1 that divides T"
        raise fail("inputs", f"T = {length}", f"a multiple of k1 = {k1}", remedy)


def _length(tree: Any) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _cut(tree: Any, start: int, stop: int | None) -> Any:
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)


def _slice(tree: Any, start: Array, size: int) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), tree)


def _joined(tree: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), tree, other)
