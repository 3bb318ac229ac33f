"""The library that launches kernels: find it, check it, and tell XLA of it."""

import contextlib
import ctypes
import functools
import pathlib

import jax

from ...._jax import accepts_interface
from ..built import newest, opened, told

TARGET = "lstm_jax_cuda"
"""Name of XLA's call of the library."""

FOLDER = pathlib.Path(__file__).parent


def why_not() -> str | None:
    """Return None if the library is there and XLA accepts it, or one line that says why not."""
    library = _library()
    if library is None:
        return "its launcher was not built (a C++17 compiler, then install lstm-jax again)"
    if not accepts_interface(told(library, "interface")):
        return "its launcher was built for another version of XLA (install lstm-jax again)"
    return None


@functools.cache
def register() -> None:
    """Tell XLA of the library, if it is there; this starts no backend."""
    library = _library()
    if library is not None and why_not() is None:
        capsule = jax.ffi.pycapsule(getattr(library, TARGET))
        jax.ffi.register_ffi_target(TARGET, capsule, platform="CUDA")


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Load the library, if it was built from the sources that are here."""
    path = newest(FOLDER, "_launcher*.so")
    with contextlib.suppress(OSError, AttributeError):
        return path and opened(path)
    return None
