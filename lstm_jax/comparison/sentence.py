"""A sentence as a trained network reads it, gates at each character; and what it writes."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import diagnostics
from . import characters
from .models import Model, of_seed

__all__ = ["KEEP", "LENGTH", "TEMPERATURE", "Sentence", "find", "read"]
__dir__ = __all__.copy

KEEP = "f"
"""The gate whose single units are shown: the forget gate of an LSTM."""
LENGTH = 48
"""The most characters of a sentence; as many as fit below a figure."""
CONTEXT = 100
"""Characters before the sentence that the network has read."""
UNITS = 4
SEARCHED = 200_000
SAMPLED = 200
TEMPERATURE = 0.7

_SENTENCE = re.compile(r"(?<=\s)[A-Z][a-z]+(?: [\w,'’-]+){4,}[.!?](?=\s)")


class Sentence(NamedTuple):
    """A sentence of a text.

    Attributes:
        text: its characters.
        start: the place of the first one in the text.
        prompt: its first words, which a sample goes on from.
    """

    text: str
    start: int
    prompt: str


def find(corpus: characters.Corpus) -> Sentence:
    """Find in the training part a short sentence with many words, or else its first words."""
    content = corpus.vocabulary.decode(corpus.train[:SEARCHED])
    found = [m for m in _SENTENCE.finditer(content) if len(m.group()) <= LENGTH]
    match = max(found, key=lambda m: len(m.group().split()), default=None)
    start = match.start() if match else 0
    text = match.group() if match else content[:LENGTH].rstrip() or content[:LENGTH]
    words = re.match(r"\S+(?:\s+\S+)?", text)
    return Sentence(text, start, words.group() if words else text)


def read(
    model: Model, corpus: characters.Corpus, sentence: Sentence, params: Any, trained: list[Any]
) -> list[dict[str, Any]]:
    """What the network of each seed does at a sentence, and how it goes on from the prompt.

    Args:
        model: the network.
        corpus: its text.
        sentence: a sentence of the part that it was trained on.
        params: leaves with a first axis of S seeds.
        trained: the report of each seed's training; one that diverged writes nothing.

    Returns:
        For each seed {"gates": {gate: [T], mean over the units}, "units": {number of a unit of the
        forget gate: [T]}, those that move most, "sample": the continuation, or None}. Only an LSTM
        has gates here.
    """
    known = KEEP in getattr(model.cell, "gate_names", ())
    gates = _gates(model, corpus, sentence, params) if known else {}
    samples = _samples(model, corpus, sentence.prompt, params)
    finite = [np.isfinite(run["bits_per_character"]) for run in trained]
    return [
        {
            "gates": {name: values.mean(axis=-1) for name, values in of_seed(gates, s).items()},
            "units": _moving(of_seed(gates, s)[KEEP]) if known else {},
            "sample": samples[s] if finite[s] else None,
        }
        for s in range(len(trained))
    ]


def _gates(
    model: Model, corpus: characters.Corpus, sentence: Sentence, params: Any
) -> dict[str, np.ndarray]:
    """{gate: [S, T, H]} at the characters of the sentence."""
    end = sentence.start + len(sentence.text)
    ids = jnp.asarray(corpus.train[max(sentence.start - CONTEXT, 0) : end])

    @jax.jit
    @jax.vmap
    def run(params: Any) -> Any:
        return diagnostics.gates(model.cell, params["inner"], jax.nn.one_hot(ids, model.input_size))

    found = jax.device_get(run(params))
    return {name: values[:, -len(sentence.text) :] for name, values in found.items()}


def _moving(values: np.ndarray) -> dict[str, np.ndarray]:
    """Values [T] of the units of [T, H] that have the widest range, by number from 1."""
    widest = np.argsort(-np.ptp(values, axis=0), kind="stable")[:UNITS]
    return {str(unit + 1): values[:, unit] for unit in sorted(widest.tolist())}


def _samples(model: Model, corpus: characters.Corpus, prompt: str, params: Any) -> list[str]:
    """A continuation of the prompt by the network of each seed."""
    ids = jnp.asarray(corpus.vocabulary.encode(prompt), jnp.int32)

    @jax.jit
    @jax.vmap
    def run(params: Any) -> Any:
        key = jax.random.key(0)
        return characters.continued(model, params, ids, SAMPLED, key, TEMPERATURE)

    return [corpus.vocabulary.decode(of_one) for of_one in np.asarray(run(params))]
