"""The report of a study: one self-contained HTML file, every number as JSON, figures as files."""

import base64
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from . import plots
from ._files import check_folder, write_whole
from .charts import table
from .plots import charts as drawing
from .plots import reading
from .plots.findings import findings
from .plots.lesson import lesson
from .studies.provenance import to_json

__all__ = ["FILES", "NUMBERS", "PAGE", "draw", "render", "templates", "write"]
__dir__ = __all__.copy

PAGE, NUMBERS = FILES = ("report.html", "study.json")
TEMPLATE = "report.html.jinja"
DPI = 110


def write(study: dict[str, Any], out: Path) -> list[Path]:
    """Write report.html, study.json and files of the figures to the folder `out`; return paths.

    Each file is written atomically.

    Raises:
        ValueError: `out` cannot be written.
    """
    check_folder(out, argument="out")
    wide, panels = draw(study)
    contents = {
        NUMBERS: (json.dumps(to_json(study), indent=1) + "\n").encode(),
        PAGE: render(study, panels).encode(),
        **wide,
    }
    for name, content in contents.items():
        write_whole(out / name, content, argument="out")
    return [out / name for name in contents]


def draw(study: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, list[dict[str, Any]]]]:
    """Draw the figures: (files by name, [{"light": image, "dark": image, "seen": ...}] by name)."""
    wide: dict[str, bytes] = {}
    panels: dict[str, list[dict[str, Any]]] = {}
    for mode, theme in (("light", plots.LIGHT), ("dark", plots.DARK)):
        with matplotlib.rc_context(theme):
            for name, picture in plots.draw(study, theme).items():
                pixels = _pixels(picture.figure)
                if mode == "light":
                    wide[f"{name}.png"] = _png(pixels)
                    panels[name] = [{"seen": seen} for seen in picture.seen]
                parts = np.array_split(pixels, len(picture.seen), axis=1)
                for panel, part in zip(panels[name], parts, strict=True):
                    panel[mode] = _png(part)
    return wide | _reading(study, panels), panels


def _reading(study: dict[str, Any], panels: dict[str, list[dict[str, Any]]]) -> dict[str, bytes]:
    """Draw the chart of the gates in a sentence into `panels`; return its files by name."""
    chart = reading.chart(study)
    if chart is None:
        return {}
    light, dark = (drawing.draw(chart, theme).svg for theme in (plots.LIGHT, plots.DARK))
    panels[chart.name] = [{"light": light, "dark": dark, "seen": chart.seen}]
    return {f"{chart.name}.svg": light, f"{chart.name}.csv": table(chart).encode()}


def render(study: dict[str, Any], panels: dict[str, list[dict[str, Any]]]) -> str:
    """Render the HTML page, with the figures inside."""
    template = templates().get_template(TEMPLATE)
    given = {"study": to_json(study), "panels": panels, "labels": plots.LABELS}
    read = {"chart": reading.chart(study), "units": reading.units(study)}
    return template.render(**given, lesson=lesson(), reading=read, findings=findings(study))


def templates() -> jinja2.Environment:
    """The library's templates, with the filters that format numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "words": words, "spread": spread, "base64": base64_of}
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


def base64_of(image: bytes) -> str:
    """Encode an image for a data URL."""
    return base64.b64encode(image).decode()


def _pixels(figure: Figure) -> np.ndarray:
    """Render a figure to pixels [height, width, 4] in 0 .. 255."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png", dpi=DPI)
    return buffer.getvalue()
