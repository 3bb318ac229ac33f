"""The training state, one update, and a loop of updates in one compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax import lax

from .. import optim
from .._checks import (
    as_array,
    check_bool,
    check_callable,
    check_key,
    check_positive_int,
    fail,
    shown,
)
from .._typing import Array, Key
from ..optim._inside import check_optimizer, only
from ..optim._report import CLIPS
from ..optim.guarded import left_out, of_guard
from ..optim.loss_scale import LossScaleState
from ._gradient import make_gradient

__all__ = ["Info", "Loss", "TrainState", "create", "make_loop", "make_step"]
__dir__ = __all__.copy

Loss = Callable[..., Any]
"""A loss: (params, *args) -> scalar, or (scalar, aux) with `has_aux`."""
Info = dict[str, Any]
"""Report of one update: "loss", entries of `optim.report`, "aux". A history is a stack of infos."""


class TrainState(NamedTuple):
    """State that training carries from update to update.

    Attributes:
        params: the parameters, a pytree of arrays.
        opt_state: the optimiser's state.
        step: int32 [], the number of updates so far, skipped ones included.

    To serialise an exported update, register the optax states in `opt_state` first, as in
    `jax.export.register_namedtuple_serialization(optax.EmptyState, serialized_name="EmptyState")`.
    """

    params: Any
    opt_state: optax.OptState
    step: Array


jax.export.register_namedtuple_serialization(TrainState, serialized_name="lstm_jax.TrainState")


def create(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """Create the state before the first update. It copies params, so donating it keeps yours."""
    check_optimizer(tx)

    def copied(leaf: Any) -> Array:
        if not isinstance(leaf, jax.Array):  # Of JAX's arrays, random keys may pass too.
            leaf = as_array("params", leaf)
        return jnp.array(leaf, jnp.result_type(leaf))

    params = jax.tree.map(copied, params)
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    has_aux: bool = False,
    accumulate: int | None = None,
) -> Callable[..., tuple[TrainState, Info]]:
    """Make the function of one update: `step(state, *args) -> (state, info)`.

        params_{n+1} = params_n + tx(d loss(params_n, *args) / d params)

    It is not compiled: wrap it in `jax.jit`, `lax.scan` or, for many seeds, `jax.vmap`.

    With `accumulate` the batch is too large for the memory and comes in micro-batches. Their
    gradients are taken one after the other and added in at least float32; the optimiser sees their
    mean, once, so that it is this mean that is clipped, and one micro-batch of NaN makes the whole
    update not finite. (`optax.MultiSteps` spreads an update over several steps instead.)

    Args:
        loss: loss(params, *args) -> scalar, or (scalar, aux) with `has_aux`.
        tx: the optimiser: `optim.clipped_sgd` or any of optax. Its `update` also gets the loss as
            `value`, for `optax.contrib.reduce_on_plateau` and others that want it.
        has_aux: `loss` returns (scalar, aux), as in `jax.value_and_grad`.
        accumulate: the number of micro-batches of an update, the leading axis of every leaf of
            args. Each has the same weight. Loss in the info is the mean, aux has the leading axis.
            None: args are one batch, without that axis.

    Returns:
        `step`. Its info holds "loss" (before the update); "aux" with `has_aux`; if `tx` contains
        one `clipped_sgd`, or a clip of optax in `optim.observed`, all of `optim.report`
        ("norm_before", "clip_rate", "clipped", ...), and nothing of several; if it contains one
        `optim.guarded`, "not_finite", the number of updates that it left out, and "rate_scale"; if
        it contains one `optim.dynamic_loss_scale`, by whose scale the loss is multiplied,
        "loss_scale" and "overflows".
    """

    check_callable("loss", loss, "a function of params and more")
    check_optimizer(tx)
    check_bool("has_aux", has_aux)
    if accumulate is not None:
        check_positive_int("accumulate", accumulate)
    gradient = make_gradient(loss, has_aux, accumulate)
    update = optax.with_extra_args_support(tx).update

    def step(state: TrainState, *args: Any) -> tuple[TrainState, Info]:
        check_state(state)
        value, aux, grads = gradient(state.params, optim.loss_scale(state.opt_state), *args)
        # Optax mixes dtypes (Adam raises a float to an int32), which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = update(grads, state.opt_state, state.params, value=value)
            params = optax.apply_updates(state.params, updates)
        info = {"loss": value, **_report(opt_state)} | ({"aux": aux} if has_aux else {})
        return TrainState(params, opt_state, state.step + 1), info

    return step


def check_state(state: Any) -> None:
    """Raise unless `state` is a `TrainState`."""
    if not isinstance(state, TrainState):
        remedy = "pass lstm_jax.train.create(params, tx)"
        raise fail("state", shown(state), "a TrainState", remedy)


def _report(opt_state: Any) -> Info:
    """Report of the only clip in the tree that tells of itself, and of what guards it."""
    clipped, scale = only(CLIPS, opt_state), only(LossScaleState, opt_state)
    clips = {} if clipped is None else optim.report(clipped)
    if clips:  # Where an update was left out the state of the clip is that of the one before.
        bad = left_out(opt_state) if scale is None else left_out(opt_state) | scale.overflowed
        clips["norm_before"] = jnp.where(bad, jnp.nan, clips["norm_before"])
        clips["norm_after"] = jnp.where(bad, 0, clips["norm_after"])
    scales = {} if scale is None else {"loss_scale": scale.scale, "overflows": scale.overflows}
    return clips | of_guard(opt_state) | scales


def make_loop(
    loss: Loss,
    tx: optax.GradientTransformation,
    sample: Callable[[Key], Any],
    steps: int,
    *,
    has_aux: bool = False,
    accumulate: int | None = None,
    donate: bool = False,
) -> Callable[..., tuple[TrainState, Info]]:
    """Make a compiled loop of updates: `run(state, key, steps=steps) -> (state, history)`.

        batch_n = sample(fold_in(key, n))        n = state.step, counted from `create`
        state_{n+1}, info_n = step(state_n, batch_n)

    Batches are drawn inside the call and depend on the key and n alone. So a run that is cut into
    several calls, or continued from a saved state, gives the same numbers with the same key; on
    CPU, the same bits.

    Args:
        loss: loss(params, batch) -> scalar, or (scalar, aux) with `has_aux`.
        tx: the optimiser.
        sample: key -> batch, any pytree; a pure function, such as a task's `sample` with a fixed
            batch size.
        steps: updates per call; another number in a call compiles again.
        has_aux: `loss` returns (scalar, aux), as in `jax.value_and_grad`.
        accumulate: the number of batches that are drawn for an update, each with a key of its own;
            the gradient is the mean of theirs, as `make_step` says. None: one.
        donate: reuse the memory of the given state for the result; that state can then no longer
            be used.

    Returns:
        `run`. The history is the info of `make_step` with a leading axis [steps]. To train S seeds
        together, with a history [steps, S]: `jax.vmap(run, out_axes=(0, 1))(states, keys)`.
    """
    check_positive_int("steps", steps)
    check_callable("sample", sample, "a function from a key to a batch")
    check_bool("donate", donate)
    step = make_step(loss, tx, has_aux=has_aux, accumulate=accumulate)

    def draw(key: Key) -> Any:
        return sample(key) if accumulate is None else _draw_several(sample, key, accumulate)

    def scan(state: TrainState, key: Key, steps: int) -> tuple[TrainState, Info]:
        def body(state: TrainState, _: None) -> tuple[TrainState, Info]:
            return step(state, draw(jax.random.fold_in(key, state.step)))

        return lax.scan(body, state, None, length=steps)

    scan = jax.jit(scan, static_argnums=2, donate_argnums=0 if donate else ())

    def run(state: TrainState, key: Key, steps: int = steps) -> tuple[TrainState, Info]:
        check_positive_int("steps", steps)
        check_state(state)
        check_key("key", key)
        return scan(state, key, steps)

    return run


def _draw_several(sample: Callable[[Key], Any], key: Key, count: int) -> Any:
    return lax.map(sample, jax.random.split(key, count))
