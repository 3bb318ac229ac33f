"""Gated cells with one gate: MGU, JANET, UGRNN and MinimalRNN."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .. import initializers
from .._checks import check_range
from .._numerics import row, sigmoid
from .._typing import Array, Key, Params, Pre
from .base import Cell, State


@dataclasses.dataclass(frozen=True)
class MGU(Cell):
    """Minimal gated unit: a GRU with one gate in place of its reset and update gates.

        f_t = sigmoid(x_t @ w_ih[f] + b[f] + h_{t-1} @ w_hh[f])
        n_t = tanh(x_t @ w_ih[n] + b[n] + f_t * (h_{t-1} @ w_hh[n] + b_hn))    reset_gate=True
        n_t = tanh(x_t @ w_ih[n] + b[n] + h_{t-1} @ w_hh[n])                   reset_gate=False
        h_t = (1 - f_t) * n_t + f_t * h_{t-1}

    Parameters: w_ih [D, 2H], w_hh [H, 2H], b [2H], and b_hn [H] where reset_gate (with
    `double_bias` it is the last part of b_hh [2H]); gates stored in the order f, n. The bias of f,
    which keeps the state, is initialised to one.

    Attributes:
        hidden_size: H, the number of hidden units.
        reset_gate: True: f is also the reset gate, after the recurrent matmul.

    The other attributes are those of `Cell`.

    Source: Zhou et al. (2016), arXiv 1603.09420, whose f is here 1 - f; with the gate after the
    matmul and f as here: flax's MGUCell. reset_gate=False: Heck & Salem (2017), arXiv 1701.03452.
    """

    reset_gate: bool = dataclasses.field(default=True, kw_only=False)
    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("f", "n")

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: b_hn, which f multiplies."""
        return ("b_hn",) if self.reset_gate and self.bias and not self.double_bias else ()

    def extras(self, params: Params) -> Params:
        """The parameters of `update`; with a second bias, b_hn is the last part of b_hh."""
        if self.reset_gate and self.double_bias:
            return {"b_hn": params["b_hh"][self.hidden_size :]}
        return super().extras(params)

    def biases(self, params: Params) -> list[Array]:
        """The biases that `project` adds; of a second bias, the part without b_hn."""
        if not (self.reset_gate and self.double_bias):
            return super().biases(params)
        outside = params["b_hh"][: self.hidden_size]
        return [params["b"], jnp.pad(outside, (0, self.hidden_size))]

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init`, and with reset_gate b_hn [H], like the n of b."""
        params = super().init(key, input_size)
        if self.elementwise:
            params["b_hn"] = _bias_of_last(self, jax.random.fold_in(key, 1), params["b"].dtype)
        return params

    def update(self, carry: State, wx: Array, u: Array, b_hn: Array | None = None) -> State:
        """Interpolate h_t between n_t and h_{t-1}."""
        f, n = self.gates(carry, wx, u, b_hn).values()
        return State((1 - f) * n + f * carry.h)

    def gates(
        self, carry: State, wx: Array, u: Array, b_hn: Array | None = None
    ) -> dict[str, Array]:
        """The gate and the candidate {"f", "n"} after their activations, each [*batch, H]."""
        del carry  # The carry enters only through u.
        x_f, x_n = jnp.split(wx, 2, axis=-1)
        u_f, u_n = jnp.split(u, 2, axis=-1)
        f = sigmoid(x_f + u_f)
        u_n = u_n if b_hn is None else u_n + row(b_hn, u_n)
        return {"f": f, "n": jnp.tanh(x_n + (f * u_n if self.reset_gate else u_n))}


@dataclasses.dataclass(frozen=True)
class JANET(Cell):
    """JANET ("just another network"): an LSTM with a forget gate only.

        s_t, g_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        c_t = sigmoid(s_t) * c_{t-1} + (1 - sigmoid(s_t - beta)) * tanh(g_t)
        h_t = c_t

    Parameters: w_ih [D, 2H], w_hh [H, 2H], b [2H], gates stored in the order f (that is s), g. The
    bias of f is initialised to one; the paper uses `b_init=initializers.chrono(T)`, T the longest
    lag of the task.

    Attributes:
        hidden_size: H, the number of hidden units.
        beta: offset of the input gate, which admits more than is forgotten; 0: it is 1 - f.

    The other attributes are those of `Cell`.

    Raises:
        ValueError: beta is not a Python number of at least 0.

    Source: van der Westhuizen & Lasenby (2018), arXiv 1804.04849, section 3.
    """

    beta: float = dataclasses.field(default=1.0, kw_only=False)
    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("f", "g")

    def __post_init__(self):
        super().__post_init__()
        check_range("beta", self.beta, 0)

    def update(self, carry: State, wx: Array, u: Array) -> State:
        """Compute h_t = c_t from the gates."""
        i, f, g = self.gates(carry, wx, u).values()
        return State(f * carry.h + i * g)

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """The gates and candidate {"i", "f", "g"}, each [*batch, H]; i = 1 - sigmoid(s - beta)."""
        del carry  # The carry enters only through u.
        s, g = jnp.split(wx + u, 2, axis=-1)
        return {"i": sigmoid(self.beta - s), "f": sigmoid(s), "g": jnp.tanh(g)}


@dataclasses.dataclass(frozen=True)
class UGRNN(Cell):
    """Update gate RNN: a GRU without the reset gate.

        z_t, n_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        h_t = sigmoid(z_t) * h_{t-1} + (1 - sigmoid(z_t)) * tanh(n_t)

    Parameters: w_ih [D, 2H], w_hh [H, 2H], b [2H], gates stored in the order z, n (the paper's g
    and c). The bias of z, which keeps the state, is initialised to one. Tallec & Ollivier (2018),
    arXiv 1804.11188, derived the initialisation `b_init=initializers.chrono(T)` for this network;
    their gate is 1 - z.

    The attributes are those of `Cell`.

    Source: Collins, Sohl-Dickstein & Sussillo (2017), "Capacity and trainability in recurrent
    neural networks", arXiv 1611.09913.
    """

    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("z", "n")

    def update(self, carry: State, wx: Array, u: Array) -> State:
        """Interpolate h_t between n_t and h_{t-1}."""
        z, n = self.gates(carry, wx, u).values()
        return State((1 - z) * n + z * carry.h)

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """The gate and the candidate {"z", "n"} after their activations, each [*batch, H]."""
        del carry  # The carry enters only through u.
        z, n = jnp.split(wx + u, 2, axis=-1)
        return {"z": sigmoid(z), "n": jnp.tanh(n)}


@dataclasses.dataclass(frozen=True)
class MinimalRNN(Cell):
    """MinimalRNN: one gate mixes a function of the input alone into the state.

        n_t = tanh(x_t @ w_ih + b_n)
        z_t = sigmoid(h_{t-1} @ w_hh + n_t @ w_nh + b)
        h_t = z_t * h_{t-1} + (1 - z_t) * n_t

    n and z are the paper's z = Phi(x) and u. Both matmuls of the input run for all steps at once.

    Parameters: w_ih [D, H], w_nh [H, H] (by `w_ih_init`), w_hh [H, H], b [H], b_n [H].

    The attributes are those of `Cell`; `double_bias` doubles b.

    Source: Chen (2017), "MinimalRNN: toward more interpretable and trainable recurrent neural
    networks", arXiv 1711.06788.
    """

    gate_names = ("z",)

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init` for the gate z, and w_nh, b_n."""
        params = super().init(key, input_size)
        key_nh, key_n = jax.random.split(jax.random.fold_in(key, 1))
        size, dtype = self.hidden_size, params["w_ih"].dtype
        params["w_nh"] = initializers.blocks(self.w_ih_init, key_nh, size, 1, size, dtype)
        if self.bias:
            names = ("z", "n")
            params["b_n"] = initializers.bias(self.b_init, key_n, names, size, dtype)[size:]
        return params

    def project(self, params: Params, x: Array) -> Pre:
        """Project inputs: {"n": n_t, "z": n_t @ w_nh + b}, each [*batch, H]."""
        of_n = {"w_ih": params["w_ih"]} | ({"b": params["b_n"]} if self.bias else {})
        n = jnp.tanh(super().project(of_n, x))
        return {"n": n, "z": super().project(params | {"w_ih": params["w_nh"]}, n)}

    def update(self, carry: State, wx: Pre, u: Array) -> State:
        """Interpolate h_t between n_t and h_{t-1}."""
        z, n = self.gates(carry, wx, u).values()
        return State((1 - z) * n + z * carry.h)

    def gates(self, carry: State, wx: Pre, u: Array) -> dict[str, Array]:
        """The gate and the candidate {"z", "n"}, each [*batch, H]."""
        del carry  # The carry enters only through u.
        return {"z": sigmoid(wx["z"] + u), "n": wx["n"]}


def _bias_of_last(cell: Cell, key: Key, dtype: Any) -> Array:
    """Draw a bias [H] as `b_init` does for the last gate."""
    both = initializers.bias(cell.b_init, key, cell.gate_names, cell.hidden_size, dtype)
    return both[-cell.hidden_size :]
