"""Cells with layer normalisation of wx, of u, and of an LSTM's cell state.

LN(a) = (a - mean(a)) / sqrt(var(a) + eps)      over the whole row of one sequence, all gates
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._checks import check_range, fail
from .._numerics import row
from .._typing import Array, Key, Params
from .gru import GRU, GRUState
from .lstm import LSTM, LSTMState, cell_state
from .rnn import RNN, RNNState, activate


def layer_norm(a: Array, eps: float) -> Array:
    """Layer normalisation LN(a) over the last axis, in a's dtype."""
    centred = a - jnp.mean(a, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + float(eps))


def scaled(a: Array, eps: float, gamma: Array, beta: Array | None = None) -> Array:
    """Scaled layer normalisation LN(a) * gamma + beta."""
    normal = layer_norm(a, eps)
    normal = normal * row(gamma, normal)
    return normal if beta is None else normal + row(beta, normal)


@dataclasses.dataclass(frozen=True)
class LayerNormLSTM(LSTM):
    """LSTM with layer normalisation.

        i_t, f_t, g_t, o_t = split(LN(x_t @ w_ih) * gamma_x + LN(h_{t-1} @ w_hh) * gamma_h + b)
        c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)
        h_t = sigmoid(o_t) * tanh(LN(c_t) * gamma_c + beta_c)

    The carried cell state c is not normalised, so its memory stays intact. The LN of x_t @ w_ih is
    computed for all steps at once; every LN is computed in the accumulation dtype.

    Parameters: those of `LSTM`; gamma_x, gamma_h [4H] and gamma_c [H], initially one; beta_c [H],
    and with `normalized_carry` beta_x, beta_h [4H], initially zero.

    Attributes:
        hidden_size: H, the number of hidden units.
        normalized_carry: True: as in TensorFlow Addons, LN(c_t) * gamma_c + beta_c is carried as
            c_t, and beta_x and beta_h are added to the first two LNs.
        eps: added to the variance; None: 1e-5, or with `normalized_carry` 1e-3, as there.

    The other attributes are those of `LSTM` and `Cell`. A peephole is added after the LN.

    Raises:
        ValueError: eps is not a positive Python number; heads > 1, which the mean over a row would
            mix.

    Source: Ba, Kiros & Hinton (2016), "Layer normalization", arXiv 1607.06450, supplement;
    LayerNormLSTMCell of TensorFlow Addons.
    """

    _: dataclasses.KW_ONLY
    normalized_carry: bool = False
    eps: Any = None

    def __post_init__(self):
        super().__post_init__()
        default = 1e-3 if self.normalized_carry else 1e-5
        object.__setattr__(self, "eps", default if self.eps is None else self.eps)
        _check(self)

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: those of `LSTM`, and those of its LNs."""
        beta_h = ("beta_h",) if self.normalized_carry else ()
        return (*super().elementwise, "gamma_h", *beta_h, "gamma_c", "beta_c")

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `LSTM.init`, with gamma of ones and beta of zeros."""
        params = super().init(key, input_size)
        gates, size = len(self.gate_names) * self.hidden_size, self.hidden_size
        sides = ("x", "h")
        sizes = {f"gamma_{side}": gates for side in sides} | {"gamma_c": size, "beta_c": size}
        sizes |= {f"beta_{side}": gates for side in sides if self.normalized_carry}
        return params | _ones_and_zeros(sizes, params["w_ih"].dtype)

    def project(self, params: Params, x: Array) -> Array:
        """Project inputs: wx = LN(x @ w_ih) * gamma_x + b. -> [*batch, 4H]"""
        return self.biased(params, _input_part(self, params, x))

    def update(self, carry: LSTMState, wx: Array, u: Array, **extras: Array) -> LSTMState:
        """Compute the carry; h is computed from the normalised cell state."""
        gates = self.gates(carry, wx, u, **extras)
        c = cell_state(carry, gates)
        shown = scaled(c, self.eps, extras["gamma_c"], extras["beta_c"])
        return LSTMState(self.hidden(gates, shown, **extras), shown if self.normalized_carry else c)

    def gates(self, carry: LSTMState, wx: Array, u: Array, **extras: Array) -> dict[str, Array]:
        """The gates of `LSTM.gates`, computed from LN(u)."""
        u = scaled(u, self.eps, extras["gamma_h"], extras.get("beta_h"))
        return super().gates(carry, wx, u, **extras)


@dataclasses.dataclass(frozen=True)
class LayerNormGRU(GRU):
    """GRU with layer normalisation.

        x_r, x_z, x_n = split(LN(x_t @ w_ih) * gamma_x + b)
        u_r, u_z, u_n = split(LN(h_{t-1} @ w_hh) * gamma_h)
        r_t, z_t = sigmoid(x_r + u_r), sigmoid(x_z + u_z)
        n_t = tanh(x_n + r_t * (u_n + b_hn))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    Parameters: those of `GRU`, and gamma_x, gamma_h [3H], initially one. The LN of x_t @ w_ih is
    computed for all steps at once; every LN is computed in the accumulation dtype.

    Attributes:
        hidden_size: H, the number of hidden units.
        eps: added to the variance.

    The other attributes are those of `GRU` and `Cell`.

    Raises:
        ValueError: reset_after=False; eps is not a positive Python number; heads > 1, which the
            mean over a row would mix.

    Source: Ba, Kiros & Hinton (2016), "Layer normalization", arXiv 1607.06450; with one LN over all
    three gates, as in the library haste.
    """

    eps: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        _check(self)
        if not self.reset_after:
            remedy = "the norm is between the matmul and the reset gate: leave it out"
            raise fail("reset_after", False, "True", remedy)

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: those of `GRU`, and gamma_h."""
        return (*super().elementwise, "gamma_h")

    def extras(self, params: Params) -> Params:
        """The parameters of `update`: those of `GRU`, and gamma_h."""
        return super().extras(params) | {"gamma_h": params["gamma_h"]}

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `GRU.init`, with gamma of ones."""
        params = super().init(key, input_size)
        sizes = {name: 3 * self.hidden_size for name in ("gamma_x", "gamma_h")}
        return params | _ones_and_zeros(sizes, params["w_ih"].dtype)

    def project(self, params: Params, x: Array) -> Array:
        """Project inputs: wx = LN(x @ w_ih) * gamma_x + b. -> [*batch, 3H]"""
        return self.biased(params, _input_part(self, params, x))

    def gates(
        self, carry: GRUState, wx: Array, u: Array, *args: Array, gamma_h: Array, **extras: Array
    ) -> dict[str, Array]:
        """The gates of `GRU.gates`, computed from LN(u)."""
        return super().gates(carry, wx, scaled(u, self.eps, gamma_h), *args, **extras)


@dataclasses.dataclass(frozen=True)
class LayerNormRNN(RNN):
    """Simple recurrent network with layer normalisation.

        h_t = f(LN(x_t @ w_ih + h_{t-1} @ w_hh) * gamma + b)

    Parameters: w_ih [D, H], w_hh [H, H], gamma [H], initially one, b [H].

    Attributes:
        hidden_size: H, the number of hidden units.
        activation: f; as in `RNN`.
        eps: added to the variance.

    The other attributes are those of `Cell`.

    Raises:
        ValueError: an unknown activation; eps is not a positive Python number; heads > 1, which the
            mean over a row would mix.

    Source: Ba, Kiros & Hinton (2016), "Layer normalization", arXiv 1607.06450, equation 4; it is
    LayerNormSimpleRNNCell of TensorFlow Addons.
    """

    eps: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: gamma and the biases, which follow the LN."""
        return ("gamma", *["b"][: self.bias], *["b_hh"][: self.double_bias])

    def biases(self, params: Params) -> list[Array]:
        """An empty list: `project` adds no bias."""
        del params
        return []

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init`, with gamma of ones."""
        params = super().init(key, input_size)
        return params | _ones_and_zeros({"gamma": self.hidden_size}, params["w_ih"].dtype)

    def update(self, carry: RNNState, wx: Array, u: Array, **extras: Array) -> RNNState:
        """Compute h_t = f(LN(wx_t + u_t) * gamma + b)."""
        return RNNState(**self.gates(carry, wx, u, **extras))

    def gates(self, carry: RNNState, wx: Array, u: Array, **extras: Array) -> dict[str, Array]:
        """The state {"h"}, [*batch, H]; there is no gate."""
        del carry  # The carry enters only through u.
        a = scaled(wx + u, self.eps, extras["gamma"])
        for name in self.elementwise[1:]:
            a = a + row(extras[name], a)
        return {"h": activate(self.activation, a)}


def _check(cell: Any) -> None:
    check_range("eps", cell.eps, 1e-12)
    if cell.heads > 1:
        remedy = "the mean and the variance of a row mix the heads: pass heads=1"
        raise fail("heads", cell.heads, "1", remedy)


def _input_part(cell: Any, params: Params, x: Array) -> Array:
    """Compute LN(x @ w_ih) * gamma_x + beta_x, in the accumulation dtype."""
    wx = cell.matmul(x, params["w_ih"])
    return scaled(wx, cell.eps, params["gamma_x"], params.get("beta_x"))


def _ones_and_zeros(sizes: dict[str, int], dtype: Any) -> Params:
    """Make gamma_* of ones and beta_* of zeros, by name and size."""
    return {
        name: jnp.full(size, 1 if name.startswith("gamma") else 0, dtype)
        for name, size in sizes.items()
    }
