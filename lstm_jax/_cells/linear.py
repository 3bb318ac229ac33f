"""Cells without a recurrent matmul; minGRU and minLSTM are also linear in their state.

Gates that depend only on x_t come from one matmul over all time steps. What remains,
h_t = a_t h_{t-1} + b_t, can be computed by an associative scan.

`jax.nn.sigmoid` has a small relative error near zero, which matters in sums over thousands of
steps; `_numerics.sigmoid` is faster, but small only in its absolute error.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .. import initializers
from .._checks import check_bool
from .._typing import Array, Carry, Initializer, Key, Params
from .base import Cell, State


@dataclasses.dataclass(frozen=True)
class Pointwise(Cell):
    """Base class of cells without w_hh: a unit depends on its own past only.

    `w_hh_init` and `heads` have no effect.
    """

    w_hh_init: Initializer = dataclasses.field(default=initializers.zeros(), kw_only=True)

    recurrent = ()

    def init(self, key: Key, input_size: int) -> Params:
        """Draw parameters {"w_ih" [D, G*H], "b" [G*H]} of `param_dtype`."""
        params = super().init(key, input_size)
        del params["w_hh"]
        return params

    def recur(self, params: Params, carry: Carry) -> Array:
        """An empty u, as there is no recurrent matmul. -> [*batch, 0]"""
        del params
        nothing = carry[0][..., :0]
        return nothing.astype(self.accumulation(nothing.dtype))


@dataclasses.dataclass(frozen=True)
class Affine(Pointwise):
    """Base class of cells that are affine in their state, with gates that depend only on the input.

        a_t, b_t = affine(wx_t)
        h_t = a_t * h_{t-1} + b_t

    A subclass defines `affine` instead of `update`; then `implementation="associative"` can run it.

    Class attributes:
        logarithmic: True if `affine` returns log a_t instead of a_t, which must not be negative. A
            long memory is a product of many a_t near one; the logarithm keeps their difference
            from one precise. It may be a property.
    """

    logarithmic = False

    def affine(self, wx: Array, **extras: Any) -> tuple[Array, Array]:
        """Compute (a or log a, b), each [*batch, H], from wx [*batch, G*H]."""
        raise NotImplementedError(f"{type(self).__name__} has no affine")

    def update(self, carry: State, wx: Array, u: Array, **extras: Any) -> State:
        """Compute h_t = a_t h_{t-1} + b_t."""
        del u
        a, b = self.affine(wx, **extras)
        return State((jnp.exp(a) if self.logarithmic else a) * carry.h + b)


def positive(x: Array) -> Array:
    """A positive, continuous activation: g(x) = x + 0.5 where x >= 0, else sigmoid(x)."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


@dataclasses.dataclass(frozen=True)
class MinGRU(Affine):
    """Minimal GRU (minGRU), linear in its state.

        i_t, n_t = split(x_t @ w_ih + b)
        h_t = (1 - sigmoid(i_t)) * h_{t-1} + sigmoid(i_t) * g(n_t)        signed=False
        h_t = (1 - 2 sigmoid(i_t)) * h_{t-1} + sigmoid(i_t) * g(n_t)      signed=True
        g(x) = x + 0.5 where x >= 0, else sigmoid(x)

    Parameters: w_ih [D, 2H], b [2H], gates stored in the order i, n. The gate i is the paper's z,
    which admits the input; in this library z keeps the state (`GRU`).

    A factor in (0, 1) can only forget: in finite precision no stack of such layers knows the parity
    of a long sequence. In (-1, 1) it can also change the sign of a unit, which is parity.

    Attributes:
        hidden_size: H, the number of hidden units.
        signed: True: the factor of h_{t-1} is in (-1, 1), not (0, 1).

    The other attributes are those of `Cell`.

    Source: Feng et al. (2024), "Were RNNs all we needed?", arXiv 2410.01201, with the g of its
    version in log space. signed: Grazzi et al. (2025), "Unlocking state-tracking in linear RNNs
    through negative eigenvalues", arXiv 2411.12537, equation 2, which did it to Mamba.
    """

    signed: bool = dataclasses.field(default=False, kw_only=False)

    gate_names = ("i", "n")

    def __post_init__(self):
        super().__post_init__()
        check_bool("signed", self.signed)

    @property
    def logarithmic(self) -> bool:
        """True if `affine` returns log a_t: a negative factor has none."""
        return not self.signed

    def affine(self, wx: Array) -> tuple[Array, Array]:
        """Compute (log(1 - i_t), i_t g(n_t)), or if signed (1 - 2 i_t, i_t g(n_t))."""
        i, n = jnp.split(wx, 2, axis=-1)
        # 1 - 2 sigmoid(i), without the cancellation near zero.
        a = -jnp.tanh(i / 2) if self.signed else jax.nn.log_sigmoid(-i)
        return a, jax.nn.sigmoid(i) * positive(n)

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """The gate and the candidate {"i", "h"}, sigmoid(i_t) and g(n_t), each [*batch, H]."""
        del carry, u
        i, n = jnp.split(wx, 2, axis=-1)
        return {"i": jax.nn.sigmoid(i), "h": positive(n)}


@dataclasses.dataclass(frozen=True)
class MinLSTM(Affine):
    """Minimal LSTM (minLSTM), linear in its state, with gates normalised to sum to one.

        f_t, i_t, n_t = split(x_t @ w_ih + b)
        f'_t = sigmoid(f_t) / (sigmoid(f_t) + sigmoid(i_t)),   i'_t = 1 - f'_t
        h_t = f'_t * h_{t-1} + i'_t * g(n_t)
        g(x) = x + 0.5 where x >= 0, else sigmoid(x)

    Parameters: w_ih [D, 3H], b [3H], gates stored in the order f, i, n. The forget bias is
    initialised to one.

    The attributes are those of `Cell`.

    Source: Feng et al. (2024), "Were RNNs all we needed?", arXiv 2410.01201, which found that a
    positive forget bias trains faster.
    """

    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("f", "i", "n")
    logarithmic = True

    def affine(self, wx: Array) -> tuple[Array, Array]:
        """Compute (log f'_t, i'_t g(n_t))."""
        d, h = _min_lstm(wx)
        return jax.nn.log_sigmoid(d), jax.nn.sigmoid(-d) * h

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """The gates and the candidate {"f", "i", "h"}, f'_t, i'_t and g(n_t), each [*batch, H]."""
        del carry, u
        d, h = _min_lstm(wx)
        return {"f": jax.nn.sigmoid(d), "i": jax.nn.sigmoid(-d), "h": h}


def _min_lstm(wx: Array) -> tuple[Array, Array]:
    """Compute (d, g(n)) with f' = sigmoid(d); by logarithms, as f' may be 0 / 0."""
    f, i, n = jnp.split(wx, 3, axis=-1)
    return jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i), positive(n)
