"""Cells without a recurrent matmul, and among them those that are linear in their state.

A gate that sees x_t alone does not wait for h_{t-1}: all of them come from one matmul over all time
steps. What is left is h_t = a_t h_{t-1} + b_t, which need not be walked step by step either.

`jax.nn.sigmoid` has the digits of a gate near zero, which a sum over thousands of steps shows;
`_numerics.sigmoid` is faster and absolute in its error.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .. import initializers
from .._typing import Array, Carry, Initializer, Key, Params
from .base import Cell, State


@dataclasses.dataclass(frozen=True)
class Pointwise(Cell):
    """Base of the cells in which a unit sees its own past alone: there is no w_hh.

    `w_hh_init` has nothing to initialise, and `heads` nothing to cut.
    """

    w_hh_init: Initializer = dataclasses.field(default=initializers.zeros(), kw_only=True)

    recurrent = ()

    def init(self, key: Key, input_size: int) -> Params:
        """Parameters {"w_ih" [D, G*H], "b" [G*H]} of `param_dtype`."""
        params = super().init(key, input_size)
        del params["w_hh"]
        return params

    def recur(self, params: Params, carry: Carry) -> Array:
        """u has no elements. -> [*batch, 0]"""
        del params
        nothing = carry[0][..., :0]
        return nothing.astype(self.accumulation(nothing.dtype))


@dataclasses.dataclass(frozen=True)
class Affine(Pointwise):
    """Base of the cells whose step is affine in the state, and whose gates do not see the state.

        a_t, b_t = affine(wx_t)
        h_t = a_t * h_{t-1} + b_t

    A subclass writes `affine` and no `update`; then `implementation="associative"` applies.

    Class attributes:
        logarithmic: True if `affine` returns log a_t for a_t, which must not be negative. An a_t
            that is one but for little loses its digits, and a long memory is a product of many; the
            logarithm keeps them.
    """

    logarithmic = False

    def affine(self, wx: Array, **extras: Any) -> tuple[Array, Array]:
        """(a or log a, b), each [*batch, H], of wx [*batch, G*H] with any number of axes before."""
        raise NotImplementedError(f"{type(self).__name__} has no affine")

    def update(self, carry: State, wx: Array, u: Array, **extras: Any) -> State:
        """h_t = a_t h_{t-1} + b_t."""
        del u
        a, b = self.affine(wx, **extras)
        return State((jnp.exp(a) if self.logarithmic else a) * carry.h + b)


def positive(x: Array) -> Array:
    """g(x) = x + 0.5 where x >= 0, else sigmoid(x): positive, and continuous at zero."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


@dataclasses.dataclass(frozen=True)
class MinGRU(Affine):
    """The minimal gated recurrent unit.

        i_t, n_t = split(x_t @ w_ih + b)
        h_t = (1 - sigmoid(i_t)) * h_{t-1} + sigmoid(i_t) * g(n_t)
        g(x) = x + 0.5 where x >= 0, else sigmoid(x)

    Parameters: w_ih [D, 2H], b [2H], gates stored in the order i, n. The gate i is the paper's z,
    which lets the input in; here z names a gate that keeps the state (`GRU`).

    Attributes: `Cell`'s.

    Source: Feng et al. (2024), "Were RNNs all we needed?", arXiv 2410.01201; g is that of
    its version in log space.
    """

    gate_names = ("i", "n")
    logarithmic = True

    def affine(self, wx: Array) -> tuple[Array, Array]:
        """(log(1 - i_t), i_t g(n_t))."""
        i, n = jnp.split(wx, 2, axis=-1)
        return jax.nn.log_sigmoid(-i), jax.nn.sigmoid(i) * positive(n)

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """{"i", "h"}, each [*batch, H]: sigmoid(i_t) and g(n_t)."""
        del carry, u
        i, n = jnp.split(wx, 2, axis=-1)
        return {"i": jax.nn.sigmoid(i), "h": positive(n)}


@dataclasses.dataclass(frozen=True)
class MinLSTM(Affine):
    """The minimal long short-term memory, its two gates normalised to the sum one.

        f_t, i_t, n_t = split(x_t @ w_ih + b)
        f'_t = sigmoid(f_t) / (sigmoid(f_t) + sigmoid(i_t)),   i'_t = 1 - f'_t
        h_t = f'_t * h_{t-1} + i'_t * g(n_t)
        g(x) = x + 0.5 where x >= 0, else sigmoid(x)

    Parameters: w_ih [D, 3H], b [3H], gates stored in the order f, i, n. The bias of the forget gate
    starts at one.

    Attributes: `Cell`'s.

    Source: Feng et al. (2024), "Were RNNs all we needed?", arXiv 2410.01201; a forget bias
    above zero is what it found to train faster.
    """

    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("f", "i", "n")
    logarithmic = True

    def affine(self, wx: Array) -> tuple[Array, Array]:
        """(log f'_t, i'_t g(n_t))."""
        d, h = _min_lstm(wx)
        return jax.nn.log_sigmoid(d), jax.nn.sigmoid(-d) * h

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """{"f", "i", "h"}, each [*batch, H]: f'_t, i'_t and g(n_t)."""
        del carry, u
        d, h = _min_lstm(wx)
        return {"f": jax.nn.sigmoid(d), "i": jax.nn.sigmoid(-d), "h": h}


def _min_lstm(wx: Array) -> tuple[Array, Array]:
    """(d, g(n)), f' = sigmoid(d): by logarithms, since both gates may shut, and f' be 0 / 0."""
    f, i, n = jnp.split(wx, 3, axis=-1)
    return jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i), positive(n)
