"""Flax's cells in the words of this library: their equation, parameters and carry.

A cell of linen or nnx is a tree of Dense layers; joined by gates they are the parameters of a cell
here. So the parameters stay Flax's own, and gradients reach them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._cells.gru import GRU
from .._cells.lstm import LSTM, LSTMState
from .._cells.minimal import MGU
from .._cells.rnn import RNN
from .._checks import fail
from .._typing import Array, Carry, Params

NAMES = {
    jax.nn.sigmoid: "sigmoid",
    jnp.tanh: "tanh",
    jax.nn.tanh: "tanh",
    jax.nn.relu: "relu",
}
"""Activations that have a name here; any other elementwise function is taken as it is."""


class Held(NamedTuple):
    """What a module holds: a cell or net with its parameters, and the form of its carry.

    Attributes:
        net: the cell or net.
        params: its parameters, plain arrays.
        dtype: the dtype of Flax's own carry, (c, h) of an LSTM and h of others; None: the carry is
            that of `net`.
    """

    net: Any
    params: Params
    dtype: Any = None

    def enter(self, carry: Carry | None) -> Carry | None:
        """Convert the module's carry to that of the net."""
        if carry is None or self.dtype is None:
            return carry
        if not isinstance(self.net, LSTM):
            return self.net.state(carry)
        if isinstance(carry, LSTMState) or not isinstance(carry, (tuple, list)) or len(carry) != 2:
            seen = f"a {type(carry).__name__}"
            raise fail("carry", seen, "(c, h), as Flax orders it", "pass (carry.c, carry.h)")
        c, h = carry
        return LSTMState(h, c)

    def leave(self, final: Carry, like: Carry | None) -> Carry:
        """Convert the net's carry to the module's, in the dtypes of the one that came in."""
        if self.dtype is None:
            return final
        carry = (final.c, final.h) if isinstance(self.net, LSTM) else final.h
        if like is None:
            return jax.tree.map(lambda leaf: leaf.astype(self.dtype), carry)
        return jax.tree.map(lambda leaf, old: leaf.astype(jnp.result_type(old)), carry, like)


def equation(cell: Any, kind: str, size: int) -> Any:
    """The cell of this library that computes what Flax's `cell` computes.

    Args:
        cell: a module with the options of Flax's cells.
        kind: "LSTM", "GRU", "MGU" or "RNN".
        size: H.
    """
    activation, dtype = _named(cell.activation_fn), cell.dtype
    if kind == "RNN":
        return RNN(size, activation, dtype=dtype)
    gate = _named(cell.gate_fn)
    if kind == "LSTM":
        both = {"input_activation": activation, "output_activation": activation}
        return LSTM(size, gate_activation=gate, dtype=dtype, **both)
    if kind == "GRU":
        return GRU(size, activation=activation, gate_activation=gate, dtype=dtype)
    if (gate, activation) != ("sigmoid", "tanh"):
        seen = f"gate_fn={cell.gate_fn}, activation_fn={cell.activation_fn}"
        raise fail("cell", seen, "an MGUCell with sigmoid and tanh", "use Flax's own RNN for it")
    return MGU(size, cell.reset_gate, dtype=dtype)


def _named(activation: Any) -> Any:
    names = [name for function, name in NAMES.items() if function is activation]
    return names[0] if names else activation


def joined(net: Any, tree: Mapping[str, Mapping[str, Array]], residual: bool = False) -> Params:
    """Join the Dense layers of a cell, one for each gate and side, to the parameters of `net`.

    Args:
        net: the cell, as from `equation`.
        tree: {"ii": {"kernel": ...}, "hi": {"kernel": ..., "bias": ...}, ...}, a layer for each
            side and gate; or {"i": ..., "h": ...}, one for all gates.
        residual: add h_{t-1} to what the activation gets: h @ (w_hh + 1).
    """
    gates = [""] if {"i", "h"} == tree.keys() else net.gate_names

    def side(letter: str, leaf: str) -> Array:
        return jnp.concatenate([tree[f"{letter}{gate}"][leaf] for gate in gates], axis=-1)

    biased = "h" if isinstance(net, LSTM) else "i"
    params = {"w_ih": side("i", "kernel"), "w_hh": side("h", "kernel"), "b": side(biased, "bias")}
    if residual:
        params["w_hh"] = params["w_hh"] + jnp.eye(net.hidden_size, dtype=params["w_hh"].dtype)
    if "b_hn" in net.elementwise:
        none = jnp.zeros(net.hidden_size, params["b"].dtype)  # nnx's GRU has no such bias.
        params["b_hn"] = tree["hn"]["bias"] if "hn" in tree else none
    return params


def check_resets(resets: Any, carry_init: bool) -> None:
    """Raise if a cell that starts with drawn numbers is to restart."""
    if resets is not None and carry_init:
        remedy = "leave carry_init out, and pass initial_carry"
        raise fail("resets", "resets of a cell with a carry_init", "a start of zeros", remedy)
