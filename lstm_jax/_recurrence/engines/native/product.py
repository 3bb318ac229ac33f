"""The products of `products.py` as calls of the kernel."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ...._jax import set_chosen_lowering
from ...._typing import Array
from ...products import plain_product, product_p, sums_dtype
from . import library


def product(a: Array, b: Array, *start: Array, a_axis: int, b_axis: int, members: int) -> Array:
    """Compute the product primitive by the kernel; see `products.product_p` for the arguments."""
    rows = a.shape[members:-1] if a_axis else a.shape[-1:]
    columns = b.shape[members:-1] if b_axis else b.shape[-1:]
    dtype = sums_dtype(a, b)
    like = jax.ShapeDtypeStruct((*a.shape[:members], *rows, *columns), dtype)
    call = jax.ffi.ffi_call(f"lstm_jax_product_{library.TYPES[str(dtype)]}", like)
    axes = {"a_axis": a_axis, "b_axis": b_axis, "members": members}
    attributes: dict[str, Any] = {name: np.int32(axis) for name, axis in axes.items()}
    return call(a, b, *[s.astype(dtype) for s in start], **attributes)


def _chosen(why_not_here: Callable[[], str | None], exported: bool, **axes: int) -> Any:
    del exported, axes  # `why_not_here` tells of an export.
    return plain_product if library.why_not() or why_not_here() else product


set_chosen_lowering(product_p, "cpu", _chosen)
