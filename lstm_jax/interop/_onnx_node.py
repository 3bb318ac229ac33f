"""Conversion of one recurrent ONNX operator, its attributes and tensors, to a layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import fail
from ._layout import bias_params, couple, from_layout, read_peepholes
from ._nets import Layer, Part
from ._source import check_tensor

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
CELLS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
ACTIVATIONS = {"RNN": [], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
NAMED = {"Tanh": "tanh", "Relu": "relu", "Affine": "identity"}
TYPES = {
    **dict.fromkeys(("hidden_size", "input_forget", "layout", "linear_before_reset"), "INT"),
    **dict.fromkeys(("activation_alpha", "activation_beta"), "FLOATS"),
    "activations": "STRINGS",
    "clip": "FLOAT",
    "direction": "STRING",
}
"""Types of the attributes of the operators."""
INPUTS: Sequence[str] = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def read_node(
    onnx: Any, node: Any, tensors: Mapping[str, Any], reverse: bool, double_bias: bool
) -> Layer:
    """Read an operator, with its weights among `tensors`, as a layer.

    Raises:
        ValueError: an attribute without a counterpart, or a tensor that does not fit.
    """
    options = _options(onnx, node)
    inputs: dict[str, str] = dict(zip(INPUTS, node.input, strict=False))
    cells = _directions(node, options, reverse)
    make = [_cell(node, options, direction, bool(inputs.get("B")), double_bias,
                  bool(inputs.get("P"))) for direction in range(cells)]  # fmt: skip
    kind, size = node.op_type, make[0].hidden_size
    rows = GATES[kind] * size
    arrays = {"W": (cells, rows, None), "R": (cells, rows, size), "B": (cells, 2 * rows)}
    arrays["P"] = (cells, 3 * size)
    given = {
        name: _tensor(node, name, inputs.get(name, ""), tensors, shape)
        for name, shape in arrays.items()
        if inputs.get(name) or name in ("W", "R")
    }
    parts = (_part(cell, {n: a[d] for n, a in given.items()}) for d, cell in enumerate(make))
    return Layer(tuple(parts))


def _options(onnx: Any, node: Any) -> dict[str, Any]:
    """Read the attributes of an operator and check their types; decode text."""
    options = {}
    for attribute in node.attribute:
        name, kind = attribute.name, TYPES.get(attribute.name)
        if kind is not None and attribute.type != getattr(onnx.AttributeProto, kind):
            names = {value: key for key, value in onnx.AttributeProto.AttributeType.items()}
            seen = names.get(attribute.type, attribute.type)
            raise fail(f"{node.name}'s {name}", seen, kind, "pass a model that onnx.checker takes")
        value = onnx.helper.get_attribute_value(attribute)
        if kind == "STRING":
            value = value.decode(errors="replace")
        elif kind == "STRINGS":
            value = [text.decode(errors="replace") for text in value]
        options[name] = value
    return options


def _tensor(node: Any, place: str, name: str, tensors: Mapping[str, Any], shape: Any) -> Any:
    letters = {"W": "[directions, G*H, D]", "R": "[directions, G*H, H]",
               "B": "[directions, 2*G*H]", "P": "[directions, 3H]"}[place]  # fmt: skip
    if name not in tensors:
        remedy = "store the weights in the graph's initializers"
        raise fail(f"{node.name}'s {place}", f"{name!r}, computed", "a stored tensor", remedy)
    return check_tensor(f"{node.name}'s {place} ({name})", tensors[name], letters, *shape)


def _directions(node: Any, options: Mapping[str, Any], reverse: bool) -> int:
    direction = options.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        wanted = "'forward', 'reverse' or 'bidirectional'"
        raise fail(f"{node.name}'s direction", repr(direction), wanted, "pass a valid model")
    if direction != "bidirectional" and (direction == "reverse") != reverse:
        remedy = f"pass reverse={not reverse}, and call unroll(reverse={not reverse})"
        raise fail(f"{node.name}'s direction", repr(direction), f"the one of reverse={reverse}",
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
        raise fail(node.name, "no hidden_size", "the attribute hidden_size", remedy)
    if "clip" in options:
        wanted = "no clip, as no cell here has one"
        remedy = "train without it, or remove it from the graph if nothing reaches the bound"
        raise fail(f"{node.name}'s clip", options["clip"], wanted, remedy)
    functions = list(options.get("activations", ()))
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
    if kind == "LSTM":
        given |= {"peepholes": peepholes, "coupled": bool(options.get("input_forget"))}
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
    """Convert one direction: W [G*H, D], R [G*H, H], and if present B [2*G*H], P [3H]."""
    kind, coupled = type(cell).__name__, getattr(cell, "coupled", False)

    def ours(array: Any) -> Any:
        array = from_layout("onnx", kind, array)
        return couple(array) if coupled else array

    params = {"w_ih": ours(arrays["W"].T), "w_hh": ours(arrays["R"].T)}
    if cell.bias:
        params |= bias_params(cell, *map(ours, np.split(arrays["B"], 2)))
    if "P" in arrays:
        params |= read_peepholes("onnx", arrays["P"], coupled)
    return Part(cell, params)
