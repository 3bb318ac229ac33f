"""Synthetic tasks that need memory, in every published convention, and text as characters."""

from collections.abc import Callable

from . import text
from ._base import Batch, Task
from .adding import Adding
from .copy_memory import CopyMemory
from .group_words import GroupWords
from .noise_padded import NoisePadded
from .parity import Parity
from .reber import Reber
from .temporal_order import TemporalOrder

TASKS: dict[str, Callable[..., Task]] = {
    "adding": Adding,
    "copy": CopyMemory,
    "group-words": GroupWords,
    "noise-padded": NoisePadded,
    "parity": Parity,
    "reber": Reber,
    "temporal-order": TemporalOrder,
}
"""Task classes by name; each takes `length`, and has defaults for the rest."""

__all__ = [
    "TASKS",
    "Adding",
    "Batch",
    "CopyMemory",
    "GroupWords",
    "NoisePadded",
    "Parity",
    "Reber",
    "Task",
    "TemporalOrder",
    "text",
]
__dir__ = __all__.copy
