"""Training as pure functions: a step, a compiled loop of steps, truncated backpropagation.

    step = make_step(loss, tx)                        one update: jit it, scan it, vmap it
    run  = make_loop(loss, tx, sample, steps=100)     many updates in one compiled call
    run  = make_tbptt(apply, loss, tx, k1=50)         one update every k1 steps of long sequences

All of them take a `TrainState` and return (state, info): the state is what goes on, the info is
what happened and is never needed to go on. Around them `fit` is a Python loop that reports between
compiled calls, `evaluate` averages metrics over batches, and `JsonLines` keeps them in a file.
"""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from . import optim
from ._checks import check_positive_int, fail
from ._numerics import at_least_float32
from ._typing import Array, Carry, Key

Loss = Callable[..., Any]
"""`loss(params, *args)` -> scalar, or (scalar, aux) where `has_aux`."""
Info = dict[str, Any]
"""What one update did: "loss", the optimiser's report, "aux". A history is infos stacked."""


class TrainState(NamedTuple):
    """What training carries from update to update.

    params: the parameters, a pytree of arrays; opt_state: the optimiser's; step: int32 [], updates
    made so far, skipped ones included.
    """

    params: Any
    opt_state: optax.OptState
    step: Array


def create(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first update. Copies params, so a donated state leaves yours alone."""
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), params)
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))


def make_step(
    loss: Loss, tx: optax.GradientTransformation, *, has_aux: bool = False
) -> Callable[..., tuple[TrainState, Info]]:
    """One update: `step(state, *args) -> (state, info)`.

        params_{n+1} = params_n + tx(d loss(params_n, *args) / d params)

    Not compiled: wrap it in `jax.jit`, `lax.scan` or, over many seeds, `jax.vmap`.

    Args:
        loss: loss(params, *args) -> scalar, or (scalar, aux) where `has_aux`.
        tx: the optimiser; `optim.clipped_sgd`, or any of optax.
        has_aux: whether `loss` returns more than its value.

    Returns:
        `step`; its info holds "loss" (before the update), with a `clipped_sgd` inside `tx` all of
        `optim.report` ("norm_before", "norm_after", "clip_rate", "skipped", ...), and "aux".
    """

    def step(state: TrainState, *args: Any) -> tuple[TrainState, Info]:
        out, grads = jax.value_and_grad(loss, has_aux=has_aux)(state.params, *args)
        value, aux = out if has_aux else (out, None)
        # Optax mixes dtypes (Adam raises a float to an int32), so strict callers step aside here.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        info = {"loss": value, **_report(opt_state)} | ({"aux": aux} if has_aux else {})
        return TrainState(params, opt_state, state.step + 1), info

    return step


def _report(opt_state: Any) -> Info:
    """`optim.report`, or nothing where there is not exactly one `clipped_sgd` to report on."""

    def is_clipped(x: Any) -> bool:
        return isinstance(x, optim.ClippedSGDState)

    found = [s for s in jax.tree.leaves(opt_state, is_leaf=is_clipped) if is_clipped(s)]
    return optim.report(found[0]) if len(found) == 1 else {}


def make_loop(
    loss: Loss,
    tx: optax.GradientTransformation,
    sample: Callable[[Key], Any],
    steps: int,
    *,
    has_aux: bool = False,
    donate: bool = False,
) -> Callable[..., tuple[TrainState, Info]]:
    """Many updates in one compiled call: `run(state, key, steps=steps) -> (state, history)`.

        batch_n = sample(fold_in(key, n))        n = state.step, counted from `create`
        state_{n+1}, info_n = step(state_n, batch_n)

    The batches are drawn inside the call and depend on the key and n alone. So a run may be cut
    into calls anywhere, or go on from a saved state, and with the same key gives the same numbers;
    on CPU, the same bits.

    Args:
        loss: loss(params, batch) -> scalar, or (scalar, aux) where `has_aux`.
        tx: the optimiser.
        sample: key -> batch, any pytree; pure, as a task's `sample` for a fixed batch size is.
        steps: updates a call; one call may ask for another number, which compiles once more.
        has_aux: whether `loss` returns more than its value.
        donate: let the call write its result over the state it is given. Saves the memory of one
            state; the state passed in may then not be used again.

    Returns:
        `run`; history is `make_step`'s info with a leading axis [steps]. For S seeds together, with
        a history [steps, S]: `jax.vmap(run, out_axes=(0, 1))(states, keys)`.
    """
    check_positive_int("steps", steps)
    step = make_step(loss, tx, has_aux=has_aux)

    def scan(state: TrainState, key: Key, steps: int) -> tuple[TrainState, Info]:
        def body(state: TrainState, _: None) -> tuple[TrainState, Info]:
            return step(state, sample(jax.random.fold_in(key, state.step)))

        return lax.scan(body, state, None, length=steps)

    scan = jax.jit(scan, static_argnums=2, donate_argnums=0 if donate else ())

    def run(state: TrainState, key: Key, steps: int = steps) -> tuple[TrainState, Info]:
        check_positive_int("steps", steps)
        return scan(state, key, steps)

    return run


# ---- truncated backpropagation through time -----------------------------------------------------
class Stream(NamedTuple):
    """Where `make_tbptt`'s run stopped, when k2 > k1: all that its next windows look back on.

    carry: after the last step, to go on with at evaluation; start: where the next window starts,
    k2 - k1 steps before; inputs: of those steps, leaves [k2 - k1, ...]; mask: [k2 - k1, *batch]
    bool, False for those before the stream began.
    """

    carry: Carry
    start: Carry
    inputs: Any
    mask: Array


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
    """Truncated backpropagation through time: `run(state, carry, inputs, targets)`.

    After every k1 steps one update, whose gradient runs back through at most k2 >= k1 of them.
    Window n ends with step e = (n + 1) k1 and starts after s = max(e - k2, 0):

        carry_s                 kept from earlier windows, a constant
        carry_t, output_t       = apply(params_n, carry_{t-1}, input_t)            s < t <= e
        params_{n+1}            = params_n + tx(d loss(outputs, targets) / d params_n)

    with outputs and targets those of the last k1 steps, so each counts once. The carry crosses from
    window to window and the gradient stops exactly at s. All windows run in one compiled call.

    k2 = k1 is the usual form: windows side by side, each run once. With k2 > k1 they overlap, every
    step is run about k2 / k1 times and, unlike in Williams & Peng, who keep the activations that
    older parameters gave, again with the newest parameters.

    Args:
        apply: (params, carry, inputs, mask) -> (carry, outputs) over whole windows, in `unroll`'s
            grammar; it is given windows of several lengths. mask: [T, *batch] bool, False before
            the stream began, to pass on to `unroll`; None if k2 = k1, where it is never needed.
        loss: (outputs, targets) -> scalar, or (scalar, aux) where `has_aux`; of k1 steps each.
        tx: the optimiser.
        k1: steps from update to update.
        k2: steps that the gradient runs back, at least k1; None: k1.
        has_aux: whether `loss` returns more than its value.
        batch_ndim: the number of batch axes, which follow time in the first leaf of the inputs.

    Returns:
        `run(state, carry, inputs, targets) -> (state, carry, history)`.
        carry: before the first step; then what the last call returned, and the stream goes on as
        if the calls were one. It is the carry after the last step if k2 = k1, else a `Stream`.
        inputs, targets: pytrees with leaves [T, ...], T a multiple of k1. Streams cut into windows
        [N, k1, B] are one such sequence: `inputs.reshape(-1, B)`. Resets, or keys to draw noise
        from, travel in the inputs.
        history: `make_step`'s info with a leading axis [T / k1].

    Raises:
        ValueError: k1 < 1, k2 < k1; in the call, T below or not a multiple of k1, leaves of
            different T, a `Stream` of another k2 - k1.

    Source: Williams & Peng (1990), BPTT(h; h') with h = k2, h' = k1; Sutskever (2013, thesis).
    """
    k2 = _check_window(k1, k2)
    window_loss = _make_window_loss(apply, loss, k1, k2, has_aux)
    run_windows = jax.jit(_make_windows(make_step(window_loss, tx, has_aux=True), k1, k2, has_aux))

    def run(state: TrainState, carry: Any, inputs: Any, targets: Any) -> Any:
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
    """The loss of one window of k2 steps -> (value, (carry after k1 steps, last carry, aux))."""

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
    """All windows of a call: (state, stream, inputs, targets) -> (state, stream, history)."""

    def run_windows(state: TrainState, stream: Stream, inputs: Any, targets: Any) -> Any:
        length = _length(inputs)
        inputs = _joined(stream.inputs, inputs)
        mask = None
        if k2 > k1:  # Whatever the stream has reached is valid.
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
    """A stream that has seen nothing: `past` masked steps, over which the carry is held."""
    # What fills them is never looked at; the first input is of the right kind, if it is a key too.
    before = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], (past, *x.shape[1:])), inputs)
    batch = jnp.shape(jax.tree.leaves(inputs)[0])[1 : 1 + batch_ndim]
    return Stream(carry, carry, before, jnp.zeros((past, *batch), bool))


def _check_window(k1: int, k2: int | None) -> int:
    """k2, or k1 where it is None."""
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
        remedy = f"drop the last {length % k1} steps, pad them, or choose a k1 that divides T"
        raise fail("inputs", f"T = {length}", f"a multiple of k1 = {k1}", remedy)


def _length(tree: Any) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _cut(tree: Any, start: int, stop: int | None) -> Any:
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)


def _slice(tree: Any, start: Array, size: int) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), tree)


def _joined(tree: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), tree, other)


# ---- evaluation and the loop around it all ------------------------------------------------------
def evaluate(metrics: Callable[[Any, Any], Any], params: Any, batches: Any) -> dict[str, Array]:
    """The mean of metrics over batches, in one compiled call.

    Args:
        metrics: (params, batch) -> a scalar or a dict of scalars. Compiled once for each function,
            so pass the same one every time and not a new lambda.
        params: the parameters.
        batches: a batch with one more leading axis [N] in every leaf, such as
            `jax.vmap(sample)(jax.random.split(key, N))`. Batches weigh the same.

    Returns:
        name -> mean, in float32 or wider; a single scalar is named "loss".

    Raises:
        ValueError: no batch, or leaves of different N.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(counts) != 1 or counts <= {(), (0,)}:
        seen = f"leading axes {sorted(counts)}"
        raise fail("batches", seen, "one N >= 1 for all", "stack the batches, [N, ...] each leaf")
    return _evaluate(metrics, params, batches)


def _evaluate_batches(metrics: Callable[[Any, Any], Any], params: Any, batches: Any) -> Any:
    def mean(values: Array) -> Array:
        return jnp.mean(values.astype(at_least_float32(values.dtype)), axis=0)

    _, values = lax.scan(lambda _, batch: (None, metrics(params, batch)), None, batches)
    return jax.tree.map(mean, values if isinstance(values, dict) else {"loss": values})


_evaluate = jax.jit(_evaluate_batches, static_argnums=0)


def fit(
    run: Callable[..., tuple[TrainState, Info]],
    state: TrainState,
    key: Key,
    steps: int,
    *,
    chunk: int = 100,
    metrics: Callable[[dict[str, Any]], Any] | None = None,
    progress: Callable[..., Any] | None = None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
) -> tuple[TrainState, Info]:
    """`steps` more updates in compiled calls of `chunk`, with a report after each call.

        with JsonLines("log.jsonl") as log, progress(10_000, "train") as bar:
            state, history = fit(run, state, key, 10_000, metrics=log.write, progress=bar.advance)

    Args:
        run: as from `make_loop`: run(state, key, steps) -> (state, history [steps, ...]).
        state, key: as `run` takes them.
        steps: updates to make.
        chunk: updates a call; the last call makes what is left.
        metrics: called after each chunk with a dict of Python numbers: "step"; the mean "loss" of
            the chunk; all else in the history at the chunk's last update; `evaluate`'s values.
        progress: called after each chunk as progress(n, loss=...), n the updates made.
        evaluate: params -> dict of scalars, such as a closure over `lstm_jax.train.evaluate`; each
            goes to `metrics` as "eval_" + its name.

    Returns:
        (state, history): the history of all steps, in NumPy arrays.

    Raises:
        ValueError: steps or chunk below 1, or an `evaluate` whose values would go nowhere.
    """
    check_positive_int("steps", steps)
    check_positive_int("chunk", chunk)
    if evaluate is not None and metrics is None:
        remedy = "pass metrics=JsonLines(...).write or metrics=lines.append"
        raise fail("evaluate", "a function, without metrics", "metrics too", remedy)
    histories = []
    for size in _chunks(steps, chunk):
        state, history = run(state, key, size)
        histories.append(jax.device_get(history))
        line = _line(state, histories[-1])
        if evaluate is not None:
            values = jax.device_get(evaluate(state.params))
            line |= {f"eval_{name}": np.asarray(value).tolist() for name, value in values.items()}
        if metrics is not None:
            metrics(line)
        if progress is not None:
            progress(size, loss=float(np.mean(line["loss"])))
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *histories)


def _chunks(steps: int, chunk: int) -> Iterator[int]:
    for done in range(0, steps, chunk):
        yield min(chunk, steps - done)


def _line(state: TrainState, history: Info) -> dict[str, Any]:
    """One chunk in Python numbers."""
    last = jax.tree.map(lambda values: np.asarray(values[-1]).tolist(), history)
    with np.errstate(invalid="ignore"):  # The mean of Inf and -Inf is NaN, and no reason to warn.
        loss = np.mean(np.asarray(history["loss"], np.float64), axis=0).tolist()
    return {"step": np.asarray(state.step).tolist(), **last, "loss": loss}


class JsonLines:
    """A file of metrics, one JSON object a line, to use in a `with` statement.

    Lines are added at the end of what the file holds. Each is written whole, in one call to the
    system, and is in the file when `write` returns; if that fails, the file is as it was before.
    NaN, Inf and -Inf, which JSON lacks, become the strings "NaN", "Infinity" and "-Infinity": a log
    of exploding gradients should tell them apart, and `float` and JavaScript's `Number` read them.

    Args:
        path: the file; its folder must exist.

    Raises:
        ValueError: on entering, path lies in no folder or may not be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._file = None

    def __enter__(self) -> "JsonLines":
        try:
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            seen = f"{self.path!r} ({error.strerror})"
            remedy = f"create the folder {os.path.dirname(self.path) or '.'!r} or name another file"
            raise fail("path", seen, "a file that can be written", remedy) from error
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def write(self, record: dict[str, Any]) -> None:
        """Add one line.

        Args:
            record: name -> number, string, bool or None; a NumPy or JAX array of numbers; a list,
                tuple or dict of these.

        Raises:
            ValueError: a value that JSON cannot hold, or the file is not open.
            OSError: the system could not write the whole line, and none of it was kept.
        """
        if self._file is None:
            raise fail(
                "record", "a closed file", "an open one", "write inside `with JsonLines(..)`"
            )
        line = json.dumps(_plain("record", record), allow_nan=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        written = self._file.write(line)
        if written != len(line):
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, "the line did not fit and was taken back", self.path)


def _plain(name: str, value: Any) -> Any:
    """`value` in what JSON has; `name` says where it stands."""
    if isinstance(value, dict):
        return {str(key): _plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, int, float)):
        return value
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)) or not _is_real(value.dtype):
        wanted = "a number, string, bool or None, or an array, list or dict of them"
        raise fail(name, f"{value!r}", wanted, "leave it out or convert it")
    return _plain(name, np.asarray(value).tolist())


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
