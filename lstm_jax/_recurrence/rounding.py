"""The rounding of h before the recurrent matmul, moved to the end of the step before.

There it is one more result of the kernel that computes h, where XLA for GPUs else launches another.
"""

from typing import Any

import jax

from .._typing import Array, Carry, DType, Params
from .jaxprs import Untranslatable
from .matrix import form
from .spec import Recurrence


def rounded_to(cell: Recurrence, weights: Params, carry: Carry) -> DType | None:
    """Find the narrower dtype to which `recur` rounds h; None if it does not, or under `vmap`."""
    if cell.members:
        return None
    try:
        return form(cell.cell, weights, carry).rounded
    except Untranslatable:
        return None


def rounded(carry: Carry, dtype: DType | None) -> Array | None:
    """Round h, the first leaf of the carry, to `dtype`; None: it is not rounded."""
    return None if dtype is None else jax.tree.leaves(carry)[0].astype(dtype)


def with_rounded(carry: Carry, h: Array | None) -> Any:
    """Replace h in the carry by its rounded value, in its own dtype; None: leave it."""
    if h is None:
        return carry
    (first, *others), tree = jax.tree.flatten(carry)
    return tree.unflatten([h.astype(first.dtype), *others])
