"""Synthetic tasks that need memory, in every published convention; text; buckets of sequences."""

from collections.abc import Callable

from . import text
from ._base import Batch, Task
from .adding import Adding
from .buckets import Buckets, Padded
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
    "Buckets",
    "CopyMemory",
    "GroupWords",
    "NoisePadded",
    "Padded",
    "Parity",
    "Reber",
    "Task",
    "TemporalOrder",
    "text",
]
__dir__ = __all__.copy
