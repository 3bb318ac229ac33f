"""Keras's file formats: .keras (a zip of JSON and HDF5), .weights.h5, older .h5 of whole models."""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import fail, shown
from ._keras_hdf5 import (
    arrays_of,
    group_names,
    group_of,
    listed,
    names_in,
    number,
    texts,
    unconfigured,
)
from ._source import existing, need, unreadable, write_whole

Config = Mapping[str, Any]
Groups = dict[str, list[tuple[str, np.ndarray]]]

RECURRENT = ("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional")
RECURRENT += ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "CuDNNLSTM", "CuDNNGRU")
PASSIVE = ("InputLayer", "Masking", "Dropout", "SpatialDropout1D")
"""Layers that do nothing in evaluation."""
INNER = {"RNN": ("cell",), "StackedRNNCells": ("cells",)}
INNER |= {"Bidirectional": ("layer", "backward_layer")}
"""Keys under which a layer's configuration contains other configurations."""

DAMAGED = (OSError, KeyError, RuntimeError, EOFError)
DAMAGED += (zipfile.BadZipFile, zlib.error, json.JSONDecodeError)
"""Errors that h5py, zipfile and json raise (RecursionError, NotImplementedError: RuntimeError)."""


# ---- which layers --------------------------------------------------------------------------------
def chosen(config: Config, layers: Sequence[str] | None) -> list[Config]:
    """Choose the configurations of the layers to convert, in order.

    Raises:
        ValueError: `layers` has an unknown name; or it is None, and other layers are among the
            recurrent ones, or the model is not sequential.
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


# ---- in ------------------------------------------------------------------------------------------
def read(path: Any, layers: Sequence[str] | None) -> tuple[list[Config] | None, Groups]:
    """Read (configurations, arrays) of the layers, in order; configurations may be None.

    Raises:
        ValueError: not a Keras file, or layers that cannot be converted.
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
            root = group_of(file, "layers") if "layers" in file else file
            return None, _unconfigured(root, layers)


def _model(text: Any) -> Config:
    """Parse the configuration of a model, and check the form of its layers.

    Raises:
        OSError: a malformed layer; `read` adds the name of the file.
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


def _configured(file: Any, model: Config, layers: Any) -> tuple[list[Config], Groups]:
    configs = chosen(model, layers)
    inner = model["config"]["layers"]
    names = [layer["config"]["name"] for layer in inner]
    groups = dict(zip(names, group_names(layer["class_name"] for layer in inner), strict=True))
    return configs, {
        config["config"]["name"]: arrays_of(
            group_of(group_of(file, "layers"), groups[config["config"]["name"]]), config
        )
        for config in configs
    }


def _legacy(file: Any, model: Config, layers: Any) -> tuple[list[Config], Groups]:
    configs, groups = chosen(model, layers), {}
    version = str(file.attrs.get("keras_version", "2"))
    if version.startswith(("1", "2")) and "'hard_sigmoid'" in str(configs):
        seen = f"'hard_sigmoid' of Keras {version}"
        remedy = "it was clip(0.2 * x + 0.5), which no cell here has: train with 'sigmoid'"
        raise fail("recurrent_activation", seen, "that of Keras 3", remedy)
    for config in configs:
        name = config["config"]["name"]
        groups[name] = listed(group_of(group_of(file, "model_weights"), name))
    return configs, groups


def _keras_2(file: Any, layers: Sequence[str] | None) -> Groups:
    """Read a file of Keras 2's `save_weights`, which tells the order of the layers only."""
    groups = {name: listed(group_of(file, name)) for name in texts(file.attrs["layer_names"])}
    found = [name for name in groups if any("recurrent_kernel" in w for w, _ in groups[name])]
    others = [name for name in groups if groups[name] and name not in found]
    if layers is None and others:
        remedy = f"name those to take in `layers`, in order, from {found}"
        raise fail("layers", f"groups {[*groups]}", "recurrent layers alone", remedy)
    if missing := [name for name in layers or () if name not in found]:
        raise fail("layers", missing, f"names among {found}", "pass some of these")
    return {name: groups[name] for name in (found if layers is None else layers)}


def _unconfigured(root: Any, layers: Sequence[str] | None) -> Groups:
    """Read the groups that hold cells, in the order that their names tell."""
    groups = {name: group_of(root, name) for name in names_in(root) if hasattr(root[name], "keys")}
    found = [name for name, group in groups.items() if "cell" in group or "forward_layer" in group]
    others = [name for name in groups if name not in found and len(groups[name].get("vars", ()))]
    kinds = {re.sub(r"_\d+$", "", name) for name in found}
    if layers is None and (others or len(kinds) != 1):
        remedy = f"name those to take in `layers`, in order, from {found}; a .keras file tells it"
        raise fail("layers", f"groups {found + others}", "recurrent layers of one class", remedy)
    names = sorted(found, key=number) if layers is None else list(layers)
    if missing := [name for name in names if name not in found]:
        raise fail("layers", missing, f"names among {found}", "pass some of these")
    return {name: unconfigured(root[name]) for name in names}


# ---- out -----------------------------------------------------------------------------------------
def write(
    path: Any, configs: list[dict[str, Any]], weights: list[list[Any]], shape: tuple[int, ...]
) -> None:
    """Write a Sequential model of these layers (.keras) or only its weights (.h5).

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
    """Configuration of a Sequential model for inputs [batch, time, *shape]."""
    inputs = {"name": "inputs", "batch_shape": [None, None, *shape]}
    first = {"class_name": "InputLayer", "config": inputs}
    layers = [first, *map(_named, configs, names)]
    for layer in layers:
        layer.update(module="keras.layers", registered_name=None)
    return {"module": "keras", "class_name": "Sequential", "registered_name": None,
            "config": {"name": "sequential", "layers": layers}}  # fmt: skip


def _named(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Add names to a configuration and to those inside it."""
    options = {"name": name} | config["config"]
    for place in ("layer", "backward_layer"):
        if place in options:
            inner = _named(options[place], f"{name}_{place}")
            options[place] = inner | {"module": "keras.layers", "registered_name": None}
    return {**config, "config": options}
