"""Exponential moving average of parameters, as a transformation of optax."""

import math
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax

from .._checks import check_rate, fail
from .._numerics import summable
from .._typing import Array
from ._inside import states_of

__all__ = ["AverageState", "average_params", "averaged"]
__dir__ = __all__.copy


class AverageState(NamedTuple):
    """State of `average_params`.

    Attributes:
        count: int32 [], the number of updates.
        average: the average, in float32 or wider; before the first update the parameters.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    average: Any


jax.export.register_namedtuple_serialization(AverageState, serialized_name="lstm_jax.AverageState")


def average_params(decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average (EMA) of the parameters; the updates stay as they are.

        tx = optax.chain(clipped_sgd(0.1), average_params(0.999))
        params = averaged(state)

    It must be the last of a chain, for it adds the updates to the parameters to see the new ones:

        average_n = average_{n-1} + (1 - decay) / (1 - decay^n) (params_n - average_{n-1})

    The weights of params_1 .. params_n are decay^{n-i}, scaled to add up to 1, so that the start
    counts for nothing ("debiased", as Adam's averages are). An update that is skipped counts with
    the parameters as they stay.

    Args:
        decay: in [0, 1): about 1 / (1 - decay) updates are averaged.

    Raises:
        ValueError: decay outside [0, 1); in `update`, no `params`.
    """
    check_rate("decay", decay)
    log = math.log(decay) if decay else -math.inf

    def init(params: Any) -> AverageState:
        copies = jax.tree.map(lambda p: jnp.array(p, summable(jnp.result_type(p))), params)
        return AverageState(jnp.zeros((), jnp.int32), copies)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AverageState]:
        if params is None:
            raise fail("params", None, "the parameters", "call tx.update(grads, state, params)")
        count = state.count + 1
        weight = (1 - decay) / -jnp.expm1(count.astype(jnp.float32) * log)

        def next_average(average: Array, new: Any) -> Array:
            difference = jnp.asarray(new, average.dtype) - average
            return average + weight.astype(average.dtype) * difference

        new = optax.apply_updates(params, updates)
        return updates, AverageState(count, jax.tree.map(next_average, state.average, new))

    return optax.GradientTransformation(init, update)


def averaged(state: Any) -> Any:
    """The average that `average_params` keeps, from any state that holds its `AverageState`.

    Args:
        state: an optimiser's state, or a training state with one inside.

    Returns:
        Parameters, in float32 or wider.

    Raises:
        ValueError: `state` holds no `AverageState`, or more than one.
    """
    found = states_of(AverageState, state)
    if len(found) != 1:
        seen = f"{len(found)} AverageState inside"
        raise fail("state", seen, "one", "put one average_params at the end of the chain")
    return found[0].average
