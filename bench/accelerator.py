"""`python -m bench accelerator`: what this machine's GPU or TPU shows of every implementation.

First the registry's tests, then the suite "accelerator" beside the rivals, each in a process of its
own that ends in time; together under 8 minutes. The file says of each implementation and type of
cell if it is right, and faster than "fused"; `python -m bench.choice --write` puts that into the
package, where `implementation=None` reads it.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import cases, choice, outcomes, process, record, rivals, timed

FILE = "tests/test_device.py"
TESTS, LIMIT = 180.0, 440.0
"""Seconds after which no test begins, and after which no case does."""
GRACE = 20.0
"""Seconds after which what then still runs is ended."""
PROCESSES = {"gpu": 4}
"""Processes that may test on one device at once, else one: a TPU belongs to one process.

It is never pytest's own, so that a test that ends its process ends no other.
"""
PROBE = """
import jax, json
device = jax.devices()[0]
print(json.dumps([jax.default_backend(), device.device_kind]))
"""

Document = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m bench accelerator", description=__doc__)
    add = made.add_argument
    add("--json", type=Path, metavar="FILE", required=True, help="write tests, rows and choice")
    add("--overwrite", action="store_true", help="replace FILE if it exists")
    add("--platform", choices=["cpu"], help="cpu: try the command out where there is no device")
    add("--suite", choices=cases.SUITES, default="accelerator", help="the cases to be timed")
    add("--rivals", default=",".join(timed.RIVALS), help="some of the rivals; none")
    add("--tests", type=float, default=TESTS, metavar="SECONDS", help="time for the tests")
    add("--limit", type=float, default=LIMIT, metavar="SECONDS", help="time for all")
    add("--select", metavar="EXPRESSION", help="tests to run, as pytest's -k (default: all)")
    return made


def main(given: argparse.Namespace, arguments: Sequence[str]) -> Document:
    """Run the command: write the file after each part, print the verdicts and return it all."""
    start = time.monotonic()
    if not 0 <= given.tests <= given.limit:
        raise ValueError("--tests, --limit: wanted seconds, and no more for the tests than for all")
    rivals.chosen(given.rivals)
    variables = {"JAX_PLATFORMS": given.platform} if given.platform else {}
    platform, kind = probe(variables)
    if platform == "cpu" and given.platform != "cpu":
        remedy = "run this on a machine with a GPU or TPU, or try it out with --platform cpu"
        raise ValueError(f"no accelerator: jax.devices() are {kind}; {remedy}")
    document: Document = {"device": [platform, kind], "environment": None, "ceilings": {}}
    planned = [dataclasses.asdict(case) for case in cases.SUITES[given.suite]()]
    document |= {"rows": [], "not reached": planned, "choice": []}
    with tempfile.TemporaryDirectory() as folder:
        document["tests"] = tested(Path(folder), given, PROCESSES.get(platform, 1), variables)
        record.write(given.json, document)
        seconds = given.limit - (time.monotonic() - start)
        document |= suite(Path(folder), given, max(0.0, seconds), variables)
    if document["environment"]:
        document["environment"]["command"] = " ".join(["python -m bench accelerator", *arguments])
    document["choice"] = choice.verdicts(document)
    record.write(given.json, document)
    print(text(document))
    return document


def probe(variables: dict[str, str]) -> tuple[str, str]:
    """Platform and kind of JAX's first device, asked in a process of its own.

    A TPU belongs to the process that first asks for it, so this one must not.
    """
    environment = process.environment(variables)
    command = [sys.executable, "-c", PROBE]
    try:
        told = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    except subprocess.TimeoutExpired:
        raise ValueError("no accelerator: JAX did not start in 60 s") from None
    except subprocess.CalledProcessError as error:
        why = (error.stderr.splitlines() or [f"exit code {error.returncode}"])[-1]
        raise ValueError(f"no accelerator: JAX does not start: {why}") from None
    platform, kind = json.loads(told.stdout.splitlines()[-1])
    return platform, kind


def tested(
    folder: Path, given: argparse.Namespace, processes: int, variables: dict[str, str]
) -> Document:
    """Run the registry's tests: their outcomes, the command, and how it ended."""
    path = folder / "outcomes.jsonl"
    path.touch()
    command = [sys.executable, "-m", "pytest", FILE, "-m", "", "-q"]
    command += ["-n", str(processes), "-p", "bench.outcomes", "-p", "no:cacheprovider"]
    command += ["--tb=line"] + (["-k", given.select] if given.select else [])
    # XLA's own settings in place of the tests' hasty ones: what is tested is what users run.
    flags = "--xla_backend_optimization_level=3 --xla_llvm_disable_expensive_passes=false"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    until = {outcomes.RECORD: str(path), outcomes.UNTIL: str(time.time() + given.tests)}
    start = time.monotonic()
    ended = process.run(command, given.tests + GRACE, variables | until | {"XLA_FLAGS": flags})
    return {
        "command": " ".join(["python", *command[1:]]),
        "selected": given.select,
        "ended": ended,
        "seconds": round(time.monotonic() - start, 1),
        "results": outcomes.results(path.read_text(encoding="utf-8").splitlines()),
    }


def suite(
    folder: Path, given: argparse.Namespace, seconds: float, variables: dict[str, str]
) -> Document:
    """Time the suite: what `bench.timed` wrote, and how it ended."""
    path, start = folder / "rows.json", time.monotonic()
    command = [sys.executable, "-m", "bench.timed", str(path), "--suite", given.suite]
    command += ["--rivals", given.rivals, "--limit", str(seconds)]
    ended = process.run(command, seconds + GRACE, variables)
    found = record.read(path) if path.exists() else {}
    seconds = round(time.monotonic() - start, 1)
    return {**found, "suite": {"name": given.suite, "ended": ended, "seconds": seconds}}


# ---- what it says --------------------------------------------------------------------------------
def text(document: Document) -> str:
    """Format the verdicts, the failures, and what was not reached."""
    tests, cases_left = document["tests"], document["not reached"]
    lines = [" ".join(document["device"]), *map(_verdict, document["choice"])]
    cells = [(name, cell, of) for name, found in tests["results"].items()
             for cell, of in found.items()]  # fmt: skip
    lines += [f"failed: {name} {cell}: {of['why']}" for name, cell, of in cells if of["failed"]]
    missed = sum(of["status"] == "not run" for *_, of in cells)
    lines.append(f"cells not tested to the end: {missed} of {len(cells)} ({tests['ended']})")
    left = ", ".join(str(cases.Case(**case)) for case in cases_left) or "none"
    return "\n".join([*lines, f"cases not reached: {left} ({document['suite']['ended']})"])


def _verdict(found: choice.Verdict) -> str:
    right = "right, and faster" if "faster" in found else "right"
    means = [f"{mode} {mean:.2f}" for mode, mean in found.get("mean", {}).items()]
    told = ", ".join([found["why_not"] or right, *means])
    return f"{found['implementation']} {found['cell']}: {told}"
