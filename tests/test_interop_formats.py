"""Every format once, without the other libraries: their equations in NumPy, on their own layout.

The tests that run the libraries themselves (`test_interop_torch.py`, ...) belong to the grid.
"""

import functools

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax import checkpoint, interop

D, H, XS = check.SIZE, check.HIDDEN, check.normal(np.random.default_rng(7), 4, 2, check.SIZE)
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


# ---- the equations, on one matrix a gate ---------------------------------------------------------
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def outputs(kind, order, w_ih, w_hh, b_ih, b_hh, reset_after=True):
    """ys [T, B, H] of weights [D, G*H], [H, G*H] and biases [G*H] whose gates stand in `order`."""

    def gates(array):
        return dict(zip(order, np.split(array, len(order), axis=-1), strict=True))

    h = c = np.zeros((XS.shape[1], H))
    ys = []
    for x in XS:
        wx, u = gates(x @ w_ih + b_ih), gates(h @ w_hh + b_hh)
        if kind == "RNN":
            h = np.maximum(wx["h"] + u["h"], 0)
        elif kind == "LSTM":
            i, f, g, o = (wx[gate] + u[gate] for gate in "ifgo")
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = (sigmoid(wx[gate] + u[gate]) for gate in "rz")
            side = r * u["n"] if reset_after else (r * h) @ gates(w_hh)["n"] + gates(b_hh)["n"]
            h = (1 - z) * np.tanh(wx["n"] + side) + z * h
        ys.append(h)
    return np.stack(ys)


@functools.cache
def _unroll(net):
    return jax.jit(lambda params, xs: lj.unroll(net, params, xs, implementation="scan")[1])


def assert_runs_as(net, params, ys):
    registry.assert_close(_unroll(net)(params, jnp.asarray(XS)), ys.astype(np.float32), check.TOL)


def drawn(kind, rng, biases=2):
    """w_ih [D, G*H], w_hh [H, G*H] and biases [G*H]."""
    units = GATES[kind] * H
    return [0.5 * check.normal(rng, *shape) for shape in [(D, units), (H, units)]] + [
        0.5 * check.normal(rng, units) for _ in range(biases)
    ]


NETS = {"RNN": lj.RNN(H, "relu"), "LSTM": lj.LSTM(H), "GRU": lj.GRU(H)}


# ---- each format ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", NETS)
def test_torchs_state_dict(kind, rng):
    arrays = drawn(kind, rng)
    order = {"RNN": "h", "LSTM": "ifgo", "GRU": "rzn"}[kind]
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    state = {f"rnn.{name}": array.T for name, array in zip(names, arrays, strict=True)}
    net, params = interop.from_torch(state, prefix="rnn", activation="relu")
    assert net == NETS[kind]
    assert_runs_as(net, params, outputs(kind, order, *arrays))
    apart = interop.from_torch(state, prefix="rnn", activation="relu", double_bias=True)
    check.assert_equal(interop.to_torch(*apart, prefix="rnn."), state)


@pytest.mark.parametrize("kind", NETS)
def test_keras_weights_and_files(kind, rng, tmp_path):
    pytest.importorskip("h5py")
    arrays = drawn(kind, rng, 2 if kind == "GRU" else 1)
    order = {"RNN": "h", "LSTM": "ifgo", "GRU": "zrn"}[kind]
    weights = arrays[:2] + ([np.stack(arrays[2:])] if kind == "GRU" else arrays[2:])
    net, params = interop.from_keras(weights, activation="relu")
    assert net == NETS[kind]
    ours = outputs(kind, order, *arrays, *([] if kind == "GRU" else [np.zeros_like(arrays[2])]))
    assert_runs_as(net, params, ours)
    check.assert_equal(interop.from_keras(interop.to_keras(net, params), activation="relu")[1],
                       params)  # fmt: skip
    both = lj.bidirectional(net)
    params = {"forward": params, "backward": params}
    for name in ("net.keras", "net.weights.h5"):
        interop.to_keras(both, params, file=tmp_path / name)
        seen, read = interop.from_keras(tmp_path / name, activation="relu")
        assert seen == both
        check.assert_equal(read, params)


@pytest.mark.parametrize("kind", NETS)
def test_onnx_graphs(kind, rng, tmp_path):
    """By onnx's own evaluator, which knows neither relu nor the reset after the matmul."""
    reference = pytest.importorskip("onnx.reference")
    net = {"RNN": lj.RNN(H), "LSTM": lj.LSTM(H), "GRU": lj.GRU(H, reset_after=False)}[kind]
    params = check.params_of(net)
    model = interop.to_onnx(net, params, tmp_path / "net.onnx")
    assert_runs_as(net, params, reference.ReferenceEvaluator(model).run(["ys"], {"xs": XS})[0])
    seen, read = interop.from_onnx(tmp_path / "net.onnx")
    assert seen == net
    check.assert_equal(read, params)


def test_safetensors_and_npz(tmp_path):
    pytest.importorskip("safetensors")
    net = lj.stack(lj.LSTM(H), lj.LSTM(H))
    params = check.params_of(net)
    for names in ("torch", "lstm_jax"):
        interop.to_safetensors(net, params, tmp_path / names, names=names)
        seen, read = interop.from_safetensors(tmp_path / names)
        assert seen == net
        check.assert_equal(read, params)
    checkpoint.save(tmp_path / "net.npz", params, {"net": interop.files.describe(net)})
    read, config = checkpoint.load(tmp_path / "net.npz")
    assert interop.files.build(config["net"]) == net
    check.assert_equal(read, params)


def test_cudnns_vector(rng):
    arrays = drawn("LSTM", rng)
    vector = np.concatenate([np.ravel(array.T) for array in arrays])
    net, params = interop.from_cudnn(vector, D, H, double_bias=True)
    check.assert_equal(interop.to_cudnn(net, params), vector)
    net, params = interop.from_cudnn(vector, D, H)
    assert_runs_as(net, params, outputs("LSTM", "ifgo", *arrays))


def test_haikus_parameters(rng):
    w_ih, w_hh, b = drawn("LSTM", rng, 1)
    net, params = interop.from_haiku({"lstm/linear": {"w": np.concatenate([w_ih, w_hh]), "b": b}})
    plus_one = np.repeat(np.float32([0, 0, 1, 0]), H)
    assert_runs_as(net, params, outputs("LSTM", "igfo", w_ih, w_hh, b, plus_one))
    w_ih, w_hh, b = drawn("GRU", rng, 1)
    net, params = interop.from_haiku({"gru": {"w_i": w_ih, "w_h": w_hh, "b": b}})
    # haiku's z is one minus the others'.
    one_minus = np.repeat(np.float32([-1, 1, 1]), H)
    args = [array * one_minus for array in (w_ih, w_hh, b)]
    assert_runs_as(net, params, outputs("GRU", "zrn", *args, 0 * b, reset_after=False))
    check.assert_equal(interop.to_haiku(net, params)["gru"]["w_i"], w_ih)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_equinoxs_arrays(kind, rng):
    w_ih, w_hh, b = drawn(kind, rng, 1)
    arrays = {"weight_ih": w_ih.T, "weight_hh": w_hh.T, "bias": b}
    b_hh = np.zeros_like(b)
    if kind == "GRU":
        arrays["bias_n"] = b_hh[-H:] = check.normal(rng, H)
    net, params = interop.from_equinox(arrays)
    order = {"LSTM": "ifgo", "GRU": "rzn"}[kind]
    assert_runs_as(net, params, outputs(kind, order, w_ih, w_hh, b, b_hh))
    check.assert_equal(interop.to_equinox(net, params), arrays)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_flaxs_trees(kind, rng):
    """linen's Dense layer a gate, nnx's for all of them; both themselves: test_interop_linen.py."""
    w_ih, w_hh, b = drawn(kind, rng, 1)
    order = {"LSTM": "ifgo", "GRU": "rzn"}[kind]
    ys = outputs(kind, order, w_ih, w_hh, b, np.zeros_like(b))
    biased = "dense_h" if kind == "LSTM" else "dense_i"
    nnx = {"dense_i": {"kernel": w_ih}, "dense_h": {"kernel": w_hh}}
    nnx[biased]["bias"] = b
    net, params = interop.from_nnx({"cell": nnx})
    assert_runs_as(net, params, ys)
    check.assert_equal(interop.to_nnx(net, params), {"cell": nnx})

    def split(array):
        return dict(zip(order, np.split(array, len(order), axis=-1), strict=True))

    sides = [("i", w_ih), ("h", w_hh)]
    linen = {
        f"{side}{gate}": {"kernel": block} for side, w in sides for gate, block in split(w).items()
    }
    for gate, block in split(b).items():
        linen[f"h{gate}" if kind == "LSTM" else f"i{gate}"]["bias"] = block
    if kind == "GRU":
        linen["hn"]["bias"] = np.zeros(H, np.float32)
    net, params = interop.from_linen({"params": {"cell": linen}})
    assert_runs_as(net, params, ys)
    check.assert_equal(interop.to_linen(net, params), {"params": {"cell": linen}})
