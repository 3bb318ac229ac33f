"""The ONNX graph of a net: one operator for each layer, and reshapes between them.

X [time, batch, D] -> Y [time, directions, batch, H] -> xs of the next [time, batch, N]
"""

from typing import Any

import numpy as np

from .._checks import fail
from .._typing import Params
from ._layout import to_layout, two_biases, uncouple, write_peepholes
from ._nets import Layer, Part, check_cells, check_merge, take_apart

HELD = {
    "RNN": {"activation": ("tanh", "relu", "identity"), "bias": None, "double_bias": None},
    "LSTM": {"bias": None, "double_bias": None, "peepholes": None, "coupled": None},
    "GRU": {"bias": None, "double_bias": None, "reset_after": None},
}
NAMES = {"tanh": "Tanh", "relu": "Relu", "identity": "Affine"}
REDUCTIONS = {"sum": "ReduceSum", "mul": "ReduceProd", "mean": "ReduceMean"}
OPSET = 18
"""The first opset in which all reductions take their axes as an input; IR 8 belongs to it."""
IR = 8


def build(
    onnx: Any, net: Any, params: Params, reverse: bool, seq_lengths: bool, initial_states: bool
) -> Any:
    """Build the ModelProto of a net."""
    layers = take_apart(net, params)
    check_cells(layers, "onnx", HELD)
    check_merge(layers, "onnx", ("concat", *REDUCTIONS))
    _check_directions(layers, reverse)
    dtype = np.dtype(layers[0].parts[0].params["w_ih"].dtype)
    if dtype.name not in ("float16", "float32", "float64"):
        remedy = "cast the params to float32"
        raise fail("params", f"dtype {dtype}", "float32, float16 or float64", remedy)
    real = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    graph = _Graph(onnx, real)
    graph.input("xs", real, ["time", "batch", layers[0].input_size])
    if seq_lengths:
        graph.input("seq_lengths", onnx.TensorProto.INT32, ["batch"])
    below = "xs"
    for n, layer in enumerate(layers):
        lengths, forward = "seq_lengths" * seq_lengths, "reverse" if reverse else "forward"
        below = graph.layer(n, layer, below, forward, lengths, initial_states)
    graph.node("Identity", [below], ["ys"])
    graph.outputs.insert(0, graph.value("ys", real, ["time", "batch", layers[-1].output_size]))
    return graph.model()


def _check_directions(layers: list[Layer], reverse: bool) -> None:
    if reverse and any(len(layer.parts) == 2 for layer in layers):
        raise fail("reverse", True, "False for a net of both directions", "pass reverse=False")


class _Graph:
    """Builder of an ONNX graph."""

    def __init__(self, onnx: Any, real: int):
        self.onnx, self.helper, self.real = onnx, onnx.helper, real
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def value(self, name: str, dtype: int, shape: list[Any]) -> Any:
        return self.helper.make_tensor_value_info(name, dtype, shape)

    def input(self, name: str, dtype: int, shape: list[Any]) -> None:
        self.inputs.append(self.value(name, dtype, shape))

    def constant(self, name: str, array: Any) -> str:
        self.tensors.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        made = self.helper.make_node(kind, inputs, outputs, name=f"{kind}_{outputs[0]}", **options)
        self.nodes.append(made)

    def layer(
        self, n: int, layer: Layer, below: str, forward: str, lengths: str, initial: bool
    ) -> str:
        """Add a layer's operator and final states; return the name of its ys [time, batch, N]."""
        kind, options = _attributes([cell for cell, _ in layer.parts])
        directions, size = len(layer.parts), options["hidden_size"]
        biased = any(cell.bias for cell, _ in layer.parts)
        arrays = [_arrays(part, biased) for part in layer.parts]
        names = {
            name: self.constant(f"{name}_{n}", np.stack([array[name] for array in arrays]))
            for name in arrays[0]
        }
        states = [f"h_{n}"] + ([f"c_{n}"] if kind == "LSTM" else [])
        starts = [f"initial_{state}" if initial else "" for state in states]
        shape = [directions, "batch", size]
        for start in filter(None, starts):
            self.input(start, self.real, shape)
        inputs = [below, names["W"], names["R"], names.get("B", ""), lengths, *starts]
        inputs += [names["P"]] if "P" in names else []
        options["direction"] = "bidirectional" if directions == 2 else forward
        self.node(kind, inputs, [f"y_{n}", *states], **options)
        self.outputs += [self.value(state, self.real, shape) for state in states]
        return self.merge(n, layer)

    def merge(self, n: int, layer: Layer) -> str:
        """Merge Y [time, directions, batch, H] to ys [time, batch, N]; return the name of ys."""
        if len(layer.parts) == 2 and layer.merge in REDUCTIONS:
            axis = self.constant(f"axis_{n}", np.array([1]))
            kind = REDUCTIONS[layer.merge]
            self.node(kind, [f"y_{n}", axis], [f"ys_{n}"], keepdims=0)
            return f"ys_{n}"
        shape = self.constant(f"shape_{n}", np.array([0, 0, -1]))
        self.node("Transpose", [f"y_{n}"], [f"y_{n}_batched"], perm=[0, 2, 1, 3])
        self.node("Reshape", [f"y_{n}_batched", shape], [f"ys_{n}"])
        return f"ys_{n}"

    def model(self) -> Any:
        graph = self.helper.make_graph(
            self.nodes, "lstm_jax", self.inputs, self.outputs, self.tensors
        )
        opset = [self.helper.make_opsetid("", OPSET)]
        model = self.helper.make_model(graph, opset_imports=opset, ir_version=IR)
        self.onnx.checker.check_model(model)
        return model


def _attributes(cells: list[Any]) -> tuple[str, dict[str, Any]]:
    """Type and attributes of the operator for a layer's cells."""
    first, *others = [_shared(cell) for cell in cells]
    affine = [getattr(cell, "activation", None) == "identity" for cell in cells]
    peepholes = [getattr(cell, "peepholes", False) for cell in cells]
    if any(other != first for other in others) or len(set(affine)) > 1 or len(set(peepholes)) > 1:
        raise fail("net", cells, "two directions of one cell", "use one cell for both")
    kind, options = first
    if kind == "RNN":
        options["activations"] = [NAMES[cell.activation] for cell in cells]
    if affine[0]:
        options |= {"activation_alpha": [1.0] * len(cells), "activation_beta": [0.0] * len(cells)}
    return kind, options


def _shared(cell: Any) -> tuple[str, dict[str, Any]]:
    """Type and attributes that both directions must share."""
    kind, options = type(cell).__name__, {"hidden_size": cell.hidden_size}
    if kind == "GRU":
        options["linear_before_reset"] = int(cell.reset_after)
    if getattr(cell, "coupled", False):
        options["input_forget"] = 1
    return kind, options


def _arrays(part: Part, biased: bool) -> dict[str, Any]:
    """Arrays W, R and, if the cell has them, B and P of one direction."""
    cell, params = part
    kind, coupled = type(cell).__name__, getattr(cell, "coupled", False)

    def theirs(array: Any) -> Any:
        return to_layout("onnx", kind, uncouple(array) if coupled else array)

    arrays = {"W": theirs(params["w_ih"]).T, "R": theirs(params["w_hh"]).T}
    if biased:
        arrays["B"] = np.concatenate([theirs(bias) for bias in two_biases(cell, params)])
    if getattr(cell, "peepholes", False):
        arrays["P"] = write_peepholes("onnx", params)
    return arrays
