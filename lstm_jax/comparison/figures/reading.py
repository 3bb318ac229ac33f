"""What the LSTM's gates do at the characters of a sentence: a chart, and units as shaded text."""

import re
from typing import Any

import numpy as np

from ...charts import Chart, Figure, Line, line

__all__ = ["apart", "figure", "units"]
__dir__ = __all__.copy

CELL = "lstm"
GATES = {"f": "forget gate f", "i": "input gate i", "o": "output gate o"}
SPACE = "\N{OPEN BOX}"
"""What stands for a space, which nobody sees."""
ROW = 26
"""Characters below one chart: more could not be read on a phone."""


def figure(results: dict[str, Any]) -> Figure | None:
    """The gates, mean over the units, at each character, in rows; None without an LSTM."""
    if CELL not in results["cells"]:
        return None
    runs = results["cells"][CELL]["text"]
    text = _visible(results["text"]["sentence"])
    lines = [
        line(name, np.arange(len(text)), [run["reads"]["gates"][gate] for run in runs])
        for gate, name in GATES.items()
    ]
    panels = [_row(lines, text, *ends) for ends in rows(results["text"]["sentence"])]
    caption = (
        f"Each gate is a number between 0 (shut) and 1 (open) for each unit. {SPACE} is a space."
    )
    return Figure("gates-in-a-sentence", _finding(lines[0], text), panels, caption, level=True)


def rows(text: str) -> list[tuple[int, int]]:
    """(start, end) of the rows of a text, of at most ROW characters, broken after a space."""
    pattern = rf".{{1,{ROW - 1}}}(?:\s|$)|.{{1,{ROW}}}"
    return [found.span() for found in re.finditer(pattern, text, re.DOTALL)]


def _row(lines: list[Line], text: str, start: int, end: int) -> Chart:
    """The chart of one row of the sentence."""
    return Chart(
        f"from-{start}",
        f"characters {start + 1} to {end}",
        "the sentence, character by character",
        "mean of each gate over the units",
        [line(of.label, of.x[: end - start], of.values[:, start:end]) for of in lines],
        ticks=list(text[start:end]),
    )


def _finding(forget: Line, text: str) -> str:
    """Where the forget gate keeps most and least, in words."""
    kept = forget.middle
    if not np.isfinite(kept).any():
        return "The LSTM has diverged: its gates are no numbers"
    most, least = int(np.nanargmax(kept)), int(np.nanargmin(kept))
    return (
        f"On average over its units the LSTM keeps most of its cell state at {_quoted(text[most])} "
        f"({kept[most]:.0%}) and least at {_quoted(text[least])} ({kept[least]:.0%})"
    )


def _quoted(letter: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{letter}\N{RIGHT DOUBLE QUOTATION MARK}"


def units(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Single units of the forget gate in the first seed, as the text shaded by their values.

    Each is {"unit": its number, "letters": [(character, value in percent)], "seen": in words}.
    """
    if CELL not in results["cells"]:
        return []
    text = _visible(results["text"]["sentence"])
    found = results["cells"][CELL]["text"][0]["reads"]["units"]
    return [
        {"unit": unit, "letters": _letters(text, values), "seen": _seen(unit, text, values)}
        for unit, values in found.items()
    ]


def apart(results: dict[str, Any]) -> str:
    """How far apart the single units are at a character, in words; "" without two of them."""
    found = results["cells"][CELL]["text"][0]["reads"]["units"] if CELL in results["cells"] else {}
    values = np.array(list(found.values()), np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return ""
    ranges = 100 * np.ptp(values, axis=0)
    return (
        f"At a character these units differ by {ranges.mean():.0f} percentage points on average, "
        f"by {ranges.max():.0f} at most"
    )


def _letters(text: str, values: Any) -> list[tuple[str, int]]:
    return [
        (letter, round(100 * value) if np.isfinite(value) else 0)
        for letter, value in zip(text, np.asarray(values, np.float64), strict=True)
    ]


def _seen(unit: str, text: str, values: Any) -> str:
    letters = sorted(_letters(text, values), key=lambda pair: pair[1])
    (shut, low), (open_, high) = letters[0], letters[-1]
    return f"Forget gate of unit {unit}: lowest, {low} %, at {shut}; highest, {high} %, at {open_}."


def _visible(text: str) -> str:
    return "".join(SPACE if letter.isspace() else letter for letter in text)
