"""The command `lstm-jax train`; it can resume an interrupted run from a file beside its result."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._checks import fail
from .._files import only_writer
from ..comparison import characters, language, runs
from ..comparison.settings import FULL, Training
from ..train import JsonLines
from . import options
from .options import NPZ, CellName

MOST_UNITS = 10**6
"""Units of the largest cell: XLA ends the process where the bytes of an array overflow."""
KEEP_EVERY = 60.0
"""Seconds between two saves of an unfinished run: a power cut loses no more than that."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a character-level language model, save its parameters, and print a sample."""

    text: Path | None = None
    """A UTF-8 text file or a folder of text files. None: the source of Python's own library."""
    cell: CellName = "lstm"
    """The recurrent cell."""
    hidden_size: int = 128
    """Number of hidden units."""
    steps: int = 1500
    """Number of updates."""
    batch_size: int = FULL.text.batch_size
    """Sequences in a batch: the text is cut into that many streams."""
    window: int = FULL.window
    """Characters per update, through which the gradient flows back (truncated BPTT)."""
    learning_rate: float = FULL.text.learning_rate
    """Peak learning rate, reached after a fifth of the updates; then it falls as a cosine."""
    max_norm: float = FULL.text.max_norm
    """Largest global norm of a gradient; a longer gradient is scaled down to it."""
    momentum: float = FULL.text.momentum
    """Momentum of SGD."""
    max_chars: int = FULL.max_chars
    """Read at most this many characters of the text."""
    out: Path = Path("model.npz")
    """The file to save the parameters to; while it is unfinished, a file beside it has the run."""
    metrics: Path | None = None
    """A file to append training metrics to, one line of JSON every few updates. None: no file."""
    seed: int = 0
    """Random seed."""
    resume: bool = False
    """Continue an interrupted run, bit by bit the same; give the other options as before."""
    overwrite: bool = False
    """Replace the file of --out if it exists, once the new parameters are trained."""

    def run(self) -> None:
        """Train, save the parameters, and print a sample."""
        unfinished = self.out.parent / f"{self.out.stem}.unfinished{NPZ}"
        if self.resume:
            _check_resumes(unfinished, self.out)
        run = self._prepare()
        with only_writer(self.out, argument="--out"):
            self._learn(run, unfinished)

    def _learn(self, run: runs.Run, unfinished: Path) -> None:
        if self.resume:
            with options.named("--resume"):
                run.resume(unfinished)
        elif unfinished.exists():
            seen = f"a run that was interrupted, {str(unfinished)!r}"
            raise fail("--out", seen, "--resume", "go on with that, or delete the file")
        try:
            params, training = run.learn(self.metrics, _every(KEEP_EVERY, run.keep, unfinished))
            options.check_new("--out", self.out, self.overwrite)  # Another run may have saved it.
            with options.named("--out"):
                language.save(self.out, run, params, training)
        except runs.Diverged:
            unfinished.unlink(missing_ok=True)
            raise
        except BaseException as error:
            _keep(run, unfinished, error)
            raise
        unfinished.unlink(missing_ok=True)
        trained = language.Language(run.model, params, run.corpus.vocabulary)
        print(trained.sample("\n", 300, self.seed))
        bits = f"{training['bits_per_character']:.3f} bits per character on held-out text"
        print(f"\n{bits} (order-0 entropy {run.corpus.order0:.3f}); saved {self.out}")

    def _prepare(self) -> runs.Run:
        """Check every option, read the text, and build the run."""
        options.check_counts(self, "steps", "batch_size", "window", "max_chars")
        options.check_counts(self, "hidden_size", most=MOST_UNITS)
        options.check_number(self, "learning_rate", "a finite number of at least 0", 0.0)
        options.check_number(self, "max_norm", "a finite number above 0", 0.0, above=True)
        options.check_number(self, "momentum", "a number in [0, 1)", 0.0, 1.0)
        options.check_seed(self)
        with options.named("--text"):
            corpus = characters.load(self.text, self.max_chars, FULL.max_symbols, self.window)
        options.check_file("--out", self.out, NPZ)
        options.check_new("--out", self.out, self.overwrite)
        if self.metrics is not None:
            _check_metrics(self.metrics, self.out)
        settings = Training(
            self.hidden_size,
            self.batch_size,
            self.steps,
            self.learning_rate,
            self.max_norm,
            self.momentum,
        )
        return runs.Run(corpus, self.cell, settings, self.window, self.seed)


def _check_resumes(unfinished: Path, out: Path) -> None:
    if not unfinished.exists():
        finished = f"; {str(out)!r} is of a run that has finished" if out.exists() else ""
        seen = f"{str(unfinished)!r}, which does not exist{finished}"
        remedy = "leave --resume out to begin a run, or give --out as when it was interrupted"
        raise fail("--resume", seen, "the file of an interrupted run beside --out", remedy)


def _check_metrics(metrics: Path, out: Path) -> None:
    if metrics.resolve() == out.resolve():
        raise fail("--metrics", repr(str(metrics)), "another file than --out", "name another")
    with options.named("--metrics"), JsonLines(metrics):
        pass


def _every(seconds: float, action: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    """A function that calls `action`, unless the last call is less than `seconds` ago."""
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            action(*arguments)
            last = time.monotonic()

    return tick


def _keep(run: runs.Run, path: Path, error: BaseException) -> None:
    """Save an unfinished run after an error or Ctrl-C, and add to the error where it is."""
    if not run.done:
        return
    made = f"{run.done} of {run.settings.steps} updates"
    try:
        run.keep(path)
        error.add_note(f"{made} are kept in {path}: the same command with --resume goes on")
        return
    except ValueError as full:
        reason = full
    try:  # The disk may be full, while the one of temporary files has room.
        elsewhere = Path(tempfile.mkdtemp(prefix="lstm-jax-")) / path.name
        run.keep(elsewhere)
        error.add_note(f"{made} are kept in {elsewhere}: move it to {path} and add --resume")
    except (ValueError, OSError):
        error.add_note(f"{made} could not be kept ({reason})")
