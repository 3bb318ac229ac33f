"""`fit`, a Python loop around compiled updates; `evaluate`, the mean of metrics over batches."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_callable, check_positive_int, fail
from .._numerics import at_least_float32
from .._typing import Array, Key
from .loop import Info, TrainState

__all__ = ["evaluate", "fit"]
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

    Returns:
        (state, history): the history of all updates, in NumPy arrays.

    Raises:
        ValueError: steps or chunk below 1, or `evaluate` without `metrics` to receive its values.
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
    """Summarise one chunk as a dict of Python numbers."""
    last = jax.tree.map(lambda values: np.asarray(values[-1]).tolist(), history)
    with np.errstate(invalid="ignore"):  # The mean of Inf and -Inf is NaN; do not warn.
        loss = np.mean(np.asarray(history["loss"], np.float64), axis=0).tolist()
    return {"step": np.asarray(state.step).tolist(), **last, "loss": loss}
