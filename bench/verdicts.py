"""`python -m bench.verdicts`: the verdicts of the laboratory, as the committed results have them.

    lstm-jax study S4 S9 --scale ci --out lab
    python -m bench.verdicts --take lab        keeps lab/*.json in bench/results/studies-SCALE.json
    python -m bench.verdicts --write           puts the tables into docs/studies.md

What is kept are the anchors with ours for each seed, the notes and the environment, not what the
figures show. A study that is taken again replaces what was kept of it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax import pages
from lstm_jax.studies import laboratory
from lstm_jax.studies.record import SCALES
from lstm_jax.studies.table import STUDIES

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "studies.md"
BEGIN, END = "<!-- verdicts: begin -->", "<!-- verdicts: end -->"
KEPT = ("id", "title", "scale", "seeds", "verdict", "anchors", "notes", "environment")


def kept(scale: str) -> dict[str, dict[str, Any]]:
    """The committed results of a scale, by id of the study."""
    path = _path(scale)
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def take(folder: Path) -> None:
    """Keep what the files of finished studies in a folder say."""
    for result in laboratory.read_all(folder, STUDIES):
        del result["environment"]["command"]  # It names the caller's folder.
        found = kept(result["scale"]) | {result["id"]: {name: result[name] for name in KEPT}}
        ordered = {id: found[id] for id in sorted(found, key=_number)}
        _path(result["scale"]).write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")


def tables() -> str:
    """Format a table for each scale that has results, in Markdown."""
    return "\n\n".join(_table(scale, found) for scale in SCALES if (found := kept(scale)))


def _table(scale: str, found: dict[str, dict[str, Any]]) -> str:
    lines = ["| study | verdict | anchors | seeds | seconds |", "|---|---|---|---|---|"]
    for id, result in found.items():
        seeds = ", ".join(map(str, result["seeds"]))
        seconds = f"{result['environment']['seconds']:.0f}"
        cells = [id, result["verdict"], pages.tally(result["anchors"]), seeds, seconds]
        lines.append(f"| {' | '.join(cells)} |")
    total = sum(result["environment"]["seconds"] for result in found.values())
    made = "; ".join(sorted({_made(result["environment"]) for result in found.values()}))
    command = f"`lstm-jax study ID --scale {scale} --out lab`"
    said = f"*Each by {command}; {total / 60:.0f} minutes together; {made}.*"
    return "\n".join([f"At `--scale {scale}`:", "", *lines, "", said])


def _made(environment: dict[str, Any]) -> str:
    """Device and versions of a run."""
    versions = [f"{name} {text}" for name, text in environment["versions"].items()]
    device = environment["device"].removeprefix("cpu: ")  # Older files say both.
    return ", ".join(
        [device, f"{environment['cpus']} CPUs", f"Python {environment['python']}", *versions]
    )


def _path(scale: str) -> Path:
    return RESULTS / f"studies-{scale}.json"


def _number(id: str) -> int:
    return int(id[1:])


def shown() -> str:
    """The tables that the page holds."""
    return PAGE.read_text("utf-8").split(BEGIN)[1].split(END)[0].strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep results, print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.verdicts", description=__doc__)
    parser.add_argument("--take", type=Path, metavar="LAB", help="keep the results in this folder")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    given = parser.parse_args(arguments)
    if given.take:
        take(given.take)
    if given.write:
        before, rest = PAGE.read_text("utf-8").split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}", "utf-8")
    if not (given.take or given.write):
        print(tables())


if __name__ == "__main__":
    main()
