"""Helpers to translate jaxprs: of `update` (`elementwise`) and of `recur` (`matrix.py`)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax


class Untranslatable(NotImplementedError):
    """Raised for a computation that a kernel cannot run; the message is one line that says why."""


def without_devices() -> Any:
    """Context with an empty mesh, so that traced types carry no sharding of the caller's."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


@contextlib.contextmanager
def without_settings() -> Iterator[None]:
    """Context for a trace that is kept, or compared with one that was.

    The caller's sharding and precision of matmuls may be others the next time; the kernels that are
    made of such a trace have their own.
    """
    with without_devices(), jax.default_matmul_precision(None):
        yield


VIEWS = (
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "copy_p", "slice", "split",
    "concatenate", "convert_element_type",
)  # fmt: skip
"""Primitives that only rearrange or convert values: linear, and allowed in any dtype."""

ROWS, OTHER_ROWS = 65537, 65539
"""Batch sizes to translate for, and to compare with where the call's own is ROWS or not known.

The batch axis is recognised by its size, so ROWS is a prime that no other axis may have as size.
"""
