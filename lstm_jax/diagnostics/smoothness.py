"""Local smoothness of a loss against the norm of its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from .._cells.contract import checked_loss
from .._checks import check_positive_int, fail, shown
from .._numerics import largest, norm, promote
from .._typing import Array

__all__ = ["LocalSmoothness", "local_smoothness"]
__dir__ = __all__.copy


class LocalSmoothness(NamedTuple):
    """The result of `local_smoothness`, scalars.

    Attributes:
        smoothness: L, how fast the gradient changes along the direction, per unit of parameters.
        gradient_norm: |grad|_2 at the parameters.
    """

    smoothness: Array
    gradient_norm: Array


jax.export.register_namedtuple_serialization(
    LocalSmoothness, serialized_name="lstm_jax.LocalSmoothness"
)


def local_smoothness(
    loss: Callable[[Any], Array],
    params: Any,
    direction: Any = None,
    *,
    points: int | None = None,
) -> LocalSmoothness:
    """Compute how fast the gradient of a loss changes along a direction d, beside its norm.

        L = |H d| / |d|                            points=None: at the parameters p
        L = max_j |g(p_j) - g(p)| / |p_j - p|      p_j = p + d j / points,  j = 1 .. points

    The first is one derivative of the gradient, the second the estimate of Zhang et al. with d the
    update of a step, and needs the gradient at each point. If clipping pays, L grows with the norm
    of the gradient: |H| <= L_0 + L_1 |g|. For exp(p), L = |g|; for p^4, L = 12 (|g| / 4)^(2/3).

    Args:
        loss: `loss(params) -> scalar`.
        params: a pytree of floating-point arrays.
        direction: a pytree like `params`, such as the update of a step; None: the gradient.
        points: None, or how many points along d.

    Returns:
        `LocalSmoothness(smoothness, gradient_norm)`; NaN if the direction is zero, or too small to
        move the parameters in their dtype at one of the points.

    Raises:
        ValueError: the loss is no scalar; the direction is not like the parameters.

    Source: Zhang, He, Sra & Jadbabaie (2020), "Why gradient clipping accelerates training", ICLR,
    arXiv 1905.11881, section 5 and appendix H.
    """
    gradient = jax.grad(checked_loss(loss))
    if points is not None:
        check_positive_int("points", points)
    if direction is None:
        direction = gradient(params)
    _check_alike(params, direction)
    direction = jax.tree.map(lambda d, p: jnp.asarray(d, jnp.result_type(p)), direction, params)
    if points is None:
        # Of length one: H d of a vanishing gradient is below the range of the dtype.
        unit = _scaled(direction, 1 / _norm(direction))
        here, change = jax.jvp(gradient, (params,), (unit,))
        smoothness = _norm(change) / _norm(unit)
    else:
        here = gradient(params)
        smoothness = _along(gradient, params, direction, here, points)
    return LocalSmoothness(smoothness, _norm(here))


def _along(gradient: Any, params: Any, direction: Any, here: Any, points: int) -> Array:
    """Largest change of the gradient from `here`, over the distance, at each of the points."""

    def at(j: Array) -> Array:
        there = jax.tree.map(lambda p, d: p + d, params, _scaled(direction, j / points))
        change = jax.tree.map(jnp.subtract, gradient(there), here)
        # What rounding leaves of the distance: where nothing moves, 0 / 0.
        return _norm(change) / _norm(jax.tree.map(jnp.subtract, there, params))

    return largest(lax.map(at, jnp.arange(1, points + 1, dtype=jnp.float32)))


def _scaled(tree: Any, factor: Array) -> Any:
    def scaled(leaf: Array) -> Array:
        wide = promote(leaf.dtype, factor.dtype)  # The factor may be beyond the range of 16 bits.
        return (leaf.astype(wide) * factor.astype(wide)).astype(leaf.dtype)

    return jax.tree.map(scaled, tree)


def _norm(tree: Any) -> Array:
    return norm(jax.tree.leaves(tree))


def _check_alike(params: Any, direction: Any) -> None:
    seen, wanted = jax.tree.structure(direction), jax.tree.structure(params)
    if seen != wanted:
        raise fail("direction", shown(direction), f"a tree like params, {wanted}", "pass an update")
    for d, p in zip(jax.tree.leaves(direction), jax.tree.leaves(params), strict=True):
        if jnp.shape(d) != jnp.shape(p):
            wanted = f"the shapes of params, here {jnp.shape(p)}"
            raise fail("direction", f"a leaf of shape {jnp.shape(d)}", wanted, "pass an update")
