"""Measures of the recurrent matrix: spectral radius, spectral norm, departure from normality."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _linalg
from .._cells.contract import Recurrent, check_cell
from .._checks import as_array, check_floating, check_named, fail, unboxed
from .._numerics import at_least_float32, expand_to, largest, promote
from .._typing import Array, Params

__all__ = ["gate_blocks", "henrici", "spectral_norm", "spectral_radius"]
__dir__ = __all__.copy


def gate_blocks(cell: Recurrent, params: Params) -> dict[str, Array]:
    """Split w_hh [H, G*H] into the recurrent matrix of each gate: {gate: [H, H]}.

    `jax.tree.map(spectral_radius, gate_blocks(cell, params))` is the spectral radius of each gate;
    likewise for `spectral_norm` and `henrici`.

    Raises:
        ValueError: w_hh is not [H, G*H] for the cell's gates.
    """
    check_cell(cell, "a gate's matrix")
    check_named("params", params, "pass what cell.init gives")
    params = unboxed(params)
    w, names = params.get("w_hh"), cell.gate_names
    wanted = f"w_hh [H, G*H] = {(cell.hidden_size, len(names) * cell.hidden_size)}"
    if w is None or w.ndim < 2 or w.shape[-1] != len(names) * w.shape[-2]:
        seen = f"only {sorted(params)}" if w is None else f"w_hh of shape {w.shape}"
        raise fail("params", seen, wanted, "pass what cell.init gives")
    return dict(zip(names, jnp.split(w, len(names), axis=-1), strict=True))


def spectral_radius(w: Array) -> Array:
    """Spectral radius rho(W) = max |eig(W)|; below 1 gradients of a linear network vanish.

    NumPy computes it in float64 on the host, as JAX lacks eigenvalues of non-symmetric matrices on
    some accelerators. It works under jit and vmap, but has no derivative.

    Args:
        w: [..., H, H]. See `gate_blocks` for a cell with several gates.

    Returns:
        [...]; NaN if w is not finite.

    Raises:
        ValueError: w is not square.
    """
    return largest(_magnitudes(w), axis=-1)


def spectral_norm(w: Array) -> Array:
    """Spectral norm |W|_2, the largest singular value. [..., m, n] -> [...]

    Gradients vanish if |W|_2 < 1/gamma, with gamma the largest slope of f: 1 for tanh, 1/4 for
    sigmoid (Pascanu, Mikolov & Bengio 2013, section 2.1).
    """
    w = _matrices(w)
    return jnp.max(_linalg.singular_values(w.astype(at_least_float32(w.dtype))), axis=-1)


def henrici(w: Array) -> Array:
    """Henrici's departure from normality, sqrt(1 - sum_i |eig_i|^2 / |W|_F^2), in [0, 1).

    It is 0 for a normal matrix (orthogonal, symmetric, skew), and near 1 for a matrix that can
    stretch a gradient for many steps even if its spectral radius is below 1. NumPy computes it on
    the host, as `spectral_radius`.

    Args:
        w: [..., H, H].

    Returns:
        [...]; NaN if w is zero or not finite.

    Raises:
        ValueError: w is not square.

    Source: Henrici (1962), Numer. Math. 4; the departure from normality over the Frobenius norm.
    """
    w = _matrices(w)
    # Scaled to a largest entry of 1, which does not change the measure, squares cannot overflow.
    w = w / jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True, initial=0)
    eigenvalues = jnp.sum(_magnitudes(w) ** 2, axis=-1)
    whole = jnp.sum(jnp.asarray(w, eigenvalues.dtype) ** 2, axis=(-2, -1))
    return jnp.sqrt(jnp.maximum(1 - eigenvalues / whole, 0))


def _magnitudes(w: Array) -> Array:
    """Compute |eig(W)|, largest first. [..., H, H] -> [..., H]"""
    w = _matrices(w)
    if w.shape[-1] != w.shape[-2]:
        remedy = "cut w_hh into gates with gate_blocks(cell, params)"
        raise fail("w", f"shape {w.shape}", "[..., H, H]", remedy)
    return jnp.abs(eigenvalues(w.astype(at_least_float32(w.dtype))))


def eigenvalues(w: Array) -> Array:
    """Compute the eigenvalues, largest magnitude first; NaN if w is not finite.

    [..., H, H] float32 or float64 -> [..., H] complex. NumPy computes them in float64 on the host;
    JAX does for float64 on a CPU, as a callback's arguments lose it where `jax.enable_x64` is only
    a context.
    """
    finite = jnp.isfinite(w).all(axis=(-2, -1))
    # LAPACK raises if w is not finite, but the report of a diverged run must not fail.
    w = jnp.where(expand_to(finite, w), w, 0)
    if w.dtype == np.float64:
        values = lax.platform_dependent(w, cpu=_linalg.eigenvalues, default=_by_numpy)
    else:
        values = _by_numpy(w)
    order = jnp.lexsort((-values.imag, -jnp.abs(values)))
    values = jnp.take_along_axis(values, order, axis=-1)
    return jnp.where(expand_to(finite, values), values, jnp.asarray(jnp.nan, values.dtype))


def _by_numpy(w: Array) -> Array:
    dtype = promote(w.dtype, np.complex64)
    out = jax.ShapeDtypeStruct(w.shape[:-1], dtype)

    def on_host(w: Any) -> np.ndarray:
        return np.linalg.eigvals(np.asarray(w, np.float64)).astype(dtype)

    return jax.pure_callback(on_host, out, w, vmap_method="expand_dims")


def _matrices(w: Any) -> Array:
    """Convert w to an array; raise unless it has at least two axes."""
    w = jnp.asarray(as_array("w", w))
    check_floating("w", w)
    if w.ndim < 2:
        remedy = "cut w_hh into gates with gate_blocks(cell, params)"
        raise fail("w", f"shape {w.shape}", "[..., H, H]", remedy)
    return w
