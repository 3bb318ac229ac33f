"""Trees of layers in linen and nnx, named cell, forward_rnn, backward_rnn, layers_0, ..."""

import re
from collections.abc import Mapping
from typing import Any

from .._checks import fail
from ._nets import Layer


def read_layers(tree: Any, read: Any) -> list[Layer]:
    """Read the layers of a tree of RNNs; `read(name, node)` reads a cell's node as a Part."""
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
    """Write the tree of `layers`; `write(part)` writes a cell's node."""
    trees = []
    for layer in layers:
        cells = [{"cell": write(part)} for part in layer.parts]
        names = ("forward_rnn", "backward_rnn")
        trees.append(cells[0] if len(cells) == 1 else dict(zip(names, cells, strict=True)))
    if len(trees) == 1:
        return trees[0]
    return {f"layers_{n}": tree for n, tree in enumerate(trees)}
