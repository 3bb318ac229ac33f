"""The pages of the laboratory: one for each study and an index, self-contained HTML.

Beside them lie the figures as SVG, and the numbers of each figure as CSV.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from . import report
from ._files import write_whole
from .charts import Chart, alone
from .plots import show, spark
from .report import templates
from .studies import glossary
from .studies.record import PROVENANCE, RULE, Study

__all__ = ["INDEX", "write_index", "write_study"]
__dir__ = __all__.copy

INDEX = "index.html"
_STUDY, _INDEX = "study.html.jinja", "index.html.jinja"
_RULES = {"provenance": PROVENANCE, "rule": RULE}


def write_study(study: Study, result: dict[str, Any], out: Path) -> Path:
    """Write ID.html, and an SVG and a CSV for each figure, to the folder `out`; return the page.

    Args:
        study: the study.
        result: its file, as read from JSON.
        out: a folder that exists.

    Raises:
        ValueError: `out` cannot be written.
    """
    charts = study.draw(result["data"])
    shown = [show(alone(chart), f"{study.id}-") for chart in charts]
    said = {"remark": study.remark, "terms": glossary.explained(_texts(study, result, charts))}
    page = _page(_STUDY, result=result, shown=shown, **said, **_RULES)
    contents = {name: content for figure in shown for name, content in figure.files.items()}
    for name, content in (contents | {f"{study.id}.html": page}).items():
        write_whole(out / name, content, argument="out")
    return out / f"{study.id}.html"


def _texts(study: Study, result: dict[str, Any], charts: Sequence[Chart]) -> Iterator[str]:
    """What a study's page says in words of the field."""
    yield from (study.title, study.question, study.remark)
    for anchor in result["anchors"]:
        yield from (anchor["quantity"], anchor["convention"])
    for chart in charts:
        yield from (chart.title, chart.caption, chart.x, chart.y)
        yield from (line.label for line in chart.lines)
    yield from result["notes"]


def write_index(
    studies: Mapping[str, Study], results: list[dict[str, Any]], missing: dict[str, str], out: Path
) -> Path:
    """Write index.html: every study with its verdict, those not run and those not built too.

    Args:
        studies: those that are built, by id.
        results: the files of those that were run.
        missing: {id: title} of those that are not built.
        out: a folder that exists.
    """
    found = {result["id"]: result for result in results}
    known = {id: study.title for id, study in studies.items()} | missing
    rows = [
        {"id": id, "title": known[id], "result": found.get(id), "built": id in studies}
        | _finding(studies.get(id), found.get(id))
        for id in sorted(known, key=lambda id: int(id[1:]))
    ]
    told = {"rule": RULE, "report": _report(out), "options": _options(results, out)}
    page = _page(_INDEX, rows=rows, **told)
    write_whole(out / INDEX, page, argument="out")
    return out / INDEX


def _options(results: list[dict[str, Any]], out: Path) -> str:
    """The options of a command that adds a study to this page, like most of those it has."""
    given = ["--out", str(out)]
    if results:
        alike = [(result["scale"], result["seeds"][0]) for result in results]
        scale, seed = max(alike, key=alike.count)
        given = ["--scale", scale, *(["--seed", str(seed)] if seed else []), *given]
    return shlex.join(given)


def _finding(study: Study | None, result: dict[str, Any] | None) -> dict[str, Any]:
    """Title and sparkline of a study's first chart, which says what was found."""
    if study is not None and result is not None:
        try:
            first = next(iter(study.draw(result["data"])), None)
        except (KeyError, IndexError, TypeError, ValueError):
            first = None  # A file of older code may lack what is drawn today.
        if first is not None:
            return {"finding": first.title, "spark": Markup(spark(first))}
    return {"finding": "", "spark": ""}


def _report(out: Path) -> dict[str, Any] | None:
    """The claims of the comparison of cells in the same folder; None if there is none."""
    try:
        found = json.loads((out / report.NUMBERS).read_text("utf-8"))
        claims = [{"verdict": claim["verdict"]} for claim in found["claims"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {"page": report.PAGE, "claims": claims, "seeds": found["config"]["seeds"]}


def _page(name: str, **values: Any) -> bytes:
    environment = templates()
    environment.filters |= {"ours": ours, "tally": tally}
    template: jinja2.Template = environment.get_template(name)
    return template.render(**values).encode()


def ours(values: list[float | None] | None) -> str:
    """Format one number per seed, each as it is; None becomes "not finite"."""
    if values is None:
        return "\N{EN DASH}"
    said = ["not finite" if value is None else f"{value:.5g}" for value in values]
    return said[0] if len(set(said)) == 1 else ", ".join(said)


def tally(anchors: list[dict[str, Any]]) -> str:
    """Count verdicts: "5 hold, 1 unverified"."""
    verdicts = [anchor["verdict"] for anchor in anchors]
    words = {"HOLDS": "hold", "MISSES": "miss", "UNVERIFIED": "unverified"}
    words |= {"holds": "hold", "refuted": "refuted", "not tested": "not tested"}
    return ", ".join(f"{verdicts.count(v)} {w}" for v, w in words.items() if v in verdicts)
