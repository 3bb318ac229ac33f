"""`fit`, a Python loop around compiled updates that reports between them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._checks import as_names, check_callable, check_positive_int, fail, shown
from .._typing import Key
from ..optim import failures
from ..optim.guarded import is_halted
from ._fitted import Fitted, continued, count
from .best import Best
from .checkpoints import Checkpoints
from .loop import Info, TrainState

__all__ = ["fit"]
__dir__ = __all__.copy


def fit(
    run: Callable[..., tuple[TrainState, Info]],
    state: TrainState,
    key: Key,
    steps: int,
    *,
    chunk: int = 100,
    metrics: Callable[[dict[str, Any]], Any] | None = None,
    progress: Callable[..., Any] | None = None,
    fields: Sequence[str] = (),
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    view: Callable[[TrainState], Any] | None = None,
    best: Best | None = None,
    callbacks: Sequence[Callable[[TrainState, dict[str, Any]], Any]] = (),
    checkpoints: Checkpoints | None = None,
) -> tuple[TrainState, Info]:
    """Make `steps` more updates in compiled calls of `chunk` updates, and report after each call.

        with JsonLines("log.jsonl") as log, progress(10_000, "train") as bar:
            state, history = fit(run, state, key, 10_000, metrics=log.write, progress=bar.advance)

    Args:
        run: run(state, key, steps) -> (state, history [steps, ...]), as from `make_loop`, or a
            `Feed`. If it has `get_state` and `set_state` they are kept by the checkpoints.
        state: the training state to continue from.
        key: the random key for `run`.
        steps: number of updates, unless `best`, a callback or a guarded optimiser ends training.
        chunk: updates per call; the last call makes the remainder.
        metrics: called after each chunk with its record, a dict of Python numbers: "step"; the mean
            "loss" of the chunk; every other entry of the history at the chunk's last update; the
            values of `evaluate`; and "failures", as `lstm_jax.optim.failures` tells them, if
            updates of the chunk were not finite and the optimiser is `lstm_jax.optim.guarded`.
        progress: called after each chunk as progress(n, loss=...), n the updates of the chunk.
        fields: entries of the record that `progress` gets too, such as ("clip_rate", "eval_loss").
        evaluate: params -> dict of scalars, such as a closure over `lstm_jax.train.evaluate`; the
            record gets each under "eval_" + its name.
        evaluate_every: updates from one evaluation to the next; each follows the chunk in which
            they are complete, one follows the last update. None: after every chunk.
        view: state -> the parameters that `evaluate` and `best` get, such as
            `lstm_jax.optim.averaged`; None: `state.params`.
        best: keeps the best parameters, and may stop training.
        callbacks: functions of the state and the record, called after each chunk. One that returns
            True stops training. They must not change the state, nor keep its arrays if `run` may
            use them up (`donate`).
        checkpoints: an open `Checkpoints`, whose folder gets a `Fitted` before the first update,
            after every `checkpoints.every` updates and after the last one, numbered by
            `state.step`. If there are some already, from an earlier process with the same call,
            updates go on from the newest, on CPU to the same bits; `metrics` gets again what it got
            after that one. A run that was stopped stays so.

    Returns:
        (state, history): the state after the last update, and the history of all updates, in NumPy
        arrays.

    Raises:
        ValueError: steps, chunk or evaluate_every below 1; `evaluate` without `metrics`, `best` or
            callbacks to receive its values; checkpoints of another call, or that cannot be written.
    """
    check_positive_int("steps", steps)
    check_positive_int("chunk", chunk)
    others = {"metrics": metrics, "progress": progress, "evaluate": evaluate, "view": view}
    fields = as_names("fields", fields) if fields else ()
    _check_functions(run, callbacks, **others)
    _check_evaluation(evaluate, evaluate_every, best, metrics is not None or len(callbacks) > 0)
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        remedy = 'pass the one of `with lstm_jax.train.Checkpoints("run") as checkpoints`'
        raise fail("checkpoints", shown(checkpoints), "Checkpoints", remedy)
    begin = int(np.max(state.step))
    view = view or _params
    now = Fitted(state, key, {}, best and best.begun(view(state)), False, _state_of(run))
    found = now if checkpoints is None else continued(checkpoints, now, steps)
    state, _, history, improved, stopped, place = found
    if found is not now and place is not None:
        run.set_state(place)  # pyright: ignore[reportFunctionMemberAccess]
    if best is not None and improved is not None:
        best.kept = improved
    done, told = count(history), failures(state)
    if done and progress is not None:
        progress(done, loss=float(np.mean(history["loss"][-chunk:])))
    histories = [history] if done else []

    def report(size: int) -> bool:
        """Report of the last `size` updates; True if it is time to stop."""
        record = _record(state, histories[-1]) | _new_failures(state, told)
        evaluated = False
        if evaluate is not None and _is_due(done, size, steps, evaluate_every or size):
            record |= _named(evaluate(view(state)))
            evaluated = True
        if metrics is not None:
            metrics(record)
        if progress is not None:
            progress(size, **_fields(record, fields))
        stops = [_is_true(callback(state, record)) for callback in callbacks]
        if best is not None and (best.metric in record or evaluated or evaluate is None):
            stops.append(best.see(record, view(state), begin + done))
        return any(stops) or is_halted(state)

    while done < steps and not stopped:
        size = min(chunk - done % chunk, steps - done)
        told = failures(state)
        state, history = run(state, key, size)
        histories.append(jax.device_get(history))
        done += size
        stopped = report(size)
        due = stopped or _is_due(done, size, steps, checkpoints.every) if checkpoints else False
        if checkpoints is not None and due:
            histories = [joined(histories)]
            now = Fitted(state, key, histories[0], best and best.kept, stopped, _state_of(run))
            checkpoints.save(begin + done, now)
    return state, joined(histories)


def _state_of(run: Any) -> Any:
    """What a run keeps beside the training state, such as its place in the data."""
    return run.get_state() if hasattr(run, "get_state") and hasattr(run, "set_state") else None


def _params(state: TrainState) -> Any:
    return state.params


def joined(histories: list[Info]) -> Info:
    """Join the histories of several calls."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *histories)


def _is_due(done: int, size: int, steps: int, every: int) -> bool:
    """True if the last `size` updates have a multiple of `every` among them, or end the run."""
    return done == steps or done // every > (done - size) // every


def _is_true(value: Any) -> bool:
    """True for a single True of Python, NumPy or JAX: what a callback returns to stop."""
    return np.asarray(value).dtype == bool and bool(np.all(value))


def _record(state: TrainState, history: Info) -> dict[str, Any]:
    """Summarise one chunk as a dict of Python numbers."""
    last = jax.tree.map(lambda values: np.asarray(values[-1]).tolist(), history)
    with np.errstate(invalid="ignore"):  # The mean of Inf and -Inf is NaN; do not warn.
        loss = np.mean(np.asarray(history["loss"], np.float64), axis=0).tolist()
    return {"step": np.asarray(state.step).tolist(), **last, "loss": loss}


def _new_failures(state: TrainState, told: list[dict[str, Any]]) -> dict[str, Any]:
    """The failures that `optim.guarded` tells and has not `told` before, as an entry."""
    before = {str(failure.get("member")): failure["count"] for failure in told}
    new = [f for f in failures(state) if f["count"] > before.get(str(f.get("member")), 0)]
    return {"failures": new} if new else {}


def _fields(record: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """The loss and the entries of these names, each the mean of all runs, for `progress`."""
    for name in names:
        if name not in record and not name.startswith("eval_"):  # These may come later.
            remedy = "name one of these"
            raise fail("fields", repr(name), f"one of {sorted(record)}", remedy)
    found = [name for name in ("loss", *names) if name in record]
    return {name: float(np.mean(record[name])) for name in found}


def _named(values: Any) -> dict[str, Any]:
    """What `evaluate` gave, as entries of the record."""
    if not isinstance(values, Mapping):
        remedy = "give its name too: {'loss': value}"
        raise fail("evaluate", f"a function that gives {shown(values)}", "a dict", remedy)
    values = jax.device_get(values)
    return {f"eval_{name}": np.asarray(value).tolist() for name, value in values.items()}


def _check_functions(run: Any, callbacks: Any, **others: Any) -> None:
    check_callable("run", run, "what make_loop gives")
    for name, function in others.items():
        if function is not None:
            check_callable(name, function)
    if callable(callbacks):
        remedy = "pass callbacks=(function,)"
        raise fail("callbacks", shown(callbacks), "a sequence of functions", remedy)
    for callback in callbacks:
        check_callable("callbacks", callback, "functions of the state and the record", 2)


def _check_evaluation(evaluate: Any, every: Any, best: Any, is_heard: bool) -> None:
    if evaluate is not None and not (is_heard or best is not None):
        remedy = "pass metrics=JsonLines(...).write or metrics=lines.append"
        raise fail("evaluate", "a function, without metrics", "metrics too", remedy)
    if every is not None:
        check_positive_int("evaluate_every", every)
        if evaluate is None:
            remedy = "pass evaluate=function too"
            raise fail("evaluate_every", every, "a function to evaluate with", remedy)
    if best is not None and not isinstance(best, Best):
        remedy = 'pass for example lstm_jax.train.Best("eval_loss")'
        raise fail("best", shown(best), "a Best", remedy)
    if best is not None and evaluate is None and best.metric.startswith("eval_"):
        remedy = "pass evaluate=function too"
        raise fail("best", f"a Best of {best.metric!r}", "a function to evaluate with", remedy)
