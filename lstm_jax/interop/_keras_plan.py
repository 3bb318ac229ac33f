"""The layers of a Keras model, from its configuration or from the shapes of its weights."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._checks import counted, fail, shown
from ._keras_cells import NAMES, kind_of
from ._layout import count_gates
from ._source import as_numpy

MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "mean", None: None}
"""Names of merges in Keras and here."""


class Plan(NamedTuple):
    """One layer of a Keras model: the configuration of the cell of each direction."""

    cells: tuple[Mapping[str, Any], ...]
    merge: str | None = "concat"


# ---- from a configuration ------------------------------------------------------------------------
def plans(configs: Sequence[Mapping[str, Any]]) -> list[Plan]:
    return [plan for config in configs for plan in _plan(config)]


def _plan(config: Mapping[str, Any]) -> list[Plan]:
    """The layers that a Keras layer consists of."""
    kind, options = config["class_name"], config["config"]
    _check_keras(config)
    _check_forward(kind, options)
    if kind == "Bidirectional":
        ahead, back = options["layer"], options.get("backward_layer") or options["layer"]
        _check_forward(kind, ahead["config"])
        cells = (*_cells(ahead), *_cells(back))
        if len(cells) > 2:
            remedy = "stack Bidirectional layers instead"
            raise fail(options["name"], "Bidirectional(RNN([cells]))", "one cell inside", remedy)
        return [Plan(cells, MERGES[options["merge_mode"]])]
    return [Plan((cell,)) for cell in _cells(config)]


def _check_keras(config: Mapping[str, Any]) -> None:
    """Raise if a configuration is of a user's class, even one named like Keras's."""
    module = str(config.get("module") or "keras")
    if module.split(".")[0] not in ("keras", "tf_keras", "tensorflow"):
        remedy = "pass its weights alone, if its equation is that of Keras's class"
        name = config["config"].get("name", "layer")
        raise fail(name, f"a {config['class_name']} of {module}", "a class of Keras", remedy)


def _check_forward(kind: str, options: Mapping[str, Any]) -> None:
    if options.get("go_backwards"):
        remedy = "make it forward, and call unroll(reverse=True), whose ys stay aligned to xs"
        seen = f"{kind}(go_backwards=True)"
        raise fail(options.get("name", kind), seen, "a layer that goes forward", remedy)


def _cells(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Configurations of the cells of a layer."""
    kind, options = config["class_name"], config["config"]
    _check_keras(config)
    if kind == "RNN":
        return _cells(options["cell"])
    if kind == "StackedRNNCells":
        return [cell for inner in options["cells"] for cell in _cells(inner)]
    if kind_of(kind) is None:
        wanted = "SimpleRNN, LSTM, GRU, ConvLSTM, RNN, Bidirectional"
        remedy = "name the recurrent layers in `layers`, or train one of these"
        raise fail(options.get("name", "layer"), f"a {kind}", wanted, remedy)
    if kind.startswith("CuDNN"):  # Its equation is fixed, with a bias.
        return [{**config, "config": {**options, "use_bias": True}}]
    if not isinstance(options.get("use_bias"), bool):
        seen, remedy = shown(options.get("use_bias")), "pass what get_config() gives"
        raise fail(f"{options.get('name', kind)}'s use_bias", seen, "True or False", remedy)
    return [config]


# ---- from shapes ---------------------------------------------------------------------------------
def guess(
    arrays: Sequence[Any], bidirectional: bool, merge: str | None, options: Mapping[str, Any]
) -> list[Plan]:
    """Infer the layers of a list of weights from their shapes."""
    arrays, cells = [as_numpy(array) for array in arrays], []
    taken = 0
    while taken < len(arrays):
        cell = _guess_cell(taken, arrays[taken : taken + 3], options)
        taken += 2 + cell["config"]["use_bias"]
        cells.append(cell)
    if not bidirectional:
        return [Plan((cell,)) for cell in cells]
    if len(cells) % 2:
        remedy = "pass bidirectional=False"
        raise fail("weights", counted(len(cells), "cell"), "two a bidirectional layer", remedy)
    return [Plan(pair, merge) for pair in zip(cells[::2], cells[1::2], strict=True)]


def _guess_cell(n: int, arrays: list[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Infer the configuration of the cell with the kernel weights[n], the first of `arrays`."""
    if arrays[0].ndim not in (2, 3, 4, 5):
        wanted = "a kernel [D, G*H], or a bias [G*H] of the cell before"
        raise fail(f"weights[{n}]", f"shape {arrays[0].shape}", wanted, "pass weights that fit")
    if len(arrays) < 2 or arrays[1].ndim != arrays[0].ndim:
        seen = "none" if len(arrays) < 2 else f"shape {arrays[1].shape}"
        remedy = "pass what get_weights() gives"
        raise fail(f"weights[{n + 1}]", seen, "a recurrent_kernel [..., H, G*H]", remedy)
    units, columns = map(int, arrays[1].shape[-2:])
    kind = count_gates(f"weights[{n + 1}] (recurrent_kernel)", columns, units)
    shape = arrays[2].shape if len(arrays) > 2 else ()
    use_bias = shape in ((columns,), (2, columns)) and (kind == "GRU" or len(shape) == 1)
    config = {"units": units, "use_bias": use_bias}
    if arrays[0].ndim > 2:
        return _guess_conv(f"weights[{n}]", kind, arrays[0].shape[:-2], config, options["conv"])
    if kind == "RNN":
        config["activation"] = options["activation"]
    if kind == "GRU":
        config["reset_after"] = len(shape) == 2 if use_bias else options["reset_after"]
    return {"class_name": NAMES[kind], "config": config}


def _guess_conv(name: str, kind: str, window: Any, config: Any, conv: Any) -> dict[str, Any]:
    known = ("strides", "padding", "dilation")
    if conv is None or sorted(conv) != sorted(known):
        seen = "None" if conv is None else sorted(conv)
        remedy = 'pass them, such as {"strides": 1, "padding": "valid", "dilation": 1}'
        raise fail("conv", seen, f"the {', '.join(known)} of a ConvLSTM, {name}", remedy)
    if kind != "LSTM":
        raise fail(name, f"a kernel of a {kind}", "4H channels of a ConvLSTM", "pass one's weights")
    config = {"filters": config["units"], "use_bias": config["use_bias"], "kernel_size": window,
              "strides": conv["strides"], "padding": conv["padding"],
              "dilation_rate": conv["dilation"]}  # fmt: skip
    return {"class_name": f"ConvLSTM{len(window)}D", "config": config}


def guess_groups(
    groups: Mapping[str, Sequence[tuple[str, Any]]], merge: str | None, options: Mapping[str, Any]
) -> list[Plan]:
    """Infer the layers of named groups of weights from shapes and names."""
    found: list[Plan] = []
    for name, group in groups.items():
        both = name.startswith("bidirectional") or any("/backward_" in path for path, _ in group)
        found += guess([array for _, array in group], both, merge, options)
    return found
