"""Reading and writing of weight files by their suffix, for `lstm-jax convert`."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from .._checks import counted, fail
from .._net import Net, check_net
from .._typing import Params
from ._describe import build, describe
from .keras import from_keras, to_keras
from .onnx import from_onnx, to_onnx
from .safetensors import by_path, checked_params, from_safetensors, own, to_safetensors
from .torch import from_torch, to_torch

__all__ = [
    "READERS",
    "WRITERS",
    "build",
    "by_path",
    "check_suffix",
    "describe",
    "own",
    "read",
    "summary",
    "write",
]
__dir__ = __all__.copy


READERS = {
    ".pt": from_torch,
    ".pth": from_torch,
    ".safetensors": from_safetensors,
    ".keras": from_keras,
    ".h5": from_keras,
    ".onnx": from_onnx,
}
WRITERS = {
    ".pt": lambda net, params, path: to_torch(net, params, file=path),
    ".pth": lambda net, params, path: to_torch(net, params, file=path),
    ".safetensors": lambda net, params, path: to_safetensors(net, params, path),
    ".keras": lambda net, params, path: to_keras(net, params, file=path),
    ".h5": lambda net, params, path: to_keras(net, params, file=path),
    ".onnx": lambda net, params, path: to_onnx(net, params, path),
}


def read(path: Path, **options: Any) -> tuple[Any, Params]:
    """Read a file as (net, params), by the `from_X` of its suffix.

    Args:
        path: the file.
        options: options of that function; empty ones and False count as not given.

    Raises:
        ValueError: an unknown suffix; an option that the format does not have; as `from_X`.
        FileNotFoundError, ImportError: as `from_X`.
    """
    reader = _by_suffix("source", path, READERS)
    given = {name: value for name, value in options.items() if value}
    known = inspect.signature(reader).parameters
    if "layers" in given and "nodes" in known:
        given["nodes"] = given.pop("layers")
    for name in sorted(given.keys() - known.keys()):
        raise fail(name, repr(given[name]), f"none, for a {path.suffix} file", "leave it out")
    return reader(path, **given)


def write(net: Any, params: Params, path: Path) -> None:
    """Write a file atomically, by the `to_X` of its suffix.

    Raises:
        ValueError: an unknown suffix; as `to_X`.
        ImportError: as `to_X`.
    """
    _by_suffix("target", path, WRITERS)(net, params, path)


def check_suffix(argument: str, path: Path) -> None:
    """Raise unless the suffix of `path` is a known format."""
    _by_suffix(argument, path, WRITERS)


def _by_suffix(argument: str, path: Path, table: dict[str, Any]) -> Any:
    if path.suffix.lower() not in table:
        known = ", ".join([*table, ".npz"])
        raise fail(argument, repr(str(path)), f"a suffix among {known}", "name another file")
    return table[path.suffix.lower()]


def summary(net: Any, params: Params) -> str:
    """Summarise a net, one line per cell: path in params, class, D, H, number of parameters."""
    check_net("net", net, "summary(net, params)")
    params = checked_params(net, params)
    lines = []
    for path, cell, inner in _cells(net, params):
        inputs = f"D = {inner['w_ih'].shape[-2]}, " if "w_ih" in inner else ""
        sizes = f"{inputs}H = {cell.hidden_size}, {counted(_count(inner), 'parameter')}"
        lines.append(f"{path or '.'}: {type(cell).__name__}, {sizes}")
    total = f"{counted(len(lines), 'cell')}, {counted(_count(params), 'parameter')}"
    return "\n".join([*lines, total])


def _cells(net: Any, params: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(net, Net):
        yield path, net, params
        return
    for name, part in net.parts.items():
        yield from _cells(part, params[name], f"{path}/{name}".lstrip("/"))


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
