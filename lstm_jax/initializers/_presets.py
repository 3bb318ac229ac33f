"""The initialisations of other libraries, by name."""

from __future__ import annotations

from typing import Any

from .._checks import check_choice
from ._gates import forget_bias, power_law, summed
from ._matrix import hidden_uniform, stacked, whole
from ._plain import (
    glorot_uniform,
    lecun_normal,
    small_normal,
    truncated_normal,
    uniform,
    zeros,
)
from ._structured import orthogonal


def _start(w_ih: Any, w_hh: Any, b: Any) -> dict[str, Any]:
    return {"w_ih_init": w_ih, "w_hh_init": w_hh, "b_init": b}


_ONE = {"b_init": forget_bias(1.0, gate="f")}
_TORCH = _start(hidden_uniform(), hidden_uniform(), summed(uniform()))
_EQUINOX = _start(uniform(), uniform(), uniform())
_KERAS = _start(whole(glorot_uniform()), whole(orthogonal()), zeros())
_FLAX = _start(lecun_normal(), orthogonal(), zeros())
_FUSED = _start(lecun_normal(), whole(orthogonal()), zeros())
_LINEAR = _start(truncated_normal(), truncated_normal(), zeros())
_HAIKU = _start(stacked(truncated_normal()), stacked(truncated_normal()), zeros())
_XLSTM = _start(small_normal(), zeros(), power_law())

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "torch": dict.fromkeys(("LSTM", "GRU", "RNN"), _TORCH),
    "equinox": dict.fromkeys(("LSTM", "GRU"), _EQUINOX),
    "keras": {"LSTM": _KERAS | _ONE, "GRU": _KERAS, "RNN": _KERAS},
    "flax": {"LSTM": _FLAX, "GRU": _FLAX, "RNN": _FLAX, "MGU": _FLAX | _ONE},
    "nnx": {"LSTM": _FLAX, "GRU": _FUSED, "RNN": _FLAX},
    "nnx_optimized": {"LSTM": _FUSED},
    "haiku": {
        "LSTM": _HAIKU | _ONE,
        "GRU": _start(lecun_normal(), lecun_normal(), zeros()),
        "RNN": _LINEAR,
    },
    "xlstm": {"LSTM": _XLSTM, "SLSTM": _XLSTM},
}
"""Keyword arguments of a cell by library and cell name, for the library's initial distribution."""


def preset(library: str, cell: Any = "LSTM") -> dict[str, Any]:
    """Keyword arguments that initialise a cell like another library's, in distribution.

        cell = LSTM(128, **preset("keras"))
        cell = GRU(128, **preset("keras", GRU))

    A constant that a library adds to a bias in each step (haiku's forget gate) is part of the bias
    here. With `double_bias=True` "torch" draws PyTorch's two biases, otherwise their sum.

    Args:
        library: "torch", "equinox", "keras", "flax" (linen), "nnx" (its LSTMCell),
            "nnx_optimized" (its OptimizedLSTMCell), "haiku" or "xlstm" (the sLSTM of its first
            block; see `power_law` for the others).
        cell: the class of the cell, or its name.

    Returns:
        {"w_ih_init": ..., "w_hh_init": ..., "b_init": ...}.

    Raises:
        ValueError: an unknown library, or a cell that it does not have.
    """
    check_choice("library", library, PRESETS)
    name = getattr(cell, "__name__", cell)
    check_choice("cell", name, PRESETS[library])
    return dict(PRESETS[library][name])
