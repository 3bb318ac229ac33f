"""Conversion between nets and lists of layers, the form of other libraries."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cells.base import Cell
from .._checks import fail, unboxed
from .._layers import Bidirectional, Stack, bidirectional, stack
from .._net import check_net

LIBRARY = __name__.split(".")[0]
WITHOUT_EFFECT = ("dtype", "_init")
"""Endings of the names of options that do not change the equations."""


class Part(NamedTuple):
    """One direction of one layer: a cell and its parameters as NumPy arrays."""

    cell: Any
    params: dict[str, np.ndarray]


class Layer(NamedTuple):
    """One layer: one part, or a forward and a backward part whose outputs `merge` combines."""

    parts: tuple[Part, ...]
    merge: str | None = "concat"

    @property
    def input_size(self) -> int:
        return self.parts[0].params["w_ih"].shape[-2]

    @property
    def output_size(self) -> int:
        widths = [part.params["w_hh"].shape[-2] for part in self.parts]
        return sum(widths) if self.merge == "concat" else widths[0]


# ---- in ------------------------------------------------------------------------------------------
def join(layers: Sequence[Layer], dropout: float = 0.0) -> tuple[Any, Any]:
    """Join layers into (net, params): a stack, or the only layer.

    Raises:
        ValueError: the input size of a layer is not the output size of the layer before.
    """
    for n, (below, layer) in enumerate(itertools.pairwise(layers), 1):
        if layer.input_size != below.output_size:
            wanted = f"D = {below.output_size}, the size of the outputs of layer {n - 1}"
            remedy = "pass the layers of one stack, in order"
            raise fail(f"layer {n}", f"D = {layer.input_size}", wanted, remedy)
    nets = [_join_directions(layer) for layer in layers]
    if len(nets) == 1:
        net, params = nets[0]
    else:
        net = stack(*(net for net, _ in nets), dropout=dropout)
        params = {str(n): params for n, (_, params) in enumerate(nets)}
    return net, jax.tree.map(jnp.asarray, params)


def _join_directions(layer: Layer) -> tuple[Any, Any]:
    if len(layer.parts) == 1:
        return layer.parts[0]
    forward, backward = layer.parts
    net = bidirectional(forward.cell, backward.cell, merge=layer.merge)
    return net, {"forward": forward.params, "backward": backward.params}


# ---- out -----------------------------------------------------------------------------------------
def take_apart(net: Any, params: Any) -> list[Layer]:
    """Split `net` into its layers, in order.

    Raises:
        ValueError: the net is not a stack of cells, or params are not of this net.
    """
    check_net("net", net, "(net, params, ...)")
    return _layers(net, unboxed(params))


def _layers(net: Any, params: Any) -> list[Layer]:
    if isinstance(net, Stack):
        if net.skip:
            remedy = "export its layers one by one"
            raise fail("net", f"stack(skip={net.skip!r})", "layers one after another", remedy)
        parts = ((part, _child(params, name)) for name, part in net.parts.items())
        return [layer for part, inner in parts for layer in _layers(part, inner)]
    if isinstance(net, Bidirectional):
        parts = tuple(_part(part, _child(params, name)) for name, part in net.parts.items())
        return [Layer(parts, net.merge)]
    return [Layer((_part(net, params),))]


def _child(params: Any, name: str) -> Any:
    if not isinstance(params, Mapping) or name not in params:
        seen = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        raise fail("params", seen, f"{name!r} among its keys", "pass the net's own parameters")
    return params[name]


def _part(cell: Any, params: Any) -> Part:
    if not isinstance(cell, Cell):
        wanted = "a stack of cells, each in one or both directions"
        remedy = "export the cells inside one by one"
        raise fail("net", f"a {type(cell).__name__}", wanted, remedy)
    if not isinstance(params, Mapping):
        wanted = "a dict of arrays"
        raise fail("params", f"a {type(params).__name__}", wanted, "pass the cell's own parameters")
    return Part(cell, {name: np.asarray(leaf) for name, leaf in params.items()})


# ---- what another library supports ---------------------------------------------------------------
def check_cells(
    layers: Iterable[Layer], layout: str, held: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise unless `layout` has every cell with its options, and the params fit the cells.

    Args:
        layers: as from `take_apart`.
        layout: the other library's name.
        held: the supported options by the cell's name, each with its supported values (None:
            any). Any other option must be at its default.

    Raises:
        ValueError: a cell, an option or a tensor is not supported.
    """
    for layer in layers:
        for cell, params in layer.parts:
            kind = type(cell).__name__
            if kind not in held or type(cell).__module__.split(".")[0] != LIBRARY:
                known = ", ".join(held)
                remedy = "train one of these"
                raise fail("net", f"a {kind}", f"a cell that {layout} has: {known}", remedy)
            for field in dataclasses.fields(cell):
                _check_option(cell, field, layout, held[kind])
            _check_params(cell, params)


def _check_params(cell: Any, params: Mapping[str, np.ndarray]) -> None:
    remedy = "pass the net's own parameters"
    shape = (1, 1, *params["w_ih"].shape) if "w_ih" in params else (1, 1)
    wanted = jax.eval_shape(lambda: cell.init(jax.random.key(0), shape[-2]))
    for name in sorted(wanted.keys() ^ params.keys()):
        seen = "none" if name in wanted else "an unexpected tensor"
        raise fail(f"params[{name!r}]", seen, f"those of {cell}", remedy)
    for name, leaf in wanted.items():
        if params[name].shape != leaf.shape:
            seen = f"shape {params[name].shape}"
            raise fail(f"params[{name!r}]", seen, f"{leaf.shape} of {cell}", remedy)


def _check_option(cell: Any, field: Any, layout: str, held: Mapping[str, Any]) -> None:
    value = getattr(cell, field.name)
    if field.name == "hidden_size" or field.name.endswith(WITHOUT_EFFECT):
        return
    allowed = held.get(field.name, (field.default,))
    if allowed is not None and value not in allowed:
        option = f"{type(cell).__name__}({field.name}={value!r})"
        values = " or ".join(f"{field.name}={choice!r}" for choice in allowed)
        remedy = WHY.get(field.name, "another equation cannot be put into weights")
        raise fail("net", option, f"{values}, which is all that {layout} has", remedy)


WHY = {
    "reset_after": "where the reset gate stands changes the equation, so no weights make up for "
    "it: train a GRU of the other form, or use keras or onnx, which have both",
    "activation": "the activation is a part of the equation: train with the other one",
    "heads": "write the blocks into one [H, G*H] matrix and use heads=1",
    "projection_size": "use torch, which has it (proj_size)",
    "peepholes": "use onnx, which has them",
    "coupled": "use onnx, which has it (input_forget)",
    **dict.fromkeys(("strides", "padding", "dilation"), "use keras, which has it"),
}


def check_merge(layers: Iterable[Layer], layout: str, merges: Sequence[Any] = ("concat",)) -> None:
    """Raise unless `layout` has the merge of every bidirectional layer."""
    for layer in layers:
        if len(layer.parts) == 2 and layer.merge not in merges:
            names = " or ".join(f"merge={merge!r}" for merge in merges)
            wanted = f"{names}, which is all that {layout} has"
            remedy = "export the two directions one by one"
            raise fail("net", f"bidirectional(merge={layer.merge!r})", wanted, remedy)


def check_one_direction(layers: Iterable[Layer], layout: str) -> None:
    """Raise if a layer is bidirectional."""
    for layer in layers:
        if len(layer.parts) == 2:
            remedy = "export the two directions one by one"
            raise fail("net", "two directions", f"one, which is all that {layout} has", remedy)


def check_alike(layers: Sequence[Layer], layout: str) -> None:
    """Raise unless all layers have the same kind of cell, size and directions."""
    first = layers[0]
    for n, layer in enumerate(layers):
        for cell, _ in layer.parts:
            if _signature(cell, layer) != _signature(first.parts[0].cell, first):
                seen = f"{cell!r} in layer {n} and {first.parts[0].cell!r} in layer 0"
                wanted = f"layers of one cell, size and direction, as {layout} has them"
                raise fail("net", seen, wanted, "export the layers one by one")


def _signature(cell: Any, layer: Layer) -> tuple[Any, ...]:
    options = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}
    names = ("hidden_size", "activation", "reset_after", "projection_size")
    return type(cell), len(layer.parts), *(options.get(name) for name in names)
