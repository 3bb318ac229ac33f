"""The operators and stored arrays of an ONNX graph, branches and constants included."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .._checks import fail
from ._source import need, unreadable

FOLDED = ("Cast", "Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose outputs count as stored if their inputs are stored."""


def all_nodes(graph: Any) -> Iterator[Any]:
    """Operators of a graph, each followed by those in its branches (of an If or Loop)."""
    for node in graph.node:
        yield node
        for inner in _branches(node):
            yield from all_nodes(inner)


def stored(onnx: Any, model: Any) -> dict[str, Any]:
    """Arrays stored in a model, by name, and the results of `FOLDED` operators on them.

    Raises:
        ValueError: a damaged array, or one in a file that is missing.
    """
    tensors = {
        tensor.name: tensor for graph in _graphs(model.graph) for tensor in graph.initializer
    }
    for node in all_nodes(model.graph):
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant":
            tensors |= zip(node.output, values, strict=False)
    arrays = {name: _array(onnx, name, tensor) for name, tensor in tensors.items()}
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    for node in all_nodes(model.graph):
        inputs = [name for name in node.input if name]
        if node.op_type in FOLDED and inputs and all(name in arrays for name in inputs):
            arrays |= zip(node.output, _folded(onnx, node, opsets, arrays), strict=False)
    return arrays


def _array(onnx: Any, name: str, tensor: Any) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        remedy = "pass the path of the .onnx file, beside which that file lies"
        raise fail(name, "numbers in another file", "numbers in the graph", remedy)
    with unreadable(name, "numbers that ONNX knows", KeyError, TypeError, ValueError):
        return onnx.numpy_helper.to_array(tensor)


def _folded(onnx: Any, node: Any, opsets: dict[str, int], arrays: dict[str, Any]) -> Sequence[Any]:
    """Evaluate an operator on stored arrays, by onnx's reference evaluator."""
    reference = need("onnx.reference", "interop")
    inputs = {name: arrays[name] for name in node.input if name}
    with unreadable(node.name, "an operator that onnx evaluates", Exception):  # Errors of any type.
        values = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in inputs]
        outs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output]
        graph = onnx.helper.make_graph([node], "folded", values, outs)
        imports = [onnx.helper.make_opsetid(domain, n) for domain, n in opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=imports)
        return reference.ReferenceEvaluator(model).run(None, inputs)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for inner in _branches(node):
            yield from _graphs(inner)


def _branches(node: Any) -> list[Any]:
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]
