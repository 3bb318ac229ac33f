"""Rate networks of neuroscience: leaky units with a time constant, noise and Dale's law."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .._checks import check_range, fail
from .._typing import Array, Carry, DType, Key, Params
from ..initializers import Sizes
from .base import Cell, State
from .rnn import Activation, activate, check_activation


class CTRNNState(NamedTuple):
    """The carry of a `CTRNN`.

    Attributes:
        h: [*batch, H], the rates f(x), which are also the output.
        x: [*batch, H], the currents, of at least float32.
    """

    h: Array
    x: Array


jax.export.register_namedtuple_serialization(CTRNNState, serialized_name="lstm_jax.CTRNNState")


@dataclasses.dataclass(frozen=True)
class LeakyRNN(Cell):
    """Leaky RNN: rates relax with a time constant towards f of their input.

        h_t = (1 - alpha) h_{t-1} + alpha f(x_t @ w_ih + b + h_{t-1} @ w_eff) + noise_t
        alpha = dt / tau,   noise_t = sqrt(2 alpha) sigma N(0, 1)

    This is the Euler step of tau dh/dt = -h + f(...) + sqrt(2 tau) sigma dW/dt. Alone, the noise
    gives a state the deviation sigma / sqrt(1 - alpha/2), whatever the time constant. Noise is
    added in training only, that is when `unroll` gets a key.

    w_eff is w_hh [H, H]. Under Dale's law it is sign_i |w_hh[i, j]|, with one sign for row i, the
    outgoing weights of unit i: the first round(dale_ratio * H) units are excitatory, the others
    inhibitory.

    Parameters: w_ih [D, H], w_hh [H, H], b [H]. Under Dale's law `init` scales the rows of w_hh
    such that excitation and inhibition cancel in the mean and, with the default `w_hh_init`, all
    but a few eigenvalues of w_eff lie within the unit circle.

    Attributes:
        hidden_size: H, the number of hidden units.
        activation: f; "relu", "tanh", "identity", or any elementwise function of one array.
        tau, dt: the time constant and the time step, in the same unit (ms in the papers);
            0 < dt <= tau.
        sigma: the scale of the noise; 0: no noise.
        dale_ratio: the share of excitatory units; None: no Dale's law.

    The other attributes are those of `Cell`; heads must be 1.

    Raises:
        ValueError: an unknown name of an activation, a number out of its range; or as `Cell`.

    Source: Song, Yang & Wang (2016), "Training excitatory-inhibitory recurrent neural networks for
    cognitive tasks": the step, the noise and Dale's law, there for currents (see `CTRNN`). The leak
    on the rates: Yang et al. (2019), "Task representations in neural networks trained to perform
    many cognitive tasks", with the noise inside f.
    """

    activation: Activation = dataclasses.field(default="relu", kw_only=False)
    tau: float = 100.0
    dt: float = 20.0
    sigma: float = 0.0
    dale_ratio: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_activation(self.activation)
        check_range("tau", self.tau, 0)
        check_range("dt", self.dt, 0)
        if not 0 < self.dt <= self.tau:
            raise fail("dt", repr(self.dt), f"in (0, tau = {self.tau}]", "take a smaller step")
        check_range("sigma", self.sigma, 0)
        if self.dale_ratio is not None:
            check_range("dale_ratio", self.dale_ratio, 0, 1)

    @property
    def alpha(self) -> float:
        """The share of the state that one step replaces, dt / tau."""
        return self.dt / self.tau

    @property
    def excitatory(self) -> int:
        """The number of excitatory units, which come first; H without Dale's law."""
        ratio = 1.0 if self.dale_ratio is None else self.dale_ratio
        return round(ratio * self.hidden_size)

    def w_eff(self, params: Params) -> Array:
        """The effective recurrent matrix: w_hh, or with one sign per row (Dale's law). -> [H, H]"""
        if self.dale_ratio is None:
            return params["w_hh"]
        sign = np.where(np.arange(self.hidden_size) < self.excitatory, 1, -1)[:, None]
        return jnp.abs(params["w_hh"]) * jnp.asarray(sign, params["w_hh"].dtype)

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u = h @ w_eff. -> [*batch, H]"""
        return self.matmul(carry.h, self.w_eff(params))

    @property
    def stochastic(self) -> bool:
        """True if there is noise: sigma is not zero."""
        return self.sigma != 0

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of all steps, [T, *batch, H]."""
        if self.sigma == 0:
            return params, xs, None
        shape = (*xs.shape[:-1], self.hidden_size)
        dtype = self.accumulation(self.compute_dtype(params, xs))
        scale = math.sqrt(2 * self.alpha) * self.sigma
        return params, xs, scale * jax.random.normal(key, shape, dtype)

    def update(self, carry: Any, wx: Array, u: Array, noise: Array | None = None) -> Any:
        """Move the rates towards f of their input, and add the noise."""
        f = self.gates(carry, wx, u)["h"]
        return State(_plus((1 - self.alpha) * carry.h + self.alpha * f, noise))

    def gates(self, carry: Any, wx: Array, u: Array) -> dict[str, Array]:
        """The target {"h"} = f(...) of the relaxation, [*batch, H]."""
        del carry  # The carry enters only through u.
        return {"h": activate(self.activation, wx + u)}

    def _init_w_hh(self, key: Key, sizes: Sizes, dtype: DType) -> Array:
        w = super()._init_w_hh(key, sizes, dtype)
        if self.dale_ratio is None:
            return w
        return w * jnp.asarray(_balance(self.excitatory, self.hidden_size)[:, None], dtype)


@dataclasses.dataclass(frozen=True)
class CTRNN(LeakyRNN):
    """Continuous-time RNN: currents relax with a time constant, and rates are f of the currents.

        x_t = (1 - alpha) x_{t-1} + alpha (input_t @ w_ih + b + h_{t-1} @ w_eff) + noise_t
        h_t = f(x_t)

    with input_t the input of the step, and alpha, noise_t, w_eff, the parameters and the attributes
    of `LeakyRNN`. With a rectifying f the rates that w_eff multiplies are never negative, as
    Dale's law assumes. The initial carry is x = 0, h = f(0).

    Source: Song, Yang & Wang (2016), "Training excitatory-inhibitory recurrent neural networks for
    cognitive tasks"; PsychRNN has the same equations.
    """

    state = CTRNNState

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> CTRNNState:
        """The carry before the first step: x = 0 and h = f(0), each [*batch_shape, H]."""
        h, x = super().initial_carry(params, batch_shape)
        return CTRNNState(activate(self.activation, x).astype(h.dtype), x)

    def update(self, carry: Any, wx: Array, u: Array, noise: Array | None = None) -> Any:
        """Move the currents towards their input, add the noise, and compute the rates."""
        x = _plus((1 - self.alpha) * carry.x + self.alpha * (wx + u), noise)
        return CTRNNState(activate(self.activation, x), x)

    def gates(self, carry: Any, wx: Array, u: Array) -> dict[str, Array]:
        """The rates {"h"}, [*batch, H]."""
        return {"h": self.update(carry, wx, u).h}


def _plus(state: Array, noise: Array | None) -> Array:
    return state if noise is None else state + noise


def _balance(excitatory: int, size: int) -> np.ndarray:
    """Scales [H] of the rows of w ~ N(0, 1/H) that give w_eff mean 0 and spectral radius about 1.

    The bulk of the eigenvalues has radius^2 = sum_i scale_i^2 var|w|, var|w| = (1 - 2/pi) / H
    (Rajan & Abbott 2006; random imbalance puts a few outside). If all units have one sign, nothing
    cancels and the radius is scale H mean|w|.
    """
    inhibitory = size - excitatory
    if not excitatory or not inhibitory:
        return np.full(size, math.sqrt(math.pi / (2 * size)))
    scale = math.sqrt(inhibitory / (excitatory * (1 - 2 / math.pi)))
    return np.where(np.arange(size) < excitatory, scale, scale * excitatory / inhibitory)
