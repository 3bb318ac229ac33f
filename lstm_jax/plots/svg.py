"""SVG of charts as pages have it: text as text, two colours that follow the screen, few bytes."""

import html
import io
import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from matplotlib.figure import Figure

from .theme import DARK

__all__ = ["Drawing", "element", "inside"]
__dir__ = __all__.copy

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _LINK)
_FONT = "'DejaVu Sans', Verdana, sans-serif"
"""Verdana is as wide as the font by which matplotlib finds places."""
_RULES = "".join(
    f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
    for light, dark in DARK.items()
    for what in ("fill", "stroke")
)
_STYLE = f"<style>@media screen and (prefers-color-scheme: dark){{{_RULES}}}</style>"


class Drawing(NamedTuple):
    """A chart as drawn.

    Attributes:
        content: what is inside its SVG element.
        size: width and height.
        seen: the chart in words.
    """

    content: str
    size: tuple[float, float]
    seen: str


def inside(figure: Figure) -> tuple[str, tuple[float, float]]:
    """The content of a figure's SVG, and its width and height; the same figure, the same text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for child in list(root):
        # A style in a page is one of the whole page.
        if child.tag == f"{{{_SVG}}}metadata" or child.find(f"{{{_SVG}}}style") is not None:
            root.remove(child)
    used = set(
        re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for v in e.attrib.values()))
    )
    for each in root.iter():
        _shorten(each, used)
    text = ElementTree.tostring(root, encoding="unicode")
    return text[text.index(">") + 1 : text.rindex("</")].strip(), (width, height)


def _shorten(element: ElementTree.Element, used: set[str]) -> None:
    """Round places to hundredths, drop names that nothing uses, and fonts that few have."""
    if element.attrib.get("id") not in used:
        element.attrib.pop("id", None)  # Names of two charts in a page would be the same.
    for name in {"d", "x", "y"} & element.attrib.keys():
        places = re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.2f}", element.attrib[name])
        element.attrib[name] = re.sub(r"\s*\n", "", places)
    if "style" in element.attrib:
        element.attrib["style"] = re.sub(r"'DejaVu Sans'[^;]*", _FONT, element.attrib["style"])
    if not (element.text or "").strip():
        element.text = None
    element.tail = "\n"


def element(drawings: Sequence[Drawing], seen: str) -> str:
    """The SVG element of one or more charts side by side, whole as a file and inside a page."""
    width = sum(drawing.size[0] for drawing in drawings)
    height = max(drawing.size[1] for drawing in drawings)
    parts, x = "", 0.0
    for drawing in drawings:
        place = f'x="{x:g}"'
        parts += f"{_open(*drawing.size, place)}{drawing.content}</svg>\n"
        x += drawing.size[0]
    about = f'xmlns="{_SVG}" xmlns:xlink="{_LINK}" role="img" aria-label="{html.escape(seen)}"'
    lines = 'stroke-linejoin="round" stroke-linecap="butt"'
    return f"{_open(width, height, f'{about} {lines}')}{_STYLE}\n{parts}</svg>\n"


def _open(width: float, height: float, more: str) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f"<svg {size} {more}>"
