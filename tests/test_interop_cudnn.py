"""The packed vector of jax.experimental.rnn against ours, by its reference for CPU."""

import functools

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import lstm_jax as lj
from lstm_jax.interop import from_cudnn, to_cudnn

SIZES = {"one": (1, False), "deep": (2, True)}


def vector(layers, both, rng):
    total = rnn.get_num_params_in_lstm(check.SIZE, check.HIDDEN, layers, both)
    return 0.5 * check.normal(rng, total)


@pytest.mark.parametrize("name", SIZES)
def test_outputs_carries_and_gradients_are_cudnns(name, rng):
    layers, both = SIZES[name]
    sizes = (check.SIZE, check.HIDDEN, layers, both)
    weights = vector(layers, both, rng)
    xs, mask, loss_weights = check.inputs(rng)
    net, params = from_cudnn(weights, *sizes, double_bias=True)
    outs, (grads, xs_grad) = check.ours(net, params, xs, loss_weights)
    zeros = jnp.zeros((layers * (1 + both), check.BATCH, check.HIDDEN))

    def loss(vector, xs):
        arrays = rnn.unpack_lstm_weights(vector, *sizes)
        run = functools.partial(
            rnn.lstm_ref, input_size=check.SIZE, hidden_size=check.HIDDEN, num_layers=layers,
            dropout=0.0, bidirectional=both)  # fmt: skip
        ys, h, c = run(jnp.swapaxes(xs, 0, 1), zeros, zeros, *arrays, seq_lengths=lengths)
        ys = jnp.swapaxes(ys, 0, 1)
        return jnp.sum(loss_weights * ys) + jnp.sum(h), (ys, h, c)

    lengths = jnp.asarray(check.LENGTHS)
    with check.lenient():
        grad = check.jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (their_grad, their_xs_grad), theirs = grad(jnp.asarray(weights), jnp.asarray(xs))
    check.assert_outputs(outs, *theirs, mask)
    check.registry.assert_close(
        grads, from_cudnn(their_grad, *sizes, double_bias=True)[1], check.TOL
    )
    check.registry.assert_close(xs_grad, their_xs_grad, check.TOL)


@pytest.mark.parametrize("name", SIZES)
def test_there_and_back_is_exact(name, rng):
    layers, both = SIZES[name]
    sizes = (check.SIZE, check.HIDDEN, layers, both)
    weights = vector(layers, both, rng)
    np.testing.assert_array_equal(to_cudnn(*from_cudnn(weights, *sizes, double_bias=True)), weights)
    merged = from_cudnn(weights, *sizes)
    check.assert_equal(from_cudnn(to_cudnn(*merged), *sizes)[1], merged[1])


def test_wrong_vectors_are_named(rng):
    weights = vector(1, False, rng)
    with pytest.raises(ValueError, match=r"^weights: got shape \(144,\), wanted .* = \(288\)"):
        from_cudnn(weights, check.SIZE, check.HIDDEN, 1, True)
    with pytest.raises(ValueError, match="^weights: got NaN"):
        from_cudnn(weights * np.float32(np.nan), check.SIZE, check.HIDDEN)
    with pytest.raises(ValueError, match="^num_layers: got 0"):
        from_cudnn(weights, check.SIZE, check.HIDDEN, 0)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.GRU(4), "got a GRU, wanted a cell that cudnn has: LSTM"),
        (lj.stack(lj.LSTM(4), lj.LSTM(5)), "layers of one cell, size"),
        (lj.bidirectional(lj.LSTM(4), merge="mean"), r"merge='mean'"),
    ],
)
def test_what_cudnn_has_not_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        to_cudnn(net, check.params_of(net))


def test_only_float32():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), check.params_of(lj.LSTM(4)))
    with pytest.raises(ValueError, match="float32, which is all"):
        to_cudnn(lj.LSTM(4), params)
