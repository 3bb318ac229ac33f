"""ONNX graphs, written and read, against onnxruntime; every direction, dynamic time and batch."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import from_onnx, to_onnx

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.grid
helper = onnx.helper

H = check.HIDDEN
FLOAT = onnx.TensorProto.FLOAT


def run(model, **inputs):
    """{output: array}, by onnxruntime."""
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


# ---- what we write -------------------------------------------------------------------------------
NETS = {
    "rnn": lj.RNN(H),
    "rnn_relu": lj.RNN(H, "relu", bias=False),
    "rnn_identity": lj.bidirectional(lj.RNN(H, "identity")),
    "lstm": lj.LSTM(H, double_bias=True),
    "peepholes": lj.LSTM(H, peepholes=True),
    "coupled": lj.LSTM(H, coupled=True, double_bias=True),
    "coupled_both": lj.bidirectional(lj.LSTM(H, coupled=True, peepholes=True)),
    "gru": lj.GRU(H),
    "gru_reset_before": lj.bidirectional(lj.GRU(H, reset_after=False)),
    "sum": lj.bidirectional(lj.GRU(H, double_bias=True), merge="sum"),
    "mul": lj.bidirectional(lj.LSTM(H), merge="mul"),
    "mean": lj.bidirectional(lj.LSTM(H), merge="mean"),
    "deep": lj.stack(lj.bidirectional(lj.LSTM(H)), lj.GRU(5, reset_after=False), lj.RNN(2)),
}


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_runs_what_we_write(name, rng):
    """On two shapes, so that time and batch are seen to be dynamic, ragged the first time."""
    net = NETS[name]
    params = check.params_of(net)
    model = to_onnx(net, params, seq_lengths=True)
    xs, mask, _ = check.inputs(rng)
    outs = run(model, xs=xs, seq_lengths=check.LENGTHS)
    carry, ys = lj.unroll(net, params, jnp.asarray(xs), seq_lengths=check.LENGTHS)
    check.registry.assert_close(ys, outs["ys"] * mask, check.TOL)
    carries = check.states(carry)
    hs = [h for n in range(9) if f"h_{n}" in outs for h in outs[f"h_{n}"]]
    cs = [c for n in range(9) if f"c_{n}" in outs for c in outs[f"c_{n}"]]
    check.assert_outputs((ys, carries), outs["ys"], hs, cs, mask)

    xs = check.normal(rng, 2, 7, check.SIZE)
    outs = run(to_onnx(net, params), xs=xs)
    check.registry.assert_close(lj.unroll(net, params, jnp.asarray(xs))[1], outs["ys"], check.TOL)


@pytest.mark.parametrize("name", NETS)
def test_there_and_back_is_exact(name):
    net = NETS[name]
    params = check.params_of(net)
    again, read = from_onnx(to_onnx(net, params), double_bias=name in ("lstm", "coupled", "sum"))
    assert again == net
    check.assert_equal(read, params)


def test_reverse(rng):
    net = lj.GRU(H)
    params = check.params_of(net)
    model = to_onnx(net, params, reverse=True)
    xs, _, _ = check.inputs(rng, None)
    _, ys = lj.unroll(net, params, jnp.asarray(xs), reverse=True)
    check.registry.assert_close(ys, run(model, xs=xs)["ys"], check.TOL)
    with pytest.raises(ValueError, match=r"direction: got 'reverse'.*unroll\(reverse=True\)"):
        from_onnx(model)
    check.assert_equal(from_onnx(model, reverse=True)[1], params)
    with pytest.raises(ValueError, match="reverse: got True"):
        to_onnx(lj.bidirectional(net), check.params_of(lj.bidirectional(net)), reverse=True)


def test_files(tmp_path):
    net = lj.LSTM(H)
    params = check.params_of(net)
    path = tmp_path / "net.onnx"
    model = to_onnx(net, params, path)
    assert path.read_bytes() == model.SerializeToString()
    for source in (path, str(path), path.read_bytes(), model):
        check.assert_equal(from_onnx(source)[1], params)
    path.write_text("no graph")
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="an ONNX model"):
            from_onnx(source)
    with pytest.raises(ValueError, match="source: got a NoneType, wanted a path, bytes or"):
        from_onnx(None)
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        from_onnx(tmp_path / "none.onnx")


def test_numbers_beside_the_file(tmp_path):
    """As exporters of large models write them."""
    net, path = lj.LSTM(H), tmp_path / "net.onnx"
    params = check.params_of(net)
    options = {"save_as_external_data": True, "location": "numbers", "size_threshold": 0}
    onnx.save_model(to_onnx(net, params), path, **options)
    check.assert_equal(from_onnx(path)[1], params)
    with pytest.raises(ValueError, match="W_0: got numbers in another file.*pass the path"):
        from_onnx(path.read_bytes())
    (tmp_path / "numbers").unlink()
    with pytest.raises(ValueError, match=r"net\.onnx.*an ONNX model"):
        from_onnx(path)


# ---- what others write ---------------------------------------------------------------------------
def graph(nodes, tensors, outputs):
    """A model of `nodes` for xs [time, batch, D], with `tensors` {name: array}."""
    inputs = [helper.make_tensor_value_info("xs", FLOAT, ["time", "batch", check.SIZE])]
    made = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    values = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_graph(nodes, "other", inputs, values, made)
    return helper.make_model(model, opset_imports=opset, ir_version=8)


def weights(gates, rng, directions=1, peepholes=False):
    arrays = {
        "W": check.normal(rng, directions, gates * H, check.SIZE),
        "R": check.normal(rng, directions, gates * H, H),
        "B": check.normal(rng, directions, 2 * gates * H),
    }
    return arrays | ({"P": check.normal(rng, directions, 3 * H)} if peepholes else {})


def node(kind, arrays, **options):
    """An operator named "cell" with outputs y, h (and c)."""
    inputs = ["xs", "W", "R", "B" if "B" in arrays else ""]
    inputs += ["", "", "", "P"] if "P" in arrays else []
    outputs = ["y", "h", *(["c"] if kind == "LSTM" else [])]
    options = {"hidden_size": H, "name": "cell"} | options
    return helper.make_node(kind, inputs, outputs, **options)


OTHERS = {
    "rnn": ("RNN", {}),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}),
    "rnn_both": ("RNN", {"activations": ["Tanh", "Relu"], "direction": "bidirectional"}),
    "lstm": ("LSTM", {"direction": "bidirectional"}),
    "peepholes": ("LSTM", {"direction": "bidirectional"}),
    "coupled": ("LSTM", {"input_forget": 1}),
    "coupled_peepholes": ("LSTM", {"input_forget": 1, "direction": "bidirectional"}),
    "gru": ("GRU", {"linear_before_reset": 1}),
    "gru_both": ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}),
    "gru_reset_before": ("GRU", {"direction": "bidirectional"}),
    "gru_reverse": ("GRU", {"direction": "reverse"}),
}
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


@pytest.mark.parametrize("double_bias", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_we_run_what_others_write(name, double_bias, rng):
    kind, options = OTHERS[name]
    directions = 2 if options.get("direction") == "bidirectional" else 1
    arrays = weights(GATES[kind], rng, directions, "peepholes" in name)
    model = graph([node(kind, arrays, **options)], arrays, ["y", "h"])
    reverse = options.get("direction") == "reverse"
    net, params = from_onnx(model, double_bias=double_bias, reverse=reverse)
    xs, _, _ = check.inputs(rng, None)
    outs = run(model, xs=xs)
    carry, ys = lj.unroll(net, params, jnp.asarray(xs), reverse=reverse)
    wanted = np.concatenate(list(np.moveaxis(outs["y"], 1, 0)), axis=-1)
    check.registry.assert_close(ys, wanted, check.TOL)
    check.registry.assert_close([s.h for s in check.states(carry)], list(outs["h"]), check.TOL)
    if double_bias and "coupled" in name:  # Whose own block of f is not read.
        again, seen = from_onnx(to_onnx(net, params), double_bias=True)
        assert again == net
        check.assert_equal(seen, params)
    elif double_bias:
        back = to_onnx(net, params, reverse=reverse)
        seen = {t.name[0]: onnx.numpy_helper.to_array(t) for t in back.graph.initializer}
        check.assert_equal({key: seen[key] for key in arrays}, arrays)


def test_layers_are_told_by_the_graph(rng):
    """Two operators with a squeeze between them, as PyTorch exports."""
    first = weights(4, rng)
    second = {
        "W2": check.normal(rng, 1, 15, H), "R2": check.normal(rng, 1, 15, 5)}  # fmt: skip
    nodes = [
        node("LSTM", first),
        helper.make_node("Squeeze", ["y", "axes"], ["squeezed"]),
        helper.make_node("GRU", ["squeezed", "W2", "R2"], ["y2"], hidden_size=5, name="top"),
    ]
    tensors = first | second | {"axes": np.array([1])}
    model = graph(nodes, tensors, ["y2"])
    net, params = from_onnx(model)
    assert net == lj.stack(lj.LSTM(H), lj.GRU(5, reset_after=False, bias=False))
    xs, _, _ = check.inputs(rng, None)
    wanted = run(model, xs=xs)["y2"][:, 0]
    check.registry.assert_close(lj.unroll(net, params, jnp.asarray(xs))[1], wanted, check.TOL)
    assert from_onnx(model, nodes=["cell"])[0] == lj.LSTM(H)
    with pytest.raises(ValueError, match=r"nodes: got \['no'\]"):
        from_onnx(model, nodes=["no"])
    nodes[1] = helper.make_node("Relu", ["y"], ["squeezed"])
    with pytest.raises(ValueError, match="top's X: got the output of Relu.*pass `nodes`"):
        from_onnx(graph(nodes, tensors, ["y2"]))


def test_coupled_gates_are_alike_in_every_reading(rng):
    """f = 1 - i and i = 1 - f give the same, and onnx's own evaluator, which knows neither, too."""
    net = lj.LSTM(H, coupled=True, peepholes=True)
    model = to_onnx(net, check.params_of(net))
    xs, _, _ = check.inputs(rng, None)
    outs = run(model, xs=xs)
    reference = pytest.importorskip("onnx.reference")
    seen = reference.ReferenceEvaluator(model).run(None, {"xs": xs})
    check.registry.assert_close(seen, list(outs.values()), check.TOL)


@pytest.mark.parametrize("axes", [[1], [-3], "attribute"])
def test_a_merge_is_told_by_its_axis(axes, rng):
    arrays = weights(4, rng, 2)
    inputs, opset, options = ["y", "axes"], 18, {"keepdims": 0}
    tensors = arrays | {"axes": np.array([1])}
    if axes == "attribute":
        inputs, opset, options, tensors = ["y"], 14, options | {"axes": [1]}, arrays
    else:
        tensors["axes"] = np.array(axes)
    nodes = [
        node("LSTM", arrays, direction="bidirectional"),
        helper.make_node("ReduceMean", inputs, ["ys"], **options),
    ]
    model = graph(nodes, tensors, ["ys"])
    model.opset_import[0].version = opset
    net, params = from_onnx(model)
    assert net == lj.bidirectional(lj.LSTM(H), merge="mean")
    xs, _, _ = check.inputs(rng, None)
    wanted = run(model, xs=xs)["ys"]
    check.registry.assert_close(lj.unroll(net, params, jnp.asarray(xs))[1], wanted, check.TOL)


@pytest.mark.parametrize(
    ("kind", "options", "change", "message"),
    [
        ("LSTM", {"clip": 1.0}, None, "cell's clip: got 1.0.*no cell here has one.*train without"),
        ("GRU", {"clip": 0.0}, None, "cell's clip: got 0.0"),
        ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, None, "cell's activations: got"),
        ("RNN", {"activations": ["Softsign"]}, None, "cell's activations: got Softsign"),
        ("GRU", {}, lambda a: a.update(W=a["W"][:, 1:]), r"cell's W \(W\): got shape"),
        ("GRU", {}, lambda a: a.update(B=a["B"][:, 1:]), r"cell's B \(B\): got shape"),
        ("GRU", {}, lambda a: a["R"].fill(np.nan), r"cell's R \(R\): got NaN"),
        ("GRU", {}, lambda a: a.pop("R"), "cell's R: got 'R', computed"),
        ("Relu", {}, None, "source: got a graph without them"),
    ],
)
def test_what_we_have_not_is_refused(kind, options, change, message, rng):
    arrays = weights(GATES.get(kind, 1), rng)
    made = node(kind, arrays, **options)
    if change:
        change(arrays)
    with pytest.raises(ValueError, match=message):
        from_onnx(graph([made], arrays, ["y"]))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.RNN(H, jnp.sin), r"RNN\(activation="),
        (lj.SLSTM(H), "got a SLSTM"),
        (lj.bidirectional(lj.LSTM(H), merge=None), r"merge=None"),
        (lj.bidirectional(lj.LSTM(H), lj.GRU(H)), "two directions of one cell"),
        (lj.bidirectional(lj.LSTM(H), lj.LSTM(H, coupled=True)), "two directions of one cell"),
        (lj.bidirectional(lj.LSTM(H), lj.LSTM(H, peepholes=True)), "two directions of one cell"),
        (lj.LSTM(H, heads=2), r"LSTM\(heads=2\)"),
    ],
)
def test_what_onnx_has_not_is_refused(net, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_onnx(net, check.params_of(net), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_the_operators_have_no_bfloat16():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), check.params_of(lj.LSTM(H)))
    with pytest.raises(ValueError, match=r"params: got dtype bfloat16.*cast"):
        to_onnx(lj.LSTM(H), params)
