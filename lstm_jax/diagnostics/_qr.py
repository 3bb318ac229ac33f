"""A QR decomposition without LAPACK, in plain JAX.

On a CPU `jnp.linalg.qr` calls LAPACK, which hands even small matrices to several threads that then
wait for each other; with one call per step of a spectrum that took forty times as long.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from .._numerics import nonzero
from .._typing import Array


@jax.custom_jvp
def qr(a: Array) -> tuple[Array, Array]:
    """Decompose a [N, k], k <= N: Q [N, k] with orthonormal columns, R [k, k] upper triangular.

    It uses k reflections (Householder 1958), so Q is orthonormal for any rank of a. The diagonal of
    R may have any sign.

    The derivative divides by the diagonal of R, which is zero up to rounding if a is
    rank-deficient, for example if a ReLU unit that is off maps a direction to zero. Such a column
    is treated as constant; the columns before it have their derivatives.
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


@qr.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """Compute dQ and dR from X = dA R^-1 (Walter & Lehmann 2018): dR R^-1 + Q^T dQ = Q^T X."""
    q, r = qr(*primals)
    (da,) = tangents
    size = jnp.abs(jnp.diagonal(r))
    lost = size <= r.shape[0] * jnp.finfo(r.dtype).eps * jnp.max(size)
    eye = jnp.eye(r.shape[0], dtype=r.dtype)
    safe = jnp.where(lost[None], eye, r)
    x = solve_triangular(safe.T, jnp.where(lost[None], 0, da).T, lower=True).T
    qx = q.T @ x
    below = jnp.tril(qx, -1)
    turn = below - below.T
    return (q, r), (q @ (turn - qx) + x, (qx - turn) @ r)
