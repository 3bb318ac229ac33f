"""Metrics as a table of comma-separated values."""

import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._checks import check_path, fail
from .._files import check_target, write_whole
from .log import append, entries, plain, step_of

__all__ = ["CsvLines"]
__dir__ = __all__.copy


class CsvLines:
    """A table of metrics, a row for each step, to use in a `with` statement like `JsonLines`.

    It reads into pandas or a spreadsheet. Numbers, strings and bools are cells; names of nested
    entries are joined by "/", and a list or array is one cell, in JSON. NaN and Inf are "nan" and
    "inf". A record with a new name adds a column, empty in the rows before.

    An existing table goes on. A record whose step is in it already, as after a kill, when `fit`
    goes on from a checkpoint, takes the place of that row and of all after it: so no step is there
    twice, and the table is that of a run which nobody killed.

    Args:
        path: the file; its folder must exist.

    Raises:
        ValueError: on entering `with`, the file cannot be written, or is not a table with a column
            "step".
    """

    def __init__(self, path: str | os.PathLike[str]):
        check_path("path", path)
        self.path = os.fspath(path)
        self._columns: list[str] = []
        self._rows: list[dict[str, str]] | None = None

    def __enter__(self) -> "CsvLines":
        check_target(self.path)
        self._columns, self._rows = self._read()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows = None

    def write(self, record: dict[str, Any]) -> None:
        """Write one row.

        Args:
            record: "step", the number of updates, and name -> what `JsonLines` takes.

        Raises:
            ValueError: no "step", or none that is an integer; a value that JSON cannot hold; the
                table is not open or cannot be written.
            OSError: the disk is full; the table is as it was.
        """
        if self._rows is None:
            raise fail("record", "a closed file", "an open one", "write inside `with CsvLines(..)`")
        named = entries("record", record)
        step, row = step_of(named), dict(_cells("", plain("record", named)))
        kept = [old for old in self._rows if _step(old) < step]
        columns = self._columns + [name for name in row if name not in self._columns]
        if len(kept) == len(self._rows) and columns == self._columns:
            with open(self.path, "ab", buffering=0) as file:
                append(file, _text(columns, [row]), self.path)
        else:
            names = dict(zip(columns, columns, strict=True))
            write_whole(self.path, _text(columns, [names, *kept, row]))
        self._columns, self._rows = columns, [*kept, row]

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Read the columns and the rows of an existing table; a row without its end is left out."""
        if not os.path.exists(self.path):
            return [], []
        with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
            whole = file.read()
        lines = whole[: whole.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(lines, newline=""), restval="")
        columns, rows = list(reader.fieldnames or []), list(reader)
        wrong = "step" not in columns or not all(_is_step(row["step"]) for row in rows)
        if whole and wrong:
            seen = f"{self.path!r}, which has other content"
            raise fail("path", seen, 'a table with a column "step"', "name another file")
        if lines != whole:
            write_whole(self.path, lines.encode())
        return columns, rows


def _cells(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every cell of a record in types of JSON, with its place as "a/b"."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _cells(f"{name}/{key}" if name else key, item)
    elif value is None:
        yield name, ""
    elif isinstance(value, list):
        yield name, json.dumps(value)
    else:
        yield name, _NUMBERS.get(value, str(value))


_NUMBERS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


def _text(columns: list[str], rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue().encode()


def _is_step(text: str) -> bool:
    try:
        _step({"step": text})
    except (ValueError, TypeError):
        return False
    return True


def _step(row: dict[str, str]) -> int:
    """The step of a row; of many runs the largest."""
    return int(np.max(json.loads(row["step"])))
