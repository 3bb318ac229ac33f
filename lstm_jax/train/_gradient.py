"""The value and gradient of a loss, of one batch or as the mean over micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_scalar, fail, shown
from .._numerics import at_least_float32, summable
from .._typing import Array

__all__ = ["make_gradient"]
__dir__ = __all__.copy


def make_gradient(
    loss: Callable[..., Any], has_aux: bool, accumulate: int | None
) -> Callable[..., tuple[Array, Any, Any]]:
    """Make the function (params, scale, *args) -> (value, aux, gradient of scale * value).

    The scale may be None, for 1; aux is None without `has_aux`.

    accumulate: the number of micro-batches, the leading axis of every leaf of args; None: args are
        one batch, without that axis.
    """

    def scaled(params: Any, scale: Array | None, *args: Any) -> Any:
        value, aux = _value_and_aux(loss(params, *args), has_aux)
        value = check_scalar("loss", value)
        if scale is None:
            return value, (value, aux)
        # In float32, for 2^16 is Inf in float16.
        return value.astype(at_least_float32(value.dtype)) * scale, (value, aux)

    gradient = jax.value_and_grad(scaled, has_aux=True)

    def of_one(params: Any, scale: Array | None, *args: Any) -> tuple[Array, Any, Any]:
        (_, (value, aux)), grads = gradient(params, scale, *args)
        return value, aux, grads

    def of_all(params: Any, scale: Array | None, *args: Any) -> tuple[Array, Any, Any]:
        _check_micro_batches(args, accumulate)

        def add(total: Any, micro: Any) -> tuple[Any, Any]:
            (_, (value, aux)), grads = gradient(params, scale, *micro)
            return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grads), (value, aux)

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, summable(jnp.result_type(p))), params)
        total, (values, aux) = lax.scan(add, zeros, args)
        grads = jax.tree.map(
            lambda t, p: (t / accumulate).astype(jnp.result_type(p)), total, params
        )
        mean = jnp.mean(values.astype(at_least_float32(values.dtype)))
        return mean.astype(values.dtype), aux, grads

    return of_one if accumulate is None else of_all


def _value_and_aux(out: Any, has_aux: bool) -> tuple[Any, Any]:
    """What a loss gave, as (value, aux); raise unless it is a pair if and only if `has_aux`."""
    pair = isinstance(out, (tuple, list))
    if has_aux and not (pair and len(out) == 2):
        seen, remedy = f"a function that gives {shown(out)}", "return both, or pass has_aux=False"
        raise fail("loss", seen, "(scalar, aux), as has_aux=True says", remedy)
    if pair and not has_aux:
        seen, remedy = f"a function that gives a {type(out).__name__}", "pass has_aux=True"
        raise fail("loss", seen, "a scalar", remedy + " for (scalar, aux)")
    return (out[0], out[1]) if has_aux else (out, None)


def _check_micro_batches(args: Any, count: int | None) -> None:
    """Raise unless every leaf has the leading axis [count]."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(args):
        if jnp.shape(leaf)[:1] != (count,):
            seen = f"a leaf {jax.tree_util.keystr(keys)} of shape {jnp.shape(leaf)}"
            remedy = "stack the micro-batches, one more axis in front of every leaf"
            raise fail("args", seen, f"a leading axis of accumulate = {count}", remedy)
