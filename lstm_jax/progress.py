"""Progress of long work: a bar on a terminal, lines of text elsewhere.

The bar needs `rich`, which the extra "study" installs; it is imported when the bar appears.
"""

import contextlib
import functools
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._checks import fail

__all__ = [
    "Bar",
    "progress",
]
__dir__ = __all__.copy


PATIENCE = 2.0
"""Default seconds before a bar or line appears, so that short work shows none."""
EVERY = 10.0
"""Seconds between two lines of text."""


@contextlib.contextmanager
def progress(
    total: int | None,
    description: str,
    *,
    show: bool | None = None,
    console: Any = None,
    clock: Callable[[], float] = time.monotonic,
    patience: float = PATIENCE,
) -> "Iterator[Bar]":
    """Show a progress bar on standard error, for work of `total` parts.

        with progress(1000, "train") as bar:
            for n in range(10):
                ...
                bar.advance(100, loss=0.25)

    The bar appears at the first `advance` or `tick` after two seconds, and stays on the screen when
    the work ends. If standard error is not a terminal, or `rich` is not installed, a line of text
    every ten seconds takes its place. While nothing is shown, `advance` costs next to nothing.
    Several threads may share a bar.

    Args:
        total: parts of the work; None if unknown.
        description: the name of the work, shown before the bar.
        show: True: a bar (without a terminal only its last state, at the end); False: nothing;
            None: a bar on a terminal, else lines.
        console: a `rich.console.Console` to draw on in place of standard error.
        clock: a monotonic clock, in seconds.
        patience: seconds before the bar or the first line appears.

    Raises:
        ValueError: total is not an integer of at least 0, or None.
        ImportError: `show=True`, but `rich` is not installed.
    """
    if total is not None and (not isinstance(total, (int, np.integer)) or total < 0):
        raise fail("total", repr(total), "an integer of at least 0", "pass None if it is unknown")
    view, began = _view(show, console), clock()
    open_view = view and functools.partial(view, description, console, clock, began)
    bar = Bar(total, open_view, lambda: clock() - began >= patience)
    try:
        yield bar
    finally:
        bar.close()


class Bar:
    """A progress bar, as `progress` yields it.

    Attributes:
        done: parts of the work done so far.
        total: parts of the work; None while unknown.
    """

    def __init__(
        self,
        total: int | None,
        open_view: Callable[[], Any] | None,
        is_time: Callable[[], bool],
    ):
        self.done, self.total = 0, total
        self._open_view, self._is_time = open_view, is_time
        self._view: Any = None
        self._name, self._fields = "", ""
        self._lock = threading.Lock()

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count n more parts as done, and show `fields`, numbers or text, after the bar.

        Without `fields` the last ones stay.
        """
        with self._lock:
            self.done += n
            if self._open_view is not None:
                self._fields = _text(fields) or self._fields
                self._draw()

    def tick(self, name: str = "") -> None:
        """Redraw the bar, and show the `name` of the part that runs now; "" keeps the last one."""
        with self._lock:
            self._name = name or self._name
            self._draw()

    def close(self) -> None:
        """Stop drawing; the bar stays on the screen as it is."""
        with self._lock:
            self._open_view = None
            if self._view is not None:
                self._view.close()

    def _draw(self) -> None:
        if self._open_view is None or (self._view is None and not self._is_time()):
            return
        self._view = self._view or self._open_view()
        self._view.update(
            self.done, self.total, "  ".join(filter(None, (self._name, self._fields)))
        )


class _RichView:
    """A bar that `rich` draws."""

    def __init__(self, description: str, console: Any, clock: Any, began: float):
        from rich import progress as rich
        from rich.console import Console

        self._display = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[text]}", markup=False),
            console=console or Console(stderr=True),
            get_time=clock,
        )
        self._task = self._display.add_task(description, total=None, text="")
        self._display.tasks[0].start_time = began  # The work began before the bar appeared.
        self._display.start()

    def update(self, done: int, total: int | None, text: str) -> None:
        self._display.update(self._task, completed=done, total=total, text=text)

    def close(self) -> None:
        self._display.stop()


class _Lines:
    """Lines of text in place of a bar: "train 0:12  300 of 1500, loss 2.41"."""

    def __init__(self, description: str, console: Any, clock: Any, began: float):
        self._file = sys.stderr if console is None else console.file
        self._description, self._clock, self._began = description, clock, began
        self._last, self._now, self._written = 0.0, "", ""

    def update(self, done: int, total: int | None, text: str) -> None:
        parts = [f"{done}" if total is None else f"{done} of {total}", *filter(None, [text])]
        self._now = ", ".join(parts)
        if not self._written or self._clock() - self._last >= EVERY:
            self._write()

    def close(self) -> None:
        if self._now != self._written:
            self._write()

    def _write(self) -> None:
        self._last, self._written = self._clock(), self._now
        minutes, seconds = divmod(int(self._last - self._began), 60)
        with contextlib.suppress(OSError):  # If standard error is closed, the work goes on.
            line = f"{self._description} {minutes}:{seconds:02}  {self._now}"
            print(line, file=self._file, flush=True)


def _view(show: bool | None, console: Any) -> Any:
    """Choose the class that shows the progress; None: show nothing."""
    if show is False or (show is None and console is None and sys.stderr is None):
        return None
    installed = importlib.util.find_spec("rich") is not None
    if show and not installed:
        remedy = "run pip install 'lstm-jax[study]', or pass show=None"
        raise fail("show", "True without `rich`", "the extra 'study'", remedy, ImportError)
    return _RichView if show or (installed and _is_terminal(console)) else _Lines


def _is_terminal(console: Any) -> bool:
    if console is not None:
        return console.is_terminal
    return sys.stderr.isatty()


def _text(fields: dict[str, Any]) -> str:
    """Format fields as "loss 0.25  norm 1.3": numbers to four digits, two spaces between fields."""
    return "  ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {float(value):.4g}"
        for name, value in fields.items()
    )
