"""Mean-field theory of random recurrent networks: do gradients vanish or explode at the start?

In the limit of many units whose weights are independent and new in each step, the pre-activation of
every gate is Gaussian, h has a second moment Q that a step maps to itself, and the mean square of a
small difference of two states grows by a factor chi a step. This is exact for new weights. A
network keeps its weights: for the tanh RNN that makes no difference to chi; for gated cells, whose
state stays related to the weights, it is an approximation in which gradients vanish too fast.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.export
import numpy as np

from .._cells.contract import Recurrent, options
from .._cells.minimal import MinimalRNN
from .._cells.rnn import RNN
from .._checks import check_range, fail, is_real, shown
from ._mean_field_cells import THEORIES, Gates, rnn_relaxation
from ._quadrature import root

__all__ = ["MeanField", "critical_gain", "mean_field"]
__dir__ = __all__.copy

_FREE = ("hidden_size", "reset_after", "bias", "double_bias")
"""Fields of a cell that do not change the theory, or that it knows, besides *_init and *dtype."""


class MeanField(NamedTuple):
    """The result of `mean_field`: floats, and `q` a dict.

    Attributes:
        q: {gate: variance of its pre-activation}; of the tanh network q["h"] is its q*.
        second_moment: Q, the mean of h^2.
        chi: the factor by which the mean square of a small difference of two states, or of a
            gradient, grows in a step; 1 at the critical point.
        exponent: ln(chi) / 2, the largest Lyapunov exponent, in nats per step.
        length: the correlation length xi in steps, in which two states under the same inputs come
            together by a factor e in the mean square: -1 / ln chi if chi < 1. If chi > 1 they tend
            to a correlation below 1; for an `RNN` xi is then of the approach to that, for other
            cells it is NaN.
    """

    q: dict[str, float]
    second_moment: float
    chi: float
    exponent: float
    length: float


jax.export.register_namedtuple_serialization(MeanField, serialized_name="lstm_jax.MeanField")


def mean_field(
    cell: Recurrent,
    *,
    gain: float | Mapping[str, float] = 1.0,
    input_variance: float | Mapping[str, float] = 0.0,
    bias: float | Mapping[str, float] = 0.0,
) -> MeanField:
    """Compute the mean field of a random network by quadrature, in NumPy and float64.

    Its weights are new in each step. A GRU or LSTM that keeps its weights vanishes more slowly than
    this says: at gain 1 and input variance 1 the largest exponent of a GRU is -0.41 (here -0.505),
    of an LSTM -0.44 (-0.553), and of an LSTM of gain 3 -0.09 (-0.219), by `lyapunov_spectrum` over
    450 steps at H = 400, three seeds within 0.005 (a slow test measures it again; CPU, jax 0.10.2).
    For the tanh RNN the two agree.

    It takes milliseconds, for an LSTM about a second; arguments and results are plain floats. Every
    argument is a number for all gates or {gate: number}, zero for gates left out.

        a_k = N(bias_k, q_k),   q_k = gain_k^2 Q + input_variance_k         each gate k

        RNN         Q = <tanh(a)^2>,   chi = gain^2 <tanh'(a)^2>
        MinimalRNN  Q = R <(1-z)^2> / (1 - <z^2>),   chi = <z^2> + gain^2 (Q + R) <z'^2>
        GRU         Q = <z^2> Q + 2 <z(1-z)> <n>^2 + <(1-z)^2> <n^2>
                    chi = <z^2> + gain_z^2 <(h-n)^2> <z'^2> + <(1-z)^2> <(dn)^2>
        LSTM        the stationary law of c = f c + i g by its characteristic function; chi is the
                    growth of the differences of h and c together

    Args:
        cell: a tanh `RNN`, a `GRU`, an `LSTM` or a `MinimalRNN`, without other options; its
            hidden_size does not matter.
        gain: entries of the gate's part of w_hh are N(0, gain^2 / H).
        input_variance: variance of the gate's part of x_t @ w_ih, new at every step; for "n" of a
            `MinimalRNN` it is R, the mean square of n_t itself.
        bias: the gate's bias. The b_hn of a `GRU` is zero.

    Raises:
        ValueError: another cell, or an option that the theory does not cover; a name that is no
            gate; a negative gain or variance; a pre-activation of a variance above 1000.

    Source: Sompolinsky, Crisanti & Sommers (1988) and Molgedey, Schuchhardt & Schuster (1992) for
    the tanh network; Chen, Pennington & Schoenholz (2018), arXiv 1806.05394, for the MinimalRNN;
    the GRU and LSTM in the same way as Gilboa et al. (2019), arXiv 1901.08987, here with the exact
    law of c. The dense trapezoid is used, as Gauss-Hermite nodes miss the narrow slope of tanh at
    a large variance.
    """
    second, chi, gates = _solved(cell, gain, input_variance, bias)
    q = {name: gates.variance(name, second) for name in cell.gate_names}
    factor = rnn_relaxation(gates, second) if isinstance(cell, RNN) and chi > 1 else chi
    exponent = float(np.log(chi) / 2) if chi > 0 else -np.inf
    return MeanField(q, second, chi, exponent, _length(factor))


def critical_gain(
    cell: Recurrent,
    *,
    input_variance: float | Mapping[str, float] = 0.0,
    bias: float | Mapping[str, float] = 0.0,
    largest: float = 100.0,
) -> float:
    """Compute the gain, one for all gates, at which chi of `mean_field` is 1.

    Below it gradients vanish at the start of learning, above it they explode.

    Args:
        cell, input_variance, bias: as in `mean_field`.
        largest: the end of the search, which starts at zero.

    Raises:
        ValueError: chi stays below 1 up to the largest gain; it is 1 without recurrent weights, as
            a bias lets nothing be forgotten; or as `mean_field`.
    """
    check_range("largest", largest, 1e-3)

    def excess(gain: float) -> float:
        chi = _solved(cell, float(gain), input_variance, bias)[1]
        return float(np.log(max(chi, np.finfo(float).tiny)))

    low, high = 1e-3, min(1.0, largest)
    if excess(low) >= 0:
        seen = f"{shown(bias)}, with which chi is 1 at the gain {low:g} already"
        raise fail("bias", seen, "a network that forgets without recurrent weights", "lower it")
    while excess(high) <= 0:
        if high >= largest:
            remedy = "pass a larger one"
            raise fail("largest", largest, "a gain at which chi is above 1", remedy)
        low, high = high, min(2 * high, largest)
    return root(excess, low, high)


def _length(factor: float) -> float:
    if factor >= 1:
        return np.inf if factor == 1 else np.nan
    return float(-1 / np.log(factor)) if factor > 0 else 0.0


def _solved(cell: Any, gain: Any, input_variance: Any, bias: Any) -> tuple[float, float, Gates]:
    """(Q, chi, the arguments by gate); raise for a cell or argument that has no theory."""
    wanted = "a tanh RNN, GRU, LSTM or MinimalRNN"
    if type(cell) not in THEORIES:
        raise fail("cell", shown(cell), wanted, "pass for example lstm_jax.GRU(1)")
    other = [k for k in options(cell) if k not in _FREE and not k.endswith(("_init", "dtype"))]
    if other:
        raise fail("cell", f"the options {', '.join(other)}", wanted + " without them", "drop them")
    names = [*cell.gate_names, *(["n"] if isinstance(cell, MinimalRNN) else [])]
    gates = Gates(
        _by_gate("gain", gain, cell.gate_names, 0.0),
        _by_gate("input_variance", input_variance, names, 0.0),
        _by_gate("bias", bias, cell.gate_names),
    )
    second, chi = THEORIES[type(cell)](cell, gates)
    return float(second), float(chi), gates


def _by_gate(argument: str, value: Any, names: Any, least: float = -np.inf) -> dict[str, float]:
    """Convert to {gate: float}; raise for a name that is no gate, or a number below `least`."""
    given: dict[str, Any] = (
        dict(value) if isinstance(value, Mapping) else dict.fromkeys(names, value)
    )
    for name, number in given.items():
        if name not in names:
            raise fail(argument, f"the gate {name!r}", f"names of {', '.join(names)}", "rename it")
        if not (is_real(number) and least <= number < np.inf and number > -np.inf):
            wanted = "finite numbers" if least < 0 else f"finite numbers of at least {least:g}"
            raise fail(argument, shown(number), wanted, "pass floats")
    return {name: float(given.get(name, 0.0)) for name in names}
