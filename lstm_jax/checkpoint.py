"""Parameters in one file: arrays and a description, without pickle.

The file is a NumPy `.npz`: one array a leaf, named by its path ("cell/w_hh"), and the description
as JSON text. It is written whole or not at all, and reading it runs no code.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ._checks import fail

_DESCRIPTION = "__description__"
_FORMAT = "lstm-jax parameters 1"


def save(path: str | os.PathLike[str], params: Any, description: dict[str, Any]) -> None:
    """Write `params`, nested dicts of arrays, and `description`, anything that JSON holds.

    bfloat16 arrays are stored as their bits, with the dtype in the description.

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    dtypes = {name: array.dtype.name for name, array in arrays.items()}
    header = json.dumps({"format": _FORMAT, "dtypes": dtypes, "description": description})
    bits = {name: _as_bits(array) for name, array in arrays.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **{_DESCRIPTION: header}, **bits)
        temporary.replace(path)
    except OSError as error:
        seen = f"{str(path)!r} ({error.strerror})"
        raise fail("path", seen, "a file that can be written", "name another") from None
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(params, description) as `save` wrote them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file that `save` wrote.
    """
    remedy = "pass a file that lstm_jax.checkpoint.save or `lstm-jax train` wrote"
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path: got {str(path)!r}, wanted an existing file; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file[_DESCRIPTION]))
            arrays = {name: file[name] for name in header["dtypes"]}
        if header["format"] != _FORMAT:
            raise KeyError(header["format"])
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        seen = f"{str(path)!r} ({error})"
        raise fail("path", seen, "a file of parameters", remedy) from None
    leaves = {name: _from_bits(array, header["dtypes"][name]) for name, array in arrays.items()}
    return unflatten_dict(leaves, sep="/"), header["description"]


def _as_bits(array: np.ndarray) -> np.ndarray:
    """NumPy's file format does not know bfloat16."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _from_bits(array: np.ndarray, dtype: str) -> jax.Array:
    return jnp.asarray(array.view(jnp.bfloat16) if dtype == "bfloat16" else array)
