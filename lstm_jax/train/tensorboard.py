"""Metrics as events of TensorBoard."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._checks import check_path, fail
from .log import entries, is_nested, real, step_of

__all__ = ["TensorBoard"]
__dir__ = __all__.copy


class TensorBoard:
    """A folder of TensorBoard events, to use in a `with` statement like `JsonLines`.

    A number becomes a scalar, an array of numbers a histogram of its finite entries, both at the
    "step" of the record; names of nested entries are joined by "/": "watched/norms/h". Needs the
    package tensorboardX, which the extra `tensorboard` installs.

    Args:
        folder: the folder of one run; it is created if missing.

    Raises:
        ImportError: tensorboardX is not installed.
        ValueError: `folder` is a file, or cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        check_path("folder", folder)
        self.folder = os.fspath(folder)
        self._writer: Any = None

    def __enter__(self) -> "TensorBoard":
        try:
            from tensorboardX import SummaryWriter  # Not needed unless one writes events.
        except ImportError as error:
            remedy = "pip install 'lstm-jax[tensorboard]'"
            raise fail("TensorBoard", str(error), "tensorboardX", remedy, ImportError) from error
        try:
            self._writer = SummaryWriter(self.folder)
        except OSError as error:
            seen = f"{self.folder!r} ({error.strerror})"
            raise fail("folder", seen, "a folder that can be written", "name another") from error
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def write(self, record: dict[str, Any]) -> None:
        """Write the numbers of a record, and flush them.

        Args:
            record: "step", an integer, and name -> number, array, list of numbers, or a dict,
                NamedTuple, tuple or list of these; strings and None are left out.

        Raises:
            ValueError: no "step", a value that is none of these, or the folder is not open.
        """
        if self._writer is None:
            remedy = "write inside `with TensorBoard(..)`"
            raise fail("record", "a closed folder", "an open one", remedy)
        named = entries("record", record)
        step = step_of(named)
        del named["step"]
        for name, value in _numbers("", named):
            self._add(name, value, step)
        self._writer.flush()

    def _add(self, name: str, value: np.ndarray, step: int) -> None:
        if value.ndim == 0:
            self._writer.add_scalar(name, float(value), step)
        elif (finite := value[np.isfinite(value)]).size:
            self._writer.add_histogram(name, finite, step)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of numbers in `value`, with its place as "a/b/c"."""
    if is_nested(value):
        items = entries(f"record[{name!r}]", value).items()
    elif isinstance(value, (tuple, list)) and not _is_list_of_numbers(value):
        items = ((str(i), item) for i, item in enumerate(value))
    else:
        if value is not None and not isinstance(value, str):
            array = np.asarray(value) if isinstance(value, list) else value
            yield name, real(f"record[{name!r}]", array).astype(np.float64)
        return
    for key, item in items:
        yield from _numbers(f"{name}/{key}".lstrip("/"), item)


def _is_list_of_numbers(value: Any) -> bool:
    numbers = bool, int, float, np.floating, np.integer
    return isinstance(value, list) and all(isinstance(each, numbers) for each in value)
