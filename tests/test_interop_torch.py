"""PyTorch's recurrent modules against ours with the same weights, on packed ragged batches."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import from_torch, to_torch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.grid

CASES = {
    "rnn_tanh": (torch.nn.RNN, {}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu", "bias": False}),
    "lstm": (torch.nn.LSTM, {}),
    "lstm_no_bias": (torch.nn.LSTM, {"bias": False}),
    "lstm_deep": (torch.nn.LSTM, {"num_layers": 3, "bidirectional": True, "proj_size": 2}),
    "gru": (torch.nn.GRU, {}),
    "gru_deep": (torch.nn.GRU, {"num_layers": 2, "bidirectional": True}),
}


def made(name):
    module, options = CASES[name]
    torch.manual_seed(7)
    return module(check.SIZE, check.HIDDEN, **options)


def packed(module, xs):
    """(ys [T, B, N], h_n, c_n or nothing) on the ragged batch."""
    lengths = torch.from_numpy(check.LENGTHS).long()
    sequence = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
    ys, finals = module(sequence)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=check.STEPS)
    return (ys, *finals) if isinstance(finals, tuple) else (ys, finals, [])


def numpy(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("name", CASES)
def test_outputs_carries_and_gradients_are_torchs(name, rng):
    module = made(name)
    xs, mask, weights = check.inputs(rng)
    net, params = from_torch(module, double_bias=True)
    outs, (grads, xs_grad) = check.ours(net, params, xs, weights)

    tensor = torch.from_numpy(xs).requires_grad_()
    ys, h_n, c_n = packed(module, tensor)
    (torch.from_numpy(weights) * ys).sum().add(h_n.sum()).backward()
    check.assert_outputs(outs, *map(numpy, (ys, h_n, c_n)), mask)
    theirs = {key: p.grad for key, p in module.named_parameters()}
    wanted = from_torch(theirs, double_bias=True)[1]
    check.registry.assert_close(grads, wanted, check.TOL)
    check.registry.assert_close(xs_grad, tensor.grad.numpy(), check.TOL)


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm_deep", "gru_deep"])
def test_merged_biases_give_the_same_outputs(name, rng):
    module = made(name)
    xs, mask, weights = check.inputs(rng)
    net, params = from_torch(module)
    assert not any("b_hh" in jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params))
    outs, _ = check.ours(net, params, xs, weights)
    check.assert_outputs(outs, *map(numpy, packed(module, torch.from_numpy(xs))), mask)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(name):
    state = made(name).state_dict()
    net, params = from_torch(state, double_bias=True, activation="tanh")
    back = to_torch(net, params)
    assert list(back) == list(state)
    check.assert_equal(back, {key: value.numpy() for key, value in state.items()})
    merged = from_torch(state)
    again = from_torch(to_torch(*merged))
    assert again[0] == merged[0]
    check.assert_equal(again[1], merged[1])


@pytest.mark.parametrize("cell", [torch.nn.RNNCell, torch.nn.LSTMCell, torch.nn.GRUCell])
def test_cells(cell, rng):
    module = cell(check.SIZE, check.HIDDEN)
    net, params = from_torch(module, double_bias=True)
    x = check.normal(rng, check.BATCH, check.SIZE)
    out = module(torch.from_numpy(x))
    h = out[0] if isinstance(out, tuple) else out
    h.sum().backward()
    start = net.initial_carry(params, (check.BATCH,))
    by = jax.value_and_grad(lambda p: jnp.sum(net.step(p, start, jnp.asarray(x))[0].h))
    total, grads = by(params)
    check.registry.assert_close(total, h.sum().detach().numpy(), check.TOL)
    carry, _ = net.step(params, start, jnp.asarray(x))
    check.registry.assert_close(carry.h, h.detach().numpy(), check.TOL)
    theirs = {name: p.grad for name, p in module.named_parameters()}
    check.registry.assert_close(grads, from_torch(theirs, double_bias=True)[1], check.TOL)
    back = to_torch(net, params, cell=True)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()})


def test_a_module_tells_its_options():
    relu = torch.nn.RNN(3, 4, 2, "relu", dropout=0.25)
    net, _ = from_torch(relu)
    assert net == lj.stack(lj.RNN(4, "relu"), lj.RNN(4, "relu"), dropout=0.25)
    assert from_torch(torch.nn.RNNCell(3, 4, nonlinearity="relu"))[0] == lj.RNN(4, "relu")
    assert from_torch(relu.state_dict(), activation="relu", dropout=0.25)[0] == net


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.ModuleDict({"rnn": torch.nn.RNN(3, 4, nonlinearity="relu")})
        self.head = torch.nn.Linear(4, 2)


def test_a_part_of_a_model(tmp_path):
    model = Model()
    net, params = from_torch(model, prefix="encoder.rnn")
    assert net == lj.RNN(4, "relu")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for source in (model.state_dict(), tmp_path / "model.pt"):
        again = from_torch(source, prefix="encoder.rnn.", activation="relu")
        check.assert_equal(again[1], params)
    with pytest.raises(ValueError, match=r"^prefix: got ''.*'encoder\.rnn\.'"):
        from_torch(model)
    for prefix in ("head", "none"):
        with pytest.raises(ValueError, match=rf"^prefix: got '{prefix}\.'.*'encoder\.rnn\.'"):
            from_torch(model, prefix=prefix)


def test_bfloat16_keeps_its_bits():
    module = torch.nn.LSTM(3, 4).bfloat16()
    net, params = from_torch(module, double_bias=True)
    assert params["w_ih"].dtype == jnp.bfloat16
    seen = np.asarray(params["w_ih"].T).view(np.int16)
    np.testing.assert_array_equal(seen, module.weight_ih_l0.detach().view(torch.int16).numpy())


def test_files(tmp_path):
    net = lj.stack(lj.LSTM(4), lj.LSTM(4))
    params = check.params_of(net)
    path = tmp_path / "state.pth"
    state = to_torch(net, params, file=path)
    torch.nn.LSTM(3, 4, 2).load_state_dict(torch.load(path, weights_only=True))
    assert [file.name for file in tmp_path.iterdir()] == ["state.pth"]
    again, read = from_torch(path)
    assert again == net and set(state) == set(torch.nn.LSTM(3, 4, 2).state_dict())
    check.assert_equal(read, params)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    to_torch(net, half, file=path)
    check.assert_equal(from_torch(path)[1], half)
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        from_torch(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="can be written"):
        to_torch(net, params, file=tmp_path / "none" / "a.pt")


def test_nothing_is_unpickled(tmp_path):
    torch.save(torch.nn.LSTM(3, 4), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"module\.pt.*a file of tensors alone"):
        from_torch(tmp_path / "module.pt")
    (tmp_path / "text.pt").write_text("not a file of torch's")
    with pytest.raises(ValueError, match=r"text\.pt"):
        from_torch(tmp_path / "text.pt")


def broken(change):
    state = {key: value.numpy().copy() for key, value in torch.nn.LSTM(3, 4).state_dict().items()}
    change(state)
    return state


def nan(state):
    state["weight_hh_l0"][1, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("weight_hh_l0"), "^weight_hh_l0: got only .*bias_hh_l0"),
        (lambda s: s.pop("bias_hh_l0"), "^bias_hh_l0: got only "),
        (lambda s: s.update(weight_ih_l0=s["weight_ih_l0"][1:]), r"^weight_ih_l0: got shape \(15"),
        (lambda s: s.update(weight_hh_l0=s["weight_hh_l0"][:8]), "^weight_hh_l0: got 8 gate units"),
        (lambda s: s.update(bias_ih_l0=s["bias_ih_l0"].astype(int)), "^bias_ih_l0: got dtype int"),
        (lambda s: s.update(weight_ih_l2=s["weight_ih_l0"]), "^weight_hh_l1: got only"),
        (lambda s: s.clear(), "^prefix: got ''"),
        (lambda s: s.update(weight_hh_l0=s["weight_hh_l0"][:0, :0]), "^weight_hh_l0: got 0 gate"),
        (lambda s: s.update(other=s["weight_ih_l0"]), "^other: got an unexpected tensor"),
        (nan, "^weight_hh_l0: got NaN or Inf"),
    ],
)
def test_a_broken_state_dict_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_torch(broken(change))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.GRU(4, reset_after=False), r"GRU\(reset_after=False\).*torch.*use keras or onnx"),
        (lj.RNN(4, "identity"), r"RNN\(activation='identity'\)"),
        (lj.LSTM(4, heads=2), r"LSTM\(heads=2\)"),
        (lj.MGU(4), "got a MGU, wanted a cell that torch has: RNN, LSTM, GRU"),
        (lj.bidirectional(lj.LSTM(4), merge="sum"), r"bidirectional\(merge='sum'\)"),
        (lj.stack(lj.LSTM(4), lj.LSTM(5)), "layers of one cell, size and direction"),
        (lj.stack(lj.LSTM(4), lj.bidirectional(lj.LSTM(4))), "layers of one cell"),
        (lj.stack(lj.LSTM(4), lj.LSTM(4), skip="dense"), r"stack\(skip='dense'\)"),
        (lj.residual(lj.LSTM(3)), "got a Residual"),
        (lj.zoneout(lj.LSTM(4), 0.1), "export the cells inside"),
    ],
)
def test_what_torch_has_not_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        to_torch(net, check.params_of(net))


def test_a_projection_must_be_smaller():
    net = lj.LSTM(4, projection_size=4)
    with pytest.raises(ValueError, match="proj_size must be smaller"):
        to_torch(net, check.params_of(net))


def test_a_users_cell_of_the_same_name_is_refused():
    class LSTM(lj.LSTM):
        def update(self, carry, wx, u):
            return carry

    with pytest.raises(ValueError, match="a cell that torch has"):
        to_torch(LSTM(4), check.params_of(lj.LSTM(4)))
