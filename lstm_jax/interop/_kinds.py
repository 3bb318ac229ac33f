"""The classes of another library's modules: known by name, and only where they run as they do."""

import types
from typing import Any

from .._checks import fail

_IDLE = ("reset_parameters", "flatten_parameters", "extra_repr")
_IDLE += ("build", "quantize", "get_config", "merge_fn")
"""Functions that a module may have of its own: they change no output of given weights, or the
importer looks at them itself."""
_RUN = ("__call__", "__getattribute__", "__getattr__")
"""The special methods that it may not have."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

REMEDY = "if its equation is still the base's, pass its arrays alone, by name"


def known_kind(name: str, module: Any, package: str, kinds: tuple[str, ...]) -> str | None:
    """The one of `kinds` that a module is or inherits from, None where it is none of them.

    Args:
        name: of the module, for the error.
        package: the other library's, such as "flax.nnx".
        kinds: names of its classes.

    Raises:
        ValueError: a subclass with a method of its own that runs, such as another `__call__`; a
            module with a method put upon it, or with hooks: the base's equation would be another.
    """
    line = type(module).__mro__
    bases = [n for n, kind in enumerate(line) if kind.__name__ in kinds and _is_in(kind, package)]
    if not bases:
        return None
    base = line[bases[0]]
    own = [key for kind in line[: bases[0]] for key in vars(kind) if _runs(base, key)]
    own += [key for key in vars(module) if _runs(base, key)]
    own += [hook.strip("_") for hook in _HOOKS if getattr(module, hook, None)]
    if own:
        seen = f"a {type(module).__name__} with its own {', '.join(own)}"
        raise fail(name, seen, f"{package}.{base.__name__} as it is", REMEDY)
    return base.__name__


def _is_in(kind: type, package: str) -> bool:
    return f"{kind.__module__}.".startswith(f"{package}.")


def _runs(base: type, key: str) -> bool:
    """Whether `key` names a method of `base` that may change what the module gives."""
    if key in _IDLE or (key.startswith("__") and key not in _RUN):
        return False
    return isinstance(getattr(base, key, None), (types.FunctionType, property)) or (
        key in _RUN and hasattr(base, key)
    )
