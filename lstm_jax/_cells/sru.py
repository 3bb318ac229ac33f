"""The simple recurrent unit (SRU), without a recurrent matmul and with a highway connection."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .. import initializers
from .._checks import check_range
from .._numerics import row, sigmoid
from .._typing import Array, Initializer, Key, Params
from .linear import Pointwise


class SRUState(NamedTuple):
    """The carry of an SRU.

    Attributes:
        h: [*batch, H], the output; later steps do not use it.
        c: [*batch, H], the state, of at least float32.
    """

    h: Array
    c: Array


jax.export.register_namedtuple_serialization(SRUState, serialized_name="lstm_jax.SRUState")


@dataclasses.dataclass(frozen=True)
class SRU(Pointwise):
    """Simple recurrent unit (SRU).

        n_t, f_t, r_t = split(x_t @ w_ih + b)
        f_t = sigmoid(f_t + v_f * c_{t-1})
        r_t = sigmoid(r_t + v_r * c_{t-1})
        c_t = f_t * c_{t-1} + (1 - f_t) * n_t
        h_t = r_t * c_t + (1 - r_t) * s_t
        s_t = alpha * x_t where D = H, else x_t @ w_skip;   alpha = sqrt(1 + 2 exp(highway_bias))

    Parameters: w_ih [D, 3H], b [3H], v_f [H], v_r [H], and if D is not H w_skip [D, H];
    gates stored in the order n, f, r. The paper has no bias in n; here it is initially zero.

    Attributes:
        hidden_size: H, the number of hidden units.
        highway_bias: added to the initial b_r; a negative one lets the input pass through.
        rescale: True keeps the variance of h_t near that of x_t by alpha, which scales x_t or the
            initial w_skip; False sets alpha = 1.

    Raises:
        ValueError: a highway_bias that is not a finite number.

    The other attributes are those of `Cell`. The initial variance of w_ih is 1/D, half of that in
    the gates f and r; that of v is 1/2.

    Source: Lei, Zhang, Wang, Dai & Artzi (2018), "Simple recurrent units for highly parallelizable
    recurrence", arXiv 1709.02755, equations 1 to 4 and section 3.2.
    """

    highway_bias: float = dataclasses.field(default=0.0, kw_only=True)
    rescale: bool = dataclasses.field(default=True, kw_only=True)
    w_ih_init: Initializer = dataclasses.field(default=initializers.lecun_normal(), kw_only=True)

    gate_names = ("n", "f", "r")
    state = SRUState
    elementwise = ("v_f", "v_r")

    def __post_init__(self):
        super().__post_init__()
        check_range("highway_bias", self.highway_bias, -math.inf)

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of `Cell.init` without w_hh, and v_f, v_r, and w_skip if D != H."""
        params, size = super().init(key, input_size), self.hidden_size
        dtype = np.dtype(self.param_dtype or "float32")
        key_f, key_r, key_skip = jax.random.split(jax.random.fold_in(key, 1), 3)
        w_n, w_gates = jnp.split(params["w_ih"], [size], axis=1)
        params["w_ih"] = jnp.concatenate([w_n, w_gates * math.sqrt(0.5)], axis=1)
        if "b" in params:
            params["b"] = params["b"].at[2 * size :].add(self.highway_bias)
        v_init = initializers.uniform(math.sqrt(1.5))
        params |= {"v_f": v_init(key_f, (size,), dtype), "v_r": v_init(key_r, (size,), dtype)}
        if input_size != size:
            w_skip = initializers.blocks(self.w_ih_init, key_skip, input_size, 1, size, dtype)
            params["w_skip"] = w_skip * self._alpha
        return params

    @property
    def _alpha(self) -> float:
        return math.sqrt(1 + 2 * math.exp(self.highway_bias)) if self.rescale else 1.0

    def project(self, params: Params, x: Array) -> Array:
        """Project inputs to n, f, r and s. [*batch, D] -> [*batch, 4H]"""
        wx = super().project(params, x)
        s = self.matmul(x, params["w_skip"]) if "w_skip" in params else x * self._alpha
        return jnp.concatenate([wx, s.astype(wx.dtype)], axis=-1)

    def update(self, carry: SRUState, wx: Array, u: Array, v_f: Array, v_r: Array) -> SRUState:
        """Interpolate c_t between c_{t-1} and n_t, and h_t between c_t and s_t."""
        n, f, r = self.gates(carry, wx, u, v_f, v_r).values()
        s = wx[..., 3 * self.hidden_size :]
        c = f * carry.c + (1 - f) * n
        return SRUState(r * c + (1 - r) * s, c)

    def gates(
        self, carry: SRUState, wx: Array, u: Array, v_f: Array, v_r: Array
    ) -> dict[str, Array]:
        """The gates and the candidate {"n", "f", "r"}, each [*batch, H]; n is linear in x_t."""
        del u
        c = carry.c
        n, f, r, _ = jnp.split(wx, 4, axis=-1)
        f, r = sigmoid(f + row(v_f, c) * c), sigmoid(r + row(v_r, c) * c)
        return {"n": n, "f": f, "r": r}
