"""Metrics as lines of JSON."""

import errno
import io
import json
import math
import mmap
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._checks import check_path, fail, shown

__all__ = ["JsonLines"]
__dir__ = __all__.copy


class JsonLines:
    """A file of metrics, one JSON object a line, to use in a `with` statement.

    Lines are appended to an existing file. Each is written in one system call and is in the file
    when `write` returns; if that fails, the file is as it was before. The piece of a line that a
    kill leaves at the end is taken out on entering. NaN, Inf and -Inf, which JSON lacks, become the
    strings "NaN", "Infinity" and "-Infinity", so that a log of exploding
    gradients tells them apart; Python's `float` and JavaScript's `Number` read them.

    Args:
        path: the file; its folder must exist.

    Raises:
        ValueError: on entering `with`, the folder does not exist or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        check_path("path", path)
        self.path = os.fspath(path)
        self._file: io.FileIO | None = None

    def __enter__(self) -> "JsonLines":
        try:
            self._file = open(self.path, "ab", buffering=0)
            if os.path.isfile(self.path) and os.access(self.path, os.R_OK):
                _end_line(self._file, self.path)
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
            ValueError: a value that JSON cannot hold, two names that are one as text, or the file
                is not open.
            OSError: the line could not be written completely; none of it is in the file.
        """
        if self._file is None:
            raise fail(
                "record", "a closed file", "an open one", "write inside `with JsonLines(..)`"
            )
        line = (
            json.dumps(plain("record", entries("record", record)), allow_nan=False).encode() + b"\n"
        )
        append(self._file, line, self.path)


def _end_line(file: io.FileIO, path: str) -> None:
    """End the last line of a file; take it out if it is a piece of an object."""
    if not os.path.getsize(path):
        return
    with open(path, "rb") as now, mmap.mmap(now.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = data.rfind(b"\n") + 1
        piece = data[end:]
    if piece.startswith(b"{") and not _is_json(piece):
        file.truncate(end)
    elif piece:
        file.write(b"\n")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def append(file: io.FileIO, line: bytes, path: str) -> None:
    """Write a line at the end of a file, in one system call; raise unless all of it fits."""
    # A pipe or a terminal cannot seek, so a partial line cannot be taken back there.
    end = file.seek(0, os.SEEK_END) if file.seekable() else None
    written = file.write(line)
    if written != len(line):
        if end is not None:
            file.truncate(end)
        raise OSError(errno.ENOSPC, "the line did not fit and was taken back", path)


def entries(name: str, value: Any) -> dict[str, Any]:
    """The entries of a dict or NamedTuple by the text of their names; `name` is its place.

    Raises:
        ValueError: it is neither, or two names have one text, such as 1 and "1".
    """
    if hasattr(value, "_asdict"):  # A NamedTuple: its fields have names.
        value = value._asdict()
    if not isinstance(value, Mapping):
        raise fail(name, shown(value), "a dict from names to values", "give each value a name")
    found = {str(key): item for key, item in value.items()}
    if len(found) < len(value):
        seen = f"names that are one as text, among {sorted(map(repr, value))}"
        raise fail(name, seen, "different names", "rename one")
    return found


def step_of(named: dict[str, Any]) -> int:
    """The number of updates in a record's entries; of several runs side by side, the largest.

    Raises:
        ValueError: there is no "step", or it is not an integer.
    """
    if "step" not in named:
        raise fail("record", sorted(named), 'an entry "step"', "add the number of updates")
    value = named["step"]
    kept = isinstance(value, (int, list))  # An int may be larger than an array of floats keeps.
    step = np.asarray(value) if kept else real("record['step']", value)
    if step.dtype.kind not in "iu" or not step.size:
        raise fail("record['step']", shown(value), "an integer", "pass the number of updates")
    return int(step.max())


def is_nested(value: Any) -> bool:
    """True for what `entries` takes."""
    return hasattr(value, "_asdict") or isinstance(value, Mapping)


def real(name: str, value: Any) -> np.ndarray:
    """Convert to an array of NumPy; `name` is its place in the record.

    Raises:
        ValueError: it is traced, or not of real numbers or bools.
    """
    if isinstance(value, Tracer):
        remedy = "write outside of jit, or by jax.debug.callback"
        raise fail(name, f"a traced value, {value.dtype}{list(value.shape)}", "numbers", remedy)
    if isinstance(value, (int, float)):
        return np.asarray(float(value))
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)) or not _is_real(value.dtype):
        wanted = "a number, string, bool or None, or an array, list or dict of them"
        raise fail(name, shown(value), wanted, "leave it out or convert it")
    return np.asarray(value)


def plain(name: str, value: Any) -> Any:
    """Convert `value` to types of JSON; `name` is its place in the record, for errors."""
    if is_nested(value):
        named = entries(name, value).items()
        return {key: plain(f"{name}[{key!r}]", item) for key, item in named}
    if isinstance(value, (list, tuple)):
        return [plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, int, float)):
        return value
    return plain(name, real(name, value).tolist())


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
