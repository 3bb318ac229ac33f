"""The layout core by hand: orders, biases, and the promise that nothing foreign is imported."""

import subprocess
import sys

import interop_check as check
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import _layout, _source


def labelled(order, size=2):
    """One array whose gates are their letters."""
    return np.repeat(np.array(list(order)), size)


@pytest.mark.parametrize(
    ("layout", "kind", "stored"),
    [
        ("torch", "LSTM", "ifgo"),
        ("torch", "GRU", "rzn"),
        ("keras", "LSTM", "ifgo"),
        ("keras", "GRU", "zrn"),
        ("haiku", "LSTM", "igfo"),
        ("haiku", "GRU", "zrn"),
        ("onnx", "LSTM", "iofg"),
        ("onnx", "GRU", "zrn"),
        ("onnx", "RNN", "h"),
    ],
)
def test_orders(layout, kind, stored):
    """Written by hand a second time; each library's test shows that they are its own."""
    cell = {"LSTM": lj.LSTM, "GRU": lj.GRU, "RNN": lj.RNN}[kind](2)
    ours = labelled("".join(cell.gate_names))
    np.testing.assert_array_equal(_layout.from_layout(layout, kind, labelled(stored)), ours)
    np.testing.assert_array_equal(_layout.to_layout(layout, kind, ours), labelled(stored))


@pytest.mark.parametrize("cell", [lj.RNN, lj.LSTM, lj.GRU, lj.MGU])
def test_our_orders_are_the_cells(cell):
    assert tuple(_layout.OURS[cell.__name__]) == cell(1).gate_names


def biases(gates):
    return np.arange(gates * 2.0), 100 + np.arange(gates * 2.0)


def test_a_gate_keeps_two_biases_apart():
    b_ih, b_hh = biases(3)
    merged = _layout.bias_params(lj.GRU(2), b_ih, b_hh)
    np.testing.assert_array_equal(merged["b"], [100, 102, 104, 106, 4, 5])
    np.testing.assert_array_equal(merged["b_hn"], [104, 105])
    before = _layout.bias_params(lj.GRU(2, reset_after=False), b_ih, b_hh)
    np.testing.assert_array_equal(before["b"], b_ih + b_hh)
    apart = _layout.bias_params(lj.GRU(2, double_bias=True), b_ih, b_hh)
    check.assert_equal(apart, {"b": b_ih, "b_hh": b_hh})
    assert _layout.bias_params(lj.GRU(2, bias=False), b_ih, b_hh) == {}


@pytest.mark.parametrize("cell", [lj.LSTM(2), lj.GRU(2), lj.MGU(2), lj.MGU(2, False), lj.RNN(2)])
def test_what_is_split_merges_again(cell):
    b_ih, b_hh = biases(len(cell.gate_names))
    params = _layout.bias_params(cell, b_ih, b_hh) | {"w_ih": np.zeros((3, 1))}
    again = _layout.bias_params(cell, *_layout.two_biases(cell, params))
    check.assert_equal(again, {key: params[key] for key in again})
    b, b_hn = _layout.one_bias(cell, params)
    np.testing.assert_array_equal(b, params["b"])
    np.testing.assert_array_equal(b_hn, params.get("b_hn", np.zeros(2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": np.ones(3, "f")}, r"^params\['b'\]: got shape \(3,\), wanted \(16,\) of LSTM"),
        ({"w_ih": np.ones(16, "f")}, r"^params\['w_ih'\]: got shape \(16,\)"),
        ({"more": np.ones(3, "f")}, r"^params\['more'\]: got an unexpected tensor"),
        ({"b": None}, r"^params\['b'\]: got none"),
        ({"w_ih": None}, r"^params\['w_ih'\]: got none"),
    ],
)
def test_params_that_are_not_the_nets_are_named(change, message):
    params = check.params_of(lj.LSTM(4)) | change
    params = {name: leaf for name, leaf in params.items() if leaf is not None}
    for to in ("torch", "keras", "linen", "nnx", "equinox", "cudnn", "haiku"):
        with pytest.raises(ValueError, match=message):
            getattr(lj.interop, f"to_{to}")(lj.LSTM(4), params)
    with pytest.raises(ValueError, match="params: got a list"):
        lj.interop.to_torch(lj.LSTM(4), [1.0])


def test_nothing_foreign_is_imported():
    """In a process of its own, where a state dict of NumPy arrays is read and written."""
    code = """
import sys
import numpy as np
import lstm_jax as lj
state = {"weight_ih_l0": np.ones((8, 3), "f"), "weight_hh_l0": np.ones((8, 2), "f")}
net, params = lj.interop.from_torch(state)
for to in ("torch", "keras", "linen", "nnx", "equinox", "cudnn", "haiku"):
    if to != "haiku":
        getattr(lj.interop, f"to_{to}")(lj.LSTM(2), net.init(__import__("jax").random.key(0), 3)
            | {"b": np.zeros(8, "f")})
rivals = {"torch", "keras", "flax", "haiku", "equinox", "onnx", "h5py", "safetensors"}
print(sorted(rivals & {name.split(".")[0] for name in sys.modules}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'lstm-jax\[interop\]'"):
        lj.interop.from_safetensors(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'lstm-jax\[peers\]'"):
        lj.interop.from_torch(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _source.write_whole(path, b"first")

    def broken(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(ValueError, match="No space left on device"):
        _source.write_whole(path, b"second")
    assert path.read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1
