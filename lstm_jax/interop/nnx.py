"""Conversion to and from flax.nnx: its cells, RNN, Bidirectional and Sequential.

    LSTMCell            as linen's, with if_ for if
    OptimizedLSTMCell   dense_i {kernel [D, 4H]}        dense_h {kernel [H, 4H], bias [4H]}
    GRUCell             dense_i {kernel [D, 3H], bias}  dense_h {kernel [H, 3H]}, so b_hn = 0
    SimpleCell          dense_i {kernel [D, H], bias}   dense_h {kernel [H, H]}

flax's carry of an LSTM is (c, h); here it is LSTMState(h, c).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import fail
from .._typing import Params
from ._flax import read_layers, write_layers
from ._kinds import REMEDY, known_kind
from ._layout import bias_params, count_gates, from_layout, one_bias, to_layout
from ._nets import Part, check_cells, check_merge, join, take_apart
from .linen import is_jaxs, name_of, read_cell, tensors_of, write_cell

__all__ = ["from_nnx", "to_nnx"]
__dir__ = __all__.copy

HELD = {
    "RNN": {"activation": None, "bias": None, "double_bias": None},
    "LSTM": {"bias": None, "double_bias": None},
    "GRU": {"bias": None, "double_bias": None},
}
RENAMED = {"if_": "if"}
CELLS = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")
CONTAINERS = ("RNN", "Bidirectional", "Sequential")
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": np.add,
    "mul": np.multiply,
    "mean": lambda a, b: (a + b) / 2,
}


def from_nnx(
    source: Any, *, merge: str | None = "concat", activation: Any = "tanh", dropout: float = 0.0
) -> tuple[Any, Params]:
    """Read an nnx module or its state as (net, params).

    Args:
        source: a cell, an RNN, a Bidirectional of RNNs or a Sequential of these; or its state,
            nested dicts of arrays or Params (`nnx.to_pure_dict(nnx.state(module, nnx.Param))`).
        merge: the merge_fn of a Bidirectional, by its name in `bidirectional`; a module's merge_fn
            is run to check it.
        activation: the activation of a SimpleCell, if only its state is given.
        dropout: rate of dropout between the layers of a stack, which nnx's layers do not hold.

    Returns:
        (net, params). A GRU gets a b_hn of zeros, which nnx lacks; it is trained too. The compute
        dtype of a module is ignored.

    Raises:
        ValueError: a module or tree of another form, a subclass with another equation,
            residual=True, another gate function; a tensor that is missing, of a wrong shape or not
            finite.
    """
    tree = source
    if not isinstance(source, Mapping):
        tree, activations = _tree("source", source, merge)
        if len(activations) > 1:
            seen = " and ".join(sorted(map(str, activations)))
            raise fail("source", seen, "SimpleCells of one activation", "pass them one by one")
        activation = activations.pop() if activations else activation
    layers = read_layers(tree, lambda name, node: _read(name, node, activation))
    return join([layer._replace(merge=merge) for layer in layers], dropout)


def to_nnx(net: Any, params: Params, *, optimized: bool = True) -> dict[str, Any]:
    """Write the state of nnx's module, as nested dicts of NumPy arrays.

        state = nnx.state(module, nnx.Param)
        nnx.replace_by_pure_dict(state, to_nnx(net, params)); nnx.update(module, state)

    The module of a cell is `nnx.RNN(cell)`, of two directions `nnx.Bidirectional`, of a stack
    `nnx.Sequential` of these.

    Args:
        net, params: a cell, or a stack of cells, each in one or both directions.
        optimized: write an LSTM as an OptimizedLSTMCell (two Dense layers); False: as an LSTMCell
            (eight).

    Raises:
        ValueError: nnx has no such net, for example no GRU with a b_hn that is not zero.
    """
    layers = take_apart(net, params)
    check_cells(layers, "nnx", HELD)
    check_merge(layers, "nnx", ("concat", "sum", "mul", "mean"))
    tree = write_layers(layers, lambda part: _write(part, optimized))
    if len(layers) == 1:
        return tree
    return {"layers": {n: inner for n, inner in enumerate(tree.values())}}


# ---- modules -------------------------------------------------------------------------------------
def _tree(name: str, module: Any, merge: str | None) -> tuple[dict[str, Any], set[Any]]:
    """Read (the tree of a module's parameters, the activations of its SimpleCells)."""
    kind = known_kind(name, module, "flax.nnx", (*CONTAINERS, *CELLS))
    if kind in CONTAINERS:
        _check_container(name, module, merge)
        inner = {key: getattr(module, key) for key in ("cell", "forward_rnn", "backward_rnn")
                 if hasattr(module, key)}  # fmt: skip
        inner |= {str(n): layer for n, layer in enumerate(getattr(module, "layers", ()))}
        trees = {key: _tree(f"{name}.{key}", part, merge) for key, part in inner.items()}
        activations = set().union(*(found for _, found in trees.values()))
        return {key: tree for key, (tree, _) in trees.items()}, activations
    if kind is None:
        wanted = f"an RNN, a Bidirectional, a Sequential or one of {', '.join(CELLS)}"
        raise fail(name, f"a {type(module).__name__}", wanted, "pass one of these, or its state")
    _check_cell(name, module, kind)
    dense = {key: value for key, value in vars(module).items() if hasattr(value, "kernel")}
    for key, value in dense.items():
        _check_dense(f"{name}.{key}", value)
    tree = {
        key: {leaf: array for leaf in ("kernel", "bias")
              if (array := getattr(value, leaf, None)) is not None}
        for key, value in dense.items()
    }  # fmt: skip
    return tree, {name_of(module.activation_fn)} if kind == "SimpleCell" else set()


def _check_container(name: str, module: Any, merge: str | None) -> None:
    if getattr(module, "reverse", False):
        remedy = "make it forward, and call unroll(reverse=True)"
        raise fail(name, "RNN(reverse=True)", "an RNN that goes forward", remedy)
    merge_fn = getattr(module, "merge_fn", None)
    if merge_fn is None or merge not in MERGES:
        return
    pair = np.array([[3, 5]], np.float32), np.array([[7, 4]], np.float32)
    if not np.array_equal(np.asarray(merge_fn(*pair)), MERGES[merge](*pair)):
        remedy = f"pass merge, one of {', '.join(MERGES)}"
        raise fail(
            f"{name}'s merge_fn", "another function", f"the function of merge={merge!r}", remedy
        )


def _check_cell(name: str, module: Any, kind: str) -> None:
    if getattr(module, "residual", False):
        raise fail(name, "residual=True", "residual=False", "train without it")
    wanted = {"gate_fn": "sigmoid"} | ({} if kind == "SimpleCell" else {"activation_fn": "tanh"})
    for option, function in wanted.items():
        seen = getattr(module, option, None)
        if seen is not None and not is_jaxs(seen, function):
            raise fail(name, f"{option}={seen}", f"jax.nn.{function}", "train with that")
    if getattr(module, "carry_init", None) is not None and not is_jaxs(module.carry_init, "zeros"):
        remedy = "leave it out, and pass the initial carry to unroll"
        raise fail(name, "a carry_init", "an initial carry of zeros", remedy)
    _check_promotion(name, module)


def _check_dense(name: str, layer: Any) -> None:
    if known_kind(name, layer, "flax.nnx", ("Linear",)) is None:
        raise fail(name, f"a {type(layer).__name__}", "flax.nnx.Linear", REMEDY)
    _check_promotion(name, layer)


def _check_promotion(name: str, module: Any) -> None:
    function = getattr(module, "promote_dtype", None)
    if function is not None and not is_jaxs(function, "promote_dtype"):
        raise fail(name, f"promote_dtype={function}", "flax's own", REMEDY)


# ---- one cell ------------------------------------------------------------------------------------
def _read(name: str, node: Mapping[str, Any], activation: Any) -> Part:
    if set(node) != {"dense_i", "dense_h"}:
        renamed = {RENAMED.get(key, key): inner for key, inner in node.items()}
        return read_cell(name, renamed, activation)
    tensors = tensors_of(name, node)
    w_hh = tensors.take(f"{name}/dense_h/kernel", "[H, G*H]", None, None)
    size, columns = w_hh.shape
    kind = count_gates(f"{name}/dense_h/kernel", columns, size)
    w_ih = tensors.take(f"{name}/dense_i/kernel", "[D, G*H]", None, columns)
    side = "dense_h" if kind == "LSTM" else "dense_i"
    b = tensors.take(f"{name}/{side}/bias", "[G*H]", columns)
    tensors.finish()
    cell = RNN(size, activation) if kind == "RNN" else {"LSTM": LSTM, "GRU": GRU}[kind](size)
    params = {"w_ih": w_ih, "w_hh": w_hh} | bias_params(cell, b)
    return Part(cell, {key: from_layout("nnx", kind, a) if key != "b_hn" else a
                       for key, a in params.items()})  # fmt: skip


def _write(part: Part, optimized: bool) -> dict[str, Any]:
    cell, params = part
    kind = type(cell).__name__
    if kind == "LSTM" and not optimized:
        renamed = {ours: theirs for theirs, ours in RENAMED.items()}
        return {renamed.get(key, key): inner for key, inner in write_cell(part).items()}
    b, b_hn = one_bias(cell, params)
    if kind == "GRU" and b_hn.any():
        remedy = "nnx's GRU has no bias inside the reset gate's product: use linen, or train with "
        raise fail("params['b_hn']", "numbers other than zero", "zeros", remedy + "b_hn = 0")
    arrays = [np.array(to_layout("nnx", kind, a)) for a in (params["w_ih"], params["w_hh"], b)]
    tree = {"dense_i": {"kernel": arrays[0]}, "dense_h": {"kernel": arrays[1]}}
    tree["dense_h" if kind == "LSTM" else "dense_i"]["bias"] = arrays[2]
    return tree
