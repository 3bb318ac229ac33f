"""`lstm_jax.nn.equinox`: Equinox's cells over sequences, and any cell or net as its module."""

import io

import equinox as eqx
import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry

import lstm_jax as lj
from lstm_jax.interop import from_equinox

ours = lj.nn.equinox

pytestmark = pytest.mark.sampled

KEY = jax.random.key(0)


def cell_of(library, name, **options):
    return getattr(library, name)(check.SIZE, check.HIDDEN, key=KEY, **options)


def start(name):
    h = jnp.full(check.HIDDEN, 0.5)
    return (h, -h) if name == "LSTMCell" else h


def scanned(cell, xs, carry):
    """What a user of Equinox writes."""

    def step(carry, x):
        carry = cell(x, carry)
        return carry, carry[0] if isinstance(carry, tuple) else carry

    return jax.lax.scan(step, carry, xs)


@pytest.mark.parametrize(
    ("name", "use_bias"), [("LSTMCell", True), ("GRUCell", True), ("GRUCell", False)]
)
def test_a_layer_computes_what_a_scan_of_equinoxs_cell_does(name, use_bias, rng):
    """Values and gradients; and so does a cell of ours, in a scan or in a layer."""
    xs = jnp.asarray(check.normal(rng, check.STEPS, check.SIZE))
    theirs = cell_of(eqx.nn, name, use_bias=use_bias)
    own = cell_of(ours, name, use_bias=use_bias)
    check.assert_equal(jax.tree.leaves(own), jax.tree.leaves(theirs))

    def loss(given, run):
        cell, xs, carry = given
        final, ys = run(cell, xs, carry)
        final = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(final))
        return jnp.sum(jnp.sin(3 * ys)) + final, ys

    def layer(cell, xs, carry):
        return ours.RNN(cell)(xs, carry)

    grad = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))
    wanted = grad((theirs, xs, start(name)), scanned)
    for cell, run in ((theirs, layer), (own, scanned)):
        seen = grad((cell, xs, start(name)), run)
        for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(wanted), strict=True):
            registry.assert_close(a, b, 5e-6)
    registry.assert_close(from_equinox(own)[1], from_equinox(theirs)[1], 0)


@pytest.mark.grid
def test_a_padded_batch_is_each_sequence_alone(rng):
    xs = jnp.asarray(check.inputs(rng)[0])
    rnn = ours.RNN(cell_of(eqx.nn, "GRUCell"), reverse=True)
    carry, ys = rnn(xs, seq_lengths=jnp.asarray(check.LENGTHS))
    for n, length in enumerate(check.LENGTHS):
        h, alone = rnn(xs[:length, n])
        registry.assert_close((carry[n], ys[:length, n]), (h, alone), check.TOL)
    every = jax.vmap(rnn, in_axes=1, out_axes=(0, 1))(xs)
    registry.assert_close(every, rnn(xs), check.TOL)


NETS = {
    "stack": lj.stack(lj.learned_start(lj.LSTM(4)), lj.bidirectional(lj.GRU(2))),
    "tokens": lj.embedding(lj.readout(lj.MGU(4), 2), 7, 3),
    "functions": lj.stack(lj.dense(2), jax.nn.relu, lj.MGU(4), jnp.tanh, lj.dense(1)),
}


@pytest.mark.parametrize("name", NETS)
def test_any_net_is_a_module(name, rng):
    net = NETS[name]
    xs = jnp.ones((5, 2), int) if name == "tokens" else jnp.ones((5, 2, 3))
    cell = ours.Cell(net, None if name == "tokens" else 3, key=KEY)
    resets = jnp.arange(10).reshape(5, 2) == 4
    wanted = lj.unroll(net, cell.params, xs, resets=resets)
    registry.assert_close(ours.RNN(cell)(xs, resets=resets), wanted, 0)


def test_a_cell_of_ours_steps():
    cell = ours.Cell(lj.LSTM(4), 3, key=KEY)
    xs = jnp.ones((5, 3))
    registry.assert_close(scanned(cell, xs, cell.initial_carry()), ours.RNN(cell)(xs), check.TOL)


def test_noise_is_drawn_in_training_alone():
    net = lj.stack(lj.GRU(4), lj.GRU(4), dropout=0.5)
    rnn, xs = ours.RNN(ours.Cell(net, 3, key=KEY)), jnp.ones((5, 2, 3))
    evaluated = lj.unroll(net, rnn.cell.params, xs)
    registry.assert_close(rnn(xs, inference=True), evaluated, 0)
    registry.assert_close(eqx.nn.inference_mode(rnn)(xs, key=KEY), evaluated, 0)
    registry.assert_close(rnn(xs, key=KEY), lj.unroll(net, rnn.cell.params, xs, key=KEY), 0)
    with pytest.raises(ValueError, match=r"key: got None, wanted a key.*eqx.nn.inference_mode"):
        rnn(xs)


@pytest.mark.grid
def test_it_trains_and_goes_through_files():
    """eqx.filter_jit, eqx.apply_updates, eqx.tree_at, eqx.tree_serialise_leaves."""
    rnn, xs = ours.RNN(ours.Cell(lj.LSTM(4), 3, key=KEY)), jnp.ones((5, 2, 3))
    tx = optax.sgd(0.5)
    state = tx.init(eqx.filter(rnn, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(rnn, state):
        loss = eqx.filter_value_and_grad(lambda rnn: jnp.mean((rnn(xs)[1] - 0.5) ** 2))
        value, grads = loss(rnn)
        updates, state = tx.update(grads, state)
        return eqx.apply_updates(rnn, updates), state, value

    losses = []
    for _ in range(20):
        rnn, state, value = step(rnn, state)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 1.5
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, rnn)
    file.seek(0)
    fresh = ours.RNN(ours.Cell(lj.LSTM(4), 3, key=jax.random.key(1)))
    loaded = eqx.tree_deserialise_leaves(file, fresh)
    registry.assert_close(loaded(xs), rnn(xs), 0)
    still = eqx.tree_at(lambda rnn: rnn.cell.params["w_hh"], rnn, jnp.zeros((4, 16)))
    assert not np.allclose(still(xs)[1], rnn(xs)[1])
    params, rest = eqx.partition(rnn, eqx.is_array)
    (seen,) = lj.inspect(lambda params, xs: eqx.combine(params, rest)(xs), params, xs)
    assert seen.implementation == registry.FASTEST


class Own(eqx.nn.GRUCell):
    def __call__(self, input, hidden, *, key=None):
        return hidden


def test_what_it_cannot_run_is_refused():
    with pytest.raises(ValueError, match=r"cell: got a Own, wanted a Cell, or Equinox's LSTMCell"):
        ours.RNN(Own(3, 4, key=KEY))
    rnn = ours.RNN(cell_of(eqx.nn, "LSTMCell"))
    with pytest.raises(ValueError, match=r"carry: got a .*, wanted \(h, c\)"):
        rnn(jnp.ones((5, 3)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"net: got the class LSTM.*make one: LSTM\(128\)"):
        ours.Cell(lj.LSTM, 3, key=KEY)
