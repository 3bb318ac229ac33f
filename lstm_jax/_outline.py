"""A pytree as a description that JSON holds and arrays by name, for files of arrays.

The description says what every node and leaf is, so that the tree comes back with its types. To
rebuild a tree runs no code that the description names.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import fail

DESCRIPTION = "__description__"
"""The entry of the description itself, in a file that has it among its arrays."""
_REMEDY = "pass a tree like the one that was saved"


class Refusal(Exception):
    """Refusal of an undamaged file; arguments: what it holds, what was wanted, a remedy."""


def describe(tree: Any, argument: str = "params") -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe a tree: ({"tree", "leaves"} for JSON, its arrays by the names of their entries).

    Random keys become arrays of their data; JAX's arrays stay where they are.

    Args:
        tree: leaves are arrays of any dtype that JAX has, random keys, Python numbers and strings.
        argument: the name of `tree` in errors.

    Raises:
        ValueError: a leaf or a key of another kind.
    """
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves, arrays = [], {}
    for keys, leaf in found:
        described, array = _described(argument, jax.tree_util.keystr(keys), leaf)
        if array is not None:
            described["entry"] = _entry(keys, arrays)
            arrays[described["entry"]] = array
        leaves.append(described)
    tree = outline(jax.tree.unflatten(structure, range(len(leaves))), argument)
    return {"tree": tree, "leaves": leaves}, arrays


def decode(description: Mapping[str, Any], take: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """Decode the leaves of a tree, in the order of their descriptions.

    Args:
        description: as from `describe`.
        take: a function from the description of a leaf to its array, of the dtype that it says.

    Raises:
        Refusal: an array of 64 bits, which are not in use.
    """
    return [_decoded(leaf, take) for leaf in description["leaves"]]


def rebuild(description: Mapping[str, Any], leaves: Sequence[Any]) -> Any:
    """Build the tree that `describe` described, with these leaves.

    Raises:
        Refusal: a NamedTuple whose module is not imported.
    """
    return _built(description["tree"], leaves)


def fill(like: Any, description: Mapping[str, Any], leaves: Sequence[Any]) -> Any:
    """Build a tree with the nodes of `like` and these leaves, which are matched by their paths.

    A leaf `...` of `like` stands for a part as it was saved, with its own nodes and leaves.

    Raises:
        ValueError: `like` has other leaves, or leaves of another dtype or shape.
    """
    found, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {jax.tree_util.keystr(keys): leaf for keys, leaf in found}
    parts = {
        jax.tree_util.keystr(keys): _part(description["tree"], keys)
        for keys, leaf in found
        if leaf is ...
    }
    free = set(jax.tree.leaves([_numbers(part) for part in parts.values()]))
    paths = [leaf["path"] for leaf in description["leaves"]]
    given = {path: leaves[n] for n, path in enumerate(paths) if n not in free}
    _check_leaves({name: leaf for name, leaf in wanted.items() if name not in parts}, given)
    filled = [
        _built_part(name, parts[name], leaves) if name in parts else given[name] for name in wanted
    ]
    return jax.tree.unflatten(structure, filled)


def is_extended(dtype: np.dtype) -> bool:
    """True for a dtype that JAX adds to NumPy (bfloat16, float8, int4)."""
    return dtype.isbuiltin == 2


# ---- leaves --------------------------------------------------------------------------------------
def _described(argument: str, path: str, leaf: Any) -> tuple[dict[str, Any], Any]:
    """Describe a leaf: (for JSON, its array or None)."""
    if type(leaf) in (bool, int, float, str):
        return {"path": path, "value": leaf}, None
    described = {"path": path, "kind": "jax" if isinstance(leaf, jax.Array) else "numpy"}
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        described["key"] = str(jax.random.key_impl(leaf))
        leaf = jax.random.key_data(leaf)
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, order="C")
    if array.dtype.kind not in "biufc" and not is_extended(array.dtype):
        seen = f"a {type(leaf).__name__} of dtype {array.dtype}"
        raise fail(f"{argument}{path}", seen, "an array of numbers", "save it in the description")
    return described | {"dtype": array.dtype.name, "shape": list(array.shape)}, array


def _decoded(described: dict[str, Any], take: Callable[[dict[str, Any]], Any]) -> Any:
    """Decode a leaf that `_described` described."""
    if "value" in described:
        return described["value"]
    array = take(described)
    if described["kind"] == "numpy":
        return np.array(array)
    dtype = np.dtype(described["dtype"])
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise Refusal(f"an array of {dtype}", "64 bits in use", "set jax_enable_x64 to read it")
    leaf = jnp.asarray(array)
    return jax.random.wrap_key_data(leaf, impl=described["key"]) if "key" in described else leaf


def _check_leaves(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise unless the leaves of `like` are those of the file, in paths, dtypes and shapes."""
    for name in sorted(wanted.keys() ^ given.keys()):
        seen = "a leaf" if name in wanted else "no leaf"
        raise fail(f"like{name}", seen, "the leaves of the file", _REMEDY)
    for name, leaf in wanted.items():
        if _kind(leaf) != _kind(given[name]):
            raise fail(f"like{name}", _kind(leaf), f"the file's {_kind(given[name])}", _REMEDY)


def _entry(keys: Any, taken: Mapping[str, Any]) -> str:
    """A unique, readable name for an array; the description of its leaf has it too."""
    name = jax.tree_util.keystr(keys, simple=True, separator="/")
    name = re.sub(r"[^ -~]", "_", name) or "array"
    while name in taken or name == DESCRIPTION:
        name += "~"
    return name


def _kind(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}{list(leaf.shape)}"


# ---- nodes ---------------------------------------------------------------------------------------
def outline(node: Any, argument: str = "params") -> Any:
    """Encode a tree with numbers as leaves in JSON: [kind, children, ...] for each node."""
    if node is None or type(node) is int:
        return node
    if isinstance(node, Mapping):
        children = [outline(child, argument) for child in node.values()]
        return ["dict", children, [_key(argument, key) for key in node]]
    if type(node) in (list, tuple):
        return [type(node).__name__, [outline(child, argument) for child in node]]
    kind = type(node)
    fields = list(kind._fields) if _is_named_tuple(kind) else None
    children = [] if fields is None else [outline(child, argument) for child in node]
    return ["named", children, kind.__module__, kind.__qualname__, fields]


def _built(node: Any, leaves: Sequence[Any]) -> Any:
    """Build the tree whose structure `outline` encoded, with these leaves."""
    if node is None:
        return None
    if isinstance(node, int):
        return leaves[node]
    kind, children, *rest = node
    parts = [_built(child, leaves) for child in children]
    if kind == "dict":
        return dict(zip(rest[0], parts, strict=True))
    if kind == "named":
        # tuple.__new__, not the type's own: a type that the file names must not run code.
        return tuple.__new__(_named_tuple(*rest), parts)
    return {"list": list, "tuple": tuple}[kind](parts)


def _part(node: Any, keys: Any) -> Any:
    """The outline of the part of a tree that a path leads to; raise if there is none."""
    for key in keys:
        kind, children, *rest = node if isinstance(node, list) else ["leaf", []]
        names: Any
        if kind == "dict":
            name, names = getattr(key, "key", None), rest[0]
        elif kind == "named":
            name, names = getattr(key, "name", None), rest[2] or []
        else:
            name, names = getattr(key, "idx", None), range(len(children))
        if name not in names:
            path = jax.tree_util.keystr(keys)
            raise fail(f"like{path}", "...", "a part that was saved", _REMEDY)
        node = children[names.index(name)]
    return node


def _built_part(name: str, node: Any, leaves: Sequence[Any]) -> Any:
    try:
        return _built(node, leaves)
    except Refusal as refusal:
        seen, wanted, _ = refusal.args
        raise fail(f"like{name}", f"... for {seen}", wanted, _REMEDY) from None


def _numbers(node: Any) -> Any:
    """The numbers of the leaves of an outline."""
    return [_numbers(child) for child in node[1]] if isinstance(node, list) else node


def _named_tuple(module: str, name: str, fields: list[str] | None) -> type[tuple]:
    """Find the NamedTuple of this name among the modules that are already imported."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if fields is None or not _is_named_tuple(found) or list(found._fields) != fields:
        remedy = "import its module, or pass like=, a tree of the same structure"
        raise Refusal(f"a {module}.{name}", "a NamedTuple of an imported module", remedy)
    return found


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _key(argument: str, key: Any) -> Any:
    if type(key) not in (str, int, float, bool):
        raise fail(argument, f"the key {key!r}", "strings or numbers as keys", "rename it")
    return key
