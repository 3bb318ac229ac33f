"""Structured matrices: orthogonal, rotations, identity, and of a given spectral radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._checks import check_positive_int, fail
from .._linalg import qr
from .._static import Static
from ._draw import check_matrix, check_number, check_square, in_wide, wide


@dataclass(frozen=True)
class orthogonal(Static):
    """Random orthogonal matrix scale * Q, Haar-distributed (Saxe et al. 2014; Mezzadri 2007).

    Q comes from the QR of a Gaussian matrix, with signs such that R has a positive diagonal;
    otherwise Q would not be uniform. Shape `[m, n]`: w.T @ w = scale^2 I if m >= n, else
    w @ w.T = scale^2 I. ValueError for fewer than two axes.
    """

    scale: float = 1.0

    def __post_init__(self):
        check_number("scale", self.scale)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        check_matrix(self, shape)
        # No platform has a QR in half precision, hence the wide dtype.
        return in_wide(self._drawn, key, shape, dtype)

    def _drawn(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        m, n = math.prod(shape[:-1]), shape[-1]
        q, r = qr(jax.random.normal(key, (max(m, n), min(m, n)), dtype))
        q = q * jnp.sign(jnp.diagonal(r))[None]
        return float(self.scale) * (q if m >= n else q.T).reshape(shape)


@dataclass(frozen=True)
class identity(Static):
    """Identity matrix w = scale * I, as in an IRNN (Le, Jaitly & Hinton 2015).

    Shape `[H, H]`; ValueError for any other.
    """

    scale: float = 1.0

    def __post_init__(self):
        check_number("scale", self.scale)

    def __call__(self, key: Array | None, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        check_square(self, shape)
        return (float(self.scale) * jnp.eye(shape[0], dtype=wide(dtype))).astype(dtype)


@dataclass(frozen=True)
class rotations(Static):
    """Block-diagonal matrix of plane rotations, the angle of each uniform on [-limit, limit].

    It is orthogonal, with eigenvalues spread evenly over the arc: as a linear transition it keeps a
    sum of its inputs, each turned by how long ago it came. If H is odd the last unit keeps its
    value. Shape `[H, H]`; ValueError for any other.

    Attributes:
        limit: the largest angle, in radians.

    Source: Henaff, Szlam & LeCun (2016), arXiv 1602.06662, section 4.
    """

    limit: float = math.pi

    def __post_init__(self):
        check_number("limit", self.limit, at_least=0)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        check_square(self, shape)
        size = shape[0]
        limit = float(self.limit)
        angle = jax.random.uniform(key, (size // 2,), wide(dtype), -limit, limit)
        first = 2 * jnp.arange(size // 2)
        w = jnp.eye(size, dtype=angle.dtype)
        w = w.at[first, first].set(jnp.cos(angle)).at[first + 1, first + 1].set(jnp.cos(angle))
        w = w.at[first, first + 1].set(jnp.sin(angle)).at[first + 1, first].set(-jnp.sin(angle))
        return w.astype(dtype)


@dataclass(frozen=True)
class spectral_radius(Static):
    """Random matrix of spectral radius rho: w = rho * a / max|eig(a)|, a_ij ~ N(0, 1).

    `nonzeros` keeps that many incoming weights per unit (per column, as u = h @ w_hh) and zeroes
    the rest; None keeps all. `spectral_radius(0.95, nonzeros=15)` is the "smart tanh" start of
    Pascanu, Mikolov & Bengio 2013. Shape `[H, H]`; ValueError for any other, and for nonzeros > H.
    Eigenvalues are computed on the host by a callback: it can be jitted, but not exported.
    """

    rho: float = 1.0
    nonzeros: int | None = None

    def __post_init__(self):
        check_number("rho", self.rho, at_least=0)
        if self.nonzeros is not None:
            check_positive_int("nonzeros", self.nonzeros)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        check_square(self, shape)
        key_a, key_mask = jax.random.split(key)
        a = jax.random.normal(key_a, tuple(shape), wide(dtype))
        if self.nonzeros is not None:
            a = jnp.where(_column_mask(key_mask, shape[0], self.nonzeros), a, 0)
        return (float(self.rho) / _max_abs_eigenvalue(a) * a).astype(dtype)


def _column_mask(key: Array, hidden_size: int, nonzeros: int) -> Array:
    """Bool mask [H, H], True at `nonzeros` random rows of each column."""
    if nonzeros > hidden_size:
        remedy = "pass nonzeros=None to keep every weight"
        raise fail("nonzeros", nonzeros, f"at most H = {hidden_size}", remedy)
    rows = jnp.broadcast_to(jnp.arange(hidden_size)[:, None], (hidden_size, hidden_size))
    return jax.random.permutation(key, rows < nonzeros, axis=0, independent=True)


def _max_abs_eigenvalue(a: Array) -> Array:
    # jax.numpy lacks eigenvalues of non-symmetric matrices on some platforms, so NumPy computes
    # them, by a callback because `init` may be traced (jit, vmap over keys, eval_shape).
    out = jax.ShapeDtypeStruct(a.shape[:-2], a.dtype)
    return jax.pure_callback(_host_max_abs_eigenvalue, out, a, vmap_method="expand_dims")


def _host_max_abs_eigenvalue(a: Any) -> np.ndarray:
    eigenvalues = np.linalg.eigvals(np.asarray(a, np.float64))
    return np.abs(eigenvalues).max(-1).astype(a.dtype)
