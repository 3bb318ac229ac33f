"""Keras's files: .keras, a zip of JSON and HDF5; .weights.h5; the older .h5 of a whole model."""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import fail
from ._source import existing, need, unreadable, write_whole

Config = Mapping[str, Any]
Groups = dict[str, list[tuple[str, np.ndarray]]]

RECURRENT = ("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional")
RECURRENT += ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
PASSIVE = ("InputLayer", "Masking", "Dropout", "SpatialDropout1D")
"""Layers that change nothing in evaluation."""


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
    with unreadable(path, "Keras", OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError):
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                model = json.loads(archive.read("config.json"))
                weights = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(weights, "r") as file:
                return _configured(file, model, layers)
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                return _legacy(file, json.loads(file.attrs["model_config"]), layers)
            return None, _unconfigured(file.get("layers", file), layers)


def _configured(file: Any, model: Config, layers: Any) -> tuple[list[Config], Groups]:
    configs = chosen(model, layers)
    inner = model["config"]["layers"]
    names = [layer["config"]["name"] for layer in inner]
    groups = dict(zip(names, group_names(layer["class_name"] for layer in inner), strict=True))
    return configs, {
        config["config"]["name"]: _arrays(file["layers"][groups[config["config"]["name"]]], config)
        for config in configs
    }


def _arrays(group: Any, config: Config) -> list[tuple[str, np.ndarray]]:
    """(path, array) of each weight of a layer, in the order of `get_weights()`."""
    options = config["config"]
    if config["class_name"] == "Bidirectional":
        backward = options.get("backward_layer") or options["layer"]
        ahead = _arrays(group["forward_layer"], options["layer"])
        return ahead + _arrays(group["backward_layer"], backward)
    if config["class_name"] == "StackedRNNCells":
        names = group_names(cell["class_name"] for cell in options["cells"])
        cells = zip(names, options["cells"], strict=True)
        return [pair for name, cell in cells for pair in _arrays(group["cells"][name], cell)]
    if config["class_name"] == "RNN":
        return _arrays(group["cell"], options["cell"])
    return _variables(group.get("cell", group))


def _variables(group: Any) -> list[tuple[str, np.ndarray]]:
    variables = group["vars"]
    return [(f"{variables.name}/{n}", _array(variables[n])) for n in sorted(variables, key=int)]


def _array(variable: Any) -> np.ndarray:
    """The numbers of an HDF5 data set, which does not know bfloat16 but by Keras's word."""
    array = variable[()]
    return array.view(jnp.bfloat16) if variable.attrs.get("dtype") == "bfloat16" else array


def _legacy(file: Any, model: Config, layers: Any) -> tuple[list[Config], Groups]:
    configs, groups = chosen(model, layers), {}
    version = str(file.attrs.get("keras_version", "2"))
    if int(version.split(".")[0]) < 3 and "'hard_sigmoid'" in str(configs):
        seen = f"'hard_sigmoid' of Keras {version}"
        remedy = "it was clip(0.2 * x + 0.5), which no cell here has: train with 'sigmoid'"
        raise fail("recurrent_activation", seen, "that of Keras 3", remedy)
    for config in configs:
        group = file["model_weights"][config["config"]["name"]]
        names = [n.decode() if isinstance(n, bytes) else n for n in group.attrs["weight_names"]]
        groups[config["config"]["name"]] = [(name, group[name][()]) for name in names]
    return configs, groups


def _unconfigured(root: Any, layers: Sequence[str] | None) -> Groups:
    """The groups that hold cells. Their order is told by their names alone, if at all."""
    found = [name for name in root if "cell" in root[name] or "forward_layer" in root[name]]
    others = [name for name in root if name not in found and len(root[name].get("vars", ()))]
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
        halves = (group["forward_layer"], group["backward_layer"])
        return [pair for half in halves for pair in _unconfigured_arrays(half)]
    cells = group["cell"].get("cells")
    if cells is None:
        return _variables(group["cell"])
    if len({re.sub(r"_\d+$", "", name) for name in cells}) > 1:
        raise fail(group.name, f"cells {list(cells)}", "cells of one class", "pass a .keras file")
    return [pair for name in sorted(cells, key=_number) for pair in _variables(cells[name])]


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
