"""Contenders of other libraries, each used as its users do, with the same weights.

A rival's module is imported on request only, as its library may not be installed.
"""

import importlib
from typing import Any

NAMES = ("torch", "linen", "nnx", "haiku", "equinox", "keras", "jax_rnn")
ALIASES = {"flax": ("linen", "nnx"), "all": NAMES, "none": ()}
INSTALL = "pip install 'lstm-jax[peers]'"


def chosen(names: str) -> list[str]:
    """Parse a list of rivals such as "torch,flax".

    Raises:
        ValueError: an unknown name.
    """
    found: dict[str, None] = {}
    for name in filter(None, names.split(",")):
        if name not in NAMES and name not in ALIASES:
            known = ", ".join((*NAMES, *ALIASES))
            raise ValueError(f"--rivals: got {name!r}, wanted some of {known}")
        found |= dict.fromkeys(ALIASES.get(name, (name,)))
    return list(found)


def load(name: str) -> Any:
    """Import the module of a rival.

    Raises:
        ImportError: its library is missing.
    """
    return importlib.import_module(f".{name}", __name__)
