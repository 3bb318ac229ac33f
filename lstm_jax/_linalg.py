"""Decompositions, solutions and exponentials of matrices, as many as there are, without a deadlock.

On a CPU JAX hands a batch of matrices to LAPACK in pieces: the thread that runs the operation waits
for other threads of XLA to take the pieces. If as many such operations run at once as XLA has
threads, all of them wait for ever; on two cores two suffice, for example the starts of two layers
under `vmap` over seeds. An operation on one matrix waits for nobody, so these take matrices one by
one, also under `vmap`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import PartitionSpec as P

from ._numerics import has_explicit_axes
from ._typing import Array

_SQUARINGS = 16
"""Most squarings of `expm`, as in `jax.scipy.linalg.expm`: more could only be of huge matrices."""


def _one_by_one(function: Any) -> Any:
    """Let `vmap` call a function of matrices for one after the other.

    A loop takes no axis that is split over devices: where types say that one is, every device
    computes all matrices, and the results are split again.
    """
    function = custom_vmap(function)

    @function.def_vmap
    def rule(axis_size: int, batched: list[bool], *matrices: Array) -> Any:
        del axis_size
        mapped = {k: _resharded(a, None) for k, a in enumerate(matrices) if batched[k]}
        axes = (_split(matrices[k]) for k in mapped)
        axis = next((axis for axis in axes if axis is not None), None)

        def one(own: dict[int, Array]) -> Any:
            return function(*(own.get(k, a) for k, a in enumerate(matrices)))

        out = jax.tree.map(lambda a: _resharded(a, axis), lax.map(one, mapped))
        return out, jax.tree.map(lambda _: True, out)

    return function


def _split(a: Array) -> Any:
    """The axes of a mesh over which the type of `a` splits its first axis; None: it does not."""
    sharding = jax.typeof(a).sharding
    return sharding.spec[0] if has_explicit_axes(sharding.mesh) else None


def _resharded(a: Array, axis: Any) -> Array:
    """Split the first axis of `a` over `axis`, where types say so."""
    if _split(a) == axis:
        return a
    sharding = jax.typeof(a).sharding
    return jax.sharding.reshard(a, sharding.update(spec=P(axis, *sharding.spec[1:])))


@_one_by_one
def _qr(a: Array) -> Any:
    return tuple(jnp.linalg.qr(a))


@_one_by_one
def _svd(a: Array) -> Any:
    return tuple(jnp.linalg.svd(a, full_matrices=False))


@_one_by_one
def _solve(a: Array, b: Array) -> Array:
    return jnp.linalg.solve(a, b)


@_one_by_one
def _eigenvalues(a: Array) -> Array:
    return jnp.linalg.eigvals(a)


def qr(a: Array) -> tuple[Array, Array]:
    """Decompose a [..., m, n], m >= n: Q [..., m, n] with orthonormal columns, R [..., n, n].

    The diagonal of R may have any sign. Not differentiable.
    """
    return _over_batch(_qr, a)


@jax.custom_jvp
def svd(a: Array) -> tuple[Array, Array, Array]:
    """Decompose a [..., m, n] = U diag(s) V^T, k = min(m, n): [..., m, k], [..., k], [..., k, n].

    Derivatives of U and V are infinite or NaN where two singular values are equal.
    """
    return _over_batch(_svd, a)


@svd.defjvp
def _svd_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """Townsend (2016), "Differentiating the singular value decomposition"."""
    (da,) = tangents
    u, s, vt = svd(*primals)
    uda, dav = _product(_t(u), da), _product(da, _t(vt))
    p = _product(uda, _t(vt))
    one = jnp.broadcast_to(jnp.eye(s.shape[-1], dtype=s.dtype), p.shape)
    s_i, s_j = s[..., :, None], s[..., None, :]
    f = (1 - one) / ((s_j - s_i) * (s_j + s_i) + one)
    du = _product(u, f * (p * s_j + s_i * _t(p)))
    dv = _product(_t(vt), f * (s_i * p + _t(p) * s_j))
    if u.shape[-2] > s.shape[-1]:  # What leaves the span of U or V, if one is not square.
        du += (dav - _product(u, p)) / s_j
    if vt.shape[-1] > s.shape[-1]:
        dv += (_t(uda) - _product(_t(vt), _t(p))) / s_j
    return (u, s, vt), (du, jnp.einsum("...ii->...i", p), _t(dv))


@jax.custom_jvp
def singular_values(a: Array) -> Array:
    """Singular values [..., min(m, n)] of a [..., m, n], largest first.

    The derivative of s_i is u_i^T dA v_i, also where two are equal; there second derivatives are
    NaN.
    """
    return svd(a)[1]


@singular_values.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    u, s, vt = svd(*primals)
    ds = jnp.einsum("...mi,...mn,...in->...i", u, *tangents, vt, precision="highest")
    return s, ds


def eigenvalues(a: Array) -> Array:
    """Eigenvalues [..., n], complex and in no order, of a [..., n, n]. Not differentiable."""
    return _over_batch(_eigenvalues, a)


def solve(a: Array, b: Array) -> Array:
    """Solve a x = b for a [..., n, n] and b [..., n, k]; differentiable in both."""

    def product(x: Array) -> Array:
        return _product(a, x)

    def solution(matvec: Any, b: Array) -> Array:
        del matvec
        return _over_batch(_solve, a, b)

    def transposed(matvec: Any, b: Array) -> Array:
        del matvec
        return _over_batch(_solve, _t(a), b)

    return lax.custom_linear_solve(product, b, solution, transposed)


def expm(x: Array) -> Array:
    """Exponential of x [..., n, n], floating: scaled by 2^-s, Taylor's series, squared s times.

    s makes the 1-norm at most 1/2. It is NaN where that takes more than 16 squarings, so where the
    norm is above 32768.
    """
    norm = jnp.max(jnp.sum(jnp.abs(x), -2), -1)[..., None, None]
    s = jnp.maximum(jnp.frexp(lax.stop_gradient(norm))[1] + 1, 0)
    y = _taylor(x * jnp.exp2(-s.astype(x.dtype)))

    def square(y: Array, i: Array) -> tuple[Array, None]:
        return jnp.where(i < s, _product(y, y), y), None

    y, _ = lax.scan(square, y, jnp.arange(_SQUARINGS, dtype=s.dtype))
    return jnp.where(s <= _SQUARINGS, y, jnp.asarray(jnp.nan, y.dtype))


def _taylor(x: Array) -> Array:
    """sum_k x^k / k! by Horner's rule, for matrices of norm at most 1/2."""
    one = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    y = one
    for k in range(_terms(x.dtype), 0, -1):
        y = one + _product(x, y) / k
    return y


def _terms(dtype: Any) -> int:
    """The number of terms after which the rest, at most 2^-k / k!, is below half a last bit."""
    k = 1
    while 2.0**-k / math.factorial(k) > jnp.finfo(dtype).eps / 4:
        k += 1
    return k


def _t(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _over_batch(function: Any, *matrices: Array) -> Any:
    """Call a function of matrices for each of a batch [...], one after the other."""
    for _ in matrices[0].shape[:-2]:
        function = jax.vmap(function)
    return function(*matrices)
