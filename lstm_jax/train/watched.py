"""`watch`: look into a network every n updates, inside the compiled loop."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import as_array, check_callable, check_positive_int, fail, shown
from .._typing import Key
from .loop import Info, TrainState, check_state

__all__ = ["watch"]
__dir__ = __all__.copy

Run = Callable[..., tuple[TrainState, Info]]


def watch(
    run: Run,
    probe: Callable[[Any], Any],
    every: int,
    *,
    name: str = "watched",
    steps: int | None = None,
) -> Run:
    """Add a probe to a compiled loop: what it returns after every n updates is in the history.

        def probe(params):
            norms = diagnostics.gradient_norms_by_lag(net, params, xs, loss)
            return {"norms": diagnostics.mean_log_norms(norms)}

        run = watch(make_loop(loss, tx, sample, 1000), probe, every=100)
        state, history = run(state, key)
        history["watched"]["norms"]      # leaves [10, T]

    The updates are those of `run`, to the bit. Nothing else runs between two probes, so the cost is
    that of the probe, once in `every` updates.

    Args:
        run: run(state, key, steps) -> (state, history), as from `make_loop`; jax traces it.
        probe: params -> any pytree of arrays, such as diagnostics of a batch that it closes over.
        every: updates from one probe to the next.
        name: the entry of the history. To watch twice, call `watch` twice, with two names; the
            inner `every` divides the outer one.
        steps: updates of a call that does not say; None: as many as `run` makes then, or, if `run`
            has no default either, the call must say.

    Returns:
        A `run` like the one given, for `steps` that are a multiple of `every`; its history has the
        entry `name`, leaves [steps / every, ...]: entry i is of the parameters after
        (i + 1) * every updates. `fit` takes it, with a `chunk` that is a multiple of `every`, and
        hands the last entry of each chunk to its `metrics`, such as `JsonLines(...).write` or
        `TensorBoard(...).write`.

    Raises:
        ValueError: every < 1, or a name that is no string; in the call, `steps` that is no multiple
            of it, or a history that has an entry `name` already.
    """
    check_callable("run", run, "what make_loop gives", 3)
    check_callable("probe", probe, "a function of params", 1)
    check_positive_int("every", every)
    if not isinstance(name, str):
        raise fail("name", shown(name), "a string", "it names an entry of the history")
    if steps is None:
        steps = _default_steps(run)
    else:
        check_positive_int("steps", steps)

    def scan(state: TrainState, key: Key, count: int) -> tuple[TrainState, Info]:
        def body(state: TrainState, _: None) -> tuple[TrainState, tuple[Info, Any]]:
            state, history = run(state, key, every)
            seen = jax.tree.map(lambda leaf: as_array("probe", leaf), probe(state.params))
            return state, (history, seen)

        state, (history, seen) = lax.scan(body, state, None, length=count)
        if name in history:
            raise fail("name", repr(name), f"a name not among {sorted(history)}", "pass another")
        return state, {**jax.tree.map(_joined, history), name: seen}

    scan = jax.jit(scan, static_argnums=2)

    def watched(state: TrainState, key: Key, steps: Any = steps) -> tuple[TrainState, Info]:
        check_state(state)
        check_positive_int("steps", steps)
        if steps % every:
            remedy = f"pass {steps - steps % every or every}, or another every"
            raise fail("steps", steps, f"a multiple of every = {every}", remedy)
        return scan(state, key, steps // every)

    return watched


def _default_steps(run: Run) -> int | None:
    """The number of updates that `run` makes if the call does not say; None if it must."""
    parameter = inspect.signature(run).parameters.get("steps")
    default = None if parameter is None else parameter.default
    return default if isinstance(default, int) else None


def _joined(leaf: Any) -> Any:
    """Join the histories of all calls: [calls, n, ...] -> [calls * n, ...]."""
    return jnp.reshape(leaf, (-1, *leaf.shape[2:]))
