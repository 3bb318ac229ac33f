"""Outcomes of the registry's tests: a plugin of pytest that writes them, and their sum.

The plugin runs first what the choice reads, begins no test after a time, and writes each outcome
when it is known, so that a crash loses one test. Its settings are variables of the environment.
"""

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import pytest

RECORD, UNTIL = "LSTM_JAX_OUTCOMES", "LSTM_JAX_UNTIL"
"""Variables of the environment: the file to append to, and when to begin no further test."""
FIRST = ("LSTM", "GRU", "RNN", "MinGRU")
"""Classes of the cells that the suite "accelerator" times."""
PLAIN = ("fused", "scan", "newton")
"""Implementations that no measurement makes the choice, so that others come before them.

"newton" is none that is faster for a type of cell: its iterations depend on weights and data."""
OVER = "the time was over"

Results = dict[str, dict[str, dict[str, Any]]]
"""Outcomes by implementation, then by cell of the registry."""


def results(lines: Sequence[str]) -> Results:
    """Sum up the lines that the plugin wrote: for each cell its kind, a status and counts.

    The status is "failed" if a test failed, else "not run" if one did not run, else "passed"; "why"
    is the first line of the first failure, or why a test did not run.
    """
    tests: dict[str, dict[str, Any]] = {}
    for line in lines:
        each = json.loads(line)
        tests.setdefault(each["test"], {}).update(each)
    found: Results = {}
    for each in (each for each in tests.values() if "implementation" in each):
        empty = {"kind": each["kind"], "passed": 0, "failed": 0, "not run": 0, "whys": {}}
        cell = found.setdefault(each["implementation"], {}).setdefault(each["cell"], empty)
        outcome = each.get("outcome", "not run")
        cell[outcome] += 1
        cell["whys"].setdefault(outcome, each.get("why", OVER))
    for cell in (cell for cells in found.values() for cell in cells.values()):
        cell["status"] = next((s for s in ("failed", "not run") if cell[s]), "passed")
        cell["why"] = cell.pop("whys")[cell["status"]] if cell["status"] != "passed" else ""
    return found


# ---- the plugin ----------------------------------------------------------------------------------
def pytest_configure(config: Any) -> None:
    worker = getattr(config, "workerinput", {}).get("workerid")
    config.pluginmanager.register(Plugin(worker), "outcomes")


class Plugin:
    """The hooks. With several processes the first worker lists the tests; who gathers, reports."""

    def __init__(self, worker: str | None):
        self.lists, self.gathers = worker in (None, "gw0"), worker is None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=_rank)
        if self.lists:
            for item in filter(_of, items):
                _write(item.nodeid, **_of(item))

    def pytest_runtest_setup(self) -> None:
        if time.time() > float(os.environ[UNTIL]):
            pytest.skip(OVER)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if not self.gathers:
            return
        if report.failed:
            _write(report.nodeid, outcome="failed", why=first_line(report))
        elif report.skipped:
            why = str(report.longrepr[2]).removeprefix("Skipped: ")
            _write(report.nodeid, outcome="not run", why=why)
        elif report.when == "call":
            _write(report.nodeid, outcome="passed")


def first_line(report: Any) -> str:
    """The first line of an error, with the next one if it ends with a colon; shortened."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]


def _of(item: Any) -> dict[str, str]:
    """What a test is about; {} for one without a cell and an implementation."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    if not {"case", "implementation"} <= set(given):
        return {}
    kind = type(given["case"].make(4)).__name__
    return {"implementation": given["implementation"], "cell": given["case"].name, "kind": kind}


def _rank(item: Any) -> tuple[bool, bool]:
    of = _of(item)
    return of.get("kind") not in FIRST, of.get("implementation") in PLAIN


def _write(test: str, **more: str) -> None:
    with open(os.environ[RECORD], "a", encoding="utf-8") as file:
        file.write(json.dumps({"test": test, **more}) + "\n")
