"""A QR decomposition without LAPACK, in plain JAX.

On a CPU `jnp.linalg.qr` calls LAPACK, which hands even small matrices to several threads that then
wait for each other; with one call per step of a spectrum that took forty times as long.

Every column is scaled by a power of two of its own first, which is exact and only scales its column
of R: numbers near the ends of the range do not under- or overflow on the way. Sums are in full
precision, also on devices that multiply float32 in fewer bits unless they are told.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._adjoints.scaled import Scaled, restored, scaled
from .._numerics import nonzero, varying_as
from .._typing import Array


def qr(a: Array) -> tuple[Array, Array]:
    """Decompose a [N, k], k <= N: Q [N, k] with orthonormal columns, R [k, k] upper triangular.

    It uses k reflections (Householder 1958), so Q is orthonormal for any rank of a. The diagonal of
    R may have any sign. To differentiate, use `orthonormal`.
    """
    columns = scaled(a.T, 1)
    q, r = _reflected(columns.value.T)
    return q, restored(Scaled(r.T, columns.exponent)).T


def _reflected(a: Array) -> tuple[Array, Array]:
    """Decompose a [N, k] whose columns are of size one: Q [N, k] and R [k, k]."""
    size, count = a.shape

    def reflect(r: Array, j: Array) -> tuple[Array, Array]:
        v = _reflector(r[:, j], j)
        return r - 2 * jnp.outer(v, times(v, r)), v

    r, reflectors = lax.scan(reflect, a, jnp.arange(count))

    def unreflect(q: Array, v: Array) -> tuple[Array, None]:
        return q - 2 * jnp.outer(v, times(v, q)), None

    eye = varying_as(jnp.eye(size, count, dtype=a.dtype), a)
    q, _ = lax.scan(unreflect, eye, reflectors, reverse=True)
    return q, jnp.triu(r[:count])


def _reflector(x: Array, j: Array) -> Array:
    """Unit vector v such that x - 2 v (v . x) is zero after element j; v = 0 if x[j:] is zero."""
    at = jnp.arange(x.shape[0])
    x = jnp.where(at < j, 0, x)
    x = x / nonzero(jnp.abs(x).max())
    v = x + jnp.where(at == j, jnp.copysign(jnp.linalg.norm(x), x[j]), 0)
    return v / nonzero(jnp.linalg.norm(v))


def times(a: Array, b: Array) -> Array:
    """a @ b in full precision."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


@jax.custom_jvp
def orthonormal(a: Array) -> tuple[Array, Array]:
    """Orthonormalise the columns of a [N, k]: (Q, ln|R_jj| [k]), of the decomposition a = Q R.

    A number below the smallest normal one of the dtype counts as that. The derivative divides by
    the diagonal of R, which is zero up to rounding if a is rank-deficient, for example if a ReLU
    unit that is off maps a direction to zero. Such a column is treated as constant; the columns
    before it have their derivatives. That of ln|R_jj| is a ratio in which nothing overflows.
    """
    columns = scaled(a.T, 1)
    q, r = _reflected(columns.value.T)
    return q, _log_diagonal(r, columns.exponent)


@orthonormal.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """Compute dQ and d ln|R_jj| from X = dA R^-1 (Walter & Lehmann 2018):

    dR R^-1 + Q^T dQ = Q^T X, the first upper triangular and the second skew-symmetric. A factor of
    a column of A and dA cancels in X.
    """
    columns = scaled(primals[0].T, 1)
    q, r = _reflected(columns.value.T)
    da = restored(Scaled(tangents[0].T, -columns.exponent)).T
    logs = _log_diagonal(r, columns.exponent)
    info = jnp.finfo(r.dtype)
    lost = logs <= jnp.max(logs) + math.log(r.shape[0] * info.eps)
    lost |= logs <= math.log(info.tiny)
    eye = jnp.eye(r.shape[0], dtype=r.dtype)
    safe = jnp.where(lost[None], eye, r)
    x = times(jnp.where(lost[None], 0, da), _inverse(safe))
    qx = times(q.T, x)
    below = jnp.tril(qx, -1)
    turn = below - below.T
    return (q, logs), (times(q, turn - qx) + x, jnp.diagonal(qx))


def _inverse(r: Array) -> Array:
    """R^-1 of an upper triangular R [k, k], row by row from the last."""
    eye = jnp.eye(r.shape[0], dtype=r.dtype)

    def row(inverse: Array, j: Array) -> tuple[Array, None]:
        return inverse.at[j].set((eye[j] - times(r[j], inverse)) / r[j, j]), None

    return lax.scan(row, varying_as(jnp.zeros_like(r), r), jnp.arange(r.shape[0]), reverse=True)[0]


def _log_diagonal(r: Array, exponent: Array) -> Array:
    """ln|R_jj| of columns that were times 2^exponent, at least ln of the smallest normal number."""
    least = jnp.finfo(r.dtype).tiny
    logs = jnp.log(jnp.maximum(jnp.abs(jnp.diagonal(r)), least))
    return jnp.maximum(logs + exponent.astype(r.dtype) * math.log(2), math.log(least))
