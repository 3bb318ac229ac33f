"""Differences between the layouts of libraries, gate orders and biases, as NumPy functions.

No other file contains a gate order. Gates have this library's letters, and lie along the last axis
of an array: [D, G*H], [H, G*H], [G*H].
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._checks import fail

Array = Any

OURS = {"RNN": "h", "LSTM": "ifgo", "GRU": "rzn", "MGU": "fn", "ConvLSTM": "ifgo"}
"""Order in which our cells store gates. ORDERS lists only what differs in another library."""

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
"""Cell by its number of gates."""

PEEPHOLES = {"i": "w_ci", "f": "w_cf", "o": "w_co"}
"""Name of each gate's peephole parameter, [H]."""


# ---- gates ---------------------------------------------------------------------------------------
def reorder(array: Array, seen: str, wanted: str) -> Array:
    """Reorder the gates of `array` from the order `seen` to the order `wanted`."""
    if seen == wanted:
        return array
    blocks = dict(zip(seen, np.split(array, len(seen), axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=-1)


def from_layout(layout: str, kind: str, array: Array) -> Array:
    """Reorder the gates of `array` from another layout to ours."""
    return reorder(array, ORDERS[layout][kind], OURS[kind])


def to_layout(layout: str, kind: str, array: Array) -> Array:
    """Reorder the gates of `array` from our layout to another."""
    return reorder(array, OURS[kind], ORDERS[layout][kind])


def split_gates(kind: str, array: Array) -> dict[str, Array]:
    """Split an array into one block per gate, by the gate's letter."""
    order = OURS[kind]
    return dict(zip(order, np.split(array, len(order), axis=-1), strict=True))


def join_gates(kind: str, blocks: dict[str, Array]) -> Array:
    """Join the blocks that `split_gates` returned."""
    return np.concatenate([blocks[gate] for gate in OURS[kind]], axis=-1)


def on_gate(kind: str, gate: str, function: Callable[[Array], Array], array: Array) -> Array:
    """Apply `function` to one gate's block of `array`."""
    blocks = split_gates(kind, array)
    return join_gates(kind, blocks | {gate: function(blocks[gate])})


def count_gates(name: str, columns: int, hidden_size: int) -> str:
    """Tell the cell from its number of gates.

    Raises:
        ValueError: no cell has that number of gates.
    """
    gates, rest = divmod(columns, max(hidden_size, 1))
    if rest or gates not in CELLS:
        known = ", ".join(f"{count} ({kind})" for count, kind in sorted(CELLS.items()))
        seen = f"{columns} gate units for H = {hidden_size}"
        raise fail(name, seen, f"G * H units with G = {known}", "pass a cell of one of these")
    return CELLS[gates]


# ---- biases --------------------------------------------------------------------------------------
def _resets(cell: Any) -> bool:
    """True if a gate multiplies the recurrent side of n, so that n's two biases cannot be added."""
    return getattr(cell, "reset_after", False) or getattr(cell, "reset_gate", False)


def bias_params(cell: Any, b_ih: Array, b_hh: Array | None = None) -> dict[str, Array]:
    """Our bias parameters, from the biases of the input and the recurrent side, [G*H] each.

    With double_bias the two stay apart. Otherwise they are added, except for n of a cell whose gate
    multiplies the recurrent side: its recurrent bias becomes b_hn.
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
    """Split our bias parameters into (b_ih, b_hh), [G*H] each; zeros for a missing one."""
    zeros = np.zeros(len(cell.gate_names) * cell.hidden_size, params["w_ih"].dtype)
    b_ih, b_hh = params.get("b", zeros), params.get("b_hh", zeros)
    if "b_hn" in params:
        b_hh = on_gate(type(cell).__name__, "n", lambda _: params["b_hn"], b_hh)
    return b_ih, b_hh


def one_bias(cell: Any, params: dict[str, Array]) -> tuple[Array, Array]:
    """Merge our bias parameters into (b [G*H], b_hn [H]); without a reset gate b_hn is zero."""
    b_ih, b_hh = two_biases(cell, params)
    kind = type(cell).__name__
    if not _resets(cell):
        return b_ih + b_hh, np.zeros_like(b_hh[: cell.hidden_size])
    return b_ih + on_gate(kind, "n", np.zeros_like, b_hh), split_gates(kind, b_hh)["n"]


# ---- an LSTM's coupled gates and peepholes -------------------------------------------------------
def couple(array: Array) -> Array:
    """Convert i, f, g, o with f = 1 - i to f, g, o of a coupled LSTM, whose f is i negated."""
    blocks = split_gates("LSTM", array)
    return np.concatenate([-blocks["i"], blocks["g"], blocks["o"]], axis=-1)


def uncouple(array: Array) -> Array:
    """Convert a coupled LSTM's f, g, o to i, f, g, o of an LSTM with the same outputs."""
    f, g, o = np.split(array, 3, axis=-1)
    return np.concatenate([-f, f, g, o], axis=-1)


def read_peepholes(layout: str, array: Array, coupled: bool = False) -> dict[str, Array]:
    """Split a vector of peepholes [3H] into our parameters."""
    blocks = dict(zip(ORDERS[layout]["peepholes"], np.split(array, 3), strict=True))
    if coupled:
        blocks = {"f": -blocks["i"], "o": blocks["o"]}
    return {PEEPHOLES[gate]: block for gate, block in blocks.items()}


def write_peepholes(layout: str, params: dict[str, Array]) -> Array:
    """Join our peephole parameters in one vector [3H]; a coupled LSTM's i is the negated f."""
    params = {PEEPHOLES["i"]: -params[PEEPHOLES["f"]]} | params
    return np.concatenate([params[PEEPHOLES[gate]] for gate in ORDERS[layout]["peepholes"]])
