"""The report of a study: one self-contained HTML file, every number as JSON, figures as files."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ._files import check_folder, write_whole
from .charts import CELLS
from .comparison import figures
from .comparison.figures import reading
from .plots import Shown, show
from .plots.lesson import lesson
from .studies.provenance import to_json

__all__ = ["FILES", "NUMBERS", "PAGE", "draw", "render", "templates", "write"]
__dir__ = __all__.copy

PAGE, NUMBERS = FILES = ("report.html", "study.json")
TEMPLATE = "report.html.jinja"


def write(study: dict[str, Any], out: Path) -> list[Path]:
    """Write report.html, study.json, and an SVG and a CSV for each figure; return their paths.

    Each file is written atomically.

    Raises:
        ValueError: the folder `out` cannot be written.
    """
    check_folder(out, argument="out")
    shown = draw(study)
    contents = {
        NUMBERS: (json.dumps(to_json(study), indent=1) + "\n").encode(),
        PAGE: render(study, shown).encode(),
    }
    for figure in shown.values():
        contents |= figure.files
    for name, content in contents.items():
        write_whole(out / name, content, argument="out")
    return [out / name for name in contents]


def draw(study: dict[str, Any]) -> dict[str, Shown]:
    """Draw the figures, by name."""
    return {figure.name: show(figure) for figure in figures.draw(study)}


def render(study: dict[str, Any], shown: Mapping[str, Shown]) -> str:
    """Render the HTML page, with the figures inside."""
    template = templates().get_template(TEMPLATE)
    given = {"study": to_json(study), "shown": shown, "labels": CELLS}
    given["configuration"] = _configuration(given["study"])
    return template.render(
        **given, lesson=lesson(), units=reading.units(study), apart=reading.apart(study)
    )


_SETTINGS = {
    "task_length": "length of the task",
    "task": "training on the task",
    "text": "training on text",
    "penalised_length": "length of the task with penalties",
    "penalised": "training with penalties",
    "window": "characters of a window of text",
    "max_chars": "characters read, at most",
    "max_symbols": "different characters, at most",
    "probe_batch": "sequences of a measurement of gradients",
}
"""What the settings that a reader needs are called on the page; `study.json` has all."""


def _configuration(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it is, its value in words) of everything that a run depends on."""
    config, environment, settings = (
        study["config"],
        study["environment"],
        study["config"]["settings"],
    )
    about = {name: value for name, value in environment.items() if not isinstance(value, dict)}
    about |= environment["versions"]
    about |= {"task": study["task"]["repr"], "text": study["text"]["source"]}
    about |= {name: config[name] for name in ("cells", "seeds", "quick")}
    about |= {label: settings[name] for name, label in _SETTINGS.items()}
    return [(name, _said(value)) for name, value in about.items()]


def _said(value: Any) -> str:
    """A setting in words; several are listed."""
    if isinstance(value, dict):
        return ", ".join(f"{words(name)} {number(of)}" for name, of in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else number(value)


def templates() -> jinja2.Environment:
    """The library's templates, with the filters that format numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "words": words, "spread": spread}
    return environment


def _source(name: str) -> str:
    """Read a template of the library."""
    return resources.files("lstm_jax").joinpath(name).read_text("utf-8")


def number(value: Any) -> str:
    """Format a number with three significant digits; None becomes an en dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def words(name: str) -> str:
    """Convert a key of the results to words."""
    return name.replace("_", " ")


def spread(values: Any) -> str:
    """Format numbers, one per seed, as the median, with the lowest and the highest in brackets."""
    known = [float(value) for value in values if value is not None]
    gone = len(values) - len(known)
    lost = f"{gone} of {len(values)} diverged" if gone else ""
    if not known:
        return lost or number(None)
    low, high = number(min(known)), number(max(known))
    text = number(float(np.median(known)))
    text = text if low == high else f"{text} ({low} to {high})"
    return f"{text}, {lost}" if lost else text
