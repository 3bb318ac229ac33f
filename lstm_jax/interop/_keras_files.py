"""Keras's files: .keras, a zip of JSON and HDF5; .weights.h5; the older .h5 of a whole model."""

import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import fail, shown
from ._source import existing, need, unreadable, write_whole

Config = Mapping[str, Any]
Groups = dict[str, list[tuple[str, np.ndarray]]]

RECURRENT = ("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional")
RECURRENT += ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "CuDNNLSTM", "CuDNNGRU")
PASSIVE = ("InputLayer", "Masking", "Dropout", "SpatialDropout1D")
"""Layers that change nothing in evaluation."""
INNER = {"RNN": ("cell",), "StackedRNNCells": ("cells",)}
INNER |= {"Bidirectional": ("layer", "backward_layer")}
"""Where a layer's configuration has others inside."""

WHOLE = "pass a file that is whole"
DAMAGED = (OSError, KeyError, RuntimeError, EOFError)
DAMAGED += (zipfile.BadZipFile, zlib.error, json.JSONDecodeError)
"""What h5py, zipfile and json raise; RecursionError and NotImplementedError are RuntimeErrors."""


# ---- which layers --------------------------------------------------------------------------------
def chosen(config: Config, layers: Sequence[str] | None) -> list[Config]:
    """The configurations of the layers to take, in order.

    Raises:
        ValueError: `layers` names one that is not there; without it, other layers stand among the
            recurrent ones, or the model is no chain.
    """
    kind, options = config["class_name"], config["config"]
    if "layers" not in options:
        return [{**config, "config": {"name": kind} | options}]
    inner = options["layers"]
    names = [layer["config"]["name"] for layer in inner]
    if layers is not None:
        missing = [name for name in layers if name not in names]
        if missing:
            raise fail("layers", missing, f"names among {names}", "pass some of these")
        return [inner[names.index(name)] for name in layers]
    taken = [layer for layer in inner if layer["class_name"] not in PASSIVE]
    others = [layer["config"]["name"] for layer in taken if layer["class_name"] not in RECURRENT]
    recurrent = [layer["config"]["name"] for layer in taken if layer["class_name"] in RECURRENT]
    if others or kind != "Sequential":
        seen = f"a {kind} with {others}" if others else f"a {kind}"
        raise fail("source", seen, "a Sequential of recurrent layers", f"pass layers={recurrent}")
    return taken


def group_names(kinds: Iterable[str]) -> list[str]:
    """The names of HDF5 groups that Keras gives to objects of these classes: lstm, gru, lstm_1."""
    seen, names = Counter(), []
    for kind in kinds:
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
        name = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        names.append(f"{name}_{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


# ---- in ------------------------------------------------------------------------------------------
def read(path: Any, layers: Sequence[str] | None) -> tuple[list[Config] | None, Groups]:
    """(configurations, arrays): of each layer, in order. A file of weights has no configurations.

    Raises:
        ValueError: not such a file, or not such layers.
    """
    h5py = need("h5py", "interop")
    path = existing(path)
    with unreadable(path, "Keras", *DAMAGED):
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                model = _model(archive.read("config.json"))
                weights = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(weights, "r") as file:
                return _configured(file, model, layers)
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                return _legacy(file, _model(file.attrs["model_config"]), layers)
            if "layer_names" in file.attrs:
                return None, _keras_2(file, layers)
            root = _group(file, "layers") if "layers" in file else file
            return None, _unconfigured(root, layers)


def _model(text: Any) -> Config:
    """The configuration of a model, whose layers are all of Keras's form.

    Raises:
        OSError: the first that is not; `read` names the file.
    """
    model = json.loads(text) if isinstance(text, (str, bytes)) else text
    _check_config("the model", model)
    inner = model["config"].get("layers")
    if not isinstance(inner, list):
        raise OSError(f"its layers are {shown(inner)}, no list")
    for n, layer in enumerate(inner):
        _check_config(f"layer {n}", layer)
        if not isinstance(layer["config"].get("name"), str):
            raise OSError(f"layer {n} has no name")
    return model


def _check_config(name: str, config: Any) -> None:
    mapping = isinstance(config, Mapping) and isinstance(config.get("config"), Mapping)
    if not mapping or not isinstance(config.get("class_name"), str):
        raise OSError(f"{name} is {shown(config)}, no configuration")
    for place in INNER.get(config["class_name"], ()):
        inner = config["config"].get(place)
        for part in inner if isinstance(inner, list) else [inner]:
            if part is not None or place != "backward_layer":
                _check_config(f"{name}'s {place}", part)


def _group(parent: Any, name: str) -> Any:
    """A group of an HDF5 file, which is no data set."""
    child = parent[name]
    if not hasattr(child, "keys"):
        raise KeyError(f"{child.name} is no group")
    return child


def _names(group: Any) -> list[str]:
    """Of what is in a group of an HDF5 file."""
    names = list(group)
    if not all(isinstance(name, str) for name in names):
        raise KeyError(f"{group.name} has names that are no text")
    return names


def _configured(file: Any, model: Config, layers: Any) -> tuple[list[Config], Groups]:
    configs = chosen(model, layers)
    inner = model["config"]["layers"]
    names = [layer["config"]["name"] for layer in inner]
    groups = dict(zip(names, group_names(layer["class_name"] for layer in inner), strict=True))
    return configs, {
        config["config"]["name"]: _arrays(
            _group(_group(file, "layers"), groups[config["config"]["name"]]), config
        )
        for config in configs
    }


def _arrays(group: Any, config: Config) -> list[tuple[str, np.ndarray]]:
    """(path, array) of each weight of a layer, in the order of `get_weights()`."""
    options = config["config"]
    if config["class_name"] == "Bidirectional":
        backward = options.get("backward_layer") or options["layer"]
        ahead = _arrays(_group(group, "forward_layer"), options["layer"])
        return ahead + _arrays(_group(group, "backward_layer"), backward)
    if config["class_name"] == "StackedRNNCells":
        names = group_names(cell["class_name"] for cell in options["cells"])
        cells = zip(names, options["cells"], strict=True)
        inner = _group(group, "cells")
        return [pair for name, cell in cells for pair in _arrays(_group(inner, name), cell)]
    if config["class_name"] == "RNN":
        return _arrays(_group(group, "cell"), options["cell"])
    return _variables(_group(group, "cell") if "cell" in group else group)


def _variables(group: Any) -> list[tuple[str, np.ndarray]]:
    variables = _group(group, "vars")
    names = _names(variables)
    if not all(name.isdecimal() for name in names):
        raise KeyError(f"{variables.name} has names that are no numbers")
    return [(f"{variables.name}/{n}", _array(variables[n])) for n in sorted(names, key=int)]


def _array(variable: Any) -> np.ndarray:
    """The numbers of an HDF5 data set, which does not know bfloat16 but by Keras's word."""
    with unreadable(variable.name, "HDF5", AttributeError, TypeError, ValueError):
        array = variable[()]  # AttributeError: a group. The others: a type that is none.
    if variable.attrs.get("dtype") != "bfloat16":
        return array
    if array.dtype.itemsize != 2:
        raise fail(variable.name, f"dtype {array.dtype}", "16 bits of a bfloat16", WHOLE)
    return array.view(jnp.bfloat16)


def _legacy(file: Any, model: Config, layers: Any) -> tuple[list[Config], Groups]:
    configs, groups = chosen(model, layers), {}
    version = str(file.attrs.get("keras_version", "2"))
    if version.startswith(("1", "2")) and "'hard_sigmoid'" in str(configs):
        seen = f"'hard_sigmoid' of Keras {version}"
        remedy = "it was clip(0.2 * x + 0.5), which no cell here has: train with 'sigmoid'"
        raise fail("recurrent_activation", seen, "that of Keras 3", remedy)
    for config in configs:
        name = config["config"]["name"]
        groups[name] = _listed(_group(_group(file, "model_weights"), name))
    return configs, groups


def _keras_2(file: Any, layers: Sequence[str] | None) -> Groups:
    """The layers of what Keras 2's `save_weights` wrote, which tells their order and no more."""
    groups = {name: _listed(_group(file, name)) for name in _texts(file.attrs["layer_names"])}
    found = [name for name in groups if any("recurrent_kernel" in w for w, _ in groups[name])]
    others = [name for name in groups if groups[name] and name not in found]
    if layers is None and others:
        remedy = f"name those to take in `layers`, in order, from {found}"
        raise fail("layers", f"groups {[*groups]}", "recurrent layers alone", remedy)
    if missing := [name for name in layers or () if name not in found]:
        raise fail("layers", missing, f"names among {found}", "pass some of these")
    return {name: groups[name] for name in (found if layers is None else layers)}


def _listed(group: Any) -> list[tuple[str, np.ndarray]]:
    """(name, array) of each weight of a group that lists them, as before Keras 3."""
    return [(name, _array(group[name])) for name in _texts(group.attrs["weight_names"])]


def _texts(names: Any) -> list[str]:
    """An attribute that lists names."""
    listed = [n.decode(errors="replace") if isinstance(n, bytes) else n for n in np.ravel(names)]
    if not all(isinstance(name, str) for name in listed):
        raise KeyError("names that are no text")
    return listed


def _unconfigured(root: Any, layers: Sequence[str] | None) -> Groups:
    """The groups that hold cells. Their order is told by their names alone, if at all."""
    groups = {name: _group(root, name) for name in _names(root) if hasattr(root[name], "keys")}
    found = [name for name, group in groups.items() if "cell" in group or "forward_layer" in group]
    others = [name for name in groups if name not in found and len(groups[name].get("vars", ()))]
    kinds = {re.sub(r"_\d+$", "", name) for name in found}
    if layers is None and (others or len(kinds) != 1):
        remedy = f"name those to take in `layers`, in order, from {found}; a .keras file tells it"
        raise fail("layers", f"groups {found + others}", "recurrent layers of one class", remedy)
    names = sorted(found, key=_number) if layers is None else list(layers)
    if missing := [name for name in names if name not in found]:
        raise fail("layers", missing, f"names among {found}", "pass some of these")
    return {name: _unconfigured_arrays(root[name]) for name in names}


def _unconfigured_arrays(group: Any) -> list[tuple[str, np.ndarray]]:
    if "forward_layer" in group:
        halves = (_group(group, "forward_layer"), _group(group, "backward_layer"))
        return [pair for half in halves for pair in _unconfigured_arrays(half)]
    cell = _group(group, "cell")
    if "cells" not in cell:
        return _variables(cell)
    cells = _group(cell, "cells")
    names = _names(cells)
    if len({re.sub(r"_\d+$", "", name) for name in names}) > 1:
        raise fail(group.name, f"cells {names}", "cells of one class", "pass a .keras file")
    return [pair for n in sorted(names, key=_number) for pair in _variables(_group(cells, n))]


def _number(name: str) -> int:
    match = re.search(r"_(\d+)$", name)
    return int(match[1]) if match else 0


# ---- out -----------------------------------------------------------------------------------------
def write(
    path: Any, configs: list[dict[str, Any]], weights: list[list[Any]], shape: tuple[int, ...]
) -> None:
    """A Sequential model of these layers, or its weights alone.

    Raises:
        ValueError: the suffix is neither .keras nor .h5; the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix not in (".keras", ".h5"):
        raise fail("file", f"{str(path)!r}", "a .keras or .weights.h5 file", "name it so")
    names = group_names(config["class_name"] for config in configs)
    arrays = _hdf5(names, weights)
    if suffix == ".keras":
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
            archive.writestr("config.json", json.dumps(_sequential(configs, names, shape)))
            archive.writestr("model.weights.h5", arrays)
        arrays = memory.getvalue()
    write_whole(path, arrays)


def _hdf5(names: list[str], weights: list[list[Any]]) -> bytes:
    h5py = need("h5py", "interop")
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for name, parts in zip(names, weights, strict=True):
            halves = ("",) if len(parts) == 1 else ("forward_layer/", "backward_layer/")
            for half, arrays in zip(halves, parts, strict=True):
                for n, array in enumerate(arrays):
                    place = f"layers/{name}/{half}cell/vars/{n}"
                    file[place] = array
                    if array.dtype == jnp.bfloat16:
                        file[place].attrs["dtype"] = "bfloat16"
    return memory.getvalue()


def _sequential(configs: list[dict[str, Any]], names: list[str], shape: tuple[int, ...]) -> Config:
    """The configuration of a Sequential model for inputs [batch, time, *shape]."""
    inputs = {"name": "inputs", "batch_shape": [None, None, *shape]}
    first = {"class_name": "InputLayer", "config": inputs}
    layers = [first, *map(_named, configs, names)]
    for layer in layers:
        layer.update(module="keras.layers", registered_name=None)
    return {"module": "keras", "class_name": "Sequential", "registered_name": None,
            "config": {"name": "sequential", "layers": layers}}  # fmt: skip


def _named(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The configuration with names, and those inside it too."""
    options = {"name": name} | config["config"]
    for place in ("layer", "backward_layer"):
        if place in options:
            inner = _named(options[place], f"{name}_{place}")
            options[place] = inner | {"module": "keras.layers", "registered_name": None}
    return {**config, "config": options}
