"""Files of safetensors: with PyTorch's names, and any net with this library's names."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import from_safetensors, to_safetensors
from lstm_jax.interop._describe import build, describe

safetensors = pytest.importorskip("safetensors")
numpy = pytest.importorskip("safetensors.numpy")

pytestmark = pytest.mark.sampled


def test_torchs_names(tmp_path):
    net = lj.stack(lj.bidirectional(lj.LSTM(4)), lj.bidirectional(lj.LSTM(4)))
    params = check.params_of(net)
    path = tmp_path / "net.safetensors"
    to_safetensors(net, params, path)
    assert "weight_hh_l1_reverse" in numpy.load_file(path)
    again, read = from_safetensors(path)
    assert again == net
    check.assert_equal(read, params)


NETS = [
    lj.GRU(4, reset_after=False),
    lj.stack(lj.LSTM(4, heads=2), lj.GRU(5), skip="dense", dropout=0.5),
    lj.bidirectional(lj.MGU(4), lj.RNN(4, "relu"), merge="sum"),
    lj.readout(lj.residual(lj.LSTM(3, double_bias=True)), 2),
    lj.zoneout(lj.LSTM(4), 0.1),
]


@pytest.mark.parametrize("net", NETS, ids=str)
def test_our_names_hold_any_net(net, tmp_path):
    params = check.params_of(net)
    path = tmp_path / "net.safetensors"
    to_safetensors(net, params, path, names="lstm_jax")
    again, read = from_safetensors(path)
    assert again == net
    check.assert_equal(read, params)


def test_bfloat16_keeps_its_bits(tmp_path):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), check.params_of(lj.LSTM(4)))
    for names in ("torch", "lstm_jax"):
        path = tmp_path / f"{names}.safetensors"
        to_safetensors(lj.LSTM(4), params, path, names=names)
        check.assert_equal(from_safetensors(path)[1], params)


def test_a_description_makes_only_what_is_ours():
    for net in NETS:
        assert build(describe(net)) == net
    for wrong in ({"type": "Popen"}, "LSTM", {"type": "LSTM", "hidden": 4}, {}):
        with pytest.raises(ValueError, match="description: got"):
            build(wrong)
    with pytest.raises(ValueError, match=r"net\.activation: got <"):
        describe(lj.RNN(4, jnp.sin))


def test_a_users_cell_is_no_type_of_a_file():
    class Mine(lj.LSTM):
        pass

    with pytest.raises(ValueError, match="net: got a Mine"):
        describe(Mine(4))
    with pytest.raises(ValueError, match="description: got 'Mine'"):
        build({"type": "Mine", "hidden_size": 4})


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
        from_safetensors(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"net\.safetensors.*a file of safetensors"):
        from_safetensors(path)
    net = lj.GRU(4, reset_after=False)
    with pytest.raises(ValueError, match=r"GRU\(reset_after=False\).*torch"):
        to_safetensors(net, check.params_of(net), path)
    assert path.read_bytes() == b"nothing of the kind"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("b"), "^b: got none"),
        (lambda a: a.pop("w_ih"), "^w_ih: got no such tensor"),
        (lambda a: a.update(extra=a["b"]), "^extra: got an unexpected tensor"),
        (lambda a: a.update(w_hh=a["w_hh"][:2]), r"^w_hh: got shape \(2, 16\)"),
        (lambda a: a.update(b=a["b"] * np.float32(np.inf)), "^b: got NaN or Inf"),
    ],
)
def test_a_broken_file_of_ours_is_named(change, message, tmp_path):
    net, path = lj.LSTM(4), tmp_path / "net.safetensors"
    to_safetensors(net, check.params_of(net), path, names="lstm_jax")
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
    arrays = numpy.load_file(path)
    change(arrays)
    numpy.save_file(arrays, path, metadata=metadata)
    with pytest.raises(ValueError, match=message):
        from_safetensors(path)
