"""What the recurrent matrix alone says: spectral radius, norm, departure from normality."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cells.contract import Recurrent, check_cell
from .._checks import as_array, check_floating, check_named, fail, unboxed
from .._numerics import at_least_float32
from .._typing import Array, Params

__all__ = ["gate_blocks", "henrici", "spectral_norm", "spectral_radius"]
__dir__ = __all__.copy


def gate_blocks(cell: Recurrent, params: Params) -> dict[str, Array]:
    """The recurrent matrix of each gate: {gate: [H, H]}, cut from w_hh [H, G*H].

    `jax.tree.map(spectral_radius, gate_blocks(cell, params))` is one radius a gate; and so on for
    the other functions here.

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
    """rho(W) = max |eig(W)|. Below 1, a linear network forgets; tanh only shrinks it further.

    By NumPy in float64 on the host, whatever the platform: JAX has no eigenvalues of non-symmetric
    matrices on every accelerator. Works under jit and vmap; has no derivative.

    Args:
        w: [..., H, H]. See `gate_blocks` for a cell with several gates.

    Returns:
        [...]; NaN where w is not finite.

    Raises:
        ValueError: w is not square.
    """
    return _magnitudes(w).max(axis=-1)


def spectral_norm(w: Array) -> Array:
    """|W|_2 = the largest singular value: how much one step can stretch. [..., m, n] -> [...].

    |W|_2 < 1/gamma, gamma the largest slope of f (1 for tanh, 1/4 for sigmoid), is sufficient for
    gradients to vanish (Pascanu, Mikolov & Bengio 2013, section 2.1).
    """
    w = _matrices(w)
    return jnp.linalg.norm(w.astype(at_least_float32(w.dtype)), 2, axis=(-2, -1))


def henrici(w: Array) -> Array:
    """How far W is from normal: sqrt(1 - sum_i |eig_i|^2 / |W|_F^2), in [0, 1).

    0 for a normal matrix (orthogonal, symmetric, skew); near 1 for one that can stretch a gradient
    for many steps although its spectral radius says that it vanishes. By `spectral_radius`'s way.

    Args:
        w: [..., H, H].

    Returns:
        [...]; NaN where w is zero or not finite.

    Raises:
        ValueError: w is not square.

    Source: Henrici (1962), Numer. Math. 4; the departure from normality over the Frobenius norm.
    """
    w = _matrices(w)
    # The measure has no unit; in that of the largest entry no square overflows or vanishes.
    w = w / jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True, initial=0)
    eigenvalues = jnp.sum(_magnitudes(w) ** 2, axis=-1)
    whole = jnp.sum(jnp.asarray(w, eigenvalues.dtype) ** 2, axis=(-2, -1))
    return jnp.sqrt(jnp.maximum(1 - eigenvalues / whole, 0))


def _magnitudes(w: Array) -> Array:
    """|eig(W)|, [..., H, H] -> [..., H] in no order."""
    w = _matrices(w)
    if w.shape[-1] != w.shape[-2]:
        remedy = "cut w_hh into gates with gate_blocks(cell, params)"
        raise fail("w", f"shape {w.shape}", "[..., H, H]", remedy)
    dtype = at_least_float32(w.dtype)
    out = jax.ShapeDtypeStruct(w.shape[:-1], dtype)
    return jax.pure_callback(_host_magnitudes, out, w.astype(dtype), vmap_method="expand_dims")


def _matrices(w: Any) -> Array:
    """w as an array; raise unless it is one matrix or more."""
    w = jnp.asarray(as_array("w", w))
    check_floating("w", w)
    if w.ndim < 2:
        remedy = "cut w_hh into gates with gate_blocks(cell, params)"
        raise fail("w", f"shape {w.shape}", "[..., H, H]", remedy)
    return w


def _host_magnitudes(w: Array) -> np.ndarray:
    host = np.asarray(w, np.float64)
    # LAPACK raises on what is not finite; a report of a run that diverged shall not.
    finite = np.all(np.isfinite(host), axis=(-2, -1))
    magnitudes = np.abs(np.linalg.eigvals(np.where(finite[..., None, None], host, 0.0)))
    return np.where(finite[..., None], magnitudes, np.nan).astype(w.dtype)
