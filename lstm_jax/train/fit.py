"""`fit`, a Python loop around compiled updates; `evaluate`, the mean of metrics over batches."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_callable, check_positive_int, counted, fail, shown
from .._numerics import at_least_float32
from .._typing import Array, Key
from .checkpoints import Checkpoints
from .loop import Info, TrainState

__all__ = ["Fitted", "evaluate", "fit"]
__dir__ = __all__.copy


def evaluate(metrics: Callable[[Any, Any], Any], params: Any, batches: Any) -> dict[str, Array]:
    """Average metrics over batches, in one compiled call.

    Args:
        metrics: (params, batch) -> a scalar or a dict of scalars. Pass the same function every
            time, not a new lambda: each new function is compiled again.
        params: the parameters.
        batches: a batch with one more leading axis [N] in every leaf, such as
            `jax.vmap(sample)(jax.random.split(key, N))`. Every batch has the same weight.

    Returns:
        A dict of means by name, in float32 or wider; a single scalar is named "loss".

    Raises:
        ValueError: no batch, or leaves of different N.
    """
    check_callable("metrics", metrics, "a function of params and a batch")
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


class Fitted(NamedTuple):
    """What `fit` writes to a checkpoint.

    Attributes:
        state: the training state.
        key: the random key of the run.
        history: the info of all updates so far, in NumPy arrays; {} before the first.
    """

    state: TrainState
    key: Key
    history: Info


jax.export.register_namedtuple_serialization(Fitted, serialized_name="lstm_jax.Fitted")


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
    checkpoints: Checkpoints | None = None,
) -> tuple[TrainState, Info]:
    """Make `steps` more updates in compiled calls of `chunk` updates, and report after each call.

        with JsonLines("log.jsonl") as log, progress(10_000, "train") as bar:
            state, history = fit(run, state, key, 10_000, metrics=log.write, progress=bar.advance)

    Args:
        run: run(state, key, steps) -> (state, history [steps, ...]), as from `make_loop`.
        state: the training state to continue from.
        key: the random key for `run`.
        steps: number of updates.
        chunk: updates per call; the last call makes the remainder.
        metrics: called after each chunk with a dict of Python numbers: "step"; the mean "loss" of
            the chunk; every other entry of the history at the chunk's last update; the values of
            `evaluate`.
        progress: called after each chunk as progress(n, loss=...), n the updates of the chunk.
        evaluate: params -> dict of scalars, such as a closure over `lstm_jax.train.evaluate`;
            `metrics` gets each under "eval_" + its name.
        checkpoints: an open `Checkpoints`, whose folder gets a `Fitted` before the first update,
            after every `checkpoints.every` updates and after the last one, numbered by
            `state.step`. If there are some already, from an earlier process with the same call,
            updates go on from the newest, on CPU to the same bits; `metrics` gets again what it got
            after that one.

    Returns:
        (state, history): the history of all updates, in NumPy arrays.

    Raises:
        ValueError: steps or chunk below 1; `evaluate` without `metrics` to receive its values;
            checkpoints of another call, or that cannot be written.
    """
    check_positive_int("steps", steps)
    check_positive_int("chunk", chunk)
    check_callable("run", run, "what make_loop gives")
    for name, f in (("metrics", metrics), ("progress", progress), ("evaluate", evaluate)):
        if f is not None:
            check_callable(name, f)
    if evaluate is not None and metrics is None:
        remedy = "pass metrics=JsonLines(...).write or metrics=lines.append"
        raise fail("evaluate", "a function, without metrics", "metrics too", remedy)
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        remedy = 'pass the one of `with lstm_jax.train.Checkpoints("run") as checkpoints`'
        raise fail("checkpoints", shown(checkpoints), "Checkpoints", remedy)
    begin = int(np.max(state.step))
    now = Fitted(state, key, {})
    if checkpoints is not None:
        now = _continued(checkpoints, now, steps)
    state, _, history = now
    done = _count(history)
    if done and progress is not None:
        progress(done, loss=float(np.mean(history["loss"][-chunk:])))
    histories = [history] if done else []
    for size in _chunks(steps - done, chunk):
        state, history = run(state, key, size)
        histories.append(jax.device_get(history))
        done += size
        line = _line(state, histories[-1])
        if evaluate is not None:
            values = jax.device_get(evaluate(state.params))
            line |= {f"eval_{name}": np.asarray(value).tolist() for name, value in values.items()}
        if metrics is not None:
            metrics(line)
        if progress is not None:
            progress(size, loss=float(np.mean(line["loss"])))
        if checkpoints is not None and _is_due(done, size, steps, checkpoints.every):
            histories = [_joined(histories)]
            checkpoints.save(begin + done, Fitted(state, key, histories[0]))
    return state, _joined(histories)


def _joined(histories: list[Info]) -> Info:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *histories)


def _count(history: Info) -> int:
    return len(history["loss"]) if history else 0


def _is_due(done: int, size: int, steps: int, every: int) -> bool:
    """True if the last `size` updates have a multiple of `every` among them, or end the run."""
    return done == steps or done // every > (done - size) // every


def _continued(checkpoints: Checkpoints, now: Fitted, steps: int) -> Fitted:
    """Read the newest checkpoint, or write the first, so that what cannot be written fails early.

    Raises:
        ValueError: the checkpoints are not of a call of `fit` with this state, key and steps.
    """
    begin = int(np.max(now.state.step))
    if not checkpoints.steps:
        checkpoints.save(begin, now)
        checkpoints.wait()
        return now
    step, found = checkpoints.restore(now._replace(history=...))
    done = _count(found.history)
    if step - done != begin:
        raise _other(checkpoints, f"that begin at update {step - done}", f"that begin at {begin}")
    if _bits(found.key) != _bits(now.key):
        raise _other(checkpoints, "of another random key", "of the key given")
    if done > steps:
        raise _other(checkpoints, f"of {counted(done, 'update')}", f"of at most {steps}")
    return found


def _bits(key: Key) -> bytes:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key).tobytes()


def _other(checkpoints: Checkpoints, seen: str, wanted: str) -> Exception:
    remedy = "give each call of fit a folder of its own"
    return fail("checkpoints", f"{str(checkpoints.folder)!r}, {seen}", f"those {wanted}", remedy)


def _chunks(steps: int, chunk: int) -> Iterator[int]:
    for done in range(0, steps, chunk):
        yield min(chunk, steps - done)


def _line(state: TrainState, history: Info) -> dict[str, Any]:
    """Summarise one chunk as a dict of Python numbers."""
    last = jax.tree.map(lambda values: np.asarray(values[-1]).tolist(), history)
    with np.errstate(invalid="ignore"):  # The mean of Inf and -Inf is NaN; do not warn.
        loss = np.mean(np.asarray(history["loss"], np.float64), axis=0).tolist()
    return {"step": np.asarray(state.step).tolist(), **last, "loss": loss}
