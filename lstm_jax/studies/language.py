"""A character model as a product: trained from a text, saved, loaded, and asked to go on."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from .. import checkpoint
from .._checks import check_positive_int, fail
from ..data.text import Vocabulary
from ..progress import progress
from ..train import JsonLines
from . import characters
from .models import CELL_NAMES, Model
from .settings import Training


@dataclasses.dataclass(frozen=True)
class Language:
    """A trained character model.

    Attributes:
        model: cell and readout.
        params: its parameters.
        vocabulary: the symbols that it knows.
    """

    model: Model
    params: Any
    vocabulary: Vocabulary

    def sample(self, prompt: str, length: int, seed: int = 0, temperature: float = 0.7) -> str:
        """`prompt` continued by `length` characters; errors are `characters.sample`'s."""
        check_positive_int("length", length)
        key = jax.random.key(seed)
        return characters.sample(
            self.model, self.params, self.vocabulary, prompt, length, key, temperature
        )


def learn(
    corpus: characters.Corpus,
    cell: str,
    settings: Training,
    window: int,
    seed: int = 0,
    metrics: Path | None = None,
) -> tuple[Language, dict[str, Any]]:
    """(the model, what training looked like); see `characters.learn_text`.

    Args:
        corpus: as from `characters.load`.
        cell: a name of `models.CELL_NAMES`.
        settings: sizes and optimiser.
        window: characters that the gradient runs back through.
        seed: of the first parameters.
        metrics: a file that gets one JSON line ("step", "bits_per_character") every few updates.
    """
    model = characters.make_model(cell, settings.hidden_size, corpus.vocabulary.size)
    params = jax.jit(model.init)(jax.random.key(seed))
    with contextlib.ExitStack() as stack:
        log = None if metrics is None else stack.enter_context(JsonLines(metrics))
        bar = stack.enter_context(progress(settings.steps, "train"))
        step = 0

        def report(updates: int, loss: float) -> None:
            nonlocal step
            step += updates
            bar.advance(updates, loss=loss)
            if log is not None:
                log.write({"step": step, "bits_per_character": loss})

        params, training = characters.learn_text(model, corpus, settings, window, params, report)
    return Language(model, params, corpus.vocabulary), training


def save(path: Path, language: Language, cell: str, training: dict[str, Any]) -> None:
    """One file: parameters, vocabulary, cell and score. Errors are `checkpoint.save`'s."""
    description = {
        "cell": cell,
        "hidden_size": language.model.cell.hidden_size,
        "vocabulary": language.vocabulary.chars,
        "bits_per_character": training["bits_per_character"],
    }
    checkpoint.save(path, language.params, description)


def load(path: Path) -> Language:
    """What `save` wrote.

    Raises:
        FileNotFoundError, ValueError: as `checkpoint.load`, or the file holds another model.
    """
    params, description = checkpoint.load(path)
    keys = {"cell", "hidden_size", "vocabulary"}
    if not keys <= set(description) or description["cell"] not in CELL_NAMES:
        remedy = "pass a file that `lstm-jax train` wrote"
        raise fail("path", f"{str(path)!r}: {sorted(description)}", "a character model", remedy)
    vocabulary = Vocabulary(description["vocabulary"])
    model = characters.make_model(description["cell"], description["hidden_size"], vocabulary.size)
    return Language(model, params, vocabulary)
