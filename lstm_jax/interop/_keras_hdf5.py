"""Groups of Keras's HDF5 files: their names, and the arrays of a layer in each format."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import fail
from ._source import unreadable

Config = Mapping[str, Any]
WHOLE = "pass an undamaged file"


def group_names(kinds: Iterable[str]) -> list[str]:
    """Names that Keras gives to the HDF5 groups of objects of these classes: lstm, gru, lstm_1."""
    seen, names = Counter(), []
    for kind in kinds:
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
        name = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        names.append(f"{name}_{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def group_of(parent: Any, name: str) -> Any:
    """Get a group of an HDF5 file; raise if it is a data set."""
    child = parent[name]
    if not hasattr(child, "keys"):
        raise KeyError(f"{child.name} is no group")
    return child


def names_in(group: Any) -> list[str]:
    """Names of the members of an HDF5 group."""
    names = list(group)
    if not all(isinstance(name, str) for name in names):
        raise KeyError(f"{group.name} has names that are no text")
    return names


def listed(group: Any) -> list[tuple[str, np.ndarray]]:
    """Read (name, array) of each weight that a group lists, as before Keras 3."""
    return [(name, _array(group[name])) for name in texts(group.attrs["weight_names"])]


def texts(names: Any) -> list[str]:
    """Decode an attribute that lists names."""
    words = [n.decode(errors="replace") if isinstance(n, bytes) else n for n in np.ravel(names)]
    if not all(isinstance(word, str) for word in words):
        raise KeyError("names that are no text")
    return words


def arrays_of(group: Any, config: Config) -> list[tuple[str, np.ndarray]]:
    """Read (path, array) of each weight of a layer, in the order of `get_weights()`."""
    options = config["config"]
    if config["class_name"] == "Bidirectional":
        backward = options.get("backward_layer") or options["layer"]
        ahead = arrays_of(group_of(group, "forward_layer"), options["layer"])
        return ahead + arrays_of(group_of(group, "backward_layer"), backward)
    if config["class_name"] == "StackedRNNCells":
        names = group_names(cell["class_name"] for cell in options["cells"])
        cells = zip(names, options["cells"], strict=True)
        inner = group_of(group, "cells")
        return [pair for name, cell in cells for pair in arrays_of(group_of(inner, name), cell)]
    if config["class_name"] == "RNN":
        return arrays_of(group_of(group, "cell"), options["cell"])
    return _variables(group_of(group, "cell") if "cell" in group else group)


def unconfigured(group: Any) -> list[tuple[str, np.ndarray]]:
    """Read (path, array) of each weight of a layer, in a file without configurations."""
    if "forward_layer" in group:
        halves = (group_of(group, "forward_layer"), group_of(group, "backward_layer"))
        return [pair for half in halves for pair in unconfigured(half)]
    cell = group_of(group, "cell")
    if "cells" not in cell:
        return _variables(cell)
    cells = group_of(cell, "cells")
    names = names_in(cells)
    if len({re.sub(r"_\d+$", "", name) for name in names}) > 1:
        raise fail(group.name, f"cells {names}", "cells of one class", "pass a .keras file")
    return [pair for n in sorted(names, key=number) for pair in _variables(group_of(cells, n))]


def _variables(group: Any) -> list[tuple[str, np.ndarray]]:
    variables = group_of(group, "vars")
    names = names_in(variables)
    if not all(name.isdecimal() for name in names):
        raise KeyError(f"{variables.name} has names that are no numbers")
    return [(f"{variables.name}/{n}", _array(variables[n])) for n in sorted(names, key=int)]


def _array(variable: Any) -> np.ndarray:
    """Read an HDF5 data set; Keras marks bfloat16, which HDF5 lacks, by an attribute."""
    with unreadable(variable.name, "HDF5", AttributeError, TypeError, ValueError):
        array = variable[()]  # AttributeError: it is a group. The others: an unknown dtype.
    if variable.attrs.get("dtype") != "bfloat16":
        return array
    if array.dtype.itemsize != 2:
        raise fail(variable.name, f"dtype {array.dtype}", "16 bits of a bfloat16", WHOLE)
    return array.view(jnp.bfloat16)


def number(name: str) -> int:
    """The number at the end of a group's name, such as 2 in lstm_2; 0 without one."""
    match = re.search(r"_(\d+)$", name)
    return int(match[1]) if match else 0
