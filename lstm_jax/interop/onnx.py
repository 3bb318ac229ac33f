"""ONNX: the operators RNN, LSTM and GRU, in graphs of them alone.

W [directions, G*H, D], R [directions, G*H, H], B [directions, 2*G*H] = [b_ih, b_hh]
rows: LSTM i, o, f, c; GRU z, r, h; peepholes P [directions, 3H] i, o, f
GRU linear_before_reset=1 is reset_after=True, 0 is False
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import fail
from .._typing import Params
from ._layout import bias_params, from_layout, read_peepholes
from ._nets import Layer, Part, join
from ._onnx_graph import REDUCTIONS, build
from ._source import check_tensor, existing, is_path, need, unreadable, write_whole

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
CELLS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
ACTIVATIONS = {"RNN": [], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
NAMED = {"Tanh": "tanh", "Relu": "relu", "Affine": "identity"}
SHAPING = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Dropout", "Cast")
"""Operators that may stand between two layers: they change no number in evaluation."""
INPUTS: Sequence[str] = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def from_onnx(
    source: Any,
    *,
    nodes: Sequence[str] | None = None,
    reverse: bool = False,
    double_bias: bool = False,
) -> tuple[Any, Params]:
    """(net, params) of the recurrent operators of an ONNX graph.

    Args:
        source: the path of an .onnx file, its bytes, or a ModelProto.
        nodes: the names of the operators to take, one layer each, in order; None: all of them,
            which must then follow each other with nothing but changes of shape between them.
        reverse: the graph's operators have direction="reverse"; call `unroll` with reverse=True.
        double_bias: keep the two biases apart.

    Returns:
        (net, params). Initial states, which a graph may hold, are `unroll`'s argument `carry`.

    Raises:
        ValueError: no such graph; an attribute that has no counterpart (clip, input_forget, other
            activations); a tensor that is missing, of a wrong shape or not finite.
        FileNotFoundError, ImportError: no such file; no onnx.
    """
    onnx = need("onnx", "interop")
    model = _model(onnx, source)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    tensors |= {
        node.output[0]: onnx.numpy_helper.to_array(attribute.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    layers = [
        _read(onnx, node, tensors, reverse, double_bias)._replace(
            merge=_merge(model, node, tensors)
        )
        for node in _chosen(model, nodes)
    ]
    return join(layers)


def to_onnx(
    net: Any,
    params: Params,
    file: Any = None,
    *,
    reverse: bool = False,
    seq_lengths: bool = False,
) -> Any:
    """An ONNX model of the net, for any time and batch: xs [time, batch, D] -> ys, final states.

    Inputs: xs, and seq_lengths [batch] int32 if asked for. Outputs: ys [time, batch, N], and of
    each layer h_{n} (and c_{n}) [directions, batch, H], the final states from zero initial ones.

    Args:
        net, params: a cell, or a stack of RNN (tanh, relu, identity), LSTM and GRU cells, each in
            one or both directions.
        file: a path; the model is written there too, whole or not at all.
        reverse: direction="reverse", for a net that is called with unroll(reverse=True).
        seq_lengths: give the graph an input of lengths.

    Returns:
        A ModelProto, checked by onnx; `SerializeToString()` gives its bytes.

    Raises:
        ValueError: the net is one that ONNX does not have; the message says why.
        ImportError: no onnx.
    """
    onnx = need("onnx", "interop")
    model = build(onnx, net, params, reverse, seq_lengths)
    if file is not None:
        write_whole(file, model.SerializeToString())
    return model


# ---- the graph -----------------------------------------------------------------------------------
def _model(onnx: Any, source: Any) -> Any:
    if hasattr(source, "graph"):
        return source
    if is_path(source):
        source = existing(source).read_bytes()
    protobuf = need("google.protobuf.message", "interop")
    with unreadable("source", "an ONNX model", protobuf.DecodeError, TypeError):
        return onnx.load_model_from_string(source)


def _chosen(model: Any, names: Sequence[str] | None) -> list[Any]:
    """The operators to take, in order."""
    recurrent = [node for node in model.graph.node if node.op_type in GATES]
    known = [node.name for node in recurrent]
    if names is not None:
        if missing := [name for name in names if name not in known]:
            raise fail("nodes", missing, f"names among {known}", "pass some of these")
        return [recurrent[known.index(name)] for name in names]
    makers = {output: node for node in model.graph.node for output in node.output}
    for below, node in zip([None, *recurrent], recurrent, strict=False):
        maker = makers.get(node.input[0])
        while maker is not None and maker.op_type in (*SHAPING, *REDUCTIONS.values()):
            maker = makers.get(maker.input[0])
        if maker is not below:
            seen = f"the output of {'the graph' if maker is None else maker.op_type}"
            wanted = "that of the layer below, or the graph's input"
            raise fail(f"{node.name}'s X", seen, wanted, f"pass nodes, in order, from {known}")
    if not recurrent:
        raise fail("source", "a graph without them", "RNN, LSTM or GRU operators", "pass such")
    return recurrent


def _merge(model: Any, node: Any, tensors: Mapping[str, Any]) -> str:
    """What becomes of the two directions: a reduction of their axis, or else concatenation."""
    takers = [taker for taker in model.graph.node if node.output[0] in taker.input]
    merges = {theirs: ours for ours, theirs in REDUCTIONS.items()}
    for taker in takers:
        if taker.op_type in merges and list(tensors.get(taker.input[-1], ())) == [1]:
            return merges[taker.op_type]
    return "concat"


# ---- one operator --------------------------------------------------------------------------------
def _read(
    onnx: Any, node: Any, tensors: Mapping[str, Any], reverse: bool, double_bias: bool
) -> Layer:
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    inputs: dict[str, str] = dict(zip(INPUTS, node.input, strict=False))
    cells = _directions(node, options, reverse)
    make = [_cell(node, options, direction, bool(inputs.get("B")), double_bias,
                  bool(inputs.get("P"))) for direction in range(cells)]  # fmt: skip
    kind, size = node.op_type, make[0].hidden_size
    rows = GATES[kind] * size
    arrays = {"W": (cells, rows, None), "R": (cells, rows, size), "B": (cells, 2 * rows)}
    arrays["P"] = (cells, 3 * size)
    given = {
        name: _tensor(node, name, inputs[name], tensors, shape)
        for name, shape in arrays.items()
        if inputs.get(name)
    }
    parts = (_part(cell, {n: a[d] for n, a in given.items()}) for d, cell in enumerate(make))
    return Layer(tuple(parts))


def _tensor(node: Any, place: str, name: str, tensors: Mapping[str, Any], shape: Any) -> Any:
    letters = {"W": "[directions, G*H, D]", "R": "[directions, G*H, H]",
               "B": "[directions, 2*G*H]", "P": "[directions, 3H]"}[place]  # fmt: skip
    if name not in tensors:
        remedy = "store the weights in the graph's initializers"
        raise fail(f"{node.name}'s {place}", f"{name!r}, computed", "a stored tensor", remedy)
    return check_tensor(f"{node.name}'s {place} ({name})", tensors[name], letters, *shape)


def _directions(node: Any, options: Mapping[str, Any], reverse: bool) -> int:
    direction = options.get("direction", b"forward").decode()
    if direction != "bidirectional" and (direction == "reverse") != reverse:
        remedy = f"pass reverse={not reverse}, and call unroll(reverse={not reverse})"
        raise fail(f"{node.name}'s direction", repr(direction), f"what reverse={reverse} says",
                   remedy)  # fmt: skip
    if direction == "bidirectional" and reverse:
        remedy = "pass reverse=False"
        raise fail(f"{node.name}'s direction", repr(direction), "'reverse'", remedy)
    return 2 if direction == "bidirectional" else 1


def _cell(
    node: Any, options: Mapping[str, Any], direction: int, bias: bool, double: bool, peepholes: bool
) -> Any:
    kind, size = node.op_type, options.get("hidden_size")
    if size is None:
        remedy = "write hidden_size into the graph"
        raise fail(node.name, "no hidden_size", "that attribute", remedy)
    if options.get("clip") or options.get("input_forget"):
        name = "clip" if options.get("clip") else "input_forget"
        remedy = "another equation cannot be put into weights"
        raise fail(f"{node.name}'s {name}", options[name], "none", remedy)
    functions = [name.decode() for name in options.get("activations", ())]
    count = max(len(ACTIVATIONS[kind]), 1)
    functions = functions[direction * count :][:count] or ACTIVATIONS[kind]
    given: dict[str, Any] = {"bias": bias, "double_bias": double and bias}
    if kind == "RNN":
        given["activation"] = _activation(node, (functions or ["Tanh"])[0], options)
    elif functions != ACTIVATIONS[kind]:
        wanted = str(ACTIVATIONS[kind])
        raise fail(f"{node.name}'s activations", functions, wanted, "train with these")
    if kind == "GRU":
        given["reset_after"] = bool(options.get("linear_before_reset", 0))
    if peepholes:
        given["peepholes"] = True
    return CELLS[kind](size, **given)


def _activation(node: Any, name: str, options: Mapping[str, Any]) -> str:
    if name not in NAMED:
        raise fail(f"{node.name}'s activations", name, " or ".join(NAMED), "train with one")
    alphas, betas = (options.get(f"activation_{which}", ()) for which in ("alpha", "beta"))
    if name == "Affine" and {*alphas, *betas} != {1.0, 0.0}:
        seen = f"Affine with alpha={alphas}, beta={betas}"
        raise fail(f"{node.name}'s activations", seen, "alpha=1, beta=0", "train with that")
    return NAMED[name]


def _part(cell: Any, arrays: Mapping[str, Any]) -> Part:
    """One direction: W [G*H, D], R [G*H, H], B [2*G*H] or none, P [3H] or none."""
    kind = type(cell).__name__
    params = {"w_ih": arrays["W"].T, "w_hh": arrays["R"].T}
    params = {name: from_layout("onnx", kind, array) for name, array in params.items()}
    if cell.bias:
        halves = (from_layout("onnx", kind, b) for b in np.split(arrays["B"], 2))
        params |= bias_params(cell, *halves)
    if "P" in arrays:
        params |= read_peepholes("onnx", arrays["P"])
    return Part(cell, params)
