"""A vmapped recurrence is a recurrence again, and keeps its derivatives and their speed.

Its cell is the cell under `vmap`. The new axis of the batch is the first of every leaf, or comes
after time; weights and the projection of the inputs have one only where they differ.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.tree_util import GetAttrKey, tree_leaves_with_path

from ..._jax import Primitive, set_rules
from ..._products import moved, product
from ..._typing import Array, Carry, Params, Pre
from ..base import TIMED
from .binding import FUNCTIONS, Static, out_structure, run_p, transposed_p


@dataclasses.dataclass(frozen=True)
class Vmapped:
    """A cell under `vmap`: weights and extras with a leading axis or shared, all else with one."""

    cell: Any
    weights_batched: bool
    extras_batched: bool

    @property
    def additive(self) -> bool:
        return self.cell.additive

    def recur(self, weights: Params, carry: Carry) -> Array:
        axis = 0 if self.weights_batched else None
        return jax.vmap(self.cell.recur, in_axes=(axis, 0))(weights, carry)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any) -> Carry:
        axes = (0, 0, 0, 0 if self.extras_batched else None, 0)
        return jax.vmap(self.cell.advance, in_axes=axes)(carry, wx, u, extras, noise)


def _batch(
    primitive: Primitive, leaves: Sequence[Array], dims: Sequence[int | None], *, static: Static
) -> tuple[list[Array], list[int]]:
    """The flat results and their new axes. dims: the operands' own, None where one has none."""
    names = fields(static.tree)
    own = {field for field, d in zip(names, dims, strict=True) if d is not None}
    if "projection" in own:
        return _batch_of_projected(leaves, dims, static)
    # A member's own weights come with extras of its own; and so does its gradient of them.
    alone = "weights" in own or primitive is transposed_p
    shared = {"weights", "projection"} - own | (set() if alone else {"extras"} - own)
    size = next(x.shape[d] for x, d in zip(leaves, dims, strict=True) if d is not None)
    batched = [
        x if field in shared else moved(x, d, field in TIMED, size)
        for x, d, field in zip(leaves, dims, names, strict=True)
    ]
    cell = Vmapped(static.cell, "weights" in own, "extras" not in shared)
    static = static._replace(cell=cell)
    outs = primitive.bind(*batched, static=static)
    return outs, [int(f in TIMED) for f in fields(out_structure(primitive, static, batched))]


def _batch_of_projected(
    leaves: Sequence[Array], dims: Sequence[int | None], static: Static
) -> tuple[list[Array], list[int]]:
    """wx = x @ w + b, of each its own, is made beforehand."""
    (ops,), (axes,) = static.tree.unflatten(leaves), static.tree.unflatten(dims)
    project = jax.vmap(product, in_axes=(axes.wx, *axes.projection), out_axes=1)
    ops = ops._replace(wx=project(ops.wx, *ops.projection), projection=None)
    leaves, tree = jax.tree.flatten((ops,))
    dims = tree.flatten_up_to((axes._replace(wx=1, projection=None),))
    return _batch(run_p, leaves, dims, static=static._replace(tree=tree))


def fields(structure: Any) -> list[str]:
    """The name of the operands' or the result's field that each leaf stands in."""
    paths = tree_leaves_with_path(structure.unflatten(range(structure.num_leaves)))
    return [next(key.name for key in path if isinstance(key, GetAttrKey)) for path, _ in paths]


for _primitive in FUNCTIONS:
    set_rules(_primitive, batch=partial(_batch, _primitive))
