"""Metrics as lines of JSON."""

import errno
import json
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_path, fail

__all__ = ["JsonLines"]
__dir__ = __all__.copy


class JsonLines:
    """A file of metrics, one JSON object a line, to use in a `with` statement.

    Lines are appended to an existing file. Each is written in one system call and is in the file
    when `write` returns; if that fails, the file is as it was before. NaN, Inf and -Inf, which JSON
    lacks, become the strings "NaN", "Infinity" and "-Infinity", so that a log of exploding
    gradients tells them apart; Python's `float` and JavaScript's `Number` read them.

    Args:
        path: the file; its folder must exist.

    Raises:
        ValueError: on entering `with`, the folder does not exist or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        check_path("path", path)
        self.path = os.fspath(path)
        self._file = None

    def __enter__(self) -> "JsonLines":
        try:
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            seen = f"{self.path!r} ({error.strerror})"
            remedy = f"create the folder {os.path.dirname(self.path) or '.'!r} or name another file"
            raise fail("path", seen, "a file that can be written", remedy) from error
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def write(self, record: dict[str, Any]) -> None:
        """Append one line.

        Args:
            record: name -> number, string, bool or None; a NumPy or JAX array of numbers; a list,
                tuple, NamedTuple or dict of these.

        Raises:
            ValueError: a value that JSON cannot hold, or the file is not open.
            OSError: the line could not be written completely; none of it is in the file.
        """
        if self._file is None:
            raise fail(
                "record", "a closed file", "an open one", "write inside `with JsonLines(..)`"
            )
        line = json.dumps(_plain("record", record), allow_nan=False).encode() + b"\n"
        # A pipe or a terminal cannot seek, so a partial line cannot be taken back there.
        end = self._file.seek(0, os.SEEK_END) if self._file.seekable() else None
        written = self._file.write(line)
        if written != len(line):
            if end is not None:
                self._file.truncate(end)
            raise OSError(errno.ENOSPC, "the line did not fit and was taken back", self.path)


def _plain(name: str, value: Any) -> Any:
    """Convert `value` to types of JSON; `name` is its place in the record, for errors."""
    if hasattr(value, "_asdict"):  # A NamedTuple: its fields have names.
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, int, float)):
        return value
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)) or not _is_real(value.dtype):
        wanted = "a number, string, bool or None, or an array, list or dict of them"
        raise fail(name, f"{value!r}", wanted, "leave it out or convert it")
    return _plain(name, np.asarray(value).tolist())


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
