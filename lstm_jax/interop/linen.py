"""flax.linen: LSTMCell, OptimizedLSTMCell, GRUCell, MGUCell, SimpleCell; RNN, Bidirectional.

A cell is a tree with a Dense layer a gate: the input side's and the recurrent side's.

    LSTM        ii if ig io {kernel}        hi hf hg ho {kernel, bias}
    GRU         ir iz in {kernel, bias}     hr hz {kernel}, hn {kernel, bias}
    MGU         if in {kernel, bias}        hf {kernel}, hn {kernel[, bias]}, bias if reset_gate
    SimpleCell  i {kernel, bias}            h {kernel}

flax's carry of an LSTM is (c, h); here it is LSTMState(h, c).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.minimal import MGU
from .._cells.rnn import ACTIVATIONS, RNN
from .._checks import fail
from .._typing import Params
from ._layout import OURS, bias_params, join_gates, one_bias, split_gates
from ._nets import Layer, Part, check_cells, check_merge, join, take_apart
from ._source import Tensors

HELD = {
    "RNN": {"activation": None, "bias": None, "double_bias": None},
    "LSTM": {"bias": None, "double_bias": None},
    "GRU": {"bias": None, "double_bias": None},
    "MGU": {"bias": None, "double_bias": None, "reset_gate": None},
}
DENSE = {
    "RNN": {"i": "h", "h": "h"},
    "LSTM": {f"{side}{gate}": gate for gate in "ifgo" for side in "ih"},
    "GRU": {f"{side}{gate}": gate for gate in "rzn" for side in "ih"},
    "MGU": {f"{side}{gate}": gate for gate in "fn" for side in "ih"},
}
"""The Dense layers of each cell, and their gates."""
LETTERS = {"kernel": "[D or H, H]", "bias": "[H]"}


def from_linen(
    params: Any, *, merge: str | None = "concat", activation: Any = "tanh", dropout: float = 0.0
) -> tuple[Any, Params]:
    """(net, params) of a tree of linen's parameters.

    Args:
        params: what `module.init` gives, or a part of it: a cell's tree, that of an RNN
            {"cell": ...}, of a Bidirectional {"forward_rnn": ..., "backward_rnn": ...}, or several
            of these under names that end in a number (a Sequential's layers_0, layers_1, ...),
            which become a stack.
        merge: of a Bidirectional, whose tree does not tell.
        activation: of a SimpleCell, whose tree does not tell.
        dropout: between the layers of a stack, which linen keeps outside them.

    Returns:
        (net, params). A linen module with residual=True or another gate_fn has another equation,
        which its tree does not show.

    Raises:
        ValueError: a tree of another form, or a tensor that is missing, of a wrong shape or not
            finite.
    """
    layers = read_layers(params, lambda name, node: read_cell(name, node, activation))
    return join([layer._replace(merge=merge) for layer in layers], dropout)


def to_linen(net: Any, params: Params) -> dict[str, Any]:
    """The variables {"params": ...} of linen's module with the same numbers, as NumPy arrays.

    A cell gives those of `nn.RNN(cell)`, two directions those of `nn.Bidirectional`, a stack those
    of `nn.Sequential` of these. A cell without a bias gets one of zeros.

    Raises:
        ValueError: the net is one that linen does not have; the message says why.
    """
    layers = take_apart(net, params)
    check_cells(layers, "linen", HELD)
    check_merge(layers, "linen", ("concat", "sum", "mul", "mean"))
    return {"params": write_layers(layers, write_cell)}


# ---- trees, which nnx has too --------------------------------------------------------------------
def read_layers(tree: Any, read: Any) -> list[Layer]:
    """The layers of a tree of RNNs, `read(name, node)` giving a Part of a cell's node."""
    if isinstance(tree, Mapping) and set(tree) == {"params"}:
        tree = tree["params"]
    return _read_node("params", tree, read)


def _read_node(name: str, node: Any, read: Any) -> list[Layer]:
    if not isinstance(node, Mapping) or not node:
        raise fail(name, f"a {type(node).__name__}", "a tree of a recurrent net", "pass such a one")
    keys = [str(key) for key in node]
    if keys == ["layers"] or keys == ["cell"]:
        return _read_node(f"{name}/{keys[0]}", node[keys[0]], read)
    if set(keys) == {"forward_rnn", "backward_rnn"}:
        halves = [_read_node(f"{name}/{key}", node[key], read) for key in sorted(keys)[::-1]]
        return [Layer(tuple(layer.parts[0] for half in halves for layer in half))]
    if all(re.search(r"\d$", key) for key in keys):
        if len({re.sub(r"\d+$", "", key) for key in keys}) > 1:
            remedy = "pass one layer's part of the tree"
            raise fail(name, f"keys {sorted(keys)}", "layers of one name and a number", remedy)
        order = sorted(node, key=lambda key: int(re.findall(r"\d+$", str(key))[0]))
        return [layer for key in order for layer in _read_node(f"{name}/{key}", node[key], read)]
    return [Layer((read(name, node),))]


def write_layers(layers: list[Layer], write: Any) -> dict[str, Any]:
    """The tree of `layers`, `write(part)` giving a cell's node."""
    trees = []
    for layer in layers:
        cells = [{"cell": write(part)} for part in layer.parts]
        names = ("forward_rnn", "backward_rnn")
        trees.append(cells[0] if len(cells) == 1 else dict(zip(names, cells, strict=True)))
    if len(trees) == 1:
        return trees[0]
    return {f"layers_{n}": tree for n, tree in enumerate(trees)}


# ---- one cell ------------------------------------------------------------------------------------
def read_cell(name: str, node: Mapping[str, Any], activation: Any) -> Part:
    """One cell's tree. The names of its Dense layers tell which cell it is."""
    kinds = [kind for kind, dense in DENSE.items() if set(dense) == set(node)]
    if not kinds:
        known = "; ".join(f"{kind}: {' '.join(dense)}" for kind, dense in DENSE.items())
        remedy = "pass the recurrent module's part of the tree"
        raise fail(name, f"keys {sorted(map(str, node))}", f"a cell's: {known}", remedy)
    kind = kinds[0]
    flat = {f"{name}/{dense}/{leaf}": array for dense, inner in node.items()
            for leaf, array in inner.items()}  # fmt: skip
    tensors = Tensors(flat, "pass a cell's tree alone")
    size = None
    sides: dict[str, dict[str, Any]] = {"i": {}, "h": {}}
    for dense, gate in DENSE[kind].items():
        path = f"{name}/{dense}/kernel"
        first = (None, None) if size is None else (None, size)
        shape = (size, size) if dense[0] == "h" and size else first
        sides[dense[0]][gate] = kernel = tensors.take(path, LETTERS["kernel"], *shape)
        size = kernel.shape[1]
    assert size is not None
    biases = _read_biases(kind, name, tensors, size, sides["h"])
    reset_gate = f"{name}/hn/bias" in flat
    tensors.finish()
    cell = {
        "RNN": lambda: RNN(size, activation),
        "LSTM": lambda: LSTM(size),
        "GRU": lambda: GRU(size),
        "MGU": lambda: MGU(size, reset_gate),
    }[kind]()
    weights = {"w_ih": join_gates(kind, sides["i"]), "w_hh": join_gates(kind, sides["h"])}
    return Part(cell, weights | bias_params(cell, *biases))


def _read_biases(
    kind: str, name: str, tensors: Tensors, size: int, like: Mapping[str, Any]
) -> list[np.ndarray]:
    """The bias of the input side and of the recurrent side, with zeros where there is none.

    Which Dense layers must have one is the cell's; what is beyond it is left over.
    """
    wanted = {"RNN": ["i"], "LSTM": ["hi", "hf", "hg", "ho"],
              "GRU": ["ir", "iz", "in", "hn"], "MGU": ["if", "in"]}[kind]  # fmt: skip
    if f"{name}/hn/bias" in tensors and kind == "MGU":
        wanted = [*wanted, "hn"]
    sides = {}
    for side in "ih":
        sides[side] = {gate: np.zeros_like(like[gate][0]) for gate in OURS[kind]}
    for dense in wanted:
        path = f"{name}/{dense}/bias"
        sides[dense[0]][DENSE[kind][dense]] = tensors.take(path, LETTERS["bias"], size)
    return [join_gates(kind, sides[side]) for side in "ih"]


def write_cell(part: Part) -> dict[str, Any]:
    """One cell's tree."""
    cell, params = part
    kind = type(cell).__name__
    kernels = {"i": split_gates(kind, params["w_ih"]), "h": split_gates(kind, params["w_hh"])}
    tree = {
        dense: {"kernel": np.array(kernels[dense[0]][gate])} for dense, gate in DENSE[kind].items()
    }
    b, b_hn = one_bias(cell, params)
    side = "h" if kind == "LSTM" else "i"
    for dense, gate in DENSE[kind].items():
        if dense[0] == side:
            tree[dense]["bias"] = np.array(split_gates(kind, b)[gate])
    if kind == "GRU" or (kind == "MGU" and cell.reset_gate):
        tree["hn"]["bias"] = np.array(b_hn)
    return tree


def name_of(activation: Any) -> Any:
    """The name of an activation of flax, where this library has one for it, else itself."""
    name = getattr(activation, "__name__", "")
    return name if name in ACTIVATIONS else activation
