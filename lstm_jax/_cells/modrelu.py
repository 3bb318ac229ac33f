"""The simple recurrent network with modReLU, which moves the size of a sum, not its sign."""

import dataclasses

import jax
import jax.numpy as jnp

from .. import initializers
from .._numerics import row
from .._typing import Array, Carry, Initializer, Key, Params
from .base import Cell, State


@dataclasses.dataclass(frozen=True)
class ModReLURNN(Cell):
    """Simple recurrent network with modReLU, for an orthogonal w_hh.

        a_t = x_t @ w_ih + h_{t-1} @ w_hh
        h_t = sign(a_t) * relu(|a_t| + r)

    With r = 0 it is linear; a negative r sets small sums to zero and lets information be discarded,
    while a unit that is not zero has the derivative 1.

    `init` draws an orthogonal w_hh; `regularizers.Orthogonal` keeps it so, which makes this the
    expRNN, or with map="cayley" the scoRNN without its signs.

    Parameters: w_ih [D, H], w_hh [H, H], r [H]; with `bias` also b [H], added to a_t.

    Attributes:
        hidden_size: H, the number of hidden units.
        r_init: initializer of r, of shape [H].
        bias: True adds b, which the papers do not have.

    The other attributes are those of `Cell`.

    Sources: Arjovsky, Shah & Bengio (2016), arXiv 1511.06464, section 4.4, for modReLU of complex
    numbers; Lezcano-Casado & Martinez-Rubio (2019), arXiv 1901.08428, for real ones.
    """

    bias: bool = dataclasses.field(default=False, kw_only=True)
    r_init: Initializer = dataclasses.field(default=initializers.uniform(0.01), kw_only=True)

    elementwise = ("r",)
    init_only = (*Cell.init_only, "r_init")

    def init(self, key: Key, input_size: int) -> Params:
        """Draw parameters {"w_ih" [D, H], "w_hh" [H, H], "r" [H]} of `param_dtype`."""
        params = super().init(key, input_size)
        key_r = jax.random.fold_in(key, 1)
        dtype = params["w_ih"].dtype
        r = initializers.bias(self.r_init, key_r, self.gate_names, self.hidden_size, dtype)
        return params | {"r": r}

    def update(self, carry: Carry, wx: Array, u: Array, r: Array) -> State:
        """Compute h_t = sign(a_t) relu(|a_t| + r)."""
        return State(**self.gates(carry, wx, u, r))

    def gates(self, carry: Carry, wx: Array, u: Array, r: Array) -> dict[str, Array]:
        """The state {"h"}, [*batch, H]; there is no gate."""
        del carry  # The carry enters only through u.
        a = wx + u
        r = row(r, a)
        # Without `sign`, which Pallas lowers for a TPU only where there is one.
        below = jnp.where(a < 0, -jax.nn.relu(r - a), 0 * a)  # A product keeps NaN.
        return {"h": jnp.where(a > 0, jax.nn.relu(a + r), below)}
