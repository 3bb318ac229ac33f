"""Long short-term memory, and its variants: peepholes, coupled or missing gates, a projection."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .. import initializers
from .._checks import check_positive_int, fail
from .._numerics import row
from .._typing import Array, Key, Params
from .base import Cell
from .rnn import GATE_ACTIVATIONS, Activation, activate, check_activation, masked


class LSTMState(NamedTuple):
    """The carry of an LSTM.

    Attributes:
        h: [*batch, H], the hidden state, which is also the output; [*batch, P] with a projection.
        c: [*batch, H], the cell state, of at least float32.
    """

    h: Array
    c: Array


jax.export.register_namedtuple_serialization(LSTMState, serialized_name="lstm_jax.LSTMState")


@dataclasses.dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory.

        i_t, f_t, g_t, o_t = split(x_t @ w_ih + b + h_{t-1} @ w_hh)
        c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)
        h_t = sigmoid(o_t) * tanh(c_t)

    Parameters: w_ih [D, 4H], w_hh [H, 4H], b [4H], gates stored in the order i, f, g, o. The
    forget bias is initialised to one in b; the equations add no constant.

    Attributes:
        hidden_size: H, the number of hidden units.
        peepholes: True connects c to the gates: i_t + w_ci * c_{t-1}, f_t + w_cf * c_{t-1} and
            o_t + w_co * c_t, with parameters w_ci, w_cf, w_co [H], initially zero.
        coupled: True replaces sigmoid(i_t) by 1 - sigmoid(f_t); G = 3: f, g, o (CIFG).
        input_gate, forget_gate, output_gate: False removes the gate, which then equals one, from
            the G gates (NIG, NFG, NOG).
        input_activation, output_activation: replace the tanh of g_t and of c_t: "tanh", "relu",
            "identity" (NIAF, NOAF), or any elementwise function of one array.
        gate_activation: replaces the sigmoid: "sigmoid", "hard_sigmoid" (as in Keras 3,
            relu6(x + 3) / 6), or any elementwise function of one array.
        projection_size: P projects h to size P (LSTMP): h_t = (sigmoid(o_t) * tanh(c_t)) @ w_hr,
            with w_hr [H, P] (drawn by `w_ih_init`) and w_hh [P, G*H]. `update` computes this
            matmul, in the accumulation dtype. None: no projection.

    The other attributes are those of `Cell`.

    Raises:
        ValueError: an unknown activation, an invalid size, options that exclude each other.

    Source: Hochreiter & Schmidhuber (1997); the forget gate of Gers, Schmidhuber & Cummins (2000);
    the forget bias of Jozefowicz, Zaremba & Sutskever (2015); peepholes of Gers & Schmidhuber
    (2000); the projection of Sak, Senior & Beaufays (2014), arXiv 1402.1128; the other variants of
    Greff et al. (2017), arXiv 1503.04069.
    """

    _: dataclasses.KW_ONLY
    b_init: Any = initializers.forget_bias(1.0)
    peepholes: bool = False
    coupled: bool = False
    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    input_activation: Activation = "tanh"
    output_activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    projection_size: int | None = None

    state = LSTMState
    candidate = "g"

    def __post_init__(self):
        super().__post_init__()
        check_activation(self.input_activation, "input_activation")
        check_activation(self.output_activation, "output_activation")
        check_activation(self.gate_activation, "gate_activation", GATE_ACTIVATIONS)
        if self.coupled and not (self.input_gate and self.forget_gate):
            seen = f"True beside input_gate={self.input_gate}, forget_gate={self.forget_gate}"
            raise fail("coupled", seen, "both gates, of which i is 1 - f", "pass coupled=False")
        if self.projection_size is not None:
            check_positive_int("projection_size", self.projection_size)
            if self.heads > 1:
                remedy = "a projection mixes the heads: pass heads=1"
                raise fail("projection_size", self.projection_size, "None with heads", remedy)
        if not self.forget_gate and self.b_init == LSTM.b_init:
            object.__setattr__(self, "b_init", initializers.zeros())  # No gate to bias.

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The names of the gates: i, f, g, o without those that the options remove."""
        stored = {
            "i": self.input_gate and not self.coupled,
            "f": self.forget_gate,
            "g": True,
            "o": self.output_gate,
        }
        return tuple([name for name, present in stored.items() if present])

    @property
    def recurrent_size(self) -> int:
        """The size of h: P with a projection, else H."""
        return self.projection_size or self.hidden_size

    @property
    def elementwise(self) -> tuple[str, ...]:
        """Names of the parameters of `update`: the peepholes and the projection."""
        names = self.gate_names if self.peepholes else ()
        peepholes = tuple(f"w_c{name}" for name in names if name != "g")
        return peepholes + (("w_hr",) if self.projection_size else ())

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init`, the peepholes and the projection."""
        params = super().init(key, input_size)
        dtype, size = params["w_ih"].dtype, self.hidden_size
        zero = jnp.zeros(size, dtype)
        params |= {name: zero for name in self.elementwise if name != "w_hr"}
        if self.projection_size:
            key_hr, sizes = jax.random.fold_in(key, 1), initializers.Sizes(input_size, size)
            params["w_hr"] = initializers.blocks(
                self.w_ih_init, key_hr, size, 1, self.projection_size, dtype, sizes=sizes
            )
        return params

    def update(self, carry: LSTMState, wx: Array, u: Array, **extras: Array) -> LSTMState:
        """Compute c_t and h_t from the gates."""
        gates = self.gates(carry, wx, u, **extras)
        c = cell_state(carry, gates)
        return LSTMState(self.hidden(gates, c, **extras), c)

    def hidden(self, gates: dict[str, Array], c: Array, **extras: Array) -> Array:
        """Compute h_t = sigmoid(o_t) * tanh(c_t), and project it if there is a w_hr."""
        h = _gated(gates, "o", activate(self.output_activation, c))
        return self.matmul(h, extras["w_hr"]) if "w_hr" in extras else h

    def gates(self, carry: LSTMState, wx: Array, u: Array, **extras: Array) -> dict[str, Array]:
        """The gates {"i", "f", "g", "o"} after their activations, each [*batch, H].

        Removed gates are missing; i = 1 - f of a coupled pair is not. With a peephole o depends on
        c_t, which is therefore computed here too. The mask `noise` multiplies g.
        """
        blocks = jnp.split(wx + u, len(self.gate_names), axis=-1)
        a = dict(zip(self.gate_names, blocks, strict=True))

        def gate(name: str, c: Array) -> Array:
            w = extras.get(f"w_c{name}")
            return activate(self.gate_activation, a[name] if w is None else a[name] + row(w, c) * c)

        gates = {name: gate(name, carry.c) for name in ("i", "f") if name in a}
        if self.coupled:
            gates = {"i": 1 - gates["f"], "f": gates["f"]}
        gates["g"] = masked(activate(self.input_activation, a["g"]), extras.get("noise"))
        if self.output_gate:
            gates["o"] = gate("o", cell_state(carry, gates) if self.peepholes else carry.c)
        return gates


def cell_state(carry: LSTMState, gates: dict[str, Array]) -> Array:
    """Compute c_t = f * c_{t-1} + i * g; a missing gate counts as one."""
    return _gated(gates, "f", carry.c) + _gated(gates, "i", gates["g"])


def _gated(gates: dict[str, Array], name: str, x: Array) -> Array:
    return gates[name] * x if name in gates else x
