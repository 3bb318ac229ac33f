"""Long short-term memory, with a forget gate."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .. import initializers
from .._numerics import sigmoid
from .._typing import Array
from .base import Cell


class LSTMState(NamedTuple):
    """The carry of an LSTM.

    h: [*batch, H], the hidden state, which is also the output.
    c: [*batch, H], the cell state, of at least float32.
    """

    h: Array
    c: Array


jax.export.register_namedtuple_serialization(LSTMState, serialized_name="lstm_jax.LSTMState")


@dataclasses.dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory.

        i_t, f_t, g_t, o_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)
        h_t = sigmoid(o_t) * tanh(c_t)

    Parameters: w_ih [D, 4H], w_hh [H, 4H], b [4H], gates stored in the order i, f, g, o. The bias
    of the forget gate starts at one, stored in b; nothing is added when it runs.

    Attributes: `Cell`'s.

    Source: Hochreiter & Schmidhuber (1997); the forget gate of Gers, Schmidhuber & Cummins (2000);
    the forget bias of Jozefowicz, Zaremba & Sutskever (2015).
    """

    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("i", "f", "g", "o")
    state = LSTMState
    additive = True

    def update(self, carry: LSTMState, wx: Array, u: Array) -> LSTMState:
        """The additive cell state, between the gates."""
        i, f, g, o = self.gates(carry, wx, u).values()
        c = f * carry.c + i * g
        return LSTMState(o * jnp.tanh(c), c)

    def gates(self, carry: LSTMState, wx: Array, u: Array) -> dict[str, Array]:
        """{"i", "f", "g", "o"} after their nonlinearities, each [*batch, H]."""
        del carry  # The past enters through u alone.
        i, f, g, o = jnp.split(wx + u, 4, axis=-1)
        return {"i": sigmoid(i), "f": sigmoid(f), "g": jnp.tanh(g), "o": sigmoid(o)}
