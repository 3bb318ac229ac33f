"""Importers: what is not the known equation is refused, and what is damaged named."""

import json
import pickle
import zipfile

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lstm_jax as lj
from lstm_jax import cli, interop

pytestmark = pytest.mark.sampled


# ---- classes, hooks and options that change what runs --------------------------------------------
class Half(nnx.GRUCell):
    """Half of what a GRU gives."""

    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry / 2, y / 2


class Quiet(nnx.GRUCell):
    """A GRU with more to say and nothing else."""

    def describe(self):
        return "a GRU"


class Late(nnx.GRUCell):
    """A GRU that starts elsewhere."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return 1 + super().initialize_carry(input_shape, rngs, carry_init)


class Twice(nnx.RNN):
    """An RNN that runs twice."""

    def __call__(self, inputs, **options):
        return super().__call__(super().__call__(inputs, **options), **options)


class Linear(nnx.Linear):
    """A Dense layer of another equation."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


def GRUCell(in_features, hidden_features, rngs):
    """A cell with flax's name and arrays that is not flax's."""
    cell = nnx.GRUCell(in_features, hidden_features, rngs=rngs)
    body = {"dense_i": cell.dense_i, "dense_h": cell.dense_h, "gate_fn": cell.gate_fn}
    return type("GRUCell", (), body)()


def nnx_cell(kind=nnx.GRUCell, size=3, **options):
    return kind(size, 4, rngs=nnx.Rngs(0), **options)


def with_dense(**dense):
    cell = nnx_cell()
    for name, layer in dense.items():
        setattr(cell, name, layer)
    return cell


def tanh(x):
    return jnp.tanh(2 * x)


def both(merge):
    rnns = [nnx.RNN(nnx_cell(), rngs=nnx.Rngs(0)) for _ in range(2)]
    return nnx.Bidirectional(*rnns, merge_fn=merge, rngs=nnx.Rngs(0))


NNX = {
    "call": (lambda: nnx_cell(Half), "source: got a Half with its own __call__"),
    "inside": (lambda: nnx.RNN(nnx_cell(Half), rngs=nnx.Rngs(0)), r"source\.cell: got a Half"),
    "start": (lambda: nnx_cell(Late), "a Late with its own initialize_carry"),
    "rnn": (lambda: Twice(nnx_cell(size=4), rngs=nnx.Rngs(0)), "a Twice with its own __call__"),
    "name": (lambda: nnx_cell(GRUCell), "source: got a GRUCell, wanted"),
    "dense": (
        lambda: with_dense(dense_h=Linear(4, 12, use_bias=False, rngs=nnx.Rngs(0))),
        r"source\.dense_h: got a Linear with its own __call__",
    ),
    "activation": (lambda: nnx_cell(activation_fn=tanh), "activation_fn=<function tanh"),
    "promotion": (
        lambda: nnx_cell(promote_dtype=lambda arrays, **_: [2 * a for a in arrays]),
        "promote_dtype=<function",
    ),
    "merge": (lambda: both(lambda a, b: a + b), "source's merge_fn: got another"),
}


@pytest.mark.parametrize("name", NNX)
def test_fault_3_nnx_takes_only_the_known_equation(name):
    make, message = NNX[name]
    with pytest.raises(ValueError, match=message):
        interop.from_nnx(make())


def test_fault_3_a_subclass_that_runs_as_its_base_is_taken():
    net, params = interop.from_nnx(nnx_cell(Quiet))
    again, same = interop.from_nnx(nnx_cell())
    assert net == again
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert interop.from_nnx(both(lambda a, b: a + b), merge="sum")[0].merge == "sum"


def test_fault_3_a_simple_cells_function_of_a_known_name():
    """It is taken as the function that it is, not as the one whose name it has."""
    net, _ = interop.from_nnx(nnx_cell(nnx.SimpleCell, activation_fn=tanh))
    assert net.activation is tanh
    assert interop.from_nnx(nnx_cell(nnx.SimpleCell))[0].activation == "tanh"


@pytest.mark.grid
@pytest.mark.parametrize("name", ["call", "name"])
def test_fault_3_equinox_takes_only_the_known_equation(name):
    eqx = pytest.importorskip("equinox")

    class HalfGRU(eqx.nn.GRUCell):
        def __call__(self, input, hidden, *, key=None):
            return super().__call__(input, hidden, key=key) / 2

    class Named(eqx.Module):
        weight_ih: jax.Array
        weight_hh: jax.Array

    if name == "name":
        with pytest.raises(ValueError, match=r"source\[0\]: got a Named, wanted an LSTMCell or"):
            interop.from_equinox(Named(jnp.ones((12, 3)), jnp.ones((12, 4))))
    else:
        with pytest.raises(ValueError, match=r"source\[0\]: got a HalfGRU with its own __call__"):
            interop.from_equinox(HalfGRU(3, 4, key=jax.random.key(0)))


def torch_sources(torch):
    """{name: (module, message)}."""

    class HalfLSTM(torch.nn.LSTM):
        def forward(self, *inputs):
            ys, state = super().forward(*inputs)
            return ys / 2, state

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight_ih = torch.nn.Parameter(torch.ones(16, 3))
            self.weight_hh = torch.nn.Parameter(torch.ones(16, 4))

    hooked, before, patched = (torch.nn.LSTM(3, 4) for _ in range(3))
    hooked.register_forward_hook(lambda module, inputs, outputs: None)
    before.register_forward_pre_hook(lambda module, inputs: None)
    patched.forward = lambda *inputs: None
    normal = torch.nn.utils.parametrizations.spectral_norm(torch.nn.GRU(3, 4), "weight_hh_l0")
    return {
        "forward": (HalfLSTM(3, 4), "source: got a HalfLSTM with its own forward"),
        "own": (Own(), "source: got a Own, wanted"),
        "hook": (hooked, "its own forward_hooks"),
        "before": (before, "its own forward_pre_hooks"),
        "patched": (patched, "its own forward"),
        "parametrized": (normal, r"parametriz.*weight_hh_l0.*remove_parametrizations"),
    }


@pytest.mark.grid
@pytest.mark.parametrize("name", ["forward", "own", "hook", "before", "patched", "parametrized"])
def test_fault_3_torch_takes_only_the_known_equation(name):
    torch = pytest.importorskip("torch")
    module, message = torch_sources(torch)[name]
    with pytest.raises(ValueError, match=message):
        interop.from_torch(module)
    holder = torch.nn.ModuleDict({"rnn": module})
    with pytest.raises(ValueError, match=message.replace("source", "rnn")):
        interop.from_torch(holder, prefix="rnn")


@pytest.mark.grid
@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_fault_3_keras_takes_only_the_known_equation(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    base = getattr(keras.layers, name)

    def call(self, *inputs, **options):
        return base.call(self, *inputs, **options)

    layer = type(name, (base,), {"call": call})(4)
    layer = keras.layers.RNN(layer) if name == "LSTMCell" else layer
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        layer.build((None, None, 3))
    with pytest.raises(ValueError, match=f"a {name} with its own call"):
        interop.from_keras(layer)
    with pytest.raises(ValueError, match=f"a {name} with its own call"):
        interop.from_keras(keras.Sequential([layer]))


# ---- damaged and hostile files -------------------------------------------------------------------
NET = lj.LSTM(4)
DEEP = "[" * 100_000


def damaged(whole):
    """Bytes that are no such file: none, half of one, and another's."""
    return [b"", whole[: len(whole) // 2], b"PK\x03\x04" * 100, b"hello", pickle.dumps({1: 2})]


@pytest.mark.parametrize("suffix", [".safetensors", ".keras", ".weights.h5", ".onnx"])
def test_fault_18_damaged_files_are_named(suffix, tmp_path):
    for module in ("safetensors", "h5py", "onnx"):
        pytest.importorskip(module)
    path = tmp_path / f"net{suffix}"
    params = check.params_of(NET)
    interop.files.write(NET, params, path)
    whole = path.read_bytes()
    for content in damaged(whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"net\.|source: got a graph without"):
            interop.files.read(path)
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        try:
            interop.files.read(path)
        except ValueError:
            pass


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
def test_fault_18_damaged_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "net.pt"
    state = torch.nn.LSTM(3, 4).state_dict()
    torch.save(state, path)
    whole = path.read_bytes()
    for content in damaged(whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"net\.pt.*a file of tensors alone"):
            interop.from_torch(path)
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        try:
            interop.from_torch(path)
        except ValueError:
            pass
    odd = {
        "sparse": lambda w: w.to_sparse(),
        "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        "meta": lambda w: w.to("meta"),
        "float8": lambda w: w.to(torch.float8_e4m3fn),
    }
    for make in odd.values():
        torch.save(state | {"weight_hh_l0": make(state["weight_hh_l0"])}, path)
        with pytest.raises(ValueError, match="^weight_hh_l0: got a Tensor .*dense"):
            interop.from_torch(path)


DESCRIPTIONS = [
    '{"type": ["LSTM"]}',
    '{"type": "LSTM", "hidden_size": 1' + "0" * 30 + "}",
    '{"type": "LSTM", "hidden_size": [4]}',
    '{"type": "Stack", "layers": 3}',
    "null",
    "3",
    "{",
    DEEP,
]


@pytest.mark.parametrize("text", DESCRIPTIONS, ids=lambda text: text[:12])
def test_fault_18_a_description_that_is_none(text, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.asarray(leaf) for name, leaf in check.params_of(NET).items()}
    path = tmp_path / "net.safetensors"
    path.write_bytes(numpy.save(arrays, metadata={"lstm_jax": text}))
    with pytest.raises(ValueError, match=r"^(description|hidden_size|path): got "):
        interop.from_safetensors(path)


def test_fault_18_a_tensor_without_axes(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {"w_ih": np.asarray(np.float32(3))}
    path, text = tmp_path / "net.safetensors", json.dumps({"type": "LSTM", "hidden_size": 4})
    path.write_bytes(numpy.save(arrays, metadata={"lstm_jax": text}))
    with pytest.raises(ValueError, match=r"^w_ih: got shape \(\)"):
        interop.from_safetensors(path)


KERAS = {
    "a list": lambda model, options: [],
    "null": lambda model, options: None,
    "no config": lambda model, options: model.pop("config"),
    "no layers": lambda model, options: model["config"].pop("layers"),
    "numbers": lambda model, options: model["config"].update(layers=[1]),
    "no units": lambda model, options: options.pop("units"),
    "words": lambda model, options: options.update(units="4"),
    "no bias": lambda model, options: options.pop("use_bias"),
    "maybe": lambda model, options: options.update(use_bias="no"),
    "no name": lambda model, options: options.pop("name"),
}


@pytest.mark.parametrize("name", [*KERAS, "deep"])
def test_fault_18_a_keras_configuration_that_is_none(name, tmp_path):
    pytest.importorskip("h5py")
    path = tmp_path / "net.keras"
    interop.to_keras(NET, check.params_of(NET), file=path)
    with zipfile.ZipFile(path) as archive:
        model, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    if name in ("a list", "null"):
        model = KERAS[name](model, None)
    elif name != "deep":
        KERAS[name](model, model["config"]["layers"][1]["config"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", DEEP if name == "deep" else json.dumps(model))
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(ValueError, match=r"^[\w' ]+: got "):
        interop.from_keras(path)


HDF5 = {
    "nothing": lambda file: None,
    "a data set": lambda file: file.create_dataset("layers", data=3),
    "a cell that is one": lambda file: file.create_dataset("layers/lstm/cell", data=[1.0]),
    "half": lambda file: file.create_group("layers/bidirectional/forward_layer"),
    "letters": lambda file: file.create_dataset("layers/lstm/cell/vars/a", data=[1.0]),
    "groups": lambda file: file.create_group("layers/lstm/cell/vars/0"),
    "words": lambda file: file.attrs.update({"model_config": 3}),
}


@pytest.mark.parametrize("name", HDF5)
def test_fault_18_hdf5_of_another_form(name, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        HDF5[name](file)
    with pytest.raises(ValueError, match=r"^[\w' ]+: got "):
        interop.from_keras(tmp_path / "net.weights.h5")


ONNX = {
    "hidden_size": "4",
    "direction": 3,
    "activations": [1, 2],
    "input_forget": [1],
    "layout": "x",
    "inputs": None,
    "dtype": None,
    "short": None,
}


@pytest.mark.parametrize("name", ONNX)
def test_fault_18_an_onnx_graph_of_wrong_types(name):
    onnx = pytest.importorskip("onnx")
    model = interop.to_onnx(NET, check.params_of(NET))
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    if name == "inputs":
        del node.input[:]
    elif name == "dtype":
        model.graph.initializer[0].data_type = 99
    elif name == "short":
        model.graph.initializer[0].raw_data = b"123"
    else:
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, ONNX[name])])
    with pytest.raises(ValueError, match=r"^[\w' ]+: got "):
        interop.from_onnx(model)


# ---- a stream through an ONNX graph --------------------------------------------------------------
STREAMS = {
    "stack": lj.stack(lj.LSTM(4), lj.GRU(3, reset_after=False)),
    "peepholes": lj.LSTM(4, peepholes=True),
    "both": lj.bidirectional(lj.LSTM(4)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_fault_12e_a_stream_goes_on_through_an_onnx_graph(name, rng):
    """The states that come out go in again: two halves are the whole, from any start."""
    reference = pytest.importorskip("onnx.reference")
    net = STREAMS[name]
    params = check.params_of(net)
    model = interop.to_onnx(net, params, initial_states=True)
    assert interop.from_onnx(model)[0] == net
    evaluator = reference.ReferenceEvaluator(model)
    names = [value.name for value in model.graph.input if value.name.startswith("initial_")]
    finals = [value.name for value in model.graph.output if value.name != "ys"]
    assert names == [f"initial_{final}" for final in finals]
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    starts = {
        key: check.normal(rng, shapes[key][0].dim_value, 2, shapes[key][2].dim_value)
        for key in names
    }
    xs = check.normal(rng, 4, 2, check.SIZE)
    whole = evaluator.run(None, {"xs": xs, **starts})
    if name != "both":
        first = evaluator.run(None, {"xs": xs[:2], **starts})
        second = evaluator.run(None, {"xs": xs[2:], **dict(zip(names, first[1:], strict=True))})
        wanted = [np.concatenate([first[0], second[0]]), *second[1:]]
        check.registry.assert_close(whole, wanted, check.TOL)
    carry = net.initial_carry(params, (2,))
    flat = [block for key in names for block in starts[key]]
    if name == "both":  # The graph's h of both directions come before its c.
        flat = [flat[0], flat[2], flat[1], flat[3]]
    carry = jax.tree.unflatten(jax.tree.structure(carry), [jnp.asarray(a) for a in flat])
    _, ys = lj.unroll(net, params, jnp.asarray(xs), carry, implementation="scan")
    check.registry.assert_close(ys, whole[0], check.TOL)


def test_fault_12e_the_states_are_an_option():
    pytest.importorskip("onnx")
    model = interop.to_onnx(NET, check.params_of(NET))
    assert [value.name for value in model.graph.input] == ["xs"]
    with pytest.raises(ValueError, match="initial_states: got 'yes'"):
        interop.to_onnx(NET, check.params_of(NET), initial_states="yes")


# ---- what people have ----------------------------------------------------------------------------
def torch_state():
    params = check.params_of(NET)
    return interop.to_torch(NET, params, prefix="rnn."), params


@pytest.mark.grid
@pytest.mark.parametrize("keys", [("model",), ("state_dict",), ("trainer", "model")])
def test_fault_19_a_state_dict_inside_a_checkpoint(keys):
    source, params = torch_state()
    for key in reversed(keys):
        source = {key: source, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}}
    net, read = interop.from_torch(source, prefix="rnn")
    assert net == NET
    check.assert_equal(read, params)


def test_fault_19_several_state_dicts_are_named():
    state, _ = torch_state()
    with pytest.raises(ValueError, match=r"source\['model'\] and source\['ema'\].*pass one"):
        interop.from_torch({"model": state, "ema": state}, prefix="rnn")


def onnx_of_torchs_form(onnx, model, where):
    """W and R made of their transposes and B of its halves by operators, among other layers."""
    helper, nodes, tensors = onnx.helper, [], {}
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    b_ih, b_hh = np.split(arrays["B_0"][0], 2)
    tensors |= {"w": arrays["W_0"][0].T, "r": arrays["R_0"][0].T, "b_ih": b_ih, "b_hh": b_hh}
    tensors |= {"zero": np.array([0])}
    for name, out in (("w", "W_0"), ("r", "R_0")):
        nodes.append(helper.make_node("Transpose", [name], [f"{name}_t"], perm=[1, 0]))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_t", "zero"], [out]))
    nodes.append(helper.make_node("Concat", ["b_ih", "b_hh"], ["b"], axis=0))
    nodes.append(helper.make_node("Unsqueeze", ["b", "zero"], ["B_0"]))
    nodes.append(helper.make_node("Relu", ["xs"], ["features"]))
    cell = next(node for node in model.graph.node if node.op_type == "LSTM")
    cell.input[0] = "features"
    made = [onnx.numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in tensors.items()]
    ys = helper.make_tensor_value_info("y_0", onnx.TensorProto.FLOAT, None)
    if where == "If":
        branch = helper.make_graph([cell], "then", [], [ys])
        nodes.append(helper.make_node("If", ["asked"], ["y"], then_branch=branch,
                                      else_branch=branch))  # fmt: skip
        nodes[-1].attribute.pop()
    else:
        nodes.append(cell)
    opset = [helper.make_opsetid("", 18)]
    graph = helper.make_graph(nodes, "other", list(model.graph.input), [ys], made)
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


@pytest.mark.parametrize("where", ["graph", "If"])
def test_fault_19_onnx_weights_made_of_stored_ones(where):
    """One LSTM above other layers, or inside a branch, whose weights operators put together."""
    onnx = pytest.importorskip("onnx")
    params = check.params_of(NET)
    model = onnx_of_torchs_form(onnx, interop.to_onnx(NET, params), where)
    net, read = interop.from_onnx(model.SerializeToString())
    assert net == NET
    check.assert_equal(read, params)


def test_fault_19_a_quantized_operator_is_named():
    pytest.importorskip("onnx")
    model = interop.to_onnx(NET, check.params_of(NET))
    next(
        node for node in model.graph.node if node.op_type == "LSTM"
    ).op_type = "DynamicQuantizeLSTM"
    with pytest.raises(ValueError, match="got a graph of DynamicQuantizeLSTM.*before it was quant"):
        interop.from_onnx(model)


@pytest.mark.parametrize("both", [False, True])
def test_fault_19_weights_of_keras_2(both, tmp_path):
    """What `save_weights` wrote: the names at the root, a group a layer, and other layers."""
    h5py = pytest.importorskip("h5py")
    net = lj.bidirectional(NET) if both else NET
    params = check.params_of(net)
    arrays = interop.to_keras(net, params)
    places = ["encoder/forward_lstm/lstm_cell", "encoder/backward_lstm/lstm_cell_1"]
    names = [f"{place if both else 'encoder/lstm_cell'}/{name}:0"
             for place in places for name in ("kernel", "recurrent_kernel", "bias")]  # fmt: skip
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dropout", b"encoder"]
        file.attrs["keras_version"] = "2.15.0"
        file.create_group("dropout").attrs["weight_names"] = []
        group = file.create_group("encoder")
        group.attrs["weight_names"] = [n.encode() for n in names[: len(arrays)]]
        for name, array in zip(names, arrays, strict=False):
            group[name] = array
    seen, read = interop.from_keras(path)
    assert seen == net
    check.assert_equal(read, params)
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"encoder", b"dense"]
        file["dense/kernel:0"] = np.ones((4, 2))
        file["dense"].attrs["weight_names"] = [b"kernel:0"]
    assert interop.from_keras(path, layers=["encoder"])[0] == net
    with pytest.raises(ValueError, match=r"layers: got groups .*dense.*from \['encoder'\]"):
        interop.from_keras(path)


@pytest.mark.parametrize("gates", [4, 3])
def test_fault_19_cudnns_weights_of_keras_2(gates, tmp_path):
    """Keras 2 turned an LSTM's into these so: kernel.T.reshape(kernel.shape), a gate at a time."""
    net = lj.LSTM(4) if gates == 4 else lj.GRU(4, double_bias=True)
    params = check.params_of(net)
    kernel, recurrent, bias = interop.to_keras(net, params)
    blocks = [k.T.reshape(k.shape) for k in np.split(kernel, gates, axis=1)]
    squares = [k.T for k in np.split(recurrent, gates, axis=1)]
    flat = np.concatenate([0.25 * bias, 0.75 * bias]) if gates == 4 else bias.reshape(-1)
    weights = [np.concatenate(blocks, axis=1), np.concatenate(squares, axis=1), flat]
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "model.h5", "w") as file:  # A whole model, whose layer tells little.
        kind = f"CuDNN{type(net).__name__}"
        layer = {"class_name": kind, "config": {"name": "top", "units": 4}}
        model = {"class_name": "Sequential", "config": {"layers": [layer]}}
        file.attrs["model_config"] = json.dumps(model)
        group = file.create_group("model_weights/top")
        group.attrs["weight_names"] = ["kernel:0", "recurrent_kernel:0", "bias:0"]
        for name, array in zip(group.attrs["weight_names"], weights, strict=True):
            group[name] = array
    for source in (weights, tmp_path / "model.h5"):
        seen, read = interop.from_keras(source, double_bias=gates == 3)
        assert seen == net
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), read, params)


def test_fault_19_a_layer_above_another_final_state_is_no_stack():
    """As in an encoder and a decoder: the second one's inputs are the first one's last h."""
    pytest.importorskip("onnx")
    net = lj.stack(lj.LSTM(4), lj.LSTM(4))
    model = interop.to_onnx(net, check.params_of(net))
    second = [node for node in model.graph.node if node.op_type == "LSTM"][1]
    second.input[0] = "h_0"
    with pytest.raises(ValueError, match="LSTM_y_1's X: got the final state of LSTM_y_0.*pass `n"):
        interop.from_onnx(model)


def test_fault_19_convert_names_the_tensor(tmp_path, capsys):
    """It called every argument of the reader, and every tensor, `source`."""
    pytest.importorskip("safetensors")
    params = check.params_of(NET) | {"b": np.full(16, np.nan, np.float32)}
    interop.to_safetensors(NET, params, tmp_path / "net.safetensors")
    with pytest.raises(SystemExit):
        cli.main(["convert", str(tmp_path / "net.safetensors"), str(tmp_path / "net.npz")])
    assert "lstm-jax: bias_ih_l0: got NaN or Inf" in capsys.readouterr().err
