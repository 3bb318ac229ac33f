"""Parameters and training states in one file: arrays and a description, without pickle.

The file is a NumPy `.npz`: one array for each leaf, named by its path ("cell/w_hh"), and one JSON
text with the structure of the tree and the description. A file appears complete or not at all, and
reading it runs no code.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from . import _npz
from ._checks import check_path, fail, shown
from ._files import write_whole
from ._outline import DESCRIPTION, Refusal, decode, describe, fill, is_extended, outline, rebuild

__all__ = ["load", "save"]
__dir__ = __all__.copy

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
    tree, arrays = describe(params)
    given = {} if description is None else description
    if not isinstance(given, dict):
        raise fail("description", shown(given), "a dict", "pass for example {'cell': 'lstm'}")
    header = json.dumps({"format": f"{_FORMAT} {_VERSION}", "description": given, **tree})
    content = {DESCRIPTION: np.asarray(header), **{n: _stored(a) for n, a in arrays.items()}}
    write_whole(path, lambda file: _npz.write(file, content))


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
        with _npz.opened(path) as entry:
            header = _current(json.loads(str(entry(DESCRIPTION))))
            leaves = decode(header, functools.partial(_taken, take=entry))
        description = dict(header["description"])
        if like is None:
            return rebuild(header, leaves), description
    return fill(like, header, leaves), description


@contextlib.contextmanager
def _reading(path: Any) -> Iterator[None]:
    """Turn any error of reading into one that names the file."""
    try:
        yield
    except Refusal as refusal:
        seen, wanted, remedy = refusal.args
        raise fail("path", f"{str(path)!r} with {seen}", wanted, remedy) from None
    except MemoryError:  # The file declares no part larger than itself, so memory did run out.
        raise
    except Exception as error:  # Damaged bytes raise errors of any type.
        first = (str(error).splitlines() or [""])[0]
        seen = f"{str(path)!r} ({type(error).__name__}: {first})"
        raise fail("path", seen, "a file of parameters", _REMEDY) from None


# ---- arrays --------------------------------------------------------------------------------------
def _stored(array: Any) -> np.ndarray:
    """An array as the file has it: of a dtype that NumPy lacks, the bits."""
    array = np.asarray(array, order="C")
    return array.view(f"u{array.itemsize}") if is_extended(array.dtype) else array


def _taken(leaf: dict[str, Any], take: Callable[[str], np.ndarray]) -> np.ndarray:
    """The array that `_stored` gave for the leaf of this description."""
    array, dtype = take(leaf["entry"]), np.dtype(leaf["dtype"])
    if is_extended(dtype):
        array = array.view(dtype)
    if array.dtype != dtype:
        raise ValueError(f"an array of {array.dtype} in place of {dtype}")
    return array


# ---- files of older versions ---------------------------------------------------------------------
def _current(header: Any) -> Any:
    """Convert a header to the current format version."""
    name, _, version = header["format"].rpartition(" ")
    if name != _FORMAT:
        raise ValueError(f"the format {header['format']!r}")
    if int(version) > _VERSION:
        wanted = f"up to {_VERSION}"
        raise Refusal(f"format {version}", wanted, "update lstm_jax: a newer version wrote it")
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
    return {"description": header["description"], "tree": outline(tree), "leaves": leaves}
