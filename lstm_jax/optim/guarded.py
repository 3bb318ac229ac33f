"""What happens where a loss or a gradient is not finite: the update is left out, and it is told."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .._checks import (
    as_array,
    check_callable,
    check_choice,
    check_positive_int,
    fail,
    is_real,
    shown,
)
from .._typing import Array
from ._inside import check_optimizer, only

__all__ = ["GuardState", "failures", "guarded"]
__dir__ = __all__.copy

LEAST = 2.0**-24
"""The lowest scale of the rate: a scale of 0 could never rise again."""


class GuardState(NamedTuple):
    """State of `guarded`; all arrays are scalars unless it says otherwise.

    Attributes:
        count: int32, the number of updates, those that were left out included.
        not_finite: int32, the number of updates that were left out as not finite.
        row: int32, the number of finite updates since the last one that was not.
        halted: bool, True after a failure under "stop".
        scale: float32, the factor of the rate; 1 except under "back_off".
        step: int32, the number of updates before the failure that is told; -1: none yet.
        loss: float32, the loss then; NaN if `update` was not given it.
        leaves: for every leaf of the parameters a bool: its gradient, or what it would have become,
            was not finite then.
        snapshot: what the probe gave then; zeros before. () without a probe.
        before: under "back_off" the parameters and the inner state before the last update; else ().
        inner: the state of the optimiser inside.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    not_finite: Array
    row: Array
    halted: Array
    scale: Array
    step: Array
    loss: Array
    leaves: Any
    snapshot: Any
    before: Any
    inner: optax.OptState


jax.export.register_namedtuple_serialization(GuardState, serialized_name="lstm_jax.GuardState")


def guarded(
    tx: optax.GradientTransformation,
    policy: str = "skip",
    *,
    probe: Callable[[Any], Any] | None = None,
    factor: float = 0.5,
    recover: int = 1000,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimiser so that an update which is not finite is left out, and told.

        tx = guarded(optax.adam(1e-3), "back_off")

    An update is not finite if the loss is NaN or Inf, or the gradient, or what a parameter would
    become. It is left out: parameters and the state of `tx` stay. Then, by `policy`:

        "skip"        that is all
        "back_off"    parameters and state go back to those before the last update (up to
                      rounding), and the rate is multiplied by `factor`; after `recover` finite
                      updates in a row it is divided by it, up to what it was
        "stop"        no update is made any more, so that parameters stay as they were there, and
                      `lstm_jax.train.fit` stops after the chunk

    `failures` tells the step, the loss, the parameters and the snapshot; of several such updates in
    a row it is the first that is told, as the others follow from it. `fit` writes it into its
    record. Transformations that look at the new parameters come after: `optax.chain(guarded(tx),
    average_params(0.99))`. A `clipped_sgd` inside no longer sees what is skipped.

    Args:
        tx: the optimiser, with its clipping inside.
        policy: "skip", "back_off" or "stop".
        probe: params -> any pytree of arrays, such as norms of gradients by lag for a batch that it
            closes over. It runs only where a failure is told (under `vmap`, always).
        factor: in (0, 1), what "back_off" multiplies the rate by.
        recover: finite updates until "back_off" takes one such step back.

    Returns:
        An optimiser of optax. Its `update` needs `params`, and takes the loss as `value`, which
        `make_step` passes; without it gradients and parameters alone are looked at.

    Raises:
        ValueError: an argument out of its range; in `update`, no `params`.
    """
    check_choice("policy", policy, ("skip", "back_off", "stop"))
    if probe is not None:
        check_callable("probe", probe, "a function of params", 1)
    if not is_real(factor) or not 0 < factor < 1:
        raise fail("factor", shown(factor), "a number in (0, 1)", "pass for example factor=0.5")
    check_positive_int("recover", recover)
    check_optimizer(tx)
    tx, backs_off = optax.with_extra_args_support(tx), policy == "back_off"

    def look(params: Any) -> Any:
        seen = () if probe is None else probe(params)
        return jax.tree.map(lambda leaf: jnp.asarray(as_array("probe", leaf)), seen)

    def init(params: Any) -> GuardState:
        snapshot = jax.eval_shape(look, params)
        # Distinct arrays: a donated state may not hold one buffer twice.
        return GuardState(
            *(jnp.zeros((), jnp.int32) for _ in range(3)),
            halted=jnp.zeros((), bool),
            scale=jnp.ones((), jnp.float32),
            step=jnp.full((), -1, jnp.int32),
            loss=jnp.full((), jnp.nan, jnp.float32),
            leaves=jax.tree.map(lambda _: jnp.zeros((), bool), params),
            snapshot=jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), snapshot),
            before=jax.tree.map(jnp.array, (params, tx.init(params))) if backs_off else (),
            inner=tx.init(params),
        )

    def update(
        updates: Any, state: GuardState, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, GuardState]:
        if params is None:
            raise fail("params", None, "the parameters", "call tx.update(grads, state, params)")
        steps, inner = tx.update(updates, state.inner, params, value=value, **extra)
        steps = jax.tree.map(lambda u: u * state.scale.astype(u.dtype), steps)
        leaves = _not_finite_leaves(updates, optax.apply_updates(params, steps))
        loss = jnp.asarray(jnp.nan if value is None else value).astype(jnp.float32)
        bad = _any(leaves) if value is None else _any(leaves) | ~jnp.isfinite(loss)
        told = bad & ~state.halted & ((state.row > 0) | (state.not_finite == 0))
        left_out = bad | state.halted
        old = _zeros(steps), state.inner
        if backs_off:
            back = jax.tree.map(lambda b, p: b - p, state.before[0], params)
            old = back, state.before[1]
        steps, inner = _where(left_out, old, (steps, inner))
        return steps, state._replace(
            **_counts(state, bad, policy, factor, recover),
            step=jnp.where(told, state.count, state.step),
            loss=jnp.where(told, loss, state.loss),
            leaves=_where(told, leaves, state.leaves),
            snapshot=lax.cond(told, look, lambda _: state.snapshot, params),
            before=_where(bad, state.before, (params, state.inner)) if backs_off else (),
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _counts(
    state: GuardState, bad: Array, policy: str, factor: float, recover: int
) -> dict[str, Array]:
    """The counts and the scale after an update."""
    row = jnp.where(bad, 0, state.row + 1)
    scale = state.scale
    if policy == "back_off":
        down, up = jnp.maximum(scale * factor, LEAST), jnp.minimum(scale / factor, 1)
        scale = jnp.where(bad, down, jnp.where(row % recover == 0, up, scale))
    return {
        "count": state.count + 1,
        "not_finite": state.not_finite + (bad & ~state.halted).astype(jnp.int32),
        "row": row,
        "halted": state.halted | bad if policy == "stop" else state.halted,
        "scale": scale,
    }


def _not_finite_leaves(grads: Any, params: Any) -> Any:
    """For every leaf: is its gradient or its next value not finite?"""

    def is_bad(g: Array, p: Any) -> Array:
        return ~(jnp.all(jnp.isfinite(g)) & jnp.all(jnp.isfinite(p)))

    return jax.tree.map(is_bad, grads, params)


def _any(flags: Any) -> Array:
    return jnp.any(jnp.stack(jax.tree.leaves(flags)))


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _where(flag: Array, this: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), this, other)


def failures(state: Any) -> list[dict[str, Any]]:
    """What `guarded` has to tell, from any state that holds one `GuardState`; [] if nothing.

    Returns:
        One dict for each run (a state of many, made by `vmap`, has an axis of them) that has met an
        update which is not finite: "member", its place on that axis, where there is one; "count",
        how many of its updates were left out; and of the failure that is told "step", the number of
        updates before it, so that its batch was `sample(jax.random.fold_in(key, step))`; "loss";
        "leaves", the parameters whose gradient or next value was not finite; "snapshot", what the
        probe gave for the parameters there, in NumPy arrays.
    """
    found = only(GuardState, state)
    if found is None:
        return []
    told = found._replace(before=(), inner=())
    told = jax.device_get(told)
    places = np.argwhere(np.asarray(told.not_finite) > 0)
    return [_told(jax.tree.map(lambda leaf, p=tuple(p): leaf[p], told), p.tolist()) for p in places]


def _told(state: GuardState, place: list[int]) -> dict[str, Any]:
    flags = jax.tree_util.tree_leaves_with_path(state.leaves)
    failure = {
        "count": int(state.not_finite),
        "step": int(state.step),
        "loss": float(state.loss),
        "leaves": [jax.tree_util.keystr(keys) for keys, flag in flags if flag],
    }
    if jax.tree.leaves(state.snapshot):
        failure["snapshot"] = state.snapshot
    return {"member": place, **failure} if place else failure


def of_guard(state: Any) -> dict[str, Array]:
    """The entries of `guarded` in the info of an update: "not_finite", "rate_scale"."""
    found = only(GuardState, state)
    return {} if found is None else {"not_finite": found.not_finite, "rate_scale": found.scale}


def left_out(state: Any) -> Array:
    """True if the last update was left out as not finite."""
    found = only(GuardState, state)
    if found is None:
        return jnp.zeros((), bool)
    return (found.row == 0) & (found.count > 0) | found.halted


def is_halted(state: Any) -> bool:
    """True if `guarded` makes no update any more, in none of several runs."""
    found = only(GuardState, state)
    return found is not None and bool(np.all(found.halted))
