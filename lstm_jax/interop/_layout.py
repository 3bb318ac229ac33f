"""Gate orders, transposes and biases: all in which the layouts differ, as NumPy functions.

Nothing outside this file knows an order. Gates are written with this library's letters, and an
array's gates lie along its last axis: [D, G*H], [H, G*H], [G*H].
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._checks import fail

Array = Any

OURS = {"RNN": "h", "LSTM": "ifgo", "GRU": "rzn", "MGU": "fn", "ConvLSTM": "ifgo"}
"""The stored order of each cell. The others' tables hold what differs from it."""

ORDERS = {
    "torch": OURS,
    "linen": OURS | {"ConvLSTM": "igfo"},
    "nnx": OURS,
    "equinox": OURS,
    "cudnn": OURS,
    "keras": OURS | {"GRU": "zrn"},
    "haiku": OURS | {"LSTM": "igfo", "GRU": "zrn", "ConvLSTM": "igfo"},
    "onnx": OURS | {"LSTM": "iofg", "GRU": "zrn", "peepholes": "iof"},
}

CELLS = {len(OURS[kind]): kind for kind in ("RNN", "LSTM", "GRU")}
"""The cell that a number of gates means."""

PEEPHOLES = {"i": "w_ci", "f": "w_cf", "o": "w_co"}
"""The parameter of each gate's peephole, [H]."""


# ---- gates ---------------------------------------------------------------------------------------
def reorder(array: Array, seen: str, wanted: str) -> Array:
    """The gates of `array`, stored in the order `seen`, in the order `wanted`."""
    if seen == wanted:
        return array
    blocks = dict(zip(seen, np.split(array, len(seen), axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=-1)


def from_layout(layout: str, kind: str, array: Array) -> Array:
    """`array` of another layout in our order of gates."""
    return reorder(array, ORDERS[layout][kind], OURS[kind])


def to_layout(layout: str, kind: str, array: Array) -> Array:
    """`array` of ours in another layout's order of gates."""
    return reorder(array, OURS[kind], ORDERS[layout][kind])


def split_gates(kind: str, array: Array) -> dict[str, Array]:
    """One block a gate, by its letter."""
    order = OURS[kind]
    return dict(zip(order, np.split(array, len(order), axis=-1), strict=True))


def join_gates(kind: str, blocks: dict[str, Array]) -> Array:
    """What `split_gates` took apart."""
    return np.concatenate([blocks[gate] for gate in OURS[kind]], axis=-1)


def on_gate(kind: str, gate: str, function: Callable[[Array], Array], array: Array) -> Array:
    """`array` with one gate's block changed: haiku's negated z, its forget bias less one."""
    blocks = split_gates(kind, array)
    return join_gates(kind, blocks | {gate: function(blocks[gate])})


def count_gates(name: str, columns: int, hidden_size: int) -> str:
    """The cell whose gates are this many.

    Raises:
        ValueError: no cell has so many gates.
    """
    gates, rest = divmod(columns, max(hidden_size, 1))
    if rest or gates not in CELLS:
        known = ", ".join(f"{count} ({kind})" for count, kind in sorted(CELLS.items()))
        seen = f"{columns} gate units for H = {hidden_size}"
        raise fail(name, seen, f"G * H units with G = {known}", "pass a cell of one of these")
    return CELLS[gates]


# ---- biases --------------------------------------------------------------------------------------
def _resets(cell: Any) -> bool:
    """Whether a gate multiplies the recurrent side of n, and so stands between its two biases."""
    return getattr(cell, "reset_after", False) or getattr(cell, "reset_gate", False)


def bias_params(cell: Any, b_ih: Array, b_hh: Array | None = None) -> dict[str, Array]:
    """Our parameters from the bias of the input side and that of the recurrent side, [G*H] each.

    double_bias keeps the two apart. Without it they are one sum, except where a gate stands between
    them: the recurrent side's n is b_hn.
    """
    if not cell.bias:
        return {}
    b_hh = np.zeros_like(b_ih) if b_hh is None else b_hh
    if cell.double_bias:
        return {"b": b_ih, "b_hh": b_hh}
    if not _resets(cell):
        return {"b": b_ih + b_hh}
    kind = type(cell).__name__
    outside = on_gate(kind, "n", np.zeros_like, b_hh)
    return {"b": b_ih + outside, "b_hn": split_gates(kind, b_hh)["n"]}


def two_biases(cell: Any, params: dict[str, Array]) -> tuple[Array, Array]:
    """(b_ih, b_hh) [G*H] each, of which our parameters are the merge; zeros where there is none."""
    zeros = np.zeros(len(cell.gate_names) * cell.hidden_size, params["w_ih"].dtype)
    b_ih, b_hh = params.get("b", zeros), params.get("b_hh", zeros)
    if "b_hn" in params:
        b_hh = on_gate(type(cell).__name__, "n", lambda _: params["b_hn"], b_hh)
    return b_ih, b_hh


def one_bias(cell: Any, params: dict[str, Array]) -> tuple[Array, Array]:
    """(b [G*H], b_hn [H]): one sum, and what a gate keeps out of it (zeros where none does)."""
    b_ih, b_hh = two_biases(cell, params)
    kind = type(cell).__name__
    if not _resets(cell):
        return b_ih + b_hh, np.zeros_like(b_hh[: cell.hidden_size])
    return b_ih + on_gate(kind, "n", np.zeros_like, b_hh), split_gates(kind, b_hh)["n"]


# ---- an LSTM's coupled gates and peepholes -------------------------------------------------------
def couple(array: Array) -> Array:
    """A coupled LSTM's f, g, o from i, f, g, o where f = 1 - i: sigmoid(-x) = 1 - sigmoid(x)."""
    blocks = split_gates("LSTM", array)
    return np.concatenate([-blocks["i"], blocks["g"], blocks["o"]], axis=-1)


def uncouple(array: Array) -> Array:
    """The i, f, g, o of a coupled LSTM's f, g, o: of an LSTM with the same outputs."""
    f, g, o = np.split(array, 3, axis=-1)
    return np.concatenate([-f, f, g, o], axis=-1)


def read_peepholes(layout: str, array: Array, coupled: bool = False) -> dict[str, Array]:
    """Our parameters from one vector of peepholes, [3H]."""
    blocks = dict(zip(ORDERS[layout]["peepholes"], np.split(array, 3), strict=True))
    if coupled:
        blocks = {"f": -blocks["i"], "o": blocks["o"]}
    return {PEEPHOLES[gate]: block for gate, block in blocks.items()}


def write_peepholes(layout: str, params: dict[str, Array]) -> Array:
    """One vector of peepholes, [3H], from our parameters; a coupled LSTM has none of i."""
    params = {PEEPHOLES["i"]: -params[PEEPHOLES["f"]]} | params
    return np.concatenate([params[PEEPHOLES[gate]] for gate in ORDERS[layout]["peepholes"]])
