"""Matrices whose rows differ by more than the floating-point range, and their singular values.

A graded matrix is

    A = diag(2^e) M        e [N] integers, M [N, N] with rows of norm about one

so a row may be as small as 2^-10000 and keep all its digits, and scaling by powers of two is exact:
the exponents of ten thousand products do not drift. Every row keeps its own relative accuracy: no
number is compared with eps times the largest one.

The singular values come from one-sided Jacobi rotations of the rows. For A = diag(d) M their
relative error is of the order N eps cond(M) for any d (Demmel et al. 1999), while that of an
ordinary SVD is eps d_max / d_min. Two QR steps precede them as a preconditioner (Drmac & Veselic
2008), after which the sweeps converge at once unless singular values are close together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._numerics import nonzero, varying_as
from .._typing import Array, DType
from ._qr import qr

_NOTHING = -(2**28)  # Exponent of a row of zeros, below any other and far from overflow.
_SWEEPS = 40  # A bound of the loop; five to eight sweeps suffice.


class Graded(NamedTuple):
    """The matrix diag(2^exponent) @ rows; exponent [N] int32, rows [N, N] of norm about one."""

    exponent: Array
    rows: Array


def identity(size: int, dtype: DType) -> Graded:
    """The identity matrix as a graded matrix."""
    return Graded(jnp.zeros(size, jnp.int32), jnp.eye(size, dtype=dtype))


def multiplied(r: Array, a: Graded) -> Graded:
    """Multiply from the left: r @ A, with r [N, N]."""
    scaled = _rows_scaled(r, a.exponent)
    rows = jnp.matmul(scaled.rows, a.rows, precision=lax.Precision.HIGHEST)
    return _normalized(Graded(scaled.exponent, rows))


def log_singular_values(a: Graded) -> Array:
    """Logarithms of the singular values of A, [N] descending; -inf for an exact zero."""
    a = _transposed_by_qr(_transposed_by_qr(a))
    dtype = a.rows.dtype
    # Convergence is quadratic: the next change is about the square of this one.
    tolerance = jnp.sqrt(jnp.finfo(dtype).eps)

    def unfinished(state):
        sweeps, change, _ = state
        return (sweeps < _SWEEPS) & (change > tolerance)

    def sweep(state):
        sweeps, _, a = state
        return (sweeps + 1, *_sweep(a))

    start = (jnp.asarray(0, jnp.int32), jnp.asarray(1, dtype), a)
    _, _, a = lax.while_loop(unfinished, sweep, varying_as(start, a))
    logs = a.exponent.astype(dtype) * jnp.log(jnp.asarray(2, dtype))
    return jnp.sort(logs + jnp.log(jnp.linalg.norm(a.rows, axis=1)), descending=True)


def _rows_scaled(r: Array, exponent: Array) -> Graded:
    """Compute r @ diag(2^exponent), each row scaled to a largest entry in [1/2, 1)."""
    _, own = jnp.frexp(r)
    own = jnp.where(r == 0, _NOTHING, own + exponent[None])
    largest = own.max(axis=1)
    shift = jnp.where(r == 0, 0, exponent[None] - largest[:, None])
    return Graded(largest, jnp.ldexp(r, shift))


def _normalized(a: Graded) -> Graded:
    """Rescale the rows of A to a largest entry in [1/2, 1)."""
    largest = jnp.abs(a.rows).max(axis=1)
    info = jnp.finfo(largest.dtype)
    own = jnp.clip(jnp.frexp(largest)[1], info.minexp + 2, info.maxexp - 2)
    exponent = jnp.where(largest == 0, _NOTHING, a.exponent + own)
    return Graded(exponent, a.rows * _power_of_two(-own, largest)[:, None])


def _power_of_two(exponent: Array, like: Array) -> Array:
    """Compute 2^exponent exactly, or zero below the range of the dtype."""
    return jnp.ldexp(jnp.ones(exponent.shape, like.dtype), exponent)


def _transposed_by_qr(a: Graded) -> Graded:
    """Transform A to a graded matrix of the same singular values with more orthogonal rows.

    With the rows sorted, largest first, and M^T = Q R:  A = diag(2^e) R^T Q^T, and the singular
    values of A are those of R diag(2^e), whose entries decay along each row.
    """
    order = jnp.argsort(-a.exponent)
    _, r = qr(a.rows[order].T)
    return _rows_scaled(r, a.exponent[order])


def _sweep(a: Graded) -> tuple[Array, Graded]:
    """Rotate every pair of rows once: (the largest relative change of a row's norm, the new A).

    The rounds have N/2 disjoint pairs, in the order of a round-robin tournament: the first row
    stays and the others move on by one place (Brent & Luk 1985).
    """
    size = a.rows.shape[0]
    even = size + size % 2
    pairs = Graded(
        jnp.pad(a.exponent, (0, even - size), constant_values=_NOTHING).reshape(2, -1),
        jnp.pad(a.rows, ((0, even - size), (0, 0))).reshape(2, even // 2, size),
    )

    def rotate(_, state):
        largest, pairs = state
        change, rows = _rotated(pairs)
        pairs = jax.tree.map(_next_pairs, Graded(pairs.exponent, rows))
        return jnp.maximum(largest, change), pairs

    start = (jnp.zeros((), a.rows.dtype), pairs)
    change, pairs = lax.fori_loop(0, even - 1, rotate, varying_as(start, pairs))
    a = _normalized(Graded(pairs.exponent.reshape(-1), pairs.rows.reshape(even, size)))
    # A row of padding has the smallest exponent, so it comes last and is cut off.
    order = jnp.argsort(-a.exponent)[:size]
    return change, Graded(a.exponent[order], a.rows[order])


def _next_pairs(leaf: Array) -> Array:
    """Rearrange pairs [2, N/2, ...] for the next round: all but the first move on by one place."""
    if leaf.shape[1] == 1:
        return leaf
    top, bottom = leaf
    top, last = jnp.concatenate([top[:1], bottom[:1], top[1:-1]]), top[-1:]
    return jnp.stack([top, jnp.concatenate([bottom[1:], last])])


def _rotated(pairs: Graded) -> tuple[Array, Array]:
    """Rotate each pair of rows p and q until they are orthogonal.

    With 2^e p the larger of the two, rho = 2^(e_q - e_p) <= 1, delta = |p|^2 - rho^2 |q|^2 and
    g = p . q, so that rho tau is the tangent of the angle:

        tau = -2 g / (delta +- sqrt(delta^2 + 4 rho^2 g^2))      c = 1 / sqrt(1 + rho^2 tau^2)
        p' = c (p - rho^2 tau q)                                 q' = c (q + tau p)

    For rho -> 0 this is Gram-Schmidt, q' = q - (g / |p|^2) p, free of under- and overflow. The
    norm of q changes by the factor 1 + tau g / |q|^2, to first order.

    Returns:
        (the largest |tau g| / |q|^2, the rows [2, N/2, N]).
    """
    e, rows = pairs
    g = jnp.sum(rows[0] * rows[1], axis=-1)
    norms = jnp.sum(rows * rows, axis=-1)
    swap = e[0] < e[1]
    pp, qq = jnp.where(swap[None], norms[::-1], norms)
    rho2 = _power_of_two(-2 * jnp.abs(e[0] - e[1]), g)
    delta = pp - rho2 * qq
    root = jnp.sqrt(delta**2 + 4 * rho2 * g**2)
    below = jnp.where(delta < 0, delta - root, delta + root)
    tau = -2 * g / nonzero(below)
    c = 1 / jnp.sqrt(1 + rho2 * tau**2)
    mix = jnp.stack([-rho2 * tau, tau])
    mix = jnp.where(swap[None], mix[::-1], mix)
    change = jnp.abs(tau * g) / nonzero(qq)
    return change.max(), c[None, :, None] * (rows + mix[..., None] * rows[::-1])
