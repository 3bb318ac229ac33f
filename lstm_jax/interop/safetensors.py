"""Conversion to and from safetensors files, with PyTorch's names or this library's.

With PyTorch's names (weight_ih_l0, ...) other programs can read the file, if PyTorch has the net.
With this library's names the metadata describe the net, so any net is restored completely.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cells.contract import check_params
from .._checks import check_choice, check_named, fail, unboxed
from .._net import Net
from .._pointwise import Dense
from .._typing import Params
from ._describe import build, describe
from ._source import check_tensor, existing, need, unreadable, write_whole
from .torch import from_torch, to_torch

__all__ = ["from_safetensors", "to_safetensors"]
__dir__ = __all__.copy

NET = "lstm_jax"


def from_safetensors(
    path: Any,
    *,
    prefix: str = "",
    double_bias: bool = False,
    activation: str = "tanh",
    dropout: float = 0.0,
) -> tuple[Any, Params]:
    """Read a .safetensors file as (net, params).

    Args:
        path: a file with PyTorch's names, or one that `to_safetensors` wrote.
        prefix, double_bias, activation, dropout: as `from_torch`, for PyTorch's names.

    Raises:
        ValueError: not such a file; a tensor is missing, unexpected, of a wrong shape or not
            finite.
        FileNotFoundError: no such file.
        ImportError: safetensors is not installed.
    """
    library = need("safetensors", "interop")
    # AttributeError: a dtype that NumPy lacks; RecursionError: a description nested too deeply.
    errors = (library.SafetensorError, OSError, AttributeError, TypeError)
    with unreadable(existing(path), "safetensors", *errors):
        with library.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if NET in metadata:
        with unreadable(path, "safetensors", json.JSONDecodeError, RecursionError):
            net = build(json.loads(metadata[NET]))
        return own(net, arrays)
    options = {"double_bias": double_bias, "activation": activation, "dropout": dropout}
    return from_torch(arrays, prefix=prefix, **options)


def to_safetensors(net: Any, params: Params, path: Any, *, names: str = "torch") -> None:
    """Write a .safetensors file atomically.

    Args:
        net, params: any net with names="lstm_jax"; with "torch", one that PyTorch has.
        path: the file.
        names: "torch": names of PyTorch's state dict; "lstm_jax": paths in params, with a
            description of the net in the file's metadata.

    Raises:
        ValueError: PyTorch has no such net; the file cannot be written.
        ImportError: safetensors is not installed.
    """
    check_choice("names", names, ("torch", NET))
    library = need("safetensors.numpy", "interop")
    metadata = {"format": "pt"}
    if names == "torch":
        arrays = to_torch(net, params)
    else:
        metadata[NET] = json.dumps(describe(net))
        leaves = by_path(checked_params(net, params))
        arrays = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
    write_whole(path, library.save(arrays, metadata=metadata))


def own(net: Any, arrays: Mapping[str, Any]) -> tuple[Any, Params]:
    """Build (net, params) from arrays named by their paths in params, such as "0/forward/w_ih".

    Raises:
        ValueError: the arrays do not fit the net.
    """
    size = _input_size(net, arrays)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), size))
    wanted = by_path(shapes)
    for name in sorted(wanted.keys() ^ arrays.keys()):
        seen = "an unexpected tensor" if name in arrays else "none"
        raise fail(name, seen, f"those of {net}", "pass an undamaged file")
    leaves = [
        jnp.asarray(check_tensor(name, arrays[name], "its shape", *want.shape))
        for name, want in wanted.items()
    ]
    return net, jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def checked_params(net: Any, params: Any) -> Params:
    """Convert `params` to plain arrays; raise unless they fit the net."""
    params = unboxed(params)
    check_named("params", params, "pass what init gives")
    first = np.shape(by_path(params).get(_first_matrix(net) or "", 0.0))
    return check_params(net, params, first[-2] if len(first) > 1 else 1)


def by_path(tree: Any) -> dict[str, Any]:
    """Flatten nested dicts to {path: leaf}, with paths such as "0/forward/w_ih"."""
    leaves = jax.tree_util.tree_leaves_with_path(unboxed(tree))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def _input_size(net: Any, arrays: Mapping[str, Any]) -> int:
    """Find the input size D, the number of rows of the first layer's matrix."""
    name = _first_matrix(net)
    if name is None:
        return 0
    if name not in arrays:
        raise fail(name, "no such tensor", "the first layer's", "pass an undamaged file")
    shape = np.shape(arrays[name])
    if len(shape) < 2:
        raise fail(name, f"shape {shape}", "[..., D, N]", "pass an undamaged file")
    return shape[-2]


def _first_matrix(net: Any) -> str | None:
    """The path in params of the first matrix that takes inputs, in the order of the net's parts."""
    if not isinstance(net, Net):
        return "w_ih"
    if isinstance(net, Dense):
        return "w"
    found = ((name, _first_matrix(part)) for name, part in net.parts.items())
    return next((f"{name}/{matrix}" for name, matrix in found if matrix), None)
