"""Character-level language models: stateful training, and scores in bits per character."""

import dataclasses
import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import losses, train
from .._checks import counted, fail
from .._decode import decode
from .._numerics import zero_unless
from .._typing import Array, Carry, Key
from .._unroll import unroll
from ..data import Batch, text
from . import jobs
from .learn import by_seed, clipping, curve
from .models import Model, make_cell
from .settings import Training

__all__ = [
    "HELD_OUT",
    "NATS_PER_BIT",
    "WINDOWS_PER_CALL",
    "Corpus",
    "bits_per_character",
    "continued",
    "learn_text",
    "load",
    "logits",
    "loss",
    "make_model",
    "probe_batch",
    "sample",
    "windows",
]
__dir__ = __all__.copy

NATS_PER_BIT = math.log(2.0)
WINDOWS_PER_CALL = 20
HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """An encoded text, with its last tenth held out.

    Attributes:
        source: the origin of the text.
        vocabulary: the mapping from characters to ids.
        train, valid: the ids of the two parts, [N] int32.
        order0: entropy of single characters of the whole text, in bits per character.
    """

    source: str
    vocabulary: text.Vocabulary
    train: np.ndarray
    valid: np.ndarray
    order0: float

    @property
    def digest(self) -> str:
        """SHA-256 digest of the text, its vocabulary and its split."""
        held_out = f"{self.vocabulary.chars}/{len(self.valid)}/".encode()
        ids = self.train.tobytes() + self.valid.tobytes()
        return hashlib.sha256(held_out + ids).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Facts about the text for a report."""
        return {
            "source": self.source,
            "characters": len(self.train) + len(self.valid),
            "held_out_characters": len(self.valid),
            "symbols": self.vocabulary.size,
            "order0_bits_per_character": self.order0,
        }


def load(path: Path | None, max_chars: int, max_symbols: int, window: int) -> Corpus:
    """Load the text at `path`, or of Python's own library.

    Raises:
        ValueError, FileNotFoundError: as `data.text.read`, or the text is too short for a window in
            each of its parts.
    """
    content = text.read(path, max_chars)
    vocabulary = text.Vocabulary.from_text(content, max_symbols)
    ids = vocabulary.encode(content)
    if int(len(ids) * HELD_OUT) <= window:
        wanted = f"{round((window + 1) / HELD_OUT)} or more, of which a tenth is held out"
        raise fail("text", counted(len(ids), "character"), wanted, "name a longer text")
    kept, held_out = text.split(ids, HELD_OUT)
    source = "the source of Python's standard library" if path is None else str(path)
    return Corpus(source, vocabulary, kept, held_out, text.order0_entropy(ids))


def make_model(name: str, hidden_size: int, symbols: int) -> Model:
    """Build a character model: one-hot inputs, and one logit for each symbol."""
    return Model(make_cell(name, hidden_size), symbols, symbols)


def logits(model: Model, params: Any, ids: Array, carry: Carry) -> tuple[Carry, Array]:
    """Run the model over ids [T, B]: (carry, logits [T, B, symbols]).

    A stream whose carry has overflowed, as may happen in a ReLU network, restarts from zeros;
    otherwise nothing later in the stream could be learned.
    """
    finite = jnp.all(jnp.stack([jnp.isfinite(s).all(axis=-1) for s in jax.tree.leaves(carry)]), 0)
    carry = zero_unless(finite, carry)
    return unroll(model.net, params, jax.nn.one_hot(ids, model.input_size), carry)


def learn_text(
    model: Model,
    corpus: Corpus,
    settings: Training,
    window: int,
    params: Any,
) -> tuple[Any, list[dict[str, Any]]]:
    """Train on a text for about `settings.steps` updates: (trained parameters, report per seed).

    Every leaf of `params` has a first axis of S seeds, which are trained on the same text in one
    compiled program. There is one update for each window; the carry is kept from window to window,
    and the gradient stops between them.
    """
    inputs, targets = windows(corpus.train, settings.batch_size, window)
    tx = settings.optimizer()
    run = train.make_tbptt(
        lambda params, carry, ids, mask: logits(model, params, ids, carry),
        losses.softmax_cross_entropy,
        tx,
        k1=window,
    )
    run = jax.jit(jax.vmap(run, in_axes=(0, 0, None, None)))
    state, carry = jax.vmap(
        lambda params: (
            train.create(params, tx),
            model.net.initial_carry(params, inputs.shape[2:]),
        )
    )(params)
    histories = []
    for chosen in _calls(settings.steps, len(inputs)):
        xs, labels = (_joined(windows[chosen]) for windows in (inputs, targets))
        state, carry, history = run(state, carry, xs, labels)
        histories.append(jax.device_get(history))
        jobs.advance(history["loss"].shape[1])
    valid = windows(corpus.valid, settings.batch_size, window)
    score = jax.jit(jax.vmap(functools.partial(_score, model), in_axes=(0, None, None)))
    bits = np.asarray(score(state.params, *valid))
    return state.params, [
        {
            "curve": curve(history["loss"] / NATS_PER_BIT),
            "bits_per_character": float(of_seed),
            **clipping(history),
        }
        for history, of_seed in zip(by_seed(histories), bits, strict=True)
    ]


def windows(ids: np.ndarray, batch_size: int, window: int) -> text.CharStream:
    """Cut ids as `text.streams` does, into fewer than `batch_size` streams if the text is short."""
    if len(ids) <= window:
        wanted = f"more than one window of {counted(window, 'character')} in each part"
        raise fail("text", counted(len(ids), "character"), wanted, "name a longer text")
    return text.streams(ids, min(batch_size, (len(ids) - 1) // window), window)


def _calls(steps: int, count: int) -> list[np.ndarray]:
    """Indices of the windows for each compiled call; after the last follows the first."""
    size = min(steps, WINDOWS_PER_CALL)
    calls = -(-steps // size)
    return [np.arange(n * size, (n + 1) * size) % count for n in range(calls)]


def _joined(windows: np.ndarray) -> Array:
    """Join windows [N, window, B] to one sequence [N * window, B]."""
    return jnp.asarray(windows.reshape(-1, windows.shape[2]))


def bits_per_character(model: Model, params: Any, inputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean loss over characters [N, window, B] in bits, with the carry kept between windows."""
    return float(jax.jit(_score, static_argnums=0)(model, params, inputs, targets))


def _score(model: Model, params: Any, inputs: Array, targets: Array) -> Array:
    def body(carry, pair):
        carry, outputs = logits(model, params, pair[0], carry)
        return carry, losses.bits_per_character(outputs, pair[1])

    carry = model.net.initial_carry(params, inputs.shape[2:])
    return lax.scan(body, carry, (inputs, targets))[1].mean()


def probe_batch(corpus: Corpus, batch_size: int, window: int, seeds: int) -> Batch:
    """Held-out text to measure gradient flow, one window per seed: leaves [S, window, B, ...].

    Only the character that follows each window is scored.
    """
    inputs, targets = windows(corpus.valid, batch_size, window)
    chosen = np.arange(seeds) % len(inputs)
    inputs, targets = jnp.asarray(inputs[chosen]), jnp.asarray(targets[chosen])
    last = jnp.zeros(inputs.shape, bool).at[:, -1].set(True)
    return Batch(jax.nn.one_hot(inputs, corpus.vocabulary.size), targets, last, None)


def loss(outputs: Array, batch: Batch) -> Array:
    """Cross entropy at the steps of the batch's mask, in nats."""
    return losses.softmax_cross_entropy(outputs, batch.targets, batch.mask)


def sample(
    model: Model,
    params: Any,
    vocabulary: text.Vocabulary,
    prompt: str,
    length: int,
    key: Key,
    temperature: float = 1.0,
) -> str:
    """Continue `prompt` by `length` characters, drawn from the model at `temperature` > 0."""
    if not 0 < temperature < math.inf:
        raise fail("temperature", temperature, "a positive number", "pass for example 0.7")
    ids = jnp.asarray(vocabulary.encode(prompt or "\n"), jnp.int32)
    draw = jax.jit(lambda params, ids: continued(model, params, ids, length, key, temperature))
    return prompt + vocabulary.decode(np.asarray(draw(params, ids)))


def continued(
    model: Model, params: Any, ids: Array, length: int, key: Key, temperature: Any
) -> Array:
    """Draw `length` symbols that follow ids [T] from the model at `temperature`: [length]."""

    def draw(outputs: Array, key: Key) -> Array:
        drawn = jax.random.categorical(key, outputs / temperature)
        return jax.nn.one_hot(drawn, model.input_size)

    xs = jax.nn.one_hot(ids, model.input_size)
    carry, _ = unroll(model.net, params, xs[:-1])
    _, out = decode(model.net, params, carry, xs[-1], length, feed=draw, key=key)
    return jnp.argmax(out.fed, axis=-1)
