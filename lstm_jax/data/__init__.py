"""Synthetic tasks that need memory, in every published convention, and text as characters."""

from collections.abc import Callable

from . import text
from ._base import Batch, Task
from .adding import Adding
from .copy_memory import CopyMemory
from .group_words import GroupWords
from .parity import Parity
from .temporal_order import TemporalOrder

TASKS: dict[str, Callable[..., Task]] = {
    "adding": Adding,
    "copy": CopyMemory,
    "group-words": GroupWords,
    "parity": Parity,
    "temporal-order": TemporalOrder,
}
"""Task classes by name; each takes `length` and `variant`, and has defaults for the rest."""

__all__ = [
    "TASKS",
    "Adding",
    "Batch",
    "CopyMemory",
    "GroupWords",
    "Parity",
    "Task",
    "TemporalOrder",
    "text",
]
__dir__ = __all__.copy
