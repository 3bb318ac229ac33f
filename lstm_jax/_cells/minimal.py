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
    """The minimal gated unit: a GRU whose one gate both resets and keeps.

        f_t = sigmoid(x_t @ w_ih[f] + b[f] + h_{t-1} @ w_hh[f])
        n_t = tanh(x_t @ w_ih[n] + b[n] + f_t * (h_{t-1} @ w_hh[n] + b_hn))    reset_gate=True
        n_t = tanh(x_t @ w_ih[n] + b[n] + h_{t-1} @ w_hh[n])                   reset_gate=False
        h_t = (1 - f_t) * n_t + f_t * h_{t-1}

    Parameters: w_ih [D, 2H], w_hh [H, 2H], b [2H], and b_hn [H] where reset_gate (with
    `double_bias` it is the last part of b_hh [2H]); gates stored in the order f, n. The bias of f,
    which keeps the state, starts at one.

    Attributes:
        hidden_size: H.
        reset_gate: whether f also resets; it acts after the matmul.

    The other attributes are `Cell`'s.

    Source: Zhou et al. (2016), arXiv 1603.09420, whose f is here 1 - f; with the gate after the
    matmul and f as here: flax's MGUCell. reset_gate=False: Heck & Salem (2017), arXiv 1701.03452.
    """

    reset_gate: bool = dataclasses.field(default=True, kw_only=False)
    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("f", "n")

    @property
    def elementwise(self) -> tuple[str, ...]:
        """b_hn sits inside the product with f, so `update` takes it."""
        return ("b_hn",) if self.reset_gate and self.bias and not self.double_bias else ()

    def extras(self, params: Params) -> Params:
        """b_hn: a parameter of its own, or the last part of a second bias."""
        if self.reset_gate and self.double_bias:
            return {"b_hn": params["b_hh"][self.hidden_size :]}
        return super().extras(params)

    def biases(self, params: Params) -> list[Array]:
        """b, and of a second bias what is outside the product with f."""
        if not (self.reset_gate and self.double_bias):
            return super().biases(params)
        outside = params["b_hh"][: self.hidden_size]
        return [params["b"], jnp.pad(outside, (0, self.hidden_size))]

    def init(self, key: Key, input_size: int) -> Params:
        """`Cell.init`'s, and b_hn [H] (by `b_init`'s rule for n) where reset_gate."""
        params = super().init(key, input_size)
        if self.elementwise:
            params["b_hn"] = _bias_of_last(self, jax.random.fold_in(key, 1), params["b"].dtype)
        return params

    def update(self, carry: State, wx: Array, u: Array, b_hn: Array | None = None) -> State:
        """h_t between n_t and h_{t-1}."""
        f, n = self.gates(carry, wx, u, b_hn).values()
        return State((1 - f) * n + f * carry.h)

    def gates(
        self, carry: State, wx: Array, u: Array, b_hn: Array | None = None
    ) -> dict[str, Array]:
        """{"f", "n"} after their nonlinearities, each [*batch, H]."""
        del carry  # The past enters through u alone.
        x_f, x_n = jnp.split(wx, 2, axis=-1)
        u_f, u_n = jnp.split(u, 2, axis=-1)
        f = sigmoid(x_f + u_f)
        u_n = u_n if b_hn is None else u_n + row(b_hn, u_n)
        return {"f": f, "n": jnp.tanh(x_n + (f * u_n if self.reset_gate else u_n))}


@dataclasses.dataclass(frozen=True)
class JANET(Cell):
    """Just another network: an LSTM with a forget gate and no other.

        s_t, g_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        c_t = sigmoid(s_t) * c_{t-1} + (1 - sigmoid(s_t - beta)) * tanh(g_t)
        h_t = c_t

    Parameters: w_ih [D, 2H], w_hh [H, 2H], b [2H], gates stored in the order f (that is s), g. The
    bias of f starts at one; the paper's start is `b_init=initializers.chrono(T)`, T the longest lag
    of the task.

    Attributes:
        hidden_size: H.
        beta: how much more is let in than is forgotten; 0 couples the two.

    The other attributes are `Cell`'s.

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
        """h_t = c_t: what the gate keeps, and what it lets in."""
        i, f, g = self.gates(carry, wx, u).values()
        return State(f * carry.h + i * g)

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """{"i", "f", "g"}, each [*batch, H]; i = 1 - sigmoid(s - beta) is no gate of its own."""
        del carry  # The past enters through u alone.
        s, g = jnp.split(wx + u, 2, axis=-1)
        return {"i": sigmoid(self.beta - s), "f": sigmoid(s), "g": jnp.tanh(g)}


@dataclasses.dataclass(frozen=True)
class UGRNN(Cell):
    """The update gate RNN: between an RNN and a GRU, which it is without the reset gate.

        z_t, n_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        h_t = sigmoid(z_t) * h_{t-1} + (1 - sigmoid(z_t)) * tanh(n_t)

    Parameters: w_ih [D, 2H], w_hh [H, 2H], b [2H], gates stored in the order z, n (the paper's g
    and c). The bias of z, which keeps the state, starts at one. With the start
    `b_init=initializers.chrono(T)` it is the gated recurrent network for which Tallec & Ollivier
    (2018), arXiv 1804.11188, derived that start; their gate is 1 - z.

    Attributes: `Cell`'s.

    Source: Collins, Sohl-Dickstein & Sussillo (2017), "Capacity and trainability in recurrent
    neural networks", arXiv 1611.09913.
    """

    b_init: Any = dataclasses.field(default=initializers.forget_bias(1.0), kw_only=True)

    gate_names = ("z", "n")

    def update(self, carry: State, wx: Array, u: Array) -> State:
        """h_t between n_t and h_{t-1}."""
        z, n = self.gates(carry, wx, u).values()
        return State((1 - z) * n + z * carry.h)

    def gates(self, carry: State, wx: Array, u: Array) -> dict[str, Array]:
        """{"z", "n"} after their nonlinearities, each [*batch, H]."""
        del carry  # The past enters through u alone.
        z, n = jnp.split(wx + u, 2, axis=-1)
        return {"z": sigmoid(z), "n": jnp.tanh(n)}


@dataclasses.dataclass(frozen=True)
class MinimalRNN(Cell):
    """An RNN whose new state is a function of the input alone; one gate mixes it in.

        n_t = tanh(x_t @ w_ih + b_n)
        z_t = sigmoid(h_{t-1} @ w_hh + n_t @ w_nh + b)
        h_t = z_t * h_{t-1} + (1 - z_t) * n_t

    n and z are the paper's z = Phi(x) and u. Both matmuls of the input run for all steps at once.

    Parameters: w_ih [D, H], w_nh [H, H] (by `w_ih_init`), w_hh [H, H], b [H], b_n [H].

    Attributes: `Cell`'s. double_bias doubles b.

    Source: Chen (2017), "MinimalRNN: toward more interpretable and trainable recurrent neural
    networks", arXiv 1711.06788.
    """

    gate_names = ("z",)

    def init(self, key: Key, input_size: int) -> Params:
        """`Cell.init`'s for the gate z, and w_nh, b_n."""
        params = super().init(key, input_size)
        key_nh, key_n = jax.random.split(jax.random.fold_in(key, 1))
        size, dtype = self.hidden_size, params["w_ih"].dtype
        params["w_nh"] = initializers.blocks(self.w_ih_init, key_nh, size, 1, size, dtype)
        if self.bias:
            names = ("z", "n")
            params["b_n"] = initializers.bias(self.b_init, key_n, names, size, dtype)[size:]
        return params

    def project(self, params: Params, x: Array) -> Pre:
        """{"n": n_t, "z": n_t @ w_nh + b}, each [*batch, H]."""
        of_n = {"w_ih": params["w_ih"]} | ({"b": params["b_n"]} if self.bias else {})
        n = jnp.tanh(super().project(of_n, x))
        return {"n": n, "z": super().project(params | {"w_ih": params["w_nh"]}, n)}

    def update(self, carry: State, wx: Pre, u: Array) -> State:
        """h_t between n_t and h_{t-1}."""
        z, n = self.gates(carry, wx, u).values()
        return State((1 - z) * n + z * carry.h)

    def gates(self, carry: State, wx: Pre, u: Array) -> dict[str, Array]:
        """{"z", "n"}, each [*batch, H]."""
        del carry  # The past enters through u alone.
        return {"z": sigmoid(wx["z"] + u), "n": wx["n"]}


def _bias_of_last(cell: Cell, key: Key, dtype: Any) -> Array:
    """What `b_init` gives the last of the cell's gates, [H]."""
    both = initializers.bias(cell.b_init, key, cell.gate_names, cell.hidden_size, dtype)
    return both[-cell.hidden_size :]
