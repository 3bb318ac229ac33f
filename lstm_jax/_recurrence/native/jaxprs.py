"""What both readers of jaxprs share: of an update (program.py), and of a `recur` (matrix.py)."""

from typing import Any

import jax


class Untranslatable(NotImplementedError):
    """What the kernel cannot; the message is one line that says what."""


def without_devices() -> Any:
    """A context in which types say nothing of devices, whatever the caller's says."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


VIEWS = (
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "copy_p", "slice", "split",
    "concatenate", "convert_element_type",
)  # fmt: skip
"""Primitives that compute nothing: of any dtype, and linear."""
