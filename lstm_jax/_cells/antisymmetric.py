"""The antisymmetric RNN: a discretised differential equation with stable gradients."""

import dataclasses

import jax.numpy as jnp

from .. import initializers
from .._checks import check_range
from .._numerics import sigmoid
from .._typing import Array, Carry, DType, Initializer, Key, Params
from .base import Cell, State


@dataclasses.dataclass(frozen=True)
class AntisymmetricRNN(Cell):
    """Antisymmetric RNN: forward Euler steps of a stable differential equation.

        a_t = x_t @ w_ih + b + h_{t-1} @ (w_hh - w_hh^T - gamma I)
        h_t = h_{t-1} + epsilon * tanh(a_t)                              gated=False
        h_t = h_{t-1} + epsilon * sigmoid(a_t[i]) * tanh(a_t[g])         gated=True

    The eigenvalues of w_hh - w_hh^T are imaginary, so the equation neither explodes nor vanishes.
    Euler steps alone would grow slowly; gamma damps them, by moving the eigenvalues to the left.

    Parameters: w_hh [H, H], shared by the gates; w_ih [D, H], b [H], or if gated [D, 2H] and [2H],
    gates stored in the order i (the paper's z), g.

    Attributes:
        hidden_size: H, the number of hidden units.
        gated: True adds the gate i, which scales each step.
        epsilon: the step size.
        gamma: the diffusion (damping).

    The other attributes are those of `Cell`; heads must be 1. Both matrices are initially
    normal, with variance 1/fan_in.

    Raises:
        ValueError: epsilon or gamma is not a Python number of at least 0; or as `Cell`.

    Source: Chang, Chen, Haber & Chi (2019), "AntisymmetricRNN: a dynamical system view on recurrent
    neural networks", arXiv 1902.09689, section 3.
    """

    gated: bool = dataclasses.field(default=False, kw_only=False)
    epsilon: float = 0.01
    gamma: float = 0.01
    w_ih_init: Initializer = dataclasses.field(default=initializers.lecun_normal(), kw_only=True)
    w_hh_init: Initializer = dataclasses.field(default=initializers.lecun_normal(), kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        check_range("epsilon", self.epsilon, 0)
        check_range("gamma", self.gamma, 0)

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The names of the gates: g, and i if gated."""
        return ("i", "g") if self.gated else ("g",)

    def _init_w_hh(self, key: Key, sizes: initializers.Sizes, dtype: DType) -> Array:
        """Draw w_hh [H, H], which all gates share."""
        size = self.hidden_size
        return initializers.blocks(self.w_hh_init, key, size, 1, size, dtype)

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u = h @ (w_hh - w_hh^T), repeated for each gate. -> [*batch, G*H]"""
        u = self.matmul(carry.h, params["w_hh"] - params["w_hh"].T)
        return jnp.concatenate([u] * len(self.gate_names), axis=-1)

    def update(self, carry: State, wx: Array, u: Array) -> State:
        """Take one Euler step, scaled by the gate if there is one."""
        gates = self.gates(carry, wx, u)
        return State(carry.h + self.epsilon * gates.get("i", 1.0) * gates["g"])

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """The gates {"g"}, or {"i", "g"} if gated, after their activations, each [*batch, H]."""
        diffusion = jnp.concatenate([self.gamma * carry.h] * len(self.gate_names), axis=-1)
        a = wx + u - diffusion
        if not self.gated:
            return {"g": jnp.tanh(a)}
        i, g = jnp.split(a, 2, axis=-1)
        return {"i": sigmoid(i), "g": jnp.tanh(g)}
