"""`python -m bench.choice`: what a device showed right and faster, which the choice reads.

--write puts the rows of bench/results/accelerator-*.json into lstm_jax/_recurrence/measured.py.

An implementation is right for a type of cell if every test of the registry's cells of that type
passed, and no answer of the suite was wrong. It is faster if every case was timed, the geometric
mean of "fused"'s time over its is above 1 in every mode, and no case is lost: slower than "fused"
by more than the samples scatter, its first quartile above the other's third.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax._recurrence import measured
from lstm_jax._recurrence.measured import Measured

from . import losses, ours, problem, ratios, record
from .cases import Case
from .outcomes import PLAIN

TABLE = Path(measured.__file__)
BEGIN, END = "    # results: begin\n", "    # results: end\n"

Document = dict[str, Any]
Verdict = dict[str, Any]


# ---- one run -------------------------------------------------------------------------------------
def verdicts(document: Document) -> list[Verdict]:
    """Judge each implementation and type of cell of a run."""
    names = {row["contender"].removeprefix(ours.PREFIX) for row in document["rows"] if row["ours"]}
    names |= set(document["tests"]["results"])
    kinds = dict.fromkeys(_kind(case) for case in _cases(document))
    found = [_verdict(document, name, kind) for name in sorted(names) for kind in kinds]
    return [each for each in found if each is not None]


def _verdict(document: Document, name: str, kind: str) -> Verdict | None:
    """Judge one pair; None if the implementation cannot run such a cell."""
    rows = [row for row in _rows(document, name) if _kind(row["case"]) == kind]
    tests = [(cell, of) for cell, of in document["tests"]["results"].get(name, {}).items()
             if of["kind"] == kind]  # fmt: skip
    if not rows and not tests:
        return None
    part = "only some of the tests were selected" if document["tests"]["selected"] else None
    wrong = _why_wrong(tests, rows) or part
    found: Verdict = {"implementation": name, "cell": kind, "right": wrong is None}
    if name == "fused":
        return found | {"why_not": wrong}
    speed = _speed(document, name, kind)
    slower = _why_slower(document, kind, rows, speed)
    return found | {"faster": slower is None, **speed, "why_not": wrong or slower}


def _why_wrong(tests: Sequence[tuple[str, Any]], rows: Sequence[Any]) -> str | None:
    """Say which answer was wrong, or which test did not pass; None: all was right."""
    for row in rows:
        if row["status"] in ("wrong", "failed"):
            return f"{row['status']} in {Case(**row['case'])}, {row['mode']}"
    for status, why in (("failed", "fails a test of {}"), ("not run", "not every test of {} ran")):
        for cell, of in tests:
            if of["status"] == status:
                return why.format(cell)
    return None if tests else "no test ran"


def _speed(document: Document, name: str, kind: str) -> dict[str, Any]:
    """The geometric mean by mode, the least ratio of all, and the cases that were lost."""
    means, of_all, lost = {}, {}, []
    for mode in ratios.modes(document):
        pairs = [(row, base) for row, base in _pairs(document, name, mode)
                 if _kind(row["case"]) == kind]  # fmt: skip
        of_mode = {f"{Case(**row['case'])}, {mode}": base["median"] / row["median"]
                   for row, base in pairs}  # fmt: skip
        lost += [f"{Case(**row['case'])}, {mode}" for row, base in pairs if row["q1"] > base["q3"]]
        if of_mode:
            means[mode] = ratios.geometric_mean(of_mode.values())
        of_all |= of_mode
    worst = min(of_all, key=of_all.__getitem__, default=None)
    return {"mean": means, "worst": of_all.get(worst), "worst case": worst, "lost": lost}


def _pairs(document: Document, name: str, mode: str) -> list[tuple[Any, Any]]:
    """The rows of an implementation and of "fused" in every case in which both were timed."""
    base = {str(Case(**row["case"])): row for row in _rows(document, "fused")
            if row["mode"] == mode and row["status"] == "ok"}  # fmt: skip
    return [(row, base[case]) for row in _rows(document, name)
            if row["mode"] == mode and row["status"] == "ok"
            and (case := str(Case(**row["case"]))) in base]  # fmt: skip


def _why_slower(document: Document, kind: str, rows: Sequence[Any], speed: Any) -> str | None:
    """Say where it is not faster than "fused", or was not timed; None: it is faster."""
    if any(_kind(case) == kind for case in document["not reached"]):
        return "not every case was timed"
    if not speed["mean"] or any(row["status"] != "ok" for row in rows):
        return "not every case was timed"
    if speed["lost"]:
        return f'slower than "fused" in {len(speed["lost"])} of its cases'
    slow = [mode for mode, mean in speed["mean"].items() if not mean > 1]
    return f'on average no faster than "fused" in {" and ".join(slow)}' if slow else None


def _rows(document: Document, name: str) -> list[Any]:
    return [row for row in document["rows"] if row["contender"] == ours.PREFIX + name]


def _cases(document: Document) -> list[Any]:
    return [row["case"] for row in document["rows"]] + document["not reached"]


def _kind(case: Any) -> str:
    """Name of the class of a case's cell."""
    return type(problem.net_of(Case(**case))).__name__


# ---- the table in the package --------------------------------------------------------------------
def table(folder: Path = losses.RESULTS) -> str:
    """Format the rows of every result in the folder; of a kind of device the latest counts."""
    documents = {path: record.read(path) for path in folder.glob("accelerator-*.json")}
    latest: dict[str, tuple[str, Path]] = {}
    for path, document in documents.items():
        platform, kind = document["environment"]["device"].split(": ", 1)
        if platform == "cpu" or document["suite"]["name"] != "accelerator":
            raise ValueError(f"{path}: it only tried the command out; remove it from the results")
        dated = document["environment"]["started"], path
        latest[kind] = max(latest.get(kind, dated), dated)
    lines = [_formatted(documents[path], path.name, kind) for kind, (_, path) in latest.items()]
    return "".join(sorted(lines))


def _formatted(document: Document, source: str, device: str) -> str:
    given = document["environment"]
    lines = [f"    # {source}: commit {str(given['commit'])[:8]}, {given['started'][:10]}"]
    for each in verdicts(document):
        if each["implementation"] not in PLAIN:
            row = Measured(each["implementation"], device, each["cell"], each["why_not"])
            lines += ["    Measured(", *(f"        {value!r}," for value in row), "    ),"]
    return "\n".join(lines) + "\n"


def shown() -> str:
    """The rows that the package holds."""
    return TABLE.read_text("utf-8").split(BEGIN)[1].split(END)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows, or write them into the package."""
    parser = argparse.ArgumentParser(prog="python -m bench.choice", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the rows into the package")
    if not parser.parse_args(arguments).write:
        print(table(), end="")
        return
    before, rest = TABLE.read_text("utf-8").split(BEGIN)
    TABLE.write_text(f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
