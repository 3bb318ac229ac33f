"""`evaluate`, the mean of metrics over batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_callable, fail
from .._numerics import at_least_float32
from .._typing import Array

__all__ = ["evaluate"]
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
