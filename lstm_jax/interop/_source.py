"""Named arrays of any library, with errors that name the tensor."""

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import check_path, fail, missing
from .._files import write_whole as write_whole


def as_numpy(value: Any) -> np.ndarray:
    """Convert a tensor, variable or array of any library to NumPy, without importing it."""
    if hasattr(value, "detach"):  # A torch tensor; NumPy lacks torch's bfloat16.
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(jnp.bfloat16)
        return value.numpy()
    if hasattr(value, "unbox"):  # A linen Partitioned.
        value = value.unbox()
    elif hasattr(value, "get_value"):  # An nnx Param.
        value = value.get_value()
    return np.asarray(value)


class Tensors:
    """Named arrays of a source, each to be taken once.

    Attributes:
        remedy: the remedy in the error about tensors that were not taken.
    """

    def __init__(self, arrays: Mapping[str, Any], remedy: str):
        self._arrays = dict(arrays)
        self.remedy = remedy

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self) -> list[str]:
        """Names of the tensors that have not been taken."""
        return list(self._arrays)

    def ndim(self, name: str) -> int:
        """Number of axes of a tensor; 0 if it is missing."""
        return _read(name, self._arrays[name]).ndim if name in self else 0

    def take(self, name: str, letters: str, *shape: int | None) -> np.ndarray:
        """Take the tensor `name`; check its values and `shape`, where None is any size.

        Raises:
            ValueError: the tensor is missing, of another shape, not floating-point or not finite.
        """
        if name not in self._arrays:
            seen = f"only {', '.join(sorted(self._arrays)) or 'nothing'}"
            raise fail(name, seen, f"a tensor {letters} of that name", "pass a source that has it")
        return check_tensor(name, self._arrays.pop(name), letters, *shape)

    def finish(self) -> None:
        """Raise if a tensor was not taken."""
        if self._arrays:
            raise fail(min(self._arrays), "an unexpected tensor", "only a cell's", self.remedy)


def check_tensor(name: str, value: Any, letters: str, *shape: int | None) -> np.ndarray:
    """Convert `value` to an array; raise unless it is finite and of `shape` (None: any size)."""
    array = _read(name, value)
    fits = len(array.shape) == len(shape) and all(
        want in (None, size) for size, want in zip(array.shape, shape, strict=False)
    )
    if not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        remedy = "pass weights whose sizes agree"
        raise fail(name, f"shape {array.shape}", f"{letters} = ({sizes})", remedy)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise fail(name, f"dtype {array.dtype}", "floating-point numbers", "pass float weights")
    if not np.isfinite(array).all():
        raise fail(name, "NaN or Inf", "finite numbers", "pass weights without NaN and Inf")
    return array


def _read(name: str, value: Any) -> np.ndarray:
    """Convert `value` to NumPy; raise if that is not possible."""
    try:
        return as_numpy(value)
    except (TypeError, ValueError, RuntimeError) as error:  # Sparse, quantised, meta or ragged.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "convert it to dense numbers on the CPU, of 16, 32 or 64 bits"
        raise fail(name, f"a {type(value).__name__} ({first})", "an array", remedy) from None


def is_path(source: Any) -> bool:
    """True if `source` is a path."""
    return isinstance(source, (str, os.PathLike))


def existing(path: Any) -> Path:
    """Convert `path` to a Path; raise unless the file exists.

    Raises:
        FileNotFoundError: there is no such file.
    """
    check_path("path", path)
    if not os.path.isfile(path):
        seen, remedy = repr(str(path)), "check the path"
        raise fail("path", seen, "an existing file", remedy, FileNotFoundError)
    return Path(path)


@contextlib.contextmanager
def unreadable(path: Any, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn `errors` of a reader into a ValueError that names the file.

    Other errors, such as this library's ValueErrors, pass through.
    """
    try:
        yield
    except errors as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        seen = f"{str(path)!r} ({first})"
        raise fail("path", seen, f"a file of {kind}", "pass an undamaged one") from None


def need(module: str, extra: str) -> ModuleType:
    """Import a module that the extra `extra` installs.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, error, extra) from error
