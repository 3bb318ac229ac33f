"""A training run of a character model that can be interrupted and resumed, to the same bits."""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import checkpoint, losses, train
from .._checks import fail
from ..progress import Bar, progress
from . import characters, jobs
from .learn import clipping, curve
from .settings import Training

__all__ = ["UPDATES_PER_CALL", "Diverged", "Progress", "Run"]
__dir__ = __all__.copy

UPDATES_PER_CALL = 20


class Diverged(ArithmeticError):
    """Training ended with parameters that are not finite, or far worse than guessing."""


class Progress(NamedTuple):
    """The state of an unfinished run.

    Attributes:
        state: parameters, optimiser state and number of updates.
        carry: the carry of the streams of text after the last update.
        history: the info of all updates, leaves [updates].
    """

    state: train.TrainState
    carry: Any
    history: dict[str, Any]


class Run:
    """A run of `settings.steps` updates, each on one window of text.

    The carry is kept from window to window, and the gradient stops between them; after the last
    window follows the first. An update depends only on the arguments and its number, not on
    interruptions of the run.

    Args:
        corpus: as from `characters.load`.
        cell: a name of `models.CELL_NAMES`.
        settings: sizes and optimiser.
        window: characters through which the gradient flows back.
        seed: random seed of the initial parameters.
    """

    def __init__(
        self, corpus: characters.Corpus, cell: str, settings: Training, window: int, seed: int = 0
    ):
        self.corpus, self.cell, self.settings, self.window = corpus, cell, settings, window
        self.model = characters.make_model(cell, settings.hidden_size, corpus.vocabulary.size)
        self._seed = seed
        self._windows = characters.windows(corpus.train, settings.batch_size, window)
        self._update = train.make_tbptt(
            lambda params, carry, ids, mask: characters.logits(self.model, params, ids, carry),
            losses.softmax_cross_entropy,
            settings.optimizer(),
            k1=window,
        )
        params = jax.jit(self.model.init)(jax.random.key(seed))
        carry = self.model.net.initial_carry(params, self._windows.inputs.shape[2:])
        self._now = train.create(params, settings.optimizer()), carry
        self._histories: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """Number of updates so far."""
        return int(self._now[0].step)

    @property
    def params(self) -> Any:
        """The parameters after the last update."""
        return self._now[0].params

    def describe(self) -> dict[str, Any]:
        """Describe the model, for a file of its parameters."""
        return {
            "cell": self.cell,
            "hidden_size": self.settings.hidden_size,
            "vocabulary": self.corpus.vocabulary.chars,
        }

    def keep(self, path: Path) -> None:
        """Write the current state of the run to a file; errors as in `checkpoint.save`."""
        with self._lock:
            now = Progress(*self._now, _joined(self._histories))
        checkpoint.save(path, now, {**self.describe(), "run": self._identity()})

    def resume(self, path: Path) -> None:
        """Continue from a file that `keep` wrote.

        Raises:
            FileNotFoundError, ValueError: as `checkpoint.load`, or the file is of another run.
        """
        now, description = checkpoint.load(path)
        theirs, ours = description.get("run"), self._identity()
        if not isinstance(now, Progress) or not isinstance(theirs, dict):
            raise fail("path", repr(str(path)), "an interrupted run", "begin a new one")
        other = [name for name in ours if theirs.get(name) != ours[name]]
        if other:
            seen = ", ".join(f"{name} {ours[name]!r}" for name in other)
            wanted = ", ".join(f"{theirs.get(name)!r}" for name in other)
            raise fail("path", seen, f"{wanted}, with which {str(path)!r} began", "give the same")
        self._now, self._histories = (now.state, now.carry), [now.history]

    def learn(
        self, metrics: Path | None = None, tick: Callable[[], Any] = lambda: None
    ) -> tuple[Any, dict[str, Any]]:
        """Make all remaining updates: (trained parameters, report of training).

        Args:
            metrics: a file that gets one JSON line ("step", "bits_per_character") every few
                updates.
            tick: called a few times a second, in the calling thread.

        Raises:
            KeyboardInterrupt: at once; `keep` can then write the state after the last call.
            Diverged: training has failed.
        """
        with contextlib.ExitStack() as stack:
            log = None if metrics is None else stack.enter_context(train.JsonLines(metrics))
            bar = stack.enter_context(progress(self.settings.steps, "train", patience=0.0))
            bar.advance(self.done)
            job = jobs.Job(self.settings.steps - self.done, lambda: self._learn(bar, log))
            return jobs.run_jobs({(self.cell,): job}, bar, tick=tick)[self.cell,]

    def _learn(self, bar: Bar, log: train.JsonLines | None) -> tuple[Any, dict[str, Any]]:
        while (left := self.settings.steps - self.done) > 0:
            history = self._call(min(left, UPDATES_PER_CALL), log)
            bar.advance(0, loss=_bits(history))
            jobs.advance(len(history["loss"]))
        history = _joined(self._histories)
        self._check_end(history)
        held_out = characters.windows(self.corpus.valid, self.settings.batch_size, self.window)
        bits = characters.bits_per_character(self.model, self.params, *held_out)
        if not math.isfinite(bits):
            raise Diverged(f"{bits} bits per character on held-out text")
        shape = curve(history["loss"] / characters.NATS_PER_BIT)
        return self.params, {"curve": shape, "bits_per_character": bits, **clipping(history)}

    def _call(self, updates: int, log: train.JsonLines | None) -> dict[str, Any]:
        """Make some updates in one compiled call; return their history."""
        chosen = np.arange(self.done, self.done + updates) % len(self._windows.inputs)
        xs, labels = (
            jnp.asarray(windows[chosen].reshape(-1, windows.shape[2])) for windows in self._windows
        )
        state, carry, history = self._update(*self._now, xs, labels)
        history = jax.device_get(history)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
            raise Diverged(f"the parameters are not finite after update {int(state.step)}")
        with self._lock:  # Keep the metrics and the state after them consistent.
            if log is not None:
                log.write({"step": int(state.step), "bits_per_character": _bits(history)})
            self._now = state, carry
            self._histories.append(history)
        return history

    def _check_end(self, history: dict[str, Any]) -> None:
        bits = _bits({"loss": history["loss"][-UPDATES_PER_CALL:]})
        guess = math.log2(self.corpus.vocabulary.size)
        if not bits <= 2.0 * guess:
            raise Diverged(f"{bits:.4g} bits per character, where a guess has {guess:.4g}")

    def _identity(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        settings = dataclasses.asdict(self.settings)
        given = {"cell": self.cell, "window": self.window, "seed": self._seed}
        return {**given, **settings, "text": self.corpus.digest}


def _joined(histories: list[dict[str, Any]]) -> dict[str, Any]:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *histories) if histories else {}


def _bits(history: dict[str, Any]) -> float:
    return float(np.mean(history["loss"])) / characters.NATS_PER_BIT
