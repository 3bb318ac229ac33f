"""The layers of a Keras model, as its configuration or the shapes of its weights tell them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import fail
from ._keras_cells import NAMES, kind_of
from ._layout import count_gates
from ._source import as_numpy

MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "mean", None: None}
"""Keras's names of merges, and ours."""


class Plan(NamedTuple):
    """One layer as its configuration tells it: a configuration for each direction."""

    cells: tuple[Mapping[str, Any], ...]
    merge: str | None = "concat"


# ---- what a configuration says -------------------------------------------------------------------
def plans(configs: Sequence[Mapping[str, Any]]) -> list[Plan]:
    return [plan for config in configs for plan in _plan(config)]


def _plan(config: Mapping[str, Any]) -> list[Plan]:
    """The layers that one Keras layer makes."""
    kind, options = config["class_name"], config["config"]
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


def _check_forward(kind: str, options: Mapping[str, Any]) -> None:
    if options.get("go_backwards"):
        remedy = "make it forward, and call unroll(reverse=True), whose ys stay aligned to xs"
        seen = f"{kind}(go_backwards=True)"
        raise fail(options.get("name", kind), seen, "a layer that goes forward", remedy)


def _cells(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configurations of the cells in a layer."""
    kind, options = config["class_name"], config["config"]
    if kind == "RNN":
        return _cells(options["cell"])
    if kind == "StackedRNNCells":
        return [cell for inner in options["cells"] for cell in _cells(inner)]
    if kind_of(kind) is None:
        wanted = "SimpleRNN, LSTM, GRU, ConvLSTM, RNN, Bidirectional"
        remedy = "name the recurrent layers in `layers`, or train one of these"
        raise fail(options.get("name", "layer"), f"a {kind}", wanted, remedy)
    return [config]


# ---- what shapes say -----------------------------------------------------------------------------
def guess(
    arrays: Sequence[Any], bidirectional: bool, merge: str | None, options: Mapping[str, Any]
) -> list[Plan]:
    """The layers of a list of weights, from its shapes."""
    arrays, cells = [as_numpy(array) for array in arrays], []
    while arrays:
        recurrent = arrays[1] if len(arrays) > 1 else np.zeros(0)
        if recurrent.ndim != 2:
            raise fail("weights", f"shape {recurrent.shape}", "a recurrent_kernel [H, G*H]",
                       "pass what get_weights() gives")  # fmt: skip
        units, columns = map(int, recurrent.shape)
        kind = count_gates("recurrent_kernel", columns, units)
        shape = arrays[2].shape if len(arrays) > 2 else ()
        use_bias = shape in ((columns,), (2, columns)) and (kind == "GRU" or len(shape) == 1)
        config = {"units": units, "use_bias": use_bias}
        if kind == "RNN":
            config["activation"] = options["activation"]
        if kind == "GRU":
            config["reset_after"] = len(shape) == 2 if use_bias else options["reset_after"]
        cells.append({"class_name": NAMES[kind], "config": config})
        arrays = arrays[2 + use_bias :]
    if not bidirectional:
        return [Plan((cell,)) for cell in cells]
    if len(cells) % 2:
        remedy = "pass bidirectional=False"
        raise fail("weights", f"{len(cells)} cells", "two a bidirectional layer", remedy)
    return [Plan(pair, merge) for pair in zip(cells[::2], cells[1::2], strict=True)]


def guess_groups(
    groups: Mapping[str, Sequence[tuple[str, Any]]], merge: str | None, options: Mapping[str, Any]
) -> list[Plan]:
    return [
        plan
        for name, group in groups.items()
        for plan in guess([a for _, a in group], name.startswith("bidirectional"), merge, options)
    ]
