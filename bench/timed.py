"""A suite on a device, case by case until a time is over: `python -m bench.timed FILE SUITE ...`.

It runs in a process of its own, which may be ended; what it has measured by then is in FILE.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import cases, ceilings, process, record, rivals, run, table

RIVALS = ("torch", "linen", "nnx", "haiku", "jax_rnn")
"""Those that run on an accelerator and say how they compare: cuDNN by two ways, and XLA's loops."""
SAMPLES, BUDGET = 7, 2.0
"""Samples of each contender, and seconds of timing for a case."""


def parser() -> argparse.ArgumentParser:
    """The options of the process."""
    made = argparse.ArgumentParser(prog="python -m bench.timed", description=__doc__)
    made.add_argument("file", type=Path, help="where to write the rows, after each case")
    made.add_argument("--suite", choices=cases.SUITES, default="accelerator")
    made.add_argument("--rivals", default=",".join(RIVALS))
    made.add_argument("--limit", type=float, required=True, help="begin no case after the seconds")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases in their order; write the rows, and the cases that were not reached."""
    given, start = parser().parse_args(arguments), time.monotonic()
    planned = cases.SUITES[given.suite]()
    options = run.Options(("fwd", "train"), None, (), SAMPLES, BUDGET)
    beside = dataclasses.replace(options, rivals=rivals.chosen(given.rivals))
    limits: dict[str, Any] = {}
    document: dict[str, Any] = {"environment": record.environment([], "by case")}
    document |= {"ceilings": {}, "rows": [], "not reached": []}
    with process.lenient("float32"):
        for number, case in enumerate(planned):
            document["not reached"] = [dataclasses.asdict(each) for each in planned[number:]]
            record.write(given.file, document)
            if time.monotonic() - start > given.limit:
                return
            process.tell(f"{number + 1}/{len(planned)} {case}")
            if case.dtype not in limits:
                limits[case.dtype] = ceilings.measure(case.dtype, small=given.suite == "smoke")
            # The page of a result has those of the first dtype.
            document["ceilings"] = next(iter(limits.values())) | {"by dtype": limits}
            # Compiling is what takes the time: the choice needs both dtypes, the rivals one.
            of_case = beside if case.dtype == "float32" else options
            rows = run.run(case, of_case, limits[case.dtype], process.tell)
            document["rows"] += rows
            print(table.text(rows, limits[case.dtype]), end="\n\n", flush=True)
    record.write(given.file, document | {"not reached": []})


if __name__ == "__main__":
    sys.exit(main())
