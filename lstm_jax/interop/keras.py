"""Conversion to and from Keras 3: SimpleRNN, LSTM, GRU, ConvLSTM, Bidirectional, RNN, Sequential.

    kernel [D, G*H], recurrent_kernel [H, G*H], bias [G*H], or [2, 3H] for a GRU with reset_after
    columns: LSTM i, f, c, o; GRU z, r, h, where h' = z * h + (1 - z) * hh
    ConvLSTM: kernel [*kernel_shape, D, 4H], recurrent_kernel [*kernel_shape, H, 4H]

The order is that of `get_weights()`: layer by layer, forward before backward.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._checks import counted, fail
from .._typing import Params
from . import _keras_files
from ._keras_cells import HELD, NAMES, cell_of, config_of
from ._keras_cudnn import from_cudnn
from ._keras_plan import MERGES, Plan, guess, guess_groups, plans
from ._kinds import REMEDY, known_kind
from ._layout import bias_params, from_layout, one_bias, to_layout, two_biases
from ._nets import Layer, Part, check_cells, check_merge, join, take_apart
from ._source import check_tensor, is_path

__all__ = ["from_keras", "to_keras"]
__dir__ = __all__.copy

LAYERS = (*_keras_files.RECURRENT, "StackedRNNCells", "ConvLSTMCell")
LAYERS += tuple(f"{name}Cell" for name in NAMES.values())


def from_keras(
    source: Any,
    *,
    layers: Sequence[str] | None = None,
    bidirectional: bool = False,
    merge: str | None = "concat",
    activation: str = "tanh",
    reset_after: bool = True,
    input_shape: Sequence[int] | None = None,
    conv: Mapping[str, Any] | None = None,
    double_bias: bool = False,
) -> tuple[Any, Params]:
    """Read a Keras layer, model, list of weights or file as (net, params).

    Dropout is not converted, neither layers nor options.

    Args:
        source: a built SimpleRNN, LSTM, GRU, ConvLSTM, one of their cells, RNN, Bidirectional, or
            a Sequential of these; the list that `get_weights()` gives, Keras 2's CuDNNLSTM's and
            CuDNNGRU's too; or the path of a .keras, .weights.h5 or older .h5 file.
        layers: the names of the layers of a model or file to convert, in order; None: all, if no
            other layer is among the recurrent ones.
        bidirectional, merge: for a list of weights: whether the layers are bidirectional, and their
            `merge_mode` by its name in `lstm_jax.bidirectional`.
        activation: for weights alone: the activation of a SimpleRNN. Other cells are assumed to
            have Keras's default.
        reset_after: for weights alone: the form of a GRU without a bias.
        input_shape: for weights alone and older .h5 files: the spatial sizes of the inputs of a
            ConvLSTM, such as (28, 28).
        conv: for weights alone: strides, padding and dilation of a ConvLSTM, by their names in
            `lstm_jax.ConvLSTM`.
        double_bias: keep the two biases of a GRU apart, to train exactly like Keras.

    Returns:
        (net, params). For `return_sequences=False` use ys[-1]; for batch-major inputs pass
        `time_major=False` to `unroll`.

    Raises:
        ValueError: a layer or an option without a counterpart here; a tensor of a wrong shape or
            not finite.
        FileNotFoundError: no such file.
        ImportError: an .h5 or .keras file, but h5py is not installed.
    """
    options = {"activation": activation, "reset_after": reset_after, "conv": conv}
    if isinstance(source, (list, tuple)):
        named = from_cudnn([(f"weights[{n}]", array) for n, array in enumerate(source)])
        found = guess([array for _, array in named], bidirectional, merge, options)
    elif is_path(source):
        config, groups = _keras_files.read(source, layers)
        named = {name: from_cudnn(group) for name, group in groups.items()}
        found = plans(config) if config else guess_groups(named, merge, options)
        named = [(name, array) for group in named.values() for name, array in group]
    else:
        config = _keras_files.chosen(_config(source), layers)
        named = _module_weights(source, [layer["config"]["name"] for layer in config])
        found = plans(config)
    return join(_read(found, named, input_shape, double_bias))


def to_keras(net: Any, params: Params, *, file: Any = None) -> list[np.ndarray]:
    """Write the weights of Keras's layers, in the order of `set_weights`.

    Args:
        net, params: a cell, or a stack of cells, each in one or both directions.
        file: a path to write atomically too: a .keras file holds a Sequential model of the layers,
            which `keras.saving.load_model` reads; a .weights.h5 file its weights.

    Raises:
        ValueError: Keras has no such net; a file of another suffix.
        ImportError: `file` is given, but h5py is not installed.
    """
    layers = take_apart(net, params)
    check_cells(layers, "keras", HELD)
    check_merge(layers, "keras", (*MERGES.values(),))
    configs = [_layer_config(layer) for layer in layers]
    weights = [[_write(part) for part in layer.parts] for layer in layers]
    if file is not None:
        space = getattr(layers[0].parts[0].cell, "input_shape", ())
        _keras_files.write(file, configs, weights, (*space, layers[0].input_size))
    return [array for layer in weights for part in layer for array in part]


# ---- in ------------------------------------------------------------------------------------------
def _config(source: Any) -> dict[str, Any]:
    if not hasattr(source, "get_config") or not hasattr(source, "weights"):
        kind = type(source).__name__
        wanted = "a Keras layer or model, its weights, or a file"
        raise fail("source", f"a {kind}", wanted, "pass one of these")
    config = {"class_name": type(source).__name__, "config": source.get_config()}
    return config | {"build_config": source.get_build_config()}


def _module_weights(source: Any, names: Sequence[str]) -> list[tuple[str, Any]]:
    """List (name, array) of each weight of the layers `names`."""
    inner = {layer.name: layer for layer in getattr(source, "layers", ())}
    picked = [inner.get(name, source) for name in names]
    for part in (part for layer in picked for part in layer._flatten_layers()):
        kind = type(part).__name__
        if known_kind(part.name, part, "keras", LAYERS) is None and kind in LAYERS:
            raise fail(part.name, f"a {kind} of {type(part).__module__}", "keras's", REMEDY)
    return [(variable.path, variable.value) for layer in picked for variable in layer.weights]


def _read(
    found: list[Plan], named: list[tuple[str, Any]], space: Any, double_bias: bool
) -> list[Layer]:
    """Read the layers; `space` is the spatial sizes of the first layer's inputs, if known."""
    layers: list[Layer] = []
    rest, size = list(named), None
    for n, plan in enumerate(found):
        parts = []
        for config in plan.cells:
            names = ["kernel", "recurrent_kernel", "bias"][: 2 + config["config"]["use_bias"]]
            if len(rest) < len(names):
                place = f"{config['config'].get('name', f'layer {n}')}'s {names[len(rest)]}"
                remedy = "build the layer, or pass all that get_weights() gives"
                raise fail(place, counted(len(named), "array") + " without it", "a tensor", remedy)
            cell = cell_of(config, space, double_bias)
            parts.append(_read_part(cell, rest[: len(names)], size))
            rest = rest[len(names) :]
        layers.append(Layer(tuple(parts), plan.merge))
        size, space = layers[-1].output_size, getattr(parts[0].cell, "output_shape", None)
    if rest:
        remedy = "pass a recurrent layer's weights alone"
        raise fail(rest[0][0], "an unexpected tensor", "no more than the cells have", remedy)
    if not layers:
        raise fail("source", "no recurrent layer", "one or more", "pass SimpleRNN, LSTM or GRU")
    return layers


def _read_part(cell: Any, named: list[tuple[str, Any]], size: int | None) -> Part:
    kind, units = type(cell).__name__, cell.hidden_size
    columns, window = len(cell.gate_names) * units, getattr(cell, "kernel_shape", ())
    two = kind == "GRU" and cell.reset_after
    wanted = {
        "kernel": ("[*kernel_shape, D, G*H]" if window else "[D, G*H]", *window, size, columns),
        "recurrent_kernel": ("[..., H, G*H]" if window else "[H, G*H]", *window, units, columns),
        "bias": ("[2, 3H]", 2, columns) if two else ("[G*H]", columns),
    }
    arrays = [
        from_layout("keras", kind, check_tensor(f"{path} ({name})", array, *wanted[name]))
        for name, (path, array) in zip(wanted, named, strict=False)
    ]
    params = {"w_ih": arrays[0], "w_hh": arrays[1]}
    if cell.bias:
        params |= bias_params(cell, *(arrays[2] if two else arrays[2:]))
    return Part(cell, params)


# ---- out -----------------------------------------------------------------------------------------
def _write(part: Part) -> list[np.ndarray]:
    cell, params = part
    kind = type(cell).__name__
    arrays = [params["w_ih"], params["w_hh"]]
    if cell.bias and kind == "GRU" and cell.reset_after:
        arrays.append(np.stack(two_biases(cell, params)))
    elif cell.bias:
        arrays.append(one_bias(cell, params)[0])
    return [np.array(to_layout("keras", kind, array)) for array in arrays]


def _layer_config(layer: Layer) -> dict[str, Any]:
    """Write the configuration of the Keras layer with these equations."""
    configs = [config_of(cell) for cell, _ in layer.parts]
    if space := getattr(layer.parts[0].cell, "input_shape", ()):
        for config in configs:
            config["build_config"] = {"input_shape": [None, None, *space, layer.input_size]}
    if len(configs) == 1:
        return configs[0]
    ahead, back = configs
    back["config"]["go_backwards"] = True
    merge = {ours: theirs for theirs, ours in MERGES.items()}[layer.merge]
    options = {"layer": ahead, "backward_layer": back, "merge_mode": merge}
    return {"class_name": "Bidirectional", "config": options}
