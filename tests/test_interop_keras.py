"""Keras's recurrent layers against ours with the same weights, on masked ragged batches."""

import json
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "jax")

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import from_keras, to_keras

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
layers = keras.layers

# Keras's own variables, where it copies them to NumPy 2.
pytestmark = [
    pytest.mark.grid,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]

ON = {"return_sequences": True}
HARD = {"recurrent_activation": "hard_sigmoid"}
BOTH = {**ON, "return_state": True}
CASES = {
    "simple_rnn": lambda: layers.SimpleRNN(4, activation="relu", **BOTH),
    "lstm": lambda: layers.LSTM(4, **BOTH),
    "lstm_hard": lambda: layers.LSTM(
        4, activation="relu", recurrent_activation="hard_sigmoid", **BOTH
    ),
    "gru": lambda: layers.GRU(4, **BOTH),
    "gru_reset_before": lambda: layers.GRU(4, reset_after=False, **BOTH),
    "gru_no_bias": lambda: layers.GRU(4, use_bias=False, **BOTH),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(4, **BOTH)),
    "bidirectional_ave": lambda: layers.Bidirectional(layers.GRU(4, **BOTH), merge_mode="ave"),
    "cells": lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)], **BOTH),
}


def built(name, rng):
    with check.lenient():
        layer = CASES[name]()
        layer.build((None, None, check.SIZE))
        layer.set_weights([0.5 * check.normal(rng, *w.shape) for w in layer.get_weights()])
    return layer


def flat(states):
    """The final states as a flat list, and which of them are an LSTM's c."""
    return [leaf for leaf in jax.tree.leaves(states)]


SLOW = ("lstm_hard", "gru_no_bias", "bidirectional_ave")


@pytest.mark.parametrize("name", check.cases(CASES, SLOW))
def test_outputs_carries_and_gradients_are_kerass(name, rng):
    layer = built(name, rng)
    xs, mask, weights = check.inputs(rng)
    net, params = from_keras(layer, double_bias=True)
    outs, (grads, xs_grad) = check.ours(net, params, xs, weights)
    hidden = {id(s.h) for s in outs[1]}

    def loss(variables, xs):
        (ys, *finals), _ = layer.stateless_call(
            variables, others, jnp.swapaxes(xs, 0, 1), mask=jnp.asarray(mask[:, :, 0].T, bool)
        )
        ys, finals = jnp.swapaxes(ys, 0, 1), flat(finals)
        leaves = [leaf for state in outs[1] for leaf in state]
        hs = [f for f, leaf in zip(finals, leaves, strict=True) if id(leaf) in hidden]
        return jnp.sum(weights * ys) + sum(jnp.sum(h) for h in hs), (ys, finals)

    with check.lenient():
        variables = [variable.value for variable in layer.trainable_variables]
        others = [variable.value for variable in layer.non_trainable_variables]
        run = check.jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (their_grads, their_xs_grad), (ys, finals) = run(variables, jnp.asarray(xs))
    check.registry.assert_close(outs[0], np.asarray(ys) * mask, check.TOL)
    check.registry.assert_close(jax.tree.leaves(outs[1]), finals, check.TOL)
    layer.set_weights(their_grads)
    check.registry.assert_close(grads, from_keras(layer, double_bias=True)[1], check.TOL)
    check.registry.assert_close(xs_grad, their_xs_grad, check.TOL)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(name, rng):
    layer = built(name, rng)
    net, params = from_keras(layer, double_bias=True)
    check.assert_equal(to_keras(net, params), layer.get_weights())
    merged = from_keras(layer)
    layer.set_weights(to_keras(*merged))
    check.assert_equal(from_keras(layer)[1], merged[1])


CONVS = {
    "1d": (1, {"kernel_size": 2, "padding": "same"}, (5,)),
    "2d": (2, {"kernel_size": (2, 3), "strides": (1, 2)}, (4, 6)),
    "dilated": (1, {"kernel_size": 2, "dilation_rate": 2, "use_bias": False}, (5,)),
}


@pytest.mark.parametrize("name", check.cases(CONVS, ("1d", "dilated")))
def test_convolutions(name, rng, tmp_path):
    axes, options, space = CONVS[name]
    xs = check.normal(rng, 2, 3, *space, check.SIZE)
    with check.lenient():
        layer = getattr(layers, f"ConvLSTM{axes}D")(4, **options, **BOTH)
        layer.build(xs.shape)
        layer.set_weights([0.5 * check.normal(rng, *w.shape) for w in layer.get_weights()])
        wanted, *finals = layer(xs)
    net, params = from_keras(layer)
    carry, ys = lj.unroll(net, params, jnp.asarray(xs), time_major=False)
    check.registry.assert_close([ys, *carry], [wanted, *finals], check.TOL)
    check.assert_equal(to_keras(net, params, file=tmp_path / "net.keras"), layer.get_weights())
    with check.lenient():
        read = keras.saving.load_model(tmp_path / "net.keras")
        check.registry.assert_close(np.asarray(read(xs)), np.asarray(wanted), check.TOL)
    read.save(tmp_path / "again.keras")
    for name in ("net.keras", "again.keras"):
        again = from_keras(tmp_path / name)
        assert again[0] == net
        check.assert_equal(again[1], params)


@pytest.mark.parametrize("name", check.cases(CONVS, ("dilated",)))
def test_gradients_of_convolutions(name, rng):
    """By weights, inputs and the first carry; Keras broadcasts a mask against space, not batch."""
    axes, options, space = CONVS[name]
    with check.lenient():
        layer = getattr(layers, f"ConvLSTM{axes}D")(4, **options, **BOTH)
        layer.build((None, None, *space, check.SIZE))
        layer.set_weights([0.5 * check.normal(rng, *w.shape) for w in layer.get_weights()])
    net, params = from_keras(layer)
    _, mask, weights = check.inputs(rng, None)
    weights = np.expand_dims(weights, tuple(range(2, 2 + axes)))
    xs = jnp.asarray(check.normal(rng, check.STEPS, check.BATCH, *space, check.SIZE))
    shape = (check.BATCH, *net.output_shape, 4)
    carry = lj.LSTMState(*(jnp.asarray(check.normal(rng, *shape)) for _ in "hc"))
    outs, grads = check.ours(net, params, xs, weights, None, carry)

    def loss(variables, xs, carry):
        xs, states = jnp.swapaxes(xs, 0, 1), list(carry)
        (ys, h, c), _ = layer.stateless_call(variables, others, xs, initial_state=states)
        ys = jnp.swapaxes(ys, 0, 1)
        return jnp.sum(weights * ys) + jnp.sum(h), (ys, [h], [c])

    with check.lenient():
        variables = [variable.value for variable in layer.trainable_variables]
        others = [variable.value for variable in layer.non_trainable_variables]
        run = check.jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
        theirs, seen = run(variables, xs, carry)
    check.assert_outputs(outs, *seen, np.expand_dims(mask, tuple(range(2, 2 + axes))))
    layer.set_weights(theirs[0])
    check.registry.assert_close(grads[0], from_keras(layer)[1], check.TOL)
    check.registry.assert_close(grads[1:], theirs[1:], check.TOL)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_convolutions_whose_source_does_not_tell_their_space(tmp_path):
    """Lists and files of weights; the older .h5 tells all but the sizes of space."""
    options = {"strides": (2,), "padding": "valid", "dilation": (1,)}
    net = lj.stack(
        lj.ConvLSTM(4, (2,), (9,), **options), lj.ConvLSTM(3, (2,), (4,), bias=False, **options)
    )
    params = check.params_of(net)
    path = tmp_path / "net.weights.h5"
    given = {"input_shape": (9,), "conv": options}
    for source in (to_keras(net, params, file=path), path):
        again, read = from_keras(source, **given)
        assert again == net
        check.assert_equal(read, params)
        with pytest.raises(ValueError, match=r"input_shape: got None, and .*input_shape=\(28,\)"):
            from_keras(source, conv=options)
        with pytest.raises(ValueError, match=r"conv: got \['padding'\], wanted the strides, pad"):
            from_keras(source, conv={"padding": "same"})
    with check.lenient():
        model = keras.Sequential(
            [
                keras.Input((None, 9, check.SIZE)),
                layers.ConvLSTM1D(4, 2, strides=2, **ON),
                layers.ConvLSTM1D(3, 2, strides=2, use_bias=False, **ON),
            ]
        )
        model.set_weights(to_keras(net, params))
        model.save(tmp_path / "model.h5")
    again, read = from_keras(tmp_path / "model.h5", input_shape=(9,))
    assert again == net
    check.assert_equal(read, params)


def test_bfloat16_keeps_its_bits(tmp_path):
    net = lj.LSTM(4)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), check.params_of(net))
    for name in ("net.keras", "net.weights.h5"):
        to_keras(net, params, file=tmp_path / name)
        check.assert_equal(from_keras(tmp_path / name)[1], params)
    with check.lenient():
        options = {"dtype": "bfloat16", "recurrent_initializer": "zeros"}
        model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, **options, **ON)])
        model.load_weights(tmp_path / "net.weights.h5")
    model.save(tmp_path / "theirs.keras")
    check.assert_equal(from_keras(tmp_path / "theirs.keras")[1], params)


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "mean", None])
def test_merges(merge, rng):
    mode = "ave" if merge == "mean" else merge
    with check.lenient():
        layer = layers.Bidirectional(layers.SimpleRNN(4, **ON), merge_mode=mode)
        layer.build((None, None, check.SIZE))
        xs, _, _ = check.inputs(rng)
        wanted = layer(jnp.swapaxes(xs, 0, 1))
    net, params = from_keras(layer)
    assert net == lj.bidirectional(lj.RNN(4), merge=merge)
    _, ys = lj.unroll(net, params, jnp.swapaxes(jnp.asarray(xs), 0, 1), time_major=False)
    check.registry.assert_close(jax.tree.leaves(ys), jax.tree.leaves(wanted), check.TOL)


@pytest.fixture(scope="module")
def model():
    """A Sequential model with one of each, and a head."""
    rng = np.random.default_rng(0)
    with check.lenient():
        made = keras.Sequential(
            [
                keras.Input((None, check.SIZE)),
                layers.LSTM(4, **ON),
                layers.Dropout(0.5),
                layers.Bidirectional(layers.GRU(2, **ON), merge_mode="sum"),
                layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], name="two", **ON),
                layers.LSTM(5, name="last", dropout=0.1, **ON),
            ]
        )
        made.set_weights([check.normal(rng, *w.shape) for w in made.get_weights()])
    return made


NET = lj.stack(
    lj.LSTM(4),
    lj.bidirectional(lj.GRU(2, double_bias=True), merge="sum"),
    lj.LSTM(2),
    lj.GRU(3, double_bias=True),
    lj.LSTM(5),
)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_a_model_and_its_files(model, tmp_path, rng):
    net, params = from_keras(model, double_bias=True)
    assert net == NET
    xs, _, _ = check.inputs(rng)
    with check.lenient():
        wanted = np.asarray(model(xs))
    _, ys = lj.unroll(net, params, jnp.asarray(xs), time_major=False)
    check.registry.assert_close(ys, wanted, check.TOL)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        again = from_keras(tmp_path / name, double_bias=True)
        assert again[0] == net
        check.assert_equal(again[1], params)
    part, _ = from_keras(tmp_path / "model.keras", layers=["two", "last"])
    assert part == lj.stack(lj.LSTM(2), lj.GRU(3), lj.LSTM(5))


def test_files_of_weights(model, tmp_path):
    _, params = from_keras(model, double_bias=True)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    with pytest.raises(ValueError, match=r"layers: got groups .*'lstm_1'.*a \.keras file"):
        from_keras(path)
    names = ["lstm", "bidirectional"]
    net, read = from_keras(path, layers=names, merge="sum", double_bias=True)
    assert net == lj.stack(*NET.layers[:2])
    check.assert_equal(read, {n: params[n] for n in "01"})


def test_two_directions_may_differ(rng):
    with check.lenient():
        back = layers.GRU(5, go_backwards=True, **ON)
        layer = layers.Bidirectional(layers.LSTM(4, **ON), backward_layer=back)
        layer.build((None, None, check.SIZE))
        xs, _, _ = check.inputs(rng)
        wanted = layer(xs)
    net, params = from_keras(layer)
    assert net == lj.bidirectional(lj.LSTM(4), lj.GRU(5))
    _, ys = lj.unroll(net, params, jnp.asarray(xs), time_major=False)
    check.registry.assert_close(ys, np.asarray(wanted), check.TOL)


def test_weights_of_one_class_tell_their_order(tmp_path):
    net = lj.stack(*(lj.RNN(2 + n) for n in range(12)))
    params = check.params_of(net)
    to_keras(net, params, file=tmp_path / "net.weights.h5")
    again = from_keras(tmp_path / "net.weights.h5")
    assert again[0] == net
    check.assert_equal(again[1], params)


@pytest.mark.parametrize("name", ["net.keras", "net.weights.h5"])
def test_what_we_write_keras_reads(name, model, tmp_path, rng):
    net = lj.stack(
        lj.LSTM(4, bias=False),
        lj.bidirectional(lj.GRU(2, False), lj.GRU(2, False), merge="mean"),
        lj.RNN(3, "identity"),
    )
    params = check.params_of(net)
    to_keras(net, params, file=tmp_path / "net.keras")
    to_keras(net, params, file=tmp_path / name)
    xs, _, _ = check.inputs(rng)
    with check.lenient():
        read = keras.saving.load_model(tmp_path / "net.keras")
        if name != "net.keras":
            read.set_weights([0 * w for w in read.get_weights()])
            read.load_weights(tmp_path / name)
        seen = read(xs)
    _, ys = lj.unroll(net, params, jnp.asarray(xs), time_major=False)
    check.registry.assert_close(ys, np.asarray(seen), check.TOL)
    again = from_keras(tmp_path / "net.keras")
    assert again[0] == net
    check.assert_equal(again[1], params)


def test_lists_of_weights_tell_by_their_shapes():
    for net in (lj.LSTM(4), lj.GRU(4, double_bias=True), lj.GRU(4, False), lj.RNN(4, bias=False)):
        params = check.params_of(net)
        again = from_keras(to_keras(net, params), double_bias=True)
        assert again[0] == net
        check.assert_equal(again[1], params)
    both = lj.bidirectional(lj.LSTM(4), merge="mul")
    weights = to_keras(both, check.params_of(both))
    assert from_keras(weights, bidirectional=True, merge="mul")[0] == both


def weights_of(net):
    return to_keras(net, check.params_of(net))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: weights_of(lj.LSTM(4))[:1], r"weights\[1\]: got none, wanted a recurrent_kernel"),
        (lambda: weights_of(lj.LSTM(4))[:2] + [np.ones(15)], r"weights\[2\]: got shape \(15,\)"),
        (lambda: weights_of(lj.ConvLSTM(4, (2,), (5,))), "conv: got None, wanted the strides"),
        (
            lambda: [np.ones((3, 20), "f"), np.ones((4, 20), "f")],
            r"_kernel\): got 20 gate",
        ),
        (lambda: [np.ones((3, 15), "f"), np.ones((4, 16), "f")], r"weights\[0\] \(kernel\): got"),
        (lambda: [np.ones((3, 16), "f"), np.nan * np.ones((4, 16))], r"weights\[1\].*NaN or Inf"),
        (lambda: weights_of(lj.LSTM(4)) * 2, r"weights\[3\] \(kernel\): got shape \(3, 16\)"),
        (lambda: [], "source: got no recurrent layer"),
    ],
)
def test_a_broken_list_is_named(weights, message):
    with pytest.raises(ValueError, match=message):
        from_keras(weights())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: layers.LSTM(4, activation="softsign"),
            "activation: got 'softsign', wanted 'tanh'",
        ),
        (lambda: layers.GRU(4, recurrent_activation="tanh"), "recurrent_activation: got 'tanh'"),
        (lambda: layers.SimpleRNN(4, activation="gelu"), "activation: got 'gelu'"),
        (lambda: layers.LSTM(4, go_backwards=True), r"LSTM\(go_backwards=True\).*reverse=True"),
        (lambda: layers.Dense(4), "got a Dense, wanted SimpleRNN, LSTM, GRU"),
    ],
)
def test_what_we_have_not_is_refused(make, message):
    with check.lenient():
        layer = make()
        layer.build((None, None, 3))
    with pytest.raises(ValueError, match=message):
        from_keras(layer)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.RNN(4, jnp.sin), r"RNN\(activation=.*which is all that keras has"),
        (lj.LSTM(4, heads=2), r"LSTM\(heads=2\)"),
        (lj.LSTM(4, peepholes=True), r"LSTM\(peepholes=True\).*use onnx"),
        (lj.LSTM(4, output_activation="relu"), "one input_activation and output_activation"),
        (lj.JANET(4), "got a JANET"),
    ],
)
def test_what_keras_has_not_is_refused(net, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_keras(net, check.params_of(net), file=tmp_path / "net.keras")
    assert not list(tmp_path.iterdir())


def test_a_model_with_a_head_needs_names():
    with check.lenient():
        head = keras.Sequential(
            [keras.Input((None, 3)), layers.GRU(4, **ON, name="rnn"), layers.Dense(2)]
        )
    with pytest.raises(ValueError, match=r"source: got a Sequential with .*layers=\['rnn'\]"):
        from_keras(head)
    assert from_keras(head, layers=["rnn"])[0] == lj.GRU(4)
    with pytest.raises(ValueError, match=r"layers: got \['no'\]"):
        from_keras(head, layers=["no"])


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_the_hard_sigmoid_of_old_is_another(tmp_path):
    with check.lenient():
        old = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, **HARD)])
    path = tmp_path / "old.h5"
    old.save(path)
    assert from_keras(path)[0] == lj.LSTM(4, gate_activation="hard_sigmoid")
    with h5py.File(path, "a") as file:
        file.attrs["keras_version"] = "2.15.0"
    with pytest.raises(ValueError, match=r"'hard_sigmoid' of Keras 2\.15\.0"):
        from_keras(path)


def test_broken_files_are_named(tmp_path):
    net = lj.LSTM(4)
    path = tmp_path / "net.keras"
    (tmp_path / "text.keras").write_text("no zip")
    with pytest.raises(ValueError, match=r"text\.keras.*a file of Keras"):
        from_keras(tmp_path / "text.keras")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "LSTM", "config": {}}))
    with pytest.raises(ValueError, match=r"net\.keras"):
        from_keras(path)
    with pytest.raises(ValueError, match=r"file: got .*net\.pkl"):
        to_keras(net, check.params_of(net), file=tmp_path / "net.pkl")
    with pytest.raises(FileNotFoundError, match=r"none\.keras"):
        from_keras(tmp_path / "none.keras")
