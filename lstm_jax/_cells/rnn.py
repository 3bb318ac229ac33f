"""The simple recurrent network of Elman (1990), with any activation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_choice, fail, is_floating, shown
from .._numerics import sigmoid
from .._typing import Array, Carry
from .base import Cell, State

RNNState = State

Activation = str | Callable[[Array], Array]
"""A name, or any elementwise function of one array."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
}


GATE_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
}
"""Activations of gates by name; "hard_sigmoid" is that of Keras 3, relu6(x + 3) / 6."""


def check_activation(
    activation: Activation, argument: str = "activation", known: Any = ACTIVATIONS
) -> None:
    """Raise unless `activation` is a function or one of the `known` names."""
    if isinstance(activation, type) or not callable(activation):
        check_choice(argument, activation, known)


def activate(activation: Activation, x: Array) -> Array:
    """Apply a checked `activation` to x; raise unless the result has x's shape and is a float.

    Another shape would silently be broadcast, and integers rounded.
    """
    f = activation if callable(activation) else (ACTIVATIONS | GATE_ACTIVATIONS)[activation]
    y = f(x)
    if getattr(y, "shape", None) != x.shape or not is_floating(y.dtype):
        seen = f"a function that gives {shown(y)} for one of dtype {x.dtype} and shape {x.shape}"
        remedy = "pass one that acts on each element"
        raise fail("activation", seen, "an elementwise function of floats", remedy)
    return y


def masked(candidate: Array, noise: Array | None) -> Array:
    """Multiply a candidate by the mask of `memory_dropout`, if there is one."""
    return candidate if noise is None else candidate * noise


@dataclasses.dataclass(frozen=True)
class RNN(Cell):
    """Simple recurrent network (Elman network).

        S_t = f(x_t U + S_{t-1} W + b)

    with U = w_ih [D, H], W = w_hh [H, H], b [H], and S_t the state h and the output.

    Attributes:
        hidden_size: H, the number of hidden units.
        activation: f; "tanh", "relu", "identity", or any elementwise function of one array.
            The IRNN of Le, Jaitly & Hinton (2015) is
            `RNN(H, "relu", w_hh_init=initializers.identity())`.

    The other attributes are those of `Cell`.

    Raises:
        ValueError: an unknown name of an activation.

    Source: Elman (1990), "Finding structure in time".
    """

    activation: Activation = dataclasses.field(default="tanh", kw_only=False)

    gate_names = ("h",)
    state = RNNState

    def __post_init__(self):
        super().__post_init__()
        check_activation(self.activation)

    def update(self, carry: Carry, wx: Array, u: Array) -> RNNState:
        """Compute S_t = f(wx_t + u_t)."""
        return RNNState(**self.gates(carry, wx, u))

    def gates(self, carry: Carry, wx: Array, u: Array) -> dict[str, Array]:
        """The state {"h"}, [*batch, H]; there is no gate."""
        del carry  # The carry enters only through u.
        return {"h": activate(self.activation, wx + u)}
