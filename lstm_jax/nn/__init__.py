"""Recurrent modules of Flax and Equinox that this library runs, in the place of their own.

    import lstm_jax.nn.nnx as recurrent

    rnn = recurrent.RNN(nnx.LSTMCell(3, 4, rngs=rngs))                  # a layer of Flax, unchanged
    rnn = recurrent.RNN(recurrent.Cell(lstm_jax.GRU(4), 3, rngs=rngs))  # any cell or net

`nnx` and `linen` need the extra `flax`, `equinox` the extra of that name. Each is imported when it
is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import equinox, linen, nnx

__all__ = ["equinox", "linen", "nnx"]
__dir__ = __all__.copy


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
