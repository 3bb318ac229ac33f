"""Constraints on the singular values of a recurrent matrix, by projection after every update."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import _linalg
from .._checks import as_array, as_names, check_range, fail, shown
from .._typing import Array
from .weights import blocks

__all__ = ["clip_singular_values", "keep_singular_values"]
__dir__ = __all__.copy


def clip_singular_values(
    w: Array,
    low: float,
    high: float,
    hidden_size: int | None = None,
    gates: tuple[int, ...] | None = None,
) -> Array:
    """Clip the singular values of each gate's block of w to [low, high].

    Apply it after an update, as `keep_singular_values` does. low = 0 bounds the spectral norm;
    low = 1 - m, high = 1 + m allows a margin around orthogonality (Vorontsov et al. 2017, arXiv
    1702.00071).

    Args:
        w, hidden_size: as in `orthogonality`.
        low, high: the bounds.
        gates: numbers of the blocks to clip; None: all.

    Raises:
        ValueError: w as in `orthogonality`, not 0 <= low <= high, or a gate that w has not.
    """
    _check_bounds(low, high)
    w = jnp.asarray(as_array("w", w))
    parts = blocks(w, hidden_size)
    chosen = _chosen(gates, len(parts))
    u, s, vt = _linalg.svd(parts[chosen])
    s = jnp.clip(s, low, high)
    clipped = jnp.einsum("gni,gi,gih->gnh", u, s, vt, precision="highest")
    parts = parts.at[chosen].set(clipped)
    return jnp.swapaxes(parts, 0, 1).reshape(w.shape).astype(w.dtype)


def keep_singular_values(
    low: float,
    high: float,
    names: tuple[str, ...] = ("w_hh",),
    gates: tuple[int, ...] | None = None,
) -> optax.GradientTransformation:
    """Last link of an optax chain that applies `clip_singular_values` after each update.

    It acts on every parameter whose own key is one of `names`, anywhere in the tree.

        tx = optax.chain(clipped_sgd(0.1), keep_singular_values(0.0, 1.0))

    `gates` are the numbers of the gates whose blocks are clipped, None for all. The origin of a GRU
    without biases is stable if the norm of its candidate's block is below 2: to keep it below
    (Kanai, Fujiwara & Iwamura 2017), `keep_singular_values(0.0, 2 - delta, gates=(2,))`.

    Raises:
        ValueError: not 0 <= low <= high; in `update`, no parameters given, none of that name, or
            a gate that one of them has not.
    """
    _check_bounds(low, high)
    names = as_names("names", names)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise fail("params", None, "the parameters", "call update(grads, state, params)")
        chosen = _named(params, names)
        if not any(jax.tree.leaves(chosen)):
            raise fail("names", names, "names of parameters", "pass for example ('w_hh',)")

        def projected(chosen: bool, change: Array, w: Array) -> Array:
            if not chosen:
                return change
            return clip_singular_values(w + change, low, high, gates=gates) - w

        return jax.tree.map(projected, chosen, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _check_bounds(low: Any, high: Any) -> None:
    check_range("low", low, 0)
    check_range("high", high, 0)
    if low > high:
        raise fail("low, high", (low, high), "0 <= low <= high", "swap them")


def _chosen(gates: Any, count: int) -> np.ndarray:
    """The numbers of the blocks to clip; raise unless they are different ones of `count`."""
    if gates is None:
        return np.arange(count)
    given = gates if isinstance(gates, (tuple, list)) else ()
    known = [gate for gate in given if _is_integer(gate) and 0 <= gate < count]
    if not given or len(set(known)) < len(given):
        wanted = f"None, or different numbers of gates from 0 to {count - 1}"
        raise fail("gates", shown(gates), wanted, "pass for example gates=(0,)")
    return np.array(known)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _named(tree: Any, names: tuple[str, ...]) -> Any:
    """Tree of bools, True at the leaves whose own key is one of `names`."""

    def is_named(path: Any, leaf: Any) -> bool:
        del leaf
        # A box of Flax (nnx.Param, nn.Partitioned) holds its array as the attribute "value".
        boxed = bool(path) and getattr(path[-1], "name", None) == "value"
        path = path[:-1] if boxed else path
        return bool(path) and getattr(path[-1], "key", None) in names

    return jax.tree_util.tree_map_with_path(is_named, tree)
