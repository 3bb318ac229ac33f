"""The independently recurrent network, whose units are connected only from layer to layer."""

import dataclasses

from .. import initializers
from .._numerics import row
from .._typing import Array, Carry, DType, Initializer, Key, Params
from .base import Cell, State
from .rnn import Activation, activate, check_activation


@dataclasses.dataclass(frozen=True)
class IndRNN(Cell):
    """Independently recurrent network: the only recurrent weight of a unit is to itself.

        h_t = f(x_t @ w_ih + b + u * h_{t-1})

    with u = w_hh [H], w_ih [D, H] and b [H]. The gradient through time of a unit is a product of
    its u and derivatives of f, so |u| <= 2^(1/T) keeps it from exploding over T steps.

    Attributes:
        hidden_size: H, the number of hidden units.
        activation: f; "relu", "tanh", "identity", or any elementwise function of one array.
        w_hh_init: initializer of u, of shape [H]. The default is uniform on [0, 1]; the paper's for
            T steps is `initializers.uniform(2 ** (1 / T), low=0.0)`.

    The other attributes are those of `Cell`; heads must be 1.

    Raises:
        ValueError: an unknown name of an activation; or as `Cell`.

    Source: Li, Li, Cook, Zhu & Gao (2018), "Independently recurrent neural network (IndRNN)",
    arXiv 1803.04831.
    """

    activation: Activation = dataclasses.field(default="relu", kw_only=False)
    w_hh_init: Initializer = dataclasses.field(
        default=initializers.uniform(1.0, low=0.0), kw_only=True
    )

    def __post_init__(self):
        super().__post_init__()
        check_activation(self.activation)

    def _init_w_hh(self, key: Key, sizes: initializers.Sizes, dtype: DType) -> Array:
        """Draw the recurrent weights u, [H]."""
        return initializers.bias(self.w_hh_init, key, self.gate_names, self.hidden_size, dtype)

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u * h_{t-1}, without a matmul. -> [*batch, H]"""
        h = carry.h.astype(self.accumulation(params["w_hh"].dtype))
        return row(params["w_hh"], h) * h

    def update(self, carry: State, wx: Array, u: Array) -> State:
        """Compute h_t = f(wx_t + u_t)."""
        return State(**self.gates(carry, wx, u))

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """The state {"h"}, [*batch, H]; there is no gate."""
        del carry  # The carry enters only through u.
        return {"h": activate(self.activation, wx + u)}
