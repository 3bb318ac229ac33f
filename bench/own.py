"""Two cells written as users write their own, which the library does not have.

No rival has them; they show how fast each implementation runs an unknown `update`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, soft_sign

import lstm_jax as lj


class Memory(NamedTuple):
    """The carry of `Summed`: the output h and the state m."""

    h: jax.Array
    m: jax.Array


@dataclasses.dataclass(frozen=True)
class Summed(lj.Cell):
    """An additive cell: `update` uses only the sum of wx and u.

    m_t = sigmoid(k) * m_{t-1} + (1 - sigmoid(k)) * tanh(v)
    h_t = sigmoid(o + p * m_t) * soft_sign(m_t)
    """

    gate_names = ("k", "v", "o")
    state = Memory
    elementwise = ("p",)

    def init(self, key, input_size):
        params = super().init(key, input_size)
        return params | {"p": jnp.zeros(self.hidden_size, params["b"].dtype)}

    def update(self, carry, wx, u, p):
        k, v, o = jnp.split(wx + u, 3, axis=-1)
        k, p = sigmoid(k), jnp.broadcast_to(p, o.shape)
        m = k * carry.m + (1 - k) * jnp.tanh(v)
        return Memory(sigmoid(o + p * m) * soft_sign(m), m)


@dataclasses.dataclass(frozen=True)
class Apart(lj.Cell):
    """A cell that is not additive: `update` uses wx and u separately.

    k_t = sigmoid(x_k + u_k)
    h_t = k_t * h_{t-1} + (1 - k_t) * relu(x_v * u_v + x_v)
    """

    gate_names = ("k", "v")

    def update(self, carry, wx, u):
        (x_k, x_v), (u_k, u_v) = jnp.split(wx, 2, axis=-1), jnp.split(u, 2, axis=-1)
        k = sigmoid(x_k + u_k)
        return type(carry)(k * carry.h + (1 - k) * jax.nn.relu(x_v * u_v + x_v))
