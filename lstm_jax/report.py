"""The report of a study: one self-contained HTML file, every number as JSON, figures as PNG."""

import base64
import io
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from . import plots
from ._checks import fail
from .studies.study import to_json

TEMPLATE = "report.html.jinja"
DPI = 110


def check_folder(out: Path) -> None:
    """Make the folder `out`, or raise before any work is lost.

    Raises:
        ValueError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        seen = f"{str(out)!r} ({error.strerror})"
        raise fail("out", seen, "a folder that can be written", "name another with --out") from None


def write(study: dict[str, Any], out: Path) -> list[Path]:
    """report.html, study.json and one PNG a figure in the folder `out`; returns the paths.

    Each file is written whole under another name and then moved into place.

    Raises:
        ValueError: `out` cannot be written.
    """
    check_folder(out)
    with matplotlib.rc_context(plots.STYLE):
        images = {name: _png(figure) for name, figure in plots.draw(study).items()}
    contents = {
        "study.json": (json.dumps(to_json(study), indent=1) + "\n").encode(),
        "report.html": render(study, images).encode(),
        **{f"{name}.png": image for name, image in images.items()},
    }
    return [_replace(out / name, content) for name, content in contents.items()]


def render(study: dict[str, Any], images: dict[str, bytes]) -> str:
    """The page, with the figures inside."""
    source = resources.files("lstm_jax").joinpath(TEMPLATE).read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "words": words}
    encoded = {name: base64.b64encode(image).decode() for name, image in images.items()}
    template = environment.from_string(source)
    return template.render(study=to_json(study), images=encoded, labels=plots.LABELS)


def number(value: Any) -> str:
    """A number as a reader wants it: three significant digits; an en dash where there is none."""
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
    """A key of the results in words."""
    return name.replace("_", " ")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
