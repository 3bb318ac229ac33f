"""Conversion between Keras's configuration of a cell and our cells."""

from collections.abc import Mapping
from typing import Any

from .._cells.conv import ConvLSTM
from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import fail

ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "linear": "identity"}
GATES = {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid"}
NAMES = {"RNN": "SimpleRNN", "LSTM": "LSTM", "GRU": "GRU"}
"""Names of functions and cells in Keras and here."""

_KNOWN = tuple(ACTIVATIONS.values())
_FUNCTIONS = {"input_activation": _KNOWN, "output_activation": _KNOWN,
              "gate_activation": tuple(GATES.values())}  # fmt: skip
_BIAS = {"bias": None, "double_bias": None}
_CONV = dict.fromkeys(("kernel_shape", "input_shape", "strides", "padding", "dilation"))
HELD: dict[str, dict[str, Any]] = {
    "RNN": {"activation": _KNOWN, **_BIAS},
    "LSTM": {**_FUNCTIONS, **_BIAS},
    "GRU": {
        "activation": _KNOWN,
        "gate_activation": _FUNCTIONS["gate_activation"],
        "reset_after": None,
        **_BIAS,
    },
    "ConvLSTM": {**_FUNCTIONS, **_BIAS, **_CONV},
}
"""Options of our cells that Keras has."""


def kind_of(name: str) -> str | None:
    """Our name of a Keras layer or cell; None if there is no counterpart."""
    name = name.removesuffix("Cell").removeprefix("CuDNN")
    if name in ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"):
        return "ConvLSTM"
    return {theirs: ours for ours, theirs in NAMES.items()}.get(name)


def cell_of(config: Mapping[str, Any], space: Any, double_bias: bool) -> Any:
    """Build the cell of a configuration; `space` gives the spatial sizes if it does not tell them.

    Raises:
        ValueError: a function or an option has no counterpart here.
    """
    options, kind = config["config"], kind_of(config["class_name"])
    given: dict[str, Any] = {"bias": options["use_bias"]}
    activation = _ours("activation", options.get("activation", "tanh"), ACTIVATIONS)
    if kind == "RNN":
        return RNN(options.get("units"), activation, **given)
    gates = options.get("recurrent_activation", "sigmoid")
    given["gate_activation"] = _ours("recurrent_activation", gates, GATES)
    if kind == "GRU":
        reset_after = options.get("reset_after", True)
        given |= {"activation": activation, "double_bias": double_bias and given["bias"]}
        given["double_bias"] &= reset_after
        return GRU(options.get("units"), reset_after, **given)
    given |= {"input_activation": activation, "output_activation": activation}
    return LSTM(options.get("units"), **given) if kind == "LSTM" else _conv(config, space, given)


def _conv(config: Mapping[str, Any], space: Any, given: Mapping[str, Any]) -> ConvLSTM:
    """Build a ConvLSTM; its spatial sizes come from the build configuration or from `space`."""
    options = config["config"]
    if options.get("data_format") == "channels_first":
        remedy = "train it with the channels last"
        raise fail("data_format", "'channels_first'", "'channels_last'", remedy)
    shape = (config.get("build_config") or {}).get("input_shape") or ()
    if shape and None not in shape[2:-1]:
        space = tuple(shape[2:-1])
    if space is None:
        seen = f"None, and {options.get('name', 'a ConvLSTM')} does not tell"
        remedy = f"pass them, such as input_shape={(28,) * len(options['kernel_size'])}"
        raise fail("input_shape", seen, "the sizes of space of its inputs", remedy)
    return ConvLSTM(
        options.get("filters"),
        kernel_shape=tuple(options["kernel_size"]),
        input_shape=space,
        strides=options["strides"],
        padding=options["padding"],
        dilation=options["dilation_rate"],
        **given,
    )


def config_of(cell: Any) -> dict[str, Any]:
    """Write the configuration of the Keras layer that has the equations of a cell.

    Raises:
        ValueError: an LSTM with two different activations.
    """
    kind = type(cell).__name__
    options: dict[str, Any] = {"use_bias": cell.bias, "return_sequences": True}
    if kind in ("LSTM", "ConvLSTM"):
        if cell.input_activation != cell.output_activation:
            seen = f"{cell.input_activation!r} and {cell.output_activation!r}"
            wanted = "one input_activation and output_activation, as keras has them"
            raise fail("net", seen, wanted, "train with one")
        options["activation"] = _theirs(cell.input_activation, ACTIVATIONS)
    else:
        options["activation"] = _theirs(cell.activation, ACTIVATIONS)
    if kind != "RNN":
        options["recurrent_activation"] = _theirs(cell.gate_activation, GATES)
    if kind == "GRU":
        options["reset_after"] = cell.reset_after
    if kind != "ConvLSTM":
        return {"class_name": NAMES[kind], "config": {"units": cell.hidden_size} | options}
    options |= {"filters": cell.hidden_size, "kernel_size": cell.kernel_shape}
    options |= {"strides": cell.strides, "padding": cell.padding, "dilation_rate": cell.dilation}
    return {"class_name": f"ConvLSTM{len(cell.kernel_shape)}D", "config": options}


def _ours(name: str, function: Any, known: Mapping[str, str]) -> str:
    if not isinstance(function, str) or function not in known:
        wanted = " or ".join(repr(choice) for choice in known)
        raise fail(name, repr(function), wanted, "train with one of these")
    return known[function]


def _theirs(function: str, known: Mapping[str, str]) -> str:
    return {ours: theirs for theirs, ours in known.items()}[function]
