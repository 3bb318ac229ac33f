"""Description of a net in JSON: {"type": "LSTM", "hidden_size": 128}, nested like the net."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._cells.contract import Recurrent
from .._checks import fail
from .._net import Net, check_net

LIBRARY = __name__.split(".")[0]


def describe(net: Any) -> dict[str, Any]:
    """Describe a net in JSON, without its initializers; `build` restores it.

    Raises:
        ValueError: a cell from outside this library, or an option that is a function.
    """
    check_net("net", net)
    if type(net).__name__ not in _types():
        remedy = "save its parameters with lstm_jax.checkpoint"
        raise fail("net", f"a {type(net).__name__}", f"a cell or net of {LIBRARY}", remedy)
    options = {
        field.name: _plain(field.name, getattr(net, field.name))
        for field in dataclasses.fields(net)
        if not field.name.endswith("_init") and getattr(net, field.name) != field.default
    }
    return {"type": type(net).__name__} | options


def build(description: Any) -> Any:
    """Build the net from a description by `describe`.

    Raises:
        ValueError: the description is not of a net of this library.
    """
    types = _types()
    kind = description.get("type") if isinstance(description, Mapping) else None
    if not isinstance(kind, str) or kind not in types:
        seen = kind if isinstance(description, Mapping) else description
        remedy = "pass what this version of the library wrote"
        raise fail("description", repr(seen), f"a type among {sorted(types)}", remedy)
    options = {name: _built(value) for name, value in description.items() if name != "type"}
    try:
        return types[kind](**options)
    except TypeError as error:
        seen = f"{kind} ({error})"
        raise fail("description", seen, "its options", "read it with the same version") from None


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (Recurrent, Net)):
        return describe(value)
    if isinstance(value, (tuple, list)):
        return [_plain(name, inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    remedy = "use one with a name, or save the parameters with lstm_jax.checkpoint"
    raise fail(f"net.{name}", repr(value), "a number, a name or a net", remedy)


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(value)
    if isinstance(value, int) and abs(value) >= 2**31:
        raise fail("description", value, "sizes below 2**31", "pass an undamaged file")
    return tuple(map(_built, value)) if isinstance(value, list) else value


def _types() -> dict[str, type]:
    """Cells and nets of this library by name, the only classes that a file can name."""
    found, todo = {}, [Recurrent, Net]
    while todo:
        for kind in todo.pop().__subclasses__():
            todo.append(kind)
            if kind.__module__.split(".")[0] == LIBRARY:
                found[kind.__name__] = kind
    return found
