"""Fixed points and slow points of a network whose input is held, and their stability.

With F(s) = f(s, x) - s the residual of a step f, a fixed point is a zero of F, a slow point a local
minimum of q = |F|^2 / 2 above zero: the state passes it slowly, as just beyond a bifurcation.
"""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent, check_inputs
from .._checks import as_array, check_above_zero, check_positive_int, fail
from .._net import Net, check_net
from .._numerics import largest, nonzero, norm, varying_as
from .._typing import Array, Carry, Params
from ._qr import qr, times
from .jacobian import Step, check_one_direction, fitted, flat, unflat, vector_step
from .weights import eigenvalues

__all__ = ["FixedPoints", "fixed_points"]
__dir__ = __all__.copy


class FixedPoints(NamedTuple):
    """The result of `fixed_points`: one entry for each of S starts, so that shapes are known.

    Outside of jit, `jax.tree.map(lambda leaf: leaf[points.distinct], points)` has one entry for
    each point found.

    Attributes:
        carry: where the search ended, leaves [S, H].
        speed: [S], |F|_2 there: how far one step moves the carry; Inf if F is not finite from the
            start.
        fixed: [S] bool, True at a fixed point.
        slow: [S] bool, True at a slow point. Where neither is True, the search did not converge.
        distinct: [S] bool, True at the first start of those that reached the same point.
        eigenvalues: [S, N] complex, of the Jacobian df/ds, largest magnitude first; NaN where it is
            not finite.
        radius: [S], the largest magnitude; a fixed point is stable if it is below 1.
        unstable: [S] int32, the number of eigenvalues of magnitude above 1.
        steps: [S] int32, steps of the search.
    """

    carry: Any
    speed: Array
    fixed: Array
    slow: Array
    distinct: Array
    eigenvalues: Array
    radius: Array
    unstable: Array
    steps: Array


jax.export.register_namedtuple_serialization(FixedPoints, serialized_name="lstm_jax.FixedPoints")


class _Search(NamedTuple):
    """State of one search: the best point so far, what to try next, and the steps.

    s [N], F(s) and dF/ds there, |F|; the change of s to try, the share of |F|^2 that it should
    remove, and the damping that gave it; steps so far, and steps left.
    """

    s: Array
    residual: Array
    slope: Array
    speed: Array
    change: Array
    predicted: Array
    damping: Array
    steps: Array
    left: Array


def fixed_points(
    cell: Recurrent | Net,
    params: Params,
    x: Array,
    starts: Carry,
    *,
    tolerance: float | None = None,
    apart: float | None = None,
    steps: int = 200,
) -> FixedPoints:
    """Find fixed and slow points of the full carry for a constant input x, from many starts.

    The method of Levenberg and Marquardt, a damped Newton method on F with its fallback to gradient
    descent on q = |F|^2 / 2 built in:

        (A^T A + mu I) d = -A^T F       A = dF/ds = J - I,   mu = (damping * |F| / sqrt(N))^2
        s <- s + d                      if q falls; the damping adapts to how well A predicts that

    As mu goes to zero with |F|^2 the convergence is quadratic, also to one of a line of fixed
    points (Fan & Yuan 2005). A QR decomposition gives d, so A^T A is never formed.

    Args:
        cell: any cell or net that is not bidirectional, in evaluation.
        params: as from `cell.init`.
        x: [D], the input that is held; a scalar integer for an `embedding`.
        starts: carries with one batch axis, leaves [S, H]: such as those that the network visits,
            `unroll(..., return_carries=True)`, with noise.
        tolerance: a point is fixed if |F| <= tolerance * (1 + |s|); None: 100 eps of the dtype,
            1.2e-5 in float32 and 2.2e-14 in float64 (a carry in bfloat16 cannot come that close).
        apart: two points of a kind are one if |s - s'| <= apart * (1 + |s|); None: 10 sqrt(eps),
            3e-3 in float32 and 1.5e-7 in float64; ten times that for slow points. Near a
            bifurcation the position of a point is known less well than F.
        steps: the largest number of steps.

    Returns:
        `FixedPoints`, with one entry for each start, under jit and `jax.vmap` (over x or params)
        too. The eigenvalues are computed on the host and have no derivative.

    Raises:
        ValueError: `starts` has no batch axis or more than one; an argument out of range; a
            bidirectional net; or as `unroll`.

    Source: Sussillo & Barak (2013), "Opening the black box", Neural Computation 25, for fixed and
    slow points; Fan & Yuan (2005), "On the quadratic convergence of the Levenberg-Marquardt method
    without nonsingularity assumption", Computing 74.
    """
    check_net("cell", cell, "fixed_points(cell, params, x, starts)")
    check_one_direction(cell)
    check_positive_int("steps", steps)
    x = check_inputs("x", x, "[D]" if cell.input_ndim else "[]", cell.input_ndim)
    starts = jax.tree.map(lambda leaf: jnp.asarray(as_array("starts", leaf)), starts)
    first = jax.tree.map(_first, starts)
    params, xs, like = fitted(cell, params, x[None], first)
    _, step = vector_step(cell, params, like)
    vectors = jax.vmap(flat)(jax.tree.map(lambda leaf, to: leaf.astype(to.dtype), starts, like))
    vectors = varying_as(vectors, (params, xs, like))
    eps = float(jnp.finfo(vectors.dtype).eps)
    tolerance = _positive("tolerance", tolerance, 100 * eps)
    apart = _positive("apart", apart, 10 * eps**0.5)

    ends = jax.vmap(lambda s: _searched(step, xs[0], s, tolerance, steps))(vectors)
    fixed, slow = jax.vmap(lambda end: _kind(end, tolerance))(ends)
    values = eigenvalues(ends.slope + _eye(vectors[0])[None])
    sizes = jnp.abs(values)
    return FixedPoints(
        carry=jax.vmap(lambda s: unflat(s, like))(ends.s),
        speed=ends.speed,
        fixed=fixed,
        slow=slow,
        distinct=_distinct(ends.s, fixed, slow, apart),
        eigenvalues=values,
        radius=largest(sizes, axis=1),
        unstable=jnp.sum(sizes > 1, axis=1, dtype=jnp.int32),
        steps=ends.steps,
    )


def _first(leaf: Array) -> Array:
    if leaf.ndim == 0 or not leaf.shape[0]:
        remedy = "add an axis: leaf[None]"
        raise fail("starts", f"shape {leaf.shape}", "carries with one batch axis, [S, H]", remedy)
    return leaf[0]


def _positive(argument: str, value: Any, default: float) -> float:
    if value is None:
        return default
    check_above_zero(argument, value)
    return float(value)


def _eye(s: Array) -> Array:
    return jnp.eye(s.shape[0], dtype=s.dtype)


def _searched(step: Step, x: Array, s: Array, tolerance: float, steps: int) -> _Search:
    """Run the search from s [N] to a fixed point, a slow point, or for so many steps."""

    def advance(best: _Search) -> _Search:
        tried = best.s + best.change
        new, push = jax.linearize(lambda s: step(s, x), tried)
        residual, slope = new - tried, jax.vmap(push)(varying_as(_eye(s), s)).T - _eye(s)
        speed = norm([residual])
        removed = 1 - (speed / best.speed) ** 2
        better = removed > 1e-4 * best.predicted  # False for NaN.
        change = jnp.where(removed > 0.25 * best.predicted, 1.0, 4.0).astype(s.dtype)
        change = jnp.where(removed > 0.75 * best.predicted, change / 4, change)
        tried = (tried, residual, slope, speed)
        best = best._replace(
            **{
                name: jnp.where(better, value, getattr(best, name))
                for name, value in zip(("s", "residual", "slope", "speed"), tried, strict=True)
            },
            damping=best.damping * change,
        )
        return _damped(best)._replace(steps=best.steps + 1, left=best.left - 1)

    def arrived(best: _Search) -> _Search:
        """One step, after which the search ends if the point before it was found already.

        So there is one more, of quadratic convergence, to the last digits.
        """
        fixed, slow = _kind(best, tolerance)
        stop = (fixed | slow) & (best.steps > 0)
        new = advance(best)
        over = stop | ~jnp.isfinite(new.speed)
        return new._replace(
            left=jnp.where(over, 0, new.left), steps=jnp.where(over, best.steps, new.steps)
        )

    one, none = jnp.ones((), s.dtype), jnp.zeros((), jnp.int32)
    start = _Search(
        s=s,
        residual=jnp.zeros_like(s),
        slope=jnp.full_like(_eye(s), jnp.nan),
        speed=one * jnp.inf,
        change=jnp.zeros_like(s),
        predicted=one,
        damping=one * 4,
        steps=none,
        left=none + steps + 1,
    )
    end = lax.while_loop(lambda best: best.left > 0, arrived, varying_as(start, s))
    return end._replace(steps=jnp.maximum(end.steps - 1, 0))  # The first only looks at the start.


def _kind(end: _Search, tolerance: float) -> tuple[Array, Array]:
    """(s is a fixed point, it is a slow point): at the latter the gradient of q, A^T F, is zero.

    F is rounded by eps |s|, so that q does not show where its minimum is to less than sqrt(eps).
    """
    fixed = end.speed <= tolerance * (1 + norm([end.s]))
    slope = norm([times(end.slope.T, end.residual)])
    return fixed, ~fixed & (slope <= 10 * jnp.finfo(slope.dtype).eps ** 0.5 * end.speed)


def _damped(best: _Search) -> _Search:
    """Solve min_d |A d + F|^2 + mu |d|^2 by the QR decomposition of [[A, F], [sqrt(mu) I, 0]]."""
    size = best.s.shape[0]
    # Not to zero, as then the rounding of F moves s along a line of fixed points, where A is zero.
    least = jnp.finfo(best.s.dtype).eps ** 0.75
    root = jnp.maximum(best.damping * best.speed / size**0.5, least)
    above = jnp.concatenate([best.slope, best.residual[:, None]], axis=1)
    _, r = qr(jnp.concatenate([above, jnp.pad(root * _eye(best.s), ((0, 0), (0, 1)))]))

    def row(d: Array, i: Array) -> tuple[Array, None]:
        return d.at[i].set(-(r[i, size] + times(r[i, :size], d)) / nonzero(r[i, i])), None

    change, _ = lax.scan(row, jnp.zeros_like(best.s), jnp.arange(size), reverse=True)
    left = norm([best.residual + times(best.slope, change)]) / nonzero(best.speed)
    return best._replace(change=change, predicted=1 - left**2)


def _distinct(s: Array, fixed: Array, slow: Array, apart: float) -> Array:
    """True [S] for the first of the points s [S, N] of one kind that lie together."""
    at = jnp.arange(s.shape[0])
    kind = jnp.where(fixed, 1, jnp.where(slow, 2, 0))

    def is_first(i: Array) -> Array:
        near = norm([s - s[i][None]], 1) <= jnp.where(slow[i], 10, 1) * apart * (1 + norm([s[i]]))
        return (kind[i] > 0) & ~jnp.any(near & (kind == kind[i]) & (at < i))

    return lax.map(is_first, at)
