"""A progress bar that shows itself only where someone waits for it.

It needs `rich`, of the extra "study", and loads it no earlier than the bar appears.
"""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._checks import fail

PATIENCE = 2.0
"""Seconds that work must last before its bar appears."""


@contextlib.contextmanager
def progress(
    total: int | None,
    description: str,
    *,
    show: bool | None = None,
    console: Any = None,
    clock: Callable[[], float] = time.monotonic,
) -> "Iterator[Bar]":
    """A bar on standard error, for work of `total` parts.

        with progress(1000, "train") as bar:
            for n in range(10):
                ...
                bar.advance(100, loss=0.25)

    It appears at the first `advance` after two seconds, and stays on the screen when the work ends.
    Until then, and wherever it is not shown, `advance` adds two numbers and no more happens.

    Args:
        total: parts of the work; None if unknown.
        description: what the work is, shown in front.
        show: None: if standard error is a terminal and `rich` is installed; True: in any case (no
            terminal: its last state alone, at the end); False: never.
        console: a `rich.console.Console` to draw on in place of standard error.
        clock: seconds from any origin, never backwards.

    Raises:
        ValueError: total is not an integer of at least 0, or None.
        ImportError: `show=True` and `rich` is not installed; names the extra.
    """
    if total is not None and (not isinstance(total, (int, np.integer)) or total < 0):
        raise fail("total", repr(total), "an integer of at least 0", "pass None if it is unknown")
    bar = Bar(total, description, _shown(show, console), console, clock)
    try:
        yield bar
    finally:
        bar.close()


class Bar:
    """What `progress` yields. `done`: parts of the work done so far."""

    def __init__(self, total: int | None, description: str, shown: bool, console: Any, clock: Any):
        self.done = 0
        self._total, self._description, self._console = total, description, console
        self._shown, self._clock = shown, clock
        self._began = clock() if shown else 0.0
        self._display: Any = None

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count n more parts as done, and show `fields` behind the bar: numbers or text."""
        self.done += n
        if not self._shown:
            return
        if self._display is None:
            if self._clock() - self._began < PATIENCE:
                return
            self._display = self._opened()
        self._display.update(0, completed=self.done, fields=_text(fields))

    def close(self) -> None:
        """Leave the bar as it stands; nothing is shown from here on."""
        self._shown = False
        if self._display is not None:
            self._display.stop()

    def _opened(self) -> Any:
        from rich import progress as rich
        from rich.console import Console

        display = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[fields]}", markup=False),
            console=self._console or Console(stderr=True),
            get_time=self._clock,
        )
        display.add_task(self._description, total=self._total, fields="")
        display.tasks[0].start_time = self._began  # The work began before its bar.
        display.start()
        return display


def _shown(show: bool | None, console: Any) -> bool:
    """Whether a bar may appear at all."""
    if not (_is_terminal(console) if show is None else show):
        return False
    installed = importlib.util.find_spec("rich") is not None
    if show and not installed:
        raise ImportError(
            "show: got True without `rich`, wanted the extra 'study'; "
            "run pip install 'lstm-jax[study]', or pass show=None"
        )
    return installed


def _is_terminal(console: Any) -> bool:
    if console is not None:
        return console.is_terminal
    return sys.stderr is not None and sys.stderr.isatty()


def _text(fields: dict[str, Any]) -> str:
    """name value, four digits a number, two spaces between fields."""
    return "  ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {float(value):.4g}"
        for name, value in fields.items()
    )
