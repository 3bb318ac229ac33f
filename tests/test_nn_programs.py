"""Programs as Flax's examples are, run with Flax's layers and with ours: equal numbers.

A classifier of token sequences in both directions (as `examples/sst2`) in linen and nnx, and a
sequence-to-sequence model whose decoder feeds on its own output (as `examples/seq2seq`).
"""

import types

import flax.linen as nn
import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry
from flax import nnx

import lstm_jax as lj

pytestmark = pytest.mark.grid

VOCABULARY, CLASSES, STEPS = 11, 3, 6
KEY = jax.random.key(0)


def batches(count):
    """Sentences of several lengths, labelled by their last word."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        lengths = rng.integers(1, STEPS + 1, 4)
        words = rng.integers(0, VOCABULARY, (4, STEPS))
        yield words, lengths, words[np.arange(4), lengths - 1] % CLASSES


def trained(loss, params, steps=4):
    """The losses of a few steps of Adam, and the parameters after them."""
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, state, *batch):
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = tx.init(params), []
    for batch in batches(steps):
        params, state, value = step(params, state, *batch)
        losses.append(value)
    return losses, params


# ---- a classifier --------------------------------------------------------------------------------
class Classifier(nn.Module):
    """Embedding, an LSTM in each direction, and a layer on both of their last states."""

    layers: types.SimpleNamespace

    @nn.compact
    def __call__(self, words, lengths):
        xs = nn.Embed(VOCABULARY, 5)(words)
        layer = self.layers.Bidirectional(
            self.layers.RNN(nn.OptimizedLSTMCell(4)), self.layers.RNN(nn.OptimizedLSTMCell(4))
        )
        ((_, ahead), (_, back)), _ = layer(xs, seq_lengths=lengths, return_carry=True)
        hidden = nn.tanh(nn.Dense(6)(jnp.concatenate([ahead, back], axis=-1)))
        return nn.Dense(CLASSES)(hidden)


def test_a_linen_classifier_learns_the_same_after_the_swap():
    words, lengths, _ = next(batches(1))
    ends, start = [], None
    for library in (nn, lj.nn.linen):
        layers = types.SimpleNamespace(RNN=library.RNN, Bidirectional=library.Bidirectional)
        model = Classifier(layers)

        def loss(params, words, lengths, labels, model=model):
            logits = model.apply(params, words, lengths)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        with check.lenient():
            start = start or jax.jit(model.init)(KEY, words, lengths)
            ends.append(trained(loss, start))
    registry.assert_close(ends[1], ends[0], 1e-5)


class NnxClassifier(nnx.Module):
    def __init__(self, library, rngs):
        self.embed = nnx.Embed(VOCABULARY, 5, rngs=rngs)
        cells = [nnx.OptimizedLSTMCell(5, 4, rngs=rngs) for _ in range(2)]
        self.layer = library.Bidirectional(*map(library.RNN, cells), return_carry=True)
        self.out = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, words, lengths):
        ((_, ahead), (_, back)), _ = self.layer(self.embed(words), seq_lengths=lengths)
        return self.out(jnp.concatenate([ahead, back], axis=-1))


def test_an_nnx_classifier_learns_the_same_after_the_swap():
    @nnx.jit
    def step(model, optimizer, words, lengths, labels):
        def loss(model):
            logits = model(words, lengths)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    ends = []
    for library in (nnx, lj.nn.nnx):
        with check.lenient():
            model = NnxClassifier(library, nnx.Rngs(0))
            optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
            losses = [step(model, optimizer, *batch) for batch in batches(4)]
        ends.append((losses, nnx.to_pure_dict(nnx.state(model, nnx.Param))))
    registry.assert_close(ends[1], ends[0], 1e-5)


# ---- sequence to sequence ------------------------------------------------------------------------
class Feeding(nn.RNNCellBase):
    """A decoder's cell: an LSTM and a layer of logits, whose sample is the next input."""

    cell: nn.RNNCellBase
    teacher_forcing: bool

    @nn.compact
    def __call__(self, carry, x):
        state, last = carry
        x = x if self.teacher_forcing else last
        state, y = self.cell(state, x)
        logits = nn.Dense(VOCABULARY)(y)
        sample = jax.random.categorical(self.make_rng("sample"), logits)
        return (state, jax.nn.one_hot(sample, VOCABULARY)), (logits, sample)

    @property
    def num_feature_axes(self):
        return 1


class Translator(nn.Module):
    layers: types.SimpleNamespace
    teacher_forcing: bool = True

    @nn.compact
    def __call__(self, words, lengths):
        xs = jax.nn.one_hot(words, VOCABULARY)
        encoder = self.layers.RNN(nn.LSTMCell(4), return_carry=True)
        state, _ = encoder(xs, seq_lengths=lengths)
        cell = Feeding(self.layers.LSTMCell(4), self.teacher_forcing)
        decoder = nn.RNN(cell, split_rngs={"params": False, "sample": True})
        return decoder(xs[:, ::-1], initial_carry=(state, xs[:, -1]))


def test_a_translator_learns_and_samples_the_same_after_the_swap():
    """The encoder's layer and the cell inside the decoder's own cell are ours."""
    words, lengths, _ = map(jnp.asarray, next(batches(1)))
    rngs = {"params": KEY, "sample": KEY}
    ends, start = [], None
    for library in (nn, lj.nn.linen):
        layers = types.SimpleNamespace(RNN=library.RNN, LSTMCell=library.LSTMCell)
        model = Translator(layers)

        def loss(params, words, lengths, _, model=model):
            logits, _ = model.apply(params, words, lengths, rngs={"sample": KEY})
            return optax.softmax_cross_entropy_with_integer_labels(logits, words[:, ::-1]).mean()

        with check.lenient():
            start = start or jax.jit(model.init)(rngs, words, lengths)
            losses, params = trained(loss, start)
            speak = jax.jit(model.clone(teacher_forcing=False).apply)
            ends.append((losses, params, speak(params, words, lengths, rngs={"sample": KEY})))
    registry.assert_close(ends[1], ends[0], 1e-5)


# ---- an agent's memory ---------------------------------------------------------------------------
class ScannedRNN(nn.Module):
    """What agents in linen write: a GRU that restarts at `dones`, scanned over time."""

    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, carry, xs, resets):
        def step(cell, carry, at):
            x, reset = at
            start = cell.initialize_carry(KEY, x.shape)
            return cell(jnp.where(reset[:, None], start, carry), x)

        scanned = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        return scanned(self.cell, carry, (xs, resets))


def test_an_agents_memory_is_one_layer():
    """Its loop of steps, by Flax's cell or ours, and the layer with `resets`: values, gradients."""
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((STEPS, 4, 3)), "float32")
    resets = jnp.asarray(rng.random((STEPS, 4)) < 0.3)
    carry = jnp.ones((4, 5))
    with check.lenient():
        variables = ScannedRNN(nn.GRUCell(5)).init(KEY, carry, xs, resets)
    layer = lj.nn.linen.RNN(nn.GRUCell(5), time_major=True, return_carry=True)

    def graded(run):
        def loss(variables, carry):
            final, ys = run(variables, carry)
            return jnp.sum(jnp.sin(3 * ys)) + jnp.sum(final**2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(variables, carry)

    with check.lenient():
        runs = [
            lambda v, c: ScannedRNN(nn.GRUCell(5)).apply(v, c, xs, resets),
            lambda v, c: ScannedRNN(lj.nn.linen.GRUCell(5)).apply(v, c, xs, resets),
            lambda v, c: layer.apply(v, xs, initial_carry=c, resets=resets),
        ]
        wanted, *seen = map(graded, runs)
    for each in seen:
        registry.assert_close(each, wanted, 1e-5)
