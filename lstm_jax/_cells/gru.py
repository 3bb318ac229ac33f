"""The gated recurrent unit, with the reset gate after or before the recurrent matmul."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .. import initializers
from .._numerics import row
from .._typing import Array, Key, Params
from .base import Cell, State
from .rnn import GATE_ACTIVATIONS, Activation, activate, check_activation, masked

GRUState = State


@dataclasses.dataclass(frozen=True)
class GRU(Cell):
    """Gated recurrent unit.

        r_t, z_t = sigmoid(x_t @ w_ih[r, z] + b[r, z] + h_{t-1} @ w_hh[r, z])
        n_t = tanh(x_t @ w_ih[n] + b[n] + r_t * (h_{t-1} @ w_hh[n] + b_hn))    reset_after=True
        n_t = tanh(x_t @ w_ih[n] + b[n] + (r_t * h_{t-1}) @ w_hh[n])           reset_after=False
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    Parameters: w_ih [D, 3H], w_hh [H, 3H], b [3H], and b_hn [H] where reset_after (with
    `double_bias` it is the last part of b_hh [3H]); gates stored in the order r, z, n; z keeps the
    state.

    Attributes:
        hidden_size: H, the number of hidden units.
        reset_after: True: the reset gate acts after the recurrent matmul, as in PyTorch, cuDNN and
            Keras. False: before it, as in the first paper; this form does not factor into matmuls
            and an elementwise update, so "scan" runs it.
        activation: replaces the tanh; "tanh", "relu", "identity", or any elementwise function of
            one array.
        gate_activation: replaces the sigmoid; "sigmoid", "hard_sigmoid" (as in Keras 3,
            relu6(x + 3) / 6), or any elementwise function of one array.

    The other attributes are those of `Cell`.

    Raises:
        ValueError: an unknown name of an activation.

    Source: Cho et al. (2014), arXiv 1406.1078 (reset before); its version 1 and
    cuDNN (reset after).
    """

    reset_after: bool = dataclasses.field(default=True, kw_only=False)
    activation: Activation = dataclasses.field(default="tanh", kw_only=True)
    gate_activation: Activation = dataclasses.field(default="sigmoid", kw_only=True)

    gate_names = ("r", "z", "n")
    state = GRUState
    candidate = "n"

    def __post_init__(self):
        super().__post_init__()
        check_activation(self.activation)
        check_activation(self.gate_activation, "gate_activation", GATE_ACTIVATIONS)

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: b_hn, which the reset gate multiplies."""
        return ("b_hn",) if self.reset_after and self.bias and not self.double_bias else ()

    def extras(self, params: Params) -> Params:
        """The parameters of `update`; with a second bias, b_hn is the last part of b_hh."""
        if self.reset_after and self.double_bias:
            return {"b_hn": params["b_hh"][2 * self.hidden_size :]}
        return super().extras(params)

    def biases(self, params: Params) -> list[Array]:
        """The biases that `project` adds; of a second bias, the part without b_hn."""
        if not (self.reset_after and self.double_bias):
            return super().biases(params)
        outside = params["b_hh"][: 2 * self.hidden_size]
        return [params["b"], jnp.pad(outside, (0, self.hidden_size))]

    @property
    def factors(self) -> bool:
        """True if the reset gate acts after the matmul."""
        return self.reset_after and super().factors

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init`, and with reset_after b_hn [H], like the n of b."""
        params = super().init(key, input_size)
        if "b_hn" in self.elementwise:
            key_hn = jax.random.fold_in(key, 1)
            dtype = params["b"].dtype
            both = initializers.bias(self.b_init, key_hn, self.gate_names, self.hidden_size, dtype)
            params["b_hn"] = both[2 * self.hidden_size :]
        return params

    def update(self, carry: GRUState, wx: Array, u: Array, **extras: Array) -> GRUState:
        """Interpolate h_t between n_t and h_{t-1}."""
        _, z, n = self.gates(carry, wx, u, **extras).values()
        return GRUState((1 - z) * n + z * carry.h)

    def gates(
        self,
        carry: GRUState,
        wx: Array,
        u: Array,
        b_hn: Array | None = None,
        noise: Array | None = None,
    ) -> dict[str, Array]:
        """The gates {"r", "z", "n"}, each [*batch, H], with the reset gate after the matmul.

        The mask `noise` multiplies n.
        """
        del carry  # The carry enters only through u.
        x_r, x_z, x_n = jnp.split(wx, 3, axis=-1)
        u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
        r, z = self._gate(x_r + u_r), self._gate(x_z + u_z)
        u_n = u_n if b_hn is None else u_n + row(b_hn, u_n)
        return {"r": r, "z": z, "n": masked(activate(self.activation, x_n + r * u_n), noise)}

    def following(self, params: Params, carry: GRUState, wx: Array, noise: Any = None) -> GRUState:
        """Compute carry_t as `Cell.following`, or with the reset gate before the matmul."""
        if self.reset_after:
            return super().following(params, carry, wx, noise)
        _, z, n = self._gates_before(params, carry, wx).values()
        return GRUState(((1 - z) * n + z * carry.h.astype(z.dtype)).astype(carry.h.dtype))

    def step_gates(self, params: Params, carry: GRUState, x: Array) -> dict[str, Array]:
        """The gates {"r", "z", "n"} of one step, with the reset gate before the matmul."""
        return self._gates_before(params, carry, self.project(params, x))

    def _gates_before(self, params: Params, carry: GRUState, wx: Array) -> dict[str, Array]:
        """Compute the gates by two matmuls, one after the other."""
        w_rz, w_n = jnp.split(params["w_hh"], [2 * self.hidden_size // self.heads], axis=-1)
        u = self.times(carry.h, w_rz)
        x_r, x_z, x_n = jnp.split(wx.astype(u.dtype), 3, axis=-1)
        r, z = jnp.split(self._gate(jnp.concatenate([x_r, x_z], axis=-1) + u), 2, axis=-1)
        n = activate(self.activation, x_n + self.times(r * carry.h.astype(u.dtype), w_n))
        return {"r": r, "z": z, "n": n}

    def _gate(self, x: Array) -> Array:
        return activate(self.gate_activation, x)
