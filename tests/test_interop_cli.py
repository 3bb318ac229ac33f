"""`lstm-jax convert`: every pair of suffixes, what it prints, and that it writes nothing half."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import interop_check as check
import pytest

import lstm_jax as lj
from lstm_jax import checkpoint, cli
from lstm_jax.interop import files, to_onnx, to_safetensors

for module in ("torch", "safetensors", "h5py", "onnx"):
    pytest.importorskip(module)

pytestmark = pytest.mark.grid

NET = lj.stack(lj.bidirectional(lj.LSTM(4)), lj.bidirectional(lj.LSTM(4)))


def convert(*arguments):
    cli.main(["convert", *map(str, arguments)])


def test_around_every_format(tmp_path, capsys):
    """From one to the next and back to the first: the parameters are bit by bit what they were."""
    params = check.params_of(NET)
    suffixes = [".pt", ".keras", ".onnx", ".pth", ".safetensors", ".npz"]
    paths = [tmp_path / f"net{suffix}" for suffix in suffixes]
    files.write(NET, params, paths[0])
    for source, target in zip(paths, paths[1:], strict=False):
        convert(source, target)
    net = files.build(checkpoint.load(paths[-1])[1]["net"])
    assert net == NET
    check.assert_equal(checkpoint.load(paths[-1])[0], params)
    convert(paths[-1], tmp_path / "last.pt")
    check.assert_equal(files.read(tmp_path / "last.pt")[1], params)
    assert len(list(tmp_path.iterdir())) == len(paths) + 1
    printed = capsys.readouterr().out
    assert "1/backward: LSTM, D = 8, H = 4, 208 parameters" in printed
    assert "4 cells, 672 parameters" in printed and "last.pt" in printed


def test_options(tmp_path):
    source = tmp_path / "net.safetensors"
    net = lj.RNN(4, "relu", double_bias=True)
    to_safetensors(net, check.params_of(net), source)
    convert(source, tmp_path / "net.npz", "--activation", "relu", "--double-bias")
    net = files.build(checkpoint.load(tmp_path / "net.npz")[1]["net"])
    assert net == lj.RNN(4, "relu", double_bias=True)
    to_onnx(NET, check.params_of(NET), tmp_path / "net.onnx")
    convert(tmp_path / "net.onnx", tmp_path / "part.npz", "--layers", "LSTM_y_0")
    assert files.build(checkpoint.load(tmp_path / "part.npz")[1]["net"]) == NET.layers[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pt", "out.npz"], "source: got 'none.pt'"),
        (["none.npz", "out.pt"], "source: got 'none.npz'"),
        (["net.pkl", "out.npz"], "source: got 'net.pkl'"),
        (["net.npz", "out.bin"], "target: got 'out.bin'"),
        (["net.npz", "none/out.onnx"], "a file that can be written"),
        (["before.npz", "out.pt"], "GRU(reset_after=False)"),
        (["net.onnx", "out.npz", "--prefix", "a"], "--prefix: got 'a', wanted none, for a .onnx"),
        (["model.npz", "out.pt"], "wanted a character model"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name, net in (("net", lj.LSTM(4)), ("before", lj.GRU(4, reset_after=False))):
        checkpoint.save(f"{name}.npz", check.params_of(net), {"net": files.describe(net)})
    checkpoint.save("model.npz", check.params_of(lj.LSTM(4)), {"cell": "lstm"})
    to_onnx(lj.LSTM(4), check.params_of(lj.LSTM(4)), tmp_path / "net.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        convert(*arguments)
    assert stopped.value.code == 2 and sorted(tmp_path.iterdir()) == before
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and error.startswith("lstm-jax: ")
