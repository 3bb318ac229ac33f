"""The cell found by neural architecture search."""

import dataclasses

import jax
import jax.numpy as jnp

from .._numerics import row, sigmoid
from .._typing import Array, Params
from .base import Cell
from .lstm import LSTMState

NASState = LSTMState


@dataclasses.dataclass(frozen=True)
class NASCell(Cell):
    """Recurrent cell found by neural architecture search, with eight gates; s is the sigmoid.

        x_0 .. x_7 = split(x_t @ w_ih)
        m_0 .. m_7 = split(h_{t-1} @ w_hh + b)
        l_0 = s(x_0 + m_0)        l_1 = relu(x_1 + m_1)
        l_2 = s(x_2 + m_2)        l_3 = relu(x_3 * m_3)
        l_4 = tanh(x_4 + m_4)     l_5 = s(x_5 + m_5)
        l_6 = tanh(x_6 + m_6)     l_7 = s(x_7 + m_7)
        c_t = tanh(tanh(l_0 * l_1) + c_{t-1}) * tanh(l_2 + l_3)
        h_t = tanh(c_t * tanh(tanh(l_4 * l_5) + s(l_6 + l_7)))

    Parameters: w_ih [D, 8H], w_hh [H, 8H], b [8H], added to the recurrent side, which matters
    in l_3. With `double_bias` b is added to the input side and b_hh [8H] to the recurrent one.

    The attributes are those of `Cell`.

    Source: Zoph & Le (2017), "Neural architecture search with reinforcement learning",
    arXiv 1611.01578, appendix A; the side of b is that of TensorFlow Addons' NASCell.
    """

    gate_names = ("l_0", "l_1", "l_2", "l_3", "l_4", "l_5", "l_6", "l_7")
    state = NASState

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: the bias, which l_3 multiplies."""
        return ("b",) if self.bias else ()

    def extras(self, params: Params) -> Params:
        """The parameters of `update`: the bias of the recurrent side."""
        return {"b": params["b_hh"]} if self.double_bias else super().extras(params)

    def biases(self, params: Params) -> list[Array]:
        """The biases that `project` adds: b if there is a second bias, else none."""
        return [params["b"]] if self.double_bias else []

    def update(self, carry: NASState, wx: Array, u: Array, b: Array | None = None) -> NASState:
        """Compute c_t and h_t from the gates l_0 .. l_7."""
        l_0, l_1, l_2, l_3, l_4, l_5, l_6, l_7 = self.gates(carry, wx, u, b).values()
        c = jnp.tanh(jnp.tanh(l_0 * l_1) + carry.c) * jnp.tanh(l_2 + l_3)
        return NASState(jnp.tanh(c * jnp.tanh(jnp.tanh(l_4 * l_5) + sigmoid(l_6 + l_7))), c)

    def gates(
        self, carry: NASState, wx: Array, u: Array, b: Array | None = None
    ) -> dict[str, Array]:
        """The gates {"l_0", ..., "l_7"}, each [*batch, H]."""
        del carry  # The carry enters only through u.
        m = u if b is None else u + row(b, u)
        x_3, m_3 = (jnp.split(side, 8, axis=-1)[3] for side in (wx, m))
        parts = jnp.split(wx + m, 8, axis=-1)
        parts[3] = x_3 * m_3
        s, relu, tanh = sigmoid, jax.nn.relu, jnp.tanh
        first = (s, relu, s, relu, tanh, s, tanh, s)
        return {name: f(part) for name, f, part in zip(self.gate_names, first, parts, strict=True)}
