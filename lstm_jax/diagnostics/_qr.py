"""A QR decomposition without LAPACK, in plain JAX.

On a CPU `jnp.linalg.qr` calls LAPACK, which hands even small matrices to several threads that then
wait for each other; with one call per step of a spectrum that took forty times as long.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._numerics import nonzero
from .._typing import Array


def qr(a: Array) -> tuple[Array, Array]:
    """Decompose a [N, k], k <= N: Q [N, k] with orthonormal columns, R [k, k] upper triangular.

    It uses k reflections (Householder 1958), so Q is orthonormal for any rank of a. The diagonal of
    R may have any sign. To differentiate, use `orthonormal`.
    """
    size, count = a.shape

    def reflect(r: Array, j: Array) -> tuple[Array, Array]:
        v = _reflector(r[:, j], j)
        return r - 2 * jnp.outer(v, v @ r), v

    r, reflectors = lax.scan(reflect, a, jnp.arange(count))

    def unreflect(q: Array, v: Array) -> tuple[Array, None]:
        return q - 2 * jnp.outer(v, v @ q), None

    q, _ = lax.scan(unreflect, jnp.eye(size, count, dtype=a.dtype), reflectors, reverse=True)
    return q, jnp.triu(r[:count])


def _reflector(x: Array, j: Array) -> Array:
    """Unit vector v such that x - 2 v (v . x) is zero after element j; v = 0 if x[j:] is zero."""
    at = jnp.arange(x.shape[0])
    x = jnp.where(at < j, 0, x)
    x = x / nonzero(jnp.abs(x).max())
    v = x + jnp.where(at == j, jnp.copysign(jnp.linalg.norm(x), x[j]), 0)
    return v / nonzero(jnp.linalg.norm(v))


@jax.custom_jvp
def orthonormal(a: Array) -> tuple[Array, Array]:
    """Orthonormalise the columns of a [N, k]: (Q, ln|R_jj| [k]), of the decomposition a = Q R.

    A number below the smallest normal one of the dtype counts as that. The derivative divides by
    the diagonal of R, which is zero up to rounding if a is rank-deficient, for example if a ReLU
    unit that is off maps a direction to zero. Such a column is treated as constant; the columns
    before it have their derivatives. That of ln|R_jj| is a ratio in which nothing overflows.
    """
    q, r = qr(a)
    return q, _log(jnp.abs(jnp.diagonal(r)))


@orthonormal.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """Compute dQ and d ln|R_jj| from X = dA R^-1 (Walter & Lehmann 2018):

    dR R^-1 + Q^T dQ = Q^T X, the first upper triangular and the second skew-symmetric.
    """
    q, r = qr(*primals)
    (da,) = tangents
    size = jnp.abs(jnp.diagonal(r))
    lost = size <= r.shape[0] * jnp.finfo(r.dtype).eps * jnp.max(size)
    lost |= size < jnp.finfo(r.dtype).tiny
    eye = jnp.eye(r.shape[0], dtype=r.dtype)
    safe = jnp.where(lost[None], eye, r)
    x = jnp.where(lost[None], 0, da) @ _inverse(safe)
    qx = q.T @ x
    below = jnp.tril(qx, -1)
    turn = below - below.T
    return (q, _log(size)), (q @ (turn - qx) + x, jnp.diagonal(qx))


def _inverse(r: Array) -> Array:
    """R^-1 of an upper triangular R [k, k], row by row from the last."""
    eye = jnp.eye(r.shape[0], dtype=r.dtype)

    def row(inverse: Array, j: Array) -> tuple[Array, None]:
        return inverse.at[j].set((eye[j] - r[j] @ inverse) / r[j, j]), None

    return lax.scan(row, jnp.zeros_like(r), jnp.arange(r.shape[0]), reverse=True)[0]


def _log(size: Array) -> Array:
    return jnp.log(jnp.maximum(size, jnp.finfo(size.dtype).tiny))
