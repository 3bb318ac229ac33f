"""The sLSTM of xLSTM: exponential gates with a normaliser and a stabiliser."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .. import initializers
from .._checks import check_choice
from .._numerics import sigmoid
from .._typing import Array, Initializer, Key, Params
from .base import Cell


class SLSTMState(NamedTuple):
    """The carry of an sLSTM; the true cell state and normaliser are c e^m and n e^m.

    Attributes:
        h: [*batch, H], the hidden state, which is also the output.
        c: [*batch, H], the cell state, of at least float32.
        n: [*batch, H], the normaliser, of at least float32: 0 before the first step, then at least
            1.
        m: [*batch, H], the stabiliser, a logarithm, of at least float32.
    """

    h: Array
    c: Array
    n: Array
    m: Array


jax.export.register_namedtuple_serialization(SLSTMState, serialized_name="lstm_jax.SLSTMState")


@dataclasses.dataclass(frozen=True)
class SLSTM(Cell):
    """Scalar LSTM (sLSTM) with exponential gates.

        i_t, f_t, g_t, o_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        a_t = log sigmoid(f_t) + m_{t-1}         forget_gate="sigmoid";  f_t + m_{t-1} for "exp"
        m_t = max(a_t, i_t)                      i_t at the first step, where n_{t-1} = 0
        i'_t = exp(i_t - m_t),   f'_t = exp(a_t - m_t)
        c_t = f'_t * c_{t-1} + i'_t * tanh(g_t)
        n_t = f'_t * n_{t-1} + i'_t
        h_t = sigmoid(o_t) * c_t / n_t

    c and n are weighted sums whose largest weight is one, so nothing overflows and n is at least
    one from the first step on. In a carry of your own, n below one counts as one.

    Parameters: w_ih [D, 4H], w_hh [H, 4H] ([N, H/N, 4H/N] with N heads), b [4H], gates stored in
    the order i, f, g, o (the paper's z is g).

    Attributes:
        hidden_size: H, the number of hidden units.
        forget_gate: "sigmoid" or "exp".

    The other attributes are those of `Cell`. As in the authors' code, w_hh is initially zero, and
    the forget bias follows a power law over the units of each head (`initializers.power_law`).

    Raises:
        ValueError: an unknown forget gate.

    Source: Beck et al. (2024), "xLSTM: extended long short-term memory", arXiv 2405.04517,
    section 2.2 and appendix A.
    """

    forget_gate: str = dataclasses.field(default="sigmoid", kw_only=True)
    w_hh_init: Initializer = dataclasses.field(default=initializers.zeros(), kw_only=True)
    b_init: Any = dataclasses.field(default=initializers.power_law(), kw_only=True)

    gate_names = ("i", "f", "g", "o")
    state = SLSTMState

    def __post_init__(self):
        super().__post_init__()
        check_choice("forget_gate", self.forget_gate, ("sigmoid", "exp"))

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init`; a power law of the bias restarts in each head."""
        params = super().init(key, input_size)
        if "b" in params and isinstance(self.b_init, initializers.power_law):
            size = self.hidden_size // self.heads
            b = self.b_init.gates(None, self.gate_names, size, params["b"].dtype)
            b = jnp.repeat(b.reshape(4, 1, size), self.heads, axis=1)
            params["b"] = b.reshape(4 * self.hidden_size)
        return params

    def update(self, carry: SLSTMState, wx: Array, u: Array) -> SLSTMState:
        """Compute the weighted sums c and n, and h from their ratio."""
        i, f, g, o = self.gates(carry, wx, u).values()
        c, n = f * carry.c + i * g, f * carry.n + i
        *_, m = self._exponents(carry, wx, u)
        return SLSTMState(o * c / jnp.where(n < 1, jnp.ones_like(n), n), c, n, m)

    def gates(self, carry: SLSTMState, wx: Array, u: Array) -> dict[str, Array]:
        """The gates {"i", "f", "g", "o"}, each [*batch, H]; the larger of i' and f' is 1."""
        i, a, m = self._exponents(carry, wx, u)
        _, _, g, o = jnp.split(wx + u, 4, axis=-1)
        return {"i": jnp.exp(i - m), "f": jnp.exp(a - m), "g": jnp.tanh(g), "o": sigmoid(o)}

    def _exponents(self, carry: SLSTMState, wx: Array, u: Array) -> tuple[Array, Array, Array]:
        """Compute i_t, a_t and m_t; at the first step a_t is -inf, so f'_t = exp(-inf) = 0."""
        i, f, _, _ = jnp.split(wx + u, 4, axis=-1)
        log_f = jax.nn.log_sigmoid(f) if self.forget_gate == "sigmoid" else f
        empty = jnp.full_like(carry.m, -jnp.inf)
        a = log_f + jnp.where(carry.n == 0, empty, carry.m)
        return i, a, jnp.maximum(a, i)
