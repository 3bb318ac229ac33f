"""`python -m bench.losses`: where we lose, of the everyday suite's runs in bench/results.

--write puts the two tables into docs/benchmarks.md. Each number is that of a page in bench/results.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import ratios, record

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- losses: begin -->", "<!-- losses: end -->"
OURS = ("lstm-jax", "jaxlib")
"""Versions that the commit and that of jax already say."""


def tables(folder: Path = RESULTS) -> str:
    """Format the losses, and the runs that they are from, in Markdown."""
    losses = [["run", "mode", "to", "cases lost", "worst ratio"]]
    runs = [["run", "device", "versions", "command"]]
    for path in sorted(folder.glob("everyday-*.json")):
        document = record.read(path)
        found = _losses(document)
        losses += [[path.stem, *row] for row in found]
        runs += [[path.stem, *_run(document)]] if found else []
    return "\n\n".join(_table(lines) for lines in (losses, runs))


def _losses(document: ratios.Document) -> list[list[str]]:
    """One row for each mode and contender that was faster than ours somewhere."""
    rows = []
    for mode in ratios.modes(document):
        for name, of_cases in ratios.ratios(document, mode).items():
            lost = [case for case, ratio in of_cases.items() if ratio < 1]
            if lost:
                worst = min(lost, key=of_cases.__getitem__)
                share = f"{len(lost)} of {len(of_cases)}"
                rows.append([mode, name, share, f"{of_cases[worst]:.2f}, {worst}"])
    return rows


def _run(document: ratios.Document) -> list[str]:
    given = document["environment"]
    versions = {name: text for name, text in given["versions"].items() if name not in OURS}
    listed = [f"{name} {text}" for name, text in versions.items()]
    commit = f"commit {given['commit'][:8]}, {given['started'][:10]}"
    return [
        record.machine(given),
        ", ".join([f"Python {given['python']}", *listed, commit]),
        f"`{given['command']}`",
    ]


def _table(lines: Sequence[Sequence[str]]) -> str:
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)


def shown() -> str:
    """The tables that the page holds."""
    return PAGE.read_text("utf-8").split(BEGIN)[1].split(END)[0].strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.losses", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    if not parser.parse_args(arguments).write:
        print(tables())
        return
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
