"""Recognition of another library's modules by class name, unless their behaviour is changed."""

import types
from typing import Any

from .._checks import fail

LIBRARY = __name__.split(".")[0]
"""This library, whose modules in `nn` compute what their bases do."""
_IDLE = ("reset_parameters", "flatten_parameters", "extra_repr")
_IDLE += ("build", "quantize", "get_config", "merge_fn")
"""Methods that a subclass may override: harmless ones, and those that the importer checks."""
_RUN = ("__call__", "__getattribute__", "__getattr__")
"""Special methods that a subclass may not override."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

REMEDY = "if its equation is still the base's, pass its arrays alone, by name"


def known_kind(name: str, module: Any, package: str, kinds: tuple[str, ...]) -> str | None:
    """The class among `kinds` that a module is or inherits from; None for any other.

    Args:
        name: the name of the module, for errors.
        module: the module.
        package: the package of its library, such as "flax.nnx".
        kinds: names of classes in that package.

    Raises:
        ValueError: the module may compute something else than its base class: a subclass overrides
            a method such as `__call__`, a method was assigned to the module, or it has hooks.
    """
    line = type(module).__mro__
    bases = [n for n, kind in enumerate(line) if kind.__name__ in kinds and _is_in(kind, package)]
    if not bases:
        return None
    base = line[bases[0]]
    below = [kind for kind in line[: bases[0]] if not _is_in(kind, f"{LIBRARY}.nn")]
    own = [key for kind in below for key in vars(kind) if _runs(base, key)]
    own += [key for key in vars(module) if _runs(base, key)]
    own += [hook.strip("_") for hook in _HOOKS if getattr(module, hook, None)]
    if own:
        seen = f"a {type(module).__name__} with its own {', '.join(own)}"
        raise fail(name, seen, f"{package}.{base.__name__} as it is", REMEDY)
    return base.__name__


def _is_in(kind: type, package: str) -> bool:
    return f"{kind.__module__}.".startswith(f"{package}.")


def _runs(base: type, key: str) -> bool:
    """True if `key` names a method of `base` that may change the output."""
    if key in _IDLE or (key.startswith("__") and key not in _RUN):
        return False
    return isinstance(getattr(base, key, None), (types.FunctionType, property)) or (
        key in _RUN and hasattr(base, key)
    )
