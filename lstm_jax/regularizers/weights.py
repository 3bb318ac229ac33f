"""Penalties on weights: their size, and the distance of a matrix from orthogonality."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_array, check_floating, check_positive_int, check_range, fail
from .._linalg import singular_values
from .._numerics import at_least_float32, cast, common_dtype, promote
from .._typing import Array

__all__ = ["l2", "manifold_attractor", "orthogonality", "singular_value_margin"]
__dir__ = __all__.copy


def l2(w: Any) -> Array:
    """Sum of w^2 over every entry of an array or of every leaf of a tree.

    Raises:
        ValueError: a leaf is not floating-point.
    """
    leaves = [as_array("w", leaf) for leaf in jax.tree.leaves(w)]
    for leaf in leaves:
        check_floating("w", leaf)
    squares = [jnp.sum(jnp.square(wide(leaf))) for leaf in leaves]
    dtype = promote(np.float32, *(square.dtype for square in squares))
    return sum(cast(squares, dtype), jnp.zeros((), dtype))


def orthogonality(w: Array, hidden_size: int | None = None) -> Array:
    """Penalty on the distance of each gate's block from orthonormal columns.

        sum over gates of ||W^T W - I||_F^2

    It is 0 if every block keeps the norm of the vector that it multiplies. As a soft constraint,
    its strength decides how far singular values stray from 1 (Vorontsov et al. 2017, section 3).

    Args:
        w: [H, G*H] floating, a recurrent matrix; or [N, G*H] with N >= H.
        hidden_size: H; None: the number of rows of w.

    Raises:
        ValueError: w is not a matrix of whole blocks, or has too few rows for orthonormal columns.
    """
    parts = blocks(w, hidden_size)
    gram = jnp.einsum("gni,gnj->gij", parts, parts, precision="highest")
    return jnp.sum(jnp.square(gram - jnp.eye(parts.shape[-1], dtype=gram.dtype)[None]))


def singular_value_margin(w: Array, margin: float, hidden_size: int | None = None) -> Array:
    """Sum over the singular values s of each gate's block of max(|s - 1| - margin, 0)^2.

    Singular values inside [1 - margin, 1 + margin] cost nothing. Strict orthogonality can hurt
    tasks that need to forget (Vorontsov et al. 2017, arXiv 1702.00071).

    Args:
        w, hidden_size: as in `orthogonality`.
        margin: at least 0.

    Raises:
        ValueError: as `orthogonality`, or a negative margin.
    """
    check_range("margin", margin, 0)
    s = singular_values(blocks(w, hidden_size))
    return jnp.sum(jnp.square(jnp.maximum(jnp.abs(s - 1) - margin, 0)))


def manifold_attractor(w: Array, b: Array, units: int) -> Array:
    """Manifold-attractor penalty (MAR): the first units shall only add up what they are given.

        sum over i < units of (w_ii - 1)^2 + sum_{j != i} w_ji^2 + b_i^2

    with w_ji the weight from unit j to unit i. At 0 such a unit adds its input to its state. In a
    ReLU or linear network it so keeps state and gradient for ever, in a tanh network while the
    state is small. The other units stay free. It is for h' = f(h @ w + x @ w_ih + b), as in `RNN`:
    a gated cell keeps its state by its gates.

    Args:
        w: [H, H] floating, a recurrent matrix of one gate.
        b: [H] floating.
        units: the number of units that keep, in [0, H]; 0.3 H in the paper.

    Raises:
        ValueError: shapes that do not fit, or units out of range.

    Source: Schmidt, Koppe, Monfared, Beutelspacher & Durstewitz (2021), arXiv 1910.03471;
    there w is split into its diagonal and the rest.
    """
    w, b = as_array("w", w), as_array("b", b)
    for name, given in (("w", w), ("b", b)):
        check_floating(name, given)
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        raise fail("w", f"shape {w.shape}", "[H, H], one gate", "pass params['w_hh'] of an RNN")
    size = w.shape[0]
    if b.shape != (size,):
        raise fail("b", f"shape {b.shape}", f"[H] = [{size}]", "pass params['b']")
    check_positive_int("units", units, least=0)
    if units > size:
        raise fail("units", units, f"at most H = {size}", "pass for example 0.3 H, as an integer")
    w, b = cast((w, b), at_least_float32(common_dtype(w, b)))
    rest = w[:, :units] - jnp.eye(size, units, dtype=w.dtype)
    return jnp.sum(jnp.square(rest)) + jnp.sum(jnp.square(b[:units]))


def blocks(w: Array, hidden_size: int | None) -> Array:
    """Split w [N, G*H] into one block per gate, [G, N, H]; raise if it is not G whole blocks."""
    w = as_array("w", w)
    check_floating("w", w)
    if w.ndim != 2:
        raise fail("w", f"shape {w.shape}", "[H, G*H]", "pass one matrix, such as params['w_hh']")
    rows, columns = w.shape
    if hidden_size is not None:
        check_positive_int("hidden_size", hidden_size)
    size = rows if hidden_size is None else hidden_size
    if size == 0 or rows < size or columns % size:
        wanted = f"at least H = {size} rows and whole blocks of H columns"
        raise fail("w", f"shape {w.shape}", wanted, "pass params['w_hh'] and its H as hidden_size")
    return jnp.swapaxes(wide(w).reshape(rows, columns // size, size), 0, 1)


def wide(x: Array) -> Array:
    return jnp.asarray(x, at_least_float32(jnp.result_type(x)))
