"""Batching rules: the vmap of a recurrence is a recurrence again, with the same fast derivatives.

The new batch axis is the first of a leaf, or comes after time. Weights, extras and the projection
of the inputs have it only if they differ between members.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.tree_util import GetAttrKey, tree_leaves_with_path

from ..._jax import Primitive, set_rules
from ..._typing import Array
from ..equations import TIMED
from ..products import moved, product
from ..spec import Members, vmapped
from .binding import FUNCTIONS, Static, out_structure, run_p, transposed_p


def _batch(
    primitive: Primitive, leaves: Sequence[Array], dims: Sequence[int | None], *, static: Static
) -> tuple[list[Array], list[int]]:
    """Apply vmap to a primitive. dims: the vmapped axis of each operand, None if it has none."""
    names = fields(static.tree)
    own = {field for field, d in zip(names, dims, strict=True) if d is not None}
    if "projection" in own:
        return _batch_of_projected(leaves, dims, static)
    # Batched weights need batched extras, and so does the gradient of extras for each member.
    alone = "weights" in own or primitive is transposed_p
    shared = {"weights", "projection"} - own | (set() if alone else {"extras"} - own)
    size = next(x.shape[d] for x, d in zip(leaves, dims, strict=True) if d is not None)
    batched = [
        x if field in shared else moved(x, d, field in TIMED, size)
        for x, d, field in zip(leaves, dims, names, strict=True)
    ]
    members = Members(weights="weights" in own, extras="extras" not in shared)
    static = static._replace(recurrence=vmapped(static.recurrence, members))
    outs = primitive.bind(*batched, static=static)
    return outs, [int(f in TIMED) for f in fields(out_structure(primitive, static, batched))]


def _batch_of_projected(
    leaves: Sequence[Array], dims: Sequence[int | None], static: Static
) -> tuple[list[Array], list[int]]:
    """Apply vmap where x @ w + b differs between members: compute wx before the recurrence."""
    (ops,), (axes,) = static.tree.unflatten(leaves), static.tree.unflatten(dims)
    project = jax.vmap(product, in_axes=(axes.wx, *axes.projection), out_axes=1)
    ops = ops._replace(wx=project(ops.wx, *ops.projection), projection=None)
    leaves, tree = jax.tree.flatten((ops,))
    dims = tree.flatten_up_to((axes._replace(wx=1, projection=None),))
    return _batch(run_p, leaves, dims, static=static._replace(tree=tree))


def fields(structure: Any) -> list[str]:
    """List, for each leaf, the name of the operands' or result's field that it belongs to."""
    paths = tree_leaves_with_path(structure.unflatten(range(structure.num_leaves)))
    return [next(key.name for key in path if isinstance(key, GetAttrKey)) for path, _ in paths]


for _primitive in FUNCTIONS:
    set_rules(_primitive, batch=partial(_batch, _primitive))
