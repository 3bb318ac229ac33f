"""Conversion to and from ONNX: the operators RNN, LSTM and GRU.

W [directions, G*H, D], R [directions, G*H, H], B [directions, 2*G*H] = [b_ih, b_hh]
rows: LSTM i, o, f, c; GRU z, r, h; peepholes P [directions, 3H] i, o, f
GRU linear_before_reset=1 is reset_after=True, 0 is False
LSTM input_forget=1 is coupled=True. onnxruntime computes f as 1 - i and ignores the block of f; we
compute i as 1 - f, so its i is our f negated. We write both blocks, so that a runtime that couples
them the other way round, or ignores the attribute, computes the same.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from .._checks import check_bool, fail
from .._typing import Params
from ._nets import join
from ._onnx_graph import REDUCTIONS, build
from ._onnx_node import GATES, read_node
from ._onnx_tensors import all_nodes, stored
from ._source import existing, is_path, need, unreadable, write_whole

__all__ = ["from_onnx", "to_onnx"]
__dir__ = __all__.copy

SHAPING = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Dropout", "Cast")
"""Operators allowed between two layers: in evaluation they do not change values."""


def from_onnx(
    source: Any,
    *,
    nodes: Sequence[str] | None = None,
    reverse: bool = False,
    double_bias: bool = False,
) -> tuple[Any, Params]:
    """Read the recurrent operators of an ONNX graph as (net, params).

    Args:
        source: the path of an .onnx file, its bytes, or a ModelProto.
        nodes: the names of the operators to convert, one layer each, in order; None: all, if there
            are only changes of shape between them. Operators before the first and after the last
            are ignored.
        reverse: the graph's operators have direction="reverse"; call `unroll` with reverse=True.
        double_bias: keep the two biases apart instead of adding them.

    Returns:
        (net, params). Pass initial states of the graph to `unroll` as `carry`, and for layout=1
        pass time_major=False. Two directions are concatenated, unless the graph reduces their axis
        by a sum, product or mean.

    Raises:
        ValueError: not such a graph; an attribute without a counterpart (clip, other activations);
            a tensor that is missing, of a wrong shape or not finite.
        FileNotFoundError: no such file.
        ImportError: onnx is not installed.
    """
    onnx = need("onnx", "interop")
    model = _model(onnx, source)
    inner = list(all_nodes(model.graph))
    tensors = stored(onnx, model)
    chosen = _chosen(inner, nodes, tensors)
    layers = [read_node(onnx, node, tensors, reverse, double_bias) for node in chosen]
    merges = [_merge(inner, node, tensors) for node in chosen]
    pairs = zip(layers, merges, strict=True)
    return join([layer._replace(merge=merge) for layer, merge in pairs])


def to_onnx(
    net: Any,
    params: Params,
    file: Any = None,
    *,
    reverse: bool = False,
    seq_lengths: bool = False,
    initial_states: bool = False,
) -> Any:
    """Write an ONNX model for any time and batch: xs [time, batch, D] -> ys, final states.

    Inputs: xs; on request seq_lengths [batch] int32, and for each layer initial_h_{n} (and
    initial_c_{n}), with the shape of its final states. Outputs: ys [time, batch, N], and for each
    layer its final states h_{n} (and c_{n}) [directions, batch, H].

    Args:
        net, params: a cell, or a stack of RNN (tanh, relu, identity), LSTM and GRU cells, each in
            one or both directions; float32 or float16 for onnxruntime, which lacks float64.
        file: a path to write the model to, atomically; None: none.
        reverse: write direction="reverse", for a net that you call with unroll(reverse=True).
        seq_lengths: True gives the graph an input for the lengths.
        initial_states: True gives the graph inputs for the initial states, to continue a stream:
            feed the output h_0 to initial_h_0. False: initial states are zero.

    Returns:
        A ModelProto, checked by onnx; `SerializeToString()` returns its bytes.

    Raises:
        ValueError: ONNX has no such net; parameters are bfloat16.
        ImportError: onnx is not installed.
    """
    onnx = need("onnx", "interop")
    for name, flag in (("seq_lengths", seq_lengths), ("initial_states", initial_states)):
        check_bool(name, flag)
    model = build(onnx, net, params, reverse, seq_lengths, initial_states)
    if file is not None:
        write_whole(file, model.SerializeToString())
    return model


# ---- the graph -----------------------------------------------------------------------------------
def _model(onnx: Any, source: Any) -> Any:
    if hasattr(source, "graph"):
        return source
    protobuf = need("google.protobuf.message", "interop")
    errors = protobuf.DecodeError, onnx.checker.ValidationError
    if is_path(source):  # By path, not by bytes: arrays may be in a file beside it.
        with unreadable(existing(source), "an ONNX model", *errors):
            return onnx.load_model(str(source), format="protobuf")
    if not isinstance(source, bytes):
        seen = f"a {type(source).__name__}"
        raise fail("source", seen, "a path, bytes or a ModelProto", "pass one of these")
    with unreadable("bytes", "an ONNX model", *errors):
        return onnx.load_model_from_string(source)


def _chosen(inner: list[Any], names: Sequence[str] | None, tensors: Mapping[str, Any]) -> list[Any]:
    """Choose the operators to convert, in order."""
    recurrent = [node for node in inner if node.op_type in GATES]
    known = [node.name for node in recurrent]
    if names is not None:
        if missing := [name for name in names if name not in known]:
            raise fail("nodes", missing, f"names among {known}", "pass some of these")
        return [recurrent[known.index(name)] for name in names]
    if not recurrent:
        others = {node.op_type for node in inner if any(kind in node.op_type for kind in GATES)}
        seen = f"a graph of {', '.join(sorted(others))}" if others else "a graph without them"
        remedy = "pass the graph before it was quantized" if others else "pass a graph with these"
        raise fail("source", seen, "RNN, LSTM or GRU operators", remedy)
    makers = {output: node for node in inner for output in node.output if output}
    for below, node in itertools.pairwise(recurrent):
        name, maker = _first(node.input), makers.pop(_first(node.input), None)
        while maker is not None and (maker.op_type in SHAPING or _merges(maker, below, tensors)):
            name = _first(maker.input)
            maker = makers.pop(name, None)  # Visit each once: a damaged graph may have a cycle.
        if maker is not below or name != _first(below.output):
            seen = f"the output of {'the graph' if maker is None else maker.op_type}"
            if maker is below:
                seen = f"the final state of {below.name}"
            wanted = "that of the layer below"
            raise fail(f"{node.name}'s X", seen, wanted, f"pass `nodes`, in order, from {known}")
    return recurrent


def _merge(inner: list[Any], node: Any, tensors: Mapping[str, Any]) -> str:
    """The merge of the two directions: a reduction of their axis, or else concatenation."""
    merges = {theirs: ours for ours, theirs in REDUCTIONS.items()}
    takers = [taker for taker in inner if _merges(taker, node, tensors)]
    return merges[takers[0].op_type] if takers else "concat"


def _first(names: Sequence[str]) -> str:
    """The first of an operator's inputs or outputs; "" if there is none."""
    return names[0] if names else ""


def _merges(taker: Any, node: Any, tensors: Mapping[str, Any]) -> bool:
    """True if the operator `taker` reduces the axis of directions of Y, the output of `node`."""
    if taker.op_type not in REDUCTIONS.values() or node is None:
        return False
    if _first(taker.input) != _first(node.output):
        return False
    given = [a.ints for a in taker.attribute if a.name == "axes"]  # In older opsets.
    given += [tensors.get(name, ()) for name in taker.input[1:2]]
    layout = [a.i for a in node.attribute if a.name == "layout"]
    return [int(axis) % 4 for axes in given for axis in axes] == [2 if any(layout) else 1]
