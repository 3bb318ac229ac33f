"""Character models for use: train on a text, save, load, and continue a prompt."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import checkpoint
from .._checks import check_positive_int, fail
from ..data.text import Vocabulary
from . import characters
from .models import Model
from .runs import Progress, Run
from .settings import Training

__all__ = ["Language", "learn", "load", "save"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Language:
    """A trained character model.

    Attributes:
        model: the network, a cell and a readout.
        params: its parameters.
        vocabulary: its symbols.
    """

    model: Model
    params: Any
    vocabulary: Vocabulary

    def sample(self, prompt: str, length: int, seed: int = 0, temperature: float = 0.7) -> str:
        """Continue `prompt` by `length` characters; errors as in `characters.sample`."""
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
    """Train a model on a text: (model, report of training); see `Run` and `Run.learn`."""
    run = Run(corpus, cell, settings, window, seed)
    params, training = run.learn(metrics)
    return Language(run.model, params, corpus.vocabulary), training


def save(path: Path, run: Run, params: Any, training: dict[str, Any]) -> None:
    """Save the trained parameters, vocabulary, cell and score in one file, by `checkpoint.save`."""
    score = {"bits_per_character": training["bits_per_character"]}
    checkpoint.save(path, params, run.describe() | score)


def load(path: Path) -> Language:
    """Load a model from a file that `save` or `Run.keep` wrote.

    Raises:
        FileNotFoundError, ValueError: as `checkpoint.load`, or the file is not of a character
            model.
    """
    params, description = checkpoint.load(path)
    if isinstance(params, Progress):
        params = params.state.params
    try:
        vocabulary = Vocabulary(description["vocabulary"])
        sizes = description["hidden_size"], vocabulary.size
        model = characters.make_model(description["cell"], *sizes)
        wanted = jax.eval_shape(model.init, jax.random.key(0))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _foreign(path, f"described by {sorted(description)}") from None
    if _shapes(params) != _shapes(wanted):
        raise _foreign(path, "whose parameters are of other shapes than it says")
    return Language(model, params, vocabulary)


def _foreign(path: Path, what: str) -> Exception:
    remedy = "pass a file that `lstm-jax train` wrote"
    return fail("path", f"{str(path)!r} {what}", "a character model", remedy)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (np.shape(leaf), jnp.result_type(leaf)), tree)
