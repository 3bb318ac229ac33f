"""Parameters and training states in one file: arrays and a description, without pickle.

The file is a NumPy `.npz`: one array for each leaf, named by its path ("cell/w_hh"), and one JSON
text with the structure of the tree and the description. A file appears complete or not at all, and
reading it runs no code.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _npz
from ._checks import check_path, fail
from ._files import write_whole

__all__ = [
    "load",
    "save",
]
__dir__ = __all__.copy


_HEADER = "__description__"
_FORMAT = "lstm-jax parameters"
_VERSION = 2
_REMEDY = "pass a file that lstm_jax.checkpoint.save or `lstm-jax train` wrote"


def save(
    path: str | os.PathLike[str], params: Any, description: dict[str, Any] | None = None
) -> None:
    """Write `params`, any pytree, and `description`, a dict that JSON can hold.

        checkpoint.save("model.npz", params, {"cell": "lstm"})
        checkpoint.save("run.npz", {"state": train_state, "carry": carry})

    Leaves are arrays of any dtype that JAX has, random keys, Python numbers and strings.

    Raises:
        ValueError: a leaf of another kind, or the file cannot be written; an older file there
            stays.
        TypeError: a description that JSON cannot hold.
    """
    found, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves, arrays = [], {}
    for keys, leaf in found:
        described, array = _encode(jax.tree_util.keystr(keys), leaf)
        if array is not None:
            described["entry"] = _entry(keys, arrays)
            arrays[described["entry"]] = array
        leaves.append(described)
    header = json.dumps(
        {
            "format": f"{_FORMAT} {_VERSION}",
            "description": {} if description is None else description,
            "tree": _outline(jax.tree.unflatten(structure, range(len(leaves)))),
            "leaves": leaves,
        }
    )
    write_whole(path, lambda file: _npz.write(file, {_HEADER: np.asarray(header), **arrays}))


def load(path: str | os.PathLike[str], like: Any = None) -> tuple[Any, dict[str, Any]]:
    """Read (params, description) as `save` wrote them.

    Dicts, lists and tuples keep their type and any other mapping becomes a dict. A NamedTuple (the
    state of a cell, of training, of optax) keeps its type if the module of that type is imported.

    Args:
        path: the file.
        like: a tree of the same structure with arrays or `jax.ShapeDtypeStruct`s. The loaded tree
            gets its node types, and an error names each leaf of another shape or dtype. Required
            if the tree has nodes of other types than those above.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save` did not write the file, or its tree differs from `like`.
    """
    check_path("path", path)
    if not os.path.isfile(path):
        raise fail("path", repr(str(path)), "an existing file", _REMEDY, FileNotFoundError)
    with _reading(path):
        with _npz.opened(path) as take:
            header = _current(json.loads(str(take(_HEADER))))
            leaves = [_decode(leaf, take) for leaf in header["leaves"]]
        description = dict(header["description"])
        if like is None:
            return _built(header["tree"], leaves), description
        paths = [leaf["path"] for leaf in header["leaves"]]
    return _in_place_of(like, dict(zip(paths, leaves, strict=True))), description


class _Refusal(Exception):
    """Refusal of an undamaged file; arguments: what it holds, what was wanted, a remedy."""


@contextlib.contextmanager
def _reading(path: Any) -> Iterator[None]:
    """Turn any error of reading into one that names the file."""
    try:
        yield
    except _Refusal as refusal:
        seen, wanted, remedy = refusal.args
        raise fail("path", f"{str(path)!r} with {seen}", wanted, remedy) from None
    except MemoryError:  # The file declares no part larger than itself, so memory did run out.
        raise
    except Exception as error:  # Damaged bytes raise errors of any type.
        first = (str(error).splitlines() or [""])[0]
        seen = f"{str(path)!r} ({type(error).__name__}: {first})"
        raise fail("path", seen, "a file of parameters", _REMEDY) from None


# ---- leaves --------------------------------------------------------------------------------------
def _encode(path: str, leaf: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """Encode a leaf as (JSON, its array or None)."""
    if type(leaf) in (bool, int, float, str):
        return {"path": path, "value": leaf}, None
    described = {"path": path, "kind": "jax" if isinstance(leaf, jax.Array) else "numpy"}
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        described["key"] = str(jax.random.key_impl(leaf))
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf, order="C")
    if array.dtype.kind not in "biufc" and not _is_extended(array.dtype):
        seen = f"a {type(leaf).__name__} of dtype {array.dtype}"
        raise fail(f"params{path}", seen, "an array of numbers", "save it in the description")
    described["dtype"] = array.dtype.name
    return described, array.view(f"u{array.itemsize}") if _is_extended(array.dtype) else array


def _decode(described: Mapping[str, Any], take: Any) -> Any:
    """Decode a leaf that `_encode` encoded."""
    if "value" in described:
        return described["value"]
    array, dtype = take(described["entry"]), np.dtype(described["dtype"])
    if _is_extended(dtype):
        array = array.view(dtype)
    if array.dtype != dtype:
        raise ValueError(f"an array of {array.dtype} in place of {dtype}")
    if described["kind"] == "numpy":
        return array.copy()
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise _Refusal(f"an array of {dtype}", "64 bits in use", "set jax_enable_x64 to read it")
    leaf = jnp.asarray(array)
    return jax.random.wrap_key_data(leaf, impl=described["key"]) if "key" in described else leaf


def _is_extended(dtype: np.dtype) -> bool:
    """True for a dtype that JAX adds to NumPy (bfloat16, float8, int4); its bits are stored."""
    return dtype.isbuiltin == 2


def _entry(keys: Any, taken: Mapping[str, Any]) -> str:
    """A unique, readable name for an array in the file; `load` looks it up in the header."""
    name = jax.tree_util.keystr(keys, simple=True, separator="/")
    name = re.sub(r"[^ -~]", "_", name) or "array"
    while name in taken or name == _HEADER:
        name += "~"
    return name


# ---- the tree ------------------------------------------------------------------------------------
def _outline(node: Any) -> Any:
    """Encode a tree with numbers as leaves in JSON: [kind, children, ...] for each node."""
    if node is None or type(node) is int:
        return node
    if isinstance(node, Mapping):
        return ["dict", [_outline(child) for child in node.values()], [*map(_key, node)]]
    if type(node) in (list, tuple):
        return [type(node).__name__, [_outline(child) for child in node]]
    kind = type(node)
    fields = list(kind._fields) if _is_named_tuple(kind) else None
    children = [] if fields is None else [_outline(child) for child in node]
    return ["named", children, kind.__module__, kind.__qualname__, fields]


def _built(outline: Any, leaves: Sequence[Any]) -> Any:
    """Build the tree whose structure `_outline` encoded, with these leaves."""
    if outline is None:
        return None
    if isinstance(outline, int):
        return leaves[outline]
    kind, children, *rest = outline
    parts = [_built(child, leaves) for child in children]
    if kind == "dict":
        return dict(zip(rest[0], parts, strict=True))
    if kind == "named":
        # tuple.__new__, not the type's own: a type that the file names must not run code.
        return tuple.__new__(_named_tuple(*rest), parts)
    return {"list": list, "tuple": tuple}[kind](parts)


def _named_tuple(module: str, name: str, fields: list[str] | None) -> type[tuple]:
    """Find the NamedTuple of this name among the modules that are already imported."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if fields is None or not _is_named_tuple(found) or list(found._fields) != fields:
        remedy = "import its module, or pass like=, a tree of the same structure"
        raise _Refusal(f"a {module}.{name}", "a NamedTuple of an imported module", remedy)
    return found


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _key(key: Any) -> Any:
    if type(key) not in (str, int, float, bool):
        raise fail("params", f"the key {key!r}", "strings or numbers as keys", "rename it")
    return key


def _in_place_of(like: Any, leaves: Mapping[str, Any]) -> Any:
    """Fill `like` with the leaves of the file, matched by their paths."""
    found, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {jax.tree_util.keystr(keys): leaf for keys, leaf in found}
    remedy = "pass a tree like the one that was saved"
    for name in sorted(wanted.keys() ^ leaves.keys()):
        seen = "a leaf" if name in wanted else "no leaf"
        raise fail(f"like{name}", seen, "the leaves of the file", remedy)
    for name, leaf in wanted.items():
        if _kind(leaf) != _kind(leaves[name]):
            raise fail(f"like{name}", _kind(leaf), f"the file's {_kind(leaves[name])}", remedy)
    return jax.tree.unflatten(structure, [leaves[name] for name in wanted])


def _kind(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}{list(leaf.shape)}"


# ---- files of older versions ---------------------------------------------------------------------
def _current(header: Any) -> Any:
    """Convert a header to the current format version."""
    name, _, version = header["format"].rpartition(" ")
    if name != _FORMAT:
        raise ValueError(f"the format {header['format']!r}")
    if int(version) > _VERSION:
        wanted = f"up to {_VERSION}"
        raise _Refusal(f"format {version}", wanted, "update lstm_jax: a newer version wrote it")
    return _from_version_1(header) if int(version) == 1 else header


def _from_version_1(header: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a header of version 1: nested dicts of arrays, named by paths like "cell/w_hh"."""
    tree: dict[str, Any] = {}
    leaves = []
    for number, (name, dtype) in enumerate(header["dtypes"].items()):
        *above, last = name.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[last] = number
        path = "".join(f"[{key!r}]" for key in (*above, last))
        leaves.append({"path": path, "entry": name, "dtype": dtype, "kind": "jax"})
    return {"description": header["description"], "tree": _outline(tree), "leaves": leaves}
