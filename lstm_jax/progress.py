"""Progress of long work: a bar on a terminal, lines of text elsewhere.

The bar needs `rich`, which the extra "study" installs; it is imported when the bar appears.
"""

import collections
import contextlib
import functools
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ._checks import check_above_zero, fail

__all__ = [
    "Bar",
    "progress",
]
__dir__ = __all__.copy


PATIENCE = 2.0
"""Default seconds before a bar or line appears, so that short work shows none."""
EVERY = 10.0
"""Seconds between two lines of text."""
WINDOW = 20
"""How many of the last calls of `advance` the rates are of."""


@contextlib.contextmanager
def progress(
    total: int | None,
    description: str,
    *,
    show: bool | None = None,
    console: Any = None,
    clock: Callable[[], float] = time.monotonic,
    patience: float = PATIENCE,
    rates: Mapping[str, float] | None = None,
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
        rates: what a part holds, to be shown a second: {"steps": 1, "tokens": 3200} shows steps/s
            and tokens/s, and a line how much time is left. They are those of the last parts; what
            the first `advance` counts, as after a resume, took no time and is left out.

    Raises:
        ValueError: total is not an integer of at least 0, or None; a rate that is not a number.
        ImportError: `show=True`, but `rich` is not installed.
    """
    if total is not None and (not isinstance(total, (int, np.integer)) or total < 0):
        raise fail("total", repr(total), "an integer of at least 0", "pass None if it is unknown")
    for name, amount in (rates or {}).items():
        check_above_zero(f"rates[{name!r}]", amount)
    view, began = _view(show, console), clock()
    open_view = view and functools.partial(view, description, console, clock, began)
    bar = Bar(total, open_view, lambda: clock() - began >= patience, _Speed(rates or {}, clock))
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
        speed: "_Speed",
    ):
        self.done, self.total = 0, total
        self._speed = speed
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
                self._speed.count(self.done)
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
        texts = self._name, self._fields, self._speed.text()
        left = self._speed.left(self.done, self.total)
        self._view.update(self.done, self.total, "  ".join(filter(None, texts)), left)


class _Speed:
    """How fast the last parts were.

    Args:
        rates: name -> how much of it a part holds; {} measures nothing.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, rates: Mapping[str, float], clock: Callable[[], float]):
        self._rates, self._clock = rates, clock
        self._seen: collections.deque[tuple[float, float]] = collections.deque(maxlen=WINDOW)

    def count(self, done: float) -> None:
        """Note that so many parts are done now."""
        if self._rates:
            self._seen.append((self._clock(), done))

    def text(self) -> str:
        """The rates, as "12.5 steps/s  800 tokens/s"."""
        speed = self._parts_per_second()
        return "  ".join(f"{speed * n:.4g} {name}/s" for name, n in self._rates.items() if speed)

    def left(self, done: float, total: float | None) -> float | None:
        """Seconds until all parts are done, if that is known."""
        speed = self._parts_per_second()
        return (total - done) / speed if speed and total is not None else None

    def _parts_per_second(self) -> float:
        if not self._seen:
            return 0.0
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - began) if now > began else 0.0


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

    def update(self, done: int, total: int | None, text: str, left: float | None) -> None:
        del left  # rich has its own.
        self._display.update(self._task, completed=done, total=total, text=text)

    def close(self) -> None:
        self._display.stop()


class _Lines:
    """Lines of text in place of a bar: "train 0:12  300 of 1500, loss 2.41"."""

    def __init__(self, description: str, console: Any, clock: Any, began: float):
        self._file = sys.stderr if console is None else console.file
        self._description, self._clock, self._began = description, clock, began
        self._last, self._now, self._written = 0.0, "", ""

    def update(self, done: int, total: int | None, text: str, left: float | None) -> None:
        remains = "" if left is None else f"{_minutes(left)} left"
        count = f"{done}" if total is None else f"{done} of {total}"
        parts = [count, *filter(None, [text, remains])]
        self._now = ", ".join(parts)
        if not self._written or self._clock() - self._last >= EVERY:
            self._write()

    def close(self) -> None:
        if self._now != self._written:
            self._write()

    def _write(self) -> None:
        self._last, self._written = self._clock(), self._now
        with contextlib.suppress(OSError):  # If standard error is closed, the work goes on.
            line = f"{self._description} {_minutes(self._last - self._began)}  {self._now}"
            print(line, file=self._file, flush=True)


def _minutes(seconds: float) -> str:
    return "{}:{:02}".format(*divmod(int(seconds), 60))


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
