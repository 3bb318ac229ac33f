"""Matrices that are orthogonal, or nearly so, whatever an optimiser does to their parameters.

A parametrisation is a pair of functions. `free` replaces each matrix of a tree of parameters by
unconstrained ones, which are what is trained; `weights` computes the matrices from them again:

    kept = regularizers.Orthogonal()
    free = kept.free(net.init(key, input_size))

    def loss(free):
        return task.loss(unroll(net, kept.weights(free), xs)[1], batch)

So it works with every cell, net and implementation, and diagnostics take `kept.weights(free)`. The
constraint holds exactly after every update, unlike with a penalty (`orthogonality`), and an update
costs no SVD, unlike with a projection (`keep_singular_values`).

A matrix [H, G*H] has a block [H, H] for each of G gates, and each block its own constraint. In
`free` its place is taken by a dict, of which "base" is a constant: its gradient is zero. Weight
decay would move it all the same; leave it out with `optax.masked`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .. import _linalg
from .._checks import as_names, check_choice, check_range, fail, shown, unboxed
from .._static import Static
from .._typing import Array
from .weights import blocks, wide

__all__ = ["NearOrthogonal", "Orthogonal"]
__dir__ = __all__.copy


def _cayley(x: Array) -> Array:
    one = jnp.eye(x.shape[-1], dtype=x.dtype)
    return _linalg.solve(one[None] - x / 2, one[None] + x / 2)


_MAPS: dict[str, Callable[[Array], Array]] = {"exp": _linalg.expm, "cayley": _cayley}
"""Maps from skew-symmetric matrices [G, H, H] to rotations, by name."""


@dataclass(frozen=True)
class _Parametrization(Static):
    """Base class: a subclass defines how one matrix is taken apart and computed again."""

    names: tuple[str, ...] = ("w_hh",)
    map: str = "exp"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", as_names("names", self.names))
        check_choice("map", self.map, _MAPS)

    def free(self, params: Any) -> Any:
        """Replace each matrix called one of `names`, anywhere in a tree, by free parameters.

        Raises:
            ValueError: there is none, or one is not [H, G*H].
        """
        found: list[Any] = []

        def taken(path: Any, leaf: Any) -> Any:
            if not self._is_named(path):
                return leaf
            found.append(leaf)
            parts = self._taken_apart(blocks(leaf, None))
            return jax.tree.map(lambda part: part.astype(leaf.dtype), parts)

        free = jax.tree_util.tree_map_with_path(taken, unboxed(params))
        self._check_found(found, params, "pass what init gives")
        return free

    def weights(self, free: Any) -> Any:
        """Compute the matrices again: the parameters that a cell or net takes.

        Raises:
            ValueError: the parameters are not those that `free` gave.
        """
        found: list[Any] = []

        def computed(path: Any, leaf: Any) -> Any:
            if not isinstance(leaf, Mapping):
                return leaf
            if self._is_named(path):
                found.append(leaf)
            dtype = jax.tree.leaves(leaf)[0].dtype
            with jax.default_matmul_precision("highest"):
                parts = self._computed(jax.tree.map(wide, leaf))
            return jnp.swapaxes(parts, 0, 1).reshape(parts.shape[1], -1).astype(dtype)

        params = jax.tree_util.tree_map_with_path(computed, unboxed(free), is_leaf=self._is_free)
        self._check_found(found, free, "pass what `free` gives")
        return params

    def _is_named(self, path: Any) -> bool:
        return bool(path) and getattr(path[-1], "key", None) in self.names

    def _is_free(self, tree: Any) -> bool:
        return isinstance(tree, Mapping) and tree.keys() == self._parts

    def _check_found(self, found: list[Any], tree: Any, remedy: str) -> None:
        if not found:
            raise fail("params", shown(tree), f"a tree with {' or '.join(self.names)}", remedy)

    def _turned(self, base: Array, skew: Array) -> Array:
        """Rotate each block of a constant base by the rotation that `skew` stands for."""
        turn = _MAPS[self.map](skew - jnp.swapaxes(skew, 1, 2))
        return lax.stop_gradient(base) @ turn

    # ---- a subclass defines ---------------------------------------------------------------------
    _parts = frozenset[str]()

    def _taken_apart(self, w: Array) -> dict[str, Array]:
        """Blocks [G, H, H] -> free parameters."""
        raise NotImplementedError

    def _computed(self, free: Mapping[str, Array]) -> Array:
        """Free parameters -> blocks [G, H, H]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Orthogonal(_Parametrization):
    """Orthogonal matrices: W = W_0 exp(A - A^T), for any square A.

    W_0 is the orthogonal matrix nearest to the W that `free` got (its polar factor), so an
    orthogonal start stays what it is; A starts at zero. The determinant keeps the sign of that of
    W_0. In place of W there is {"base": W_0, "skew": A}, each [G, H, H]. A learning rate for "skew"
    of a tenth of that of the other parameters is usual.

    Attributes:
        names: names of the matrices, anywhere in the tree of parameters.
        map: "exp" for exp(X), or "cayley" for (I - X/2)^-1 (I + X/2), which costs about a tenth and
            never turns by 180 degrees.

    Sources: Lezcano-Casado & Martinez-Rubio (2019), arXiv 1901.08428, for the exponential, and
    Lezcano-Casado (2019), arXiv 1909.09501, for the base; Helfrich, Willmott & Ye (2018), arXiv
    1707.09520, for the Cayley transform.
    """

    _parts = frozenset({"base", "skew"})

    def _taken_apart(self, w: Array) -> dict[str, Array]:
        u, _, vt = _linalg.svd(w)
        base = jnp.matmul(u, vt, precision=lax.Precision.HIGHEST)
        return {"base": base, "skew": jnp.zeros_like(w)}

    def _computed(self, free: Mapping[str, Array]) -> Array:
        return self._turned(free["base"], free["skew"])


@dataclass(frozen=True)
class NearOrthogonal(_Parametrization):
    """Matrices whose singular values s stay within a margin m of 1: W = U diag(s) V^T.

        s = 1 + 2 m (sigmoid(p) - 1/2)        between 1 - m and 1 + m

    U and V are orthogonal, each parametrised as in `Orthogonal`. `free` starts from the W that it
    gets, its singular values moved into the margin. In place of W there is {"left": ..., "right":
    ..., "spectrum": p [G, H]}.

    Attributes:
        names, map: as in `Orthogonal`.
        margin: m, in [0, 1]; it may be a traced scalar. With 0 W is orthogonal.

    Raises:
        ValueError: a margin outside [0, 1].

    Source: Vorontsov et al. (2017), arXiv 1702.00071, section 3, there with geodesic updates of U
    and V.
    """

    margin: Any = 0.1

    _parts = frozenset({"left", "right", "spectrum"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.margin, jax.Array):
            check_range("margin", self.margin, 0, 1)

    def _taken_apart(self, w: Array) -> dict[str, Any]:
        u, s, vt = _linalg.svd(w)
        width = jnp.maximum(2 * jnp.asarray(self.margin, s.dtype), jnp.finfo(s.dtype).tiny)
        share = jnp.clip((s - 1) / width + 0.5, 0.01, 0.99)  # At 0 and 1 nothing could be learned.
        zeros = jnp.zeros_like(w)
        return {
            "left": {"base": u, "skew": zeros},
            "right": {"base": jnp.swapaxes(vt, 1, 2), "skew": zeros},
            "spectrum": jnp.log(share) - jnp.log1p(-share),
        }

    def _computed(self, free: Mapping[str, Any]) -> Array:
        left, right = (self._turned(**free[side]) for side in ("left", "right"))
        s = 1 + 2 * jnp.asarray(self.margin, left.dtype) * (jax.nn.sigmoid(free["spectrum"]) - 0.5)
        return (left * s[:, None]) @ jnp.swapaxes(right, 1, 2)
