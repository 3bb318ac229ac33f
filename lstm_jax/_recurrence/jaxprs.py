"""Helpers to translate jaxprs: of `update` (`elementwise`) and of `recur` (`matrix.py`)."""

import re
from typing import Any

import jax
import numpy as np

from .._jax import inner_jaxpr


class Untranslatable(NotImplementedError):
    """Raised for a computation that a kernel cannot run; the message is one line that says why."""


def without_devices() -> Any:
    """Context with an empty mesh, so that traced types carry no sharding of the caller's."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


VIEWS = (
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "copy_p", "slice", "split",
    "concatenate", "convert_element_type",
)  # fmt: skip
"""Primitives that only rearrange or convert values: linear, and allowed in any dtype."""

ROWS, OTHERS = 65537, 65539
"""Two batch sizes to trace with; apart from them the two jaxprs must be the same.

The batch axis is recognised by its size, so both are primes that no other axis may have as size.
"""


def text_of(traced: Any, rows: int) -> tuple[str, list[bytes]]:
    """Text and constants of a jaxpr, with "rows" in place of the batch size.

    Two traces with different batch sizes give the same if the computation does not depend on it.
    """
    text = re.sub(rf"(?<![\w.]){rows}(?![\w.:])", "rows", str(traced))
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # Addresses of derivative rules.
    return text, [np.asarray(each).tobytes() for each in _constants(traced)]


def _constants(traced: Any) -> list[Any]:
    """List the constants of a closed jaxpr and of the calls in it."""
    inner = [inner_jaxpr(eqn) for eqn in traced.jaxpr.eqns]
    return [*traced.consts, *(c for each in inner if each is not None for c in _constants(each))]
