"""Cycles of a loop on a TPU, from the schedule that libtpu writes while it compiles.

A bundle is what a TPU's core issues in one cycle. libtpu writes one file for each operation that it
schedules apart (a fusion, a copy), and one, "TLP", for the program around them, which tells the
bundles of each operation too: those that call it. The cycles of an iteration are the bundles of the
body's operations and of the loop itself. Waiting for memory is not in them, and a loop inside one
operation counts once.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .loops import Loop

FLAGS = (
    "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true"
    " --xla_jf_dump_llo_pass_label_regex=final_bundles"
)
NAME = re.compile(r"\d+-(.*)-\d+-schedule-analysis_final_bundles\.txt")


@contextmanager
def written() -> Iterator[Path]:
    """Let libtpu write its schedules to the folder of this context; before libtpu is loaded."""
    with TemporaryDirectory() as folder:
        before = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{before} {FLAGS.format(folder)}".strip()
        try:
            yield Path(folder)
        finally:
            os.environ["LIBTPU_INIT_ARGS"] = before


def taken(folder: Path) -> dict[str, str]:
    """Read the schedules of the program that was compiled last, by operation; empty the folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match:
            found[match[1]] = path.read_text(encoding="utf-8", errors="replace")
        if path.is_file():
            path.unlink()
    return found


def cycles(loop: Loop, schedules: dict[str, str]) -> float | None:
    """Cycles of one iteration of a loop; None if there is no schedule."""
    around = schedules.get("TLP")
    if around is None:
        return None
    names = [loop.name, *(each.name for each in loop.body)]
    return sum(_bundles(schedules.get(name, "")) + _calling(name, around) for name in names)


def _bundles(schedule: str) -> int:
    match = re.search(r"total scheduled bundles:\s+(\d+)", schedule)
    return int(match[1]) if match else 0


def _calling(name: str, around: str) -> float:
    """The bundles of the program that call an operation, or that are all there is of it."""
    line = rf"^\s*([\d.]+) scheduled bundles \([ \d.]+%\): %?{re.escape(name)} ="
    match = re.search(line, around, re.MULTILINE)
    return float(match[1]) if match else 0.0
