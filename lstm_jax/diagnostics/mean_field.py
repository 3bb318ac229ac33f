"""Mean-field theory of random recurrent networks: do gradients vanish or explode at the start?

In the limit of many units whose weights are independent and new in each step, the pre-activation of
every gate is Gaussian, h has a second moment Q that a step maps to itself, and the mean square of a
small difference of two states grows by a factor chi a step. This is exact for new weights; for the
same weights in each step it is the usual approximation, which is good where the cell does not keep
its state for long.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .._cells.contract import Recurrent, options
from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.minimal import MinimalRNN
from .._cells.rnn import RNN
from .._checks import check_range, fail, is_real, shown
from ._mean_field_lstm import lstm_chi, lstm_second_moment
from ._quadrature import gaussian, mean, root, sigmoid, slope

__all__ = ["MeanField", "critical_gain", "mean_field"]
__dir__ = __all__.copy

_FREE = ("hidden_size", "reset_after", "bias", "double_bias", "heads")
"""Fields of a cell that do not change the theory, or that it knows, besides *_init and *dtype."""

_LEAST = 1e-10  # A second moment below this is zero.


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


def mean_field(
    cell: Recurrent,
    *,
    gain: float | Mapping[str, float] = 1.0,
    input_variance: float | Mapping[str, float] = 0.0,
    bias: float | Mapping[str, float] = 0.0,
) -> MeanField:
    """Compute the mean field of a random network by quadrature, in NumPy and float64.

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
            gate; a negative gain or variance.

    Source: Sompolinsky, Crisanti & Sommers (1988) and Molgedey, Schuchhardt & Schuster (1992) for
    the tanh network; Chen, Pennington & Schoenholz (2018), arXiv 1806.05394, for the MinimalRNN;
    the GRU and LSTM in the same way as Gilboa et al. (2019), arXiv 1901.08987, here with the exact
    law of c. The dense trapezoid is used, as Gauss-Hermite nodes miss the narrow slope of tanh at
    a large variance.
    """
    second, chi, gates = _solved(cell, gain, input_variance, bias)
    q = {name: gates.variance(name, second) for name in cell.gate_names}
    factor = _rnn_relaxation(gates, second) if isinstance(cell, RNN) and chi > 1 else chi
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
        ValueError: chi stays below 1 up to the largest gain, or as `mean_field`.
    """
    check_range("largest", largest, 1e-3)

    def excess(gain: float) -> float:
        return float(np.log(_solved(cell, float(gain), input_variance, bias)[1]))

    low, high = 1e-3, min(1.0, largest)
    while excess(high) <= 0:
        if high >= largest:
            remedy = "pass a larger one"
            raise fail("largest", largest, "a gain at which chi is above 1", remedy)
        low, high = high, min(2 * high, largest)
    return root(excess, low, high)


# ---- the cells -----------------------------------------------------------------------------------
class Gates(NamedTuple):
    """The parameters of the network, {gate: number} each, as in `mean_field`."""

    gains: dict[str, float]
    drives: dict[str, float]
    means: dict[str, float]

    def variance(self, name: str, second: float) -> float:
        """Variance q of a gate's pre-activation, with Q = `second`."""
        return self.gains[name] ** 2 * second + self.drives[name]

    def values(self, name: str, second: float, count: int = 4001) -> np.ndarray:
        """Values of a gate's pre-activation, over which `mean` averages."""
        return gaussian(self.means[name], self.variance(name, second), count)


def _rnn(cell: RNN, gates: Gates) -> tuple[float, float]:
    second = _fixed(lambda second: mean(np.tanh(gates.values("h", second)) ** 2))
    h = np.tanh(gates.values("h", second))
    return second, gates.gains["h"] ** 2 * mean((1 - h**2) ** 2)


def _rnn_relaxation(gates: Gates, second: float) -> float:
    """Slope of the map of covariances at its stable limit, for two networks of common weights:

        c = g^2 <tanh(a) tanh(b)> + s2,   slope = g^2 <tanh'(a) tanh'(b)>

    with a and b = mu + sqrt(c) z_0 + sqrt(q - c) z, of a common z_0 and a z of each one's own.
    """
    g2, q = gates.gains["h"] ** 2, gates.variance("h", second)
    nodes = gaussian(0.0, 1.0, 301)

    def products(c: float) -> tuple[float, float]:
        a = np.sqrt(c) * nodes[:, None] + np.sqrt(max(q - c, 0.0)) * nodes[None]
        h = np.tanh(gates.means["h"] + a)
        return g2 * mean(mean(h) ** 2), g2 * mean(mean(1 - h**2) ** 2)

    def excess(c: float) -> float:
        return products(c)[0] + gates.drives["h"] - c

    # Without inputs and biases zero is the limit, up to rounding.
    c = root(excess, 0.0, q * (1 - 1e-6)) if excess(0.0) > 1e-12 * q else 0.0
    return products(c)[1]


def _minimal(cell: Any, gates: Gates) -> tuple[float, float]:
    r = gates.drives["n"]

    def following(second: float) -> float:
        z = sigmoid(gates.values("z", second))
        return r * mean((1 - z) ** 2) / (1 - mean(z**2))

    second = _fixed(following, largest=max(r, 2 * _LEAST))
    z = sigmoid(gates.values("z", second))
    return second, mean(z**2) + gates.gains["z"] ** 2 * (second + r) * mean(slope(z) ** 2)


def _gru(cell: GRU, gates: Gates) -> tuple[float, float]:
    candidate = _candidate_after if cell.reset_after else _candidate_before

    def following(second: float) -> float:
        z, (n, n2, _) = sigmoid(gates.values("z", second)), candidate(gates, second)
        return (2 * mean(z * (1 - z)) * n**2 + mean((1 - z) ** 2) * n2) / (1 - mean(z**2))

    second = _fixed(following)
    z, (n, n2, change) = sigmoid(gates.values("z", second)), candidate(gates, second)
    # <h> = <n>, as h = z h + (1 - z) n with z of its own.
    spread = gates.gains["z"] ** 2 * (second + n2 - 2 * n**2)
    return second, mean(z**2) + spread * mean(slope(z) ** 2) + mean((1 - z) ** 2) * change


def _candidate_after(gates: Gates, second: float) -> tuple[float, float, float]:
    """(<n>, <n^2>, <(dn)^2> for <(dh)^2> = 1) of n = tanh(x_n + r u_n).

    For a given r, n is a function of a Gaussian; and dn = n' (r du_n + u_n dr), in which u_n is
    what is known of it from x_n + r u_n, and the rest.
    """
    g2, s2 = gates.gains["n"] ** 2, gates.drives["n"]
    r = sigmoid(gates.values("r", second, 151))[:, None]
    total = s2 + r**2 * g2 * second
    pre = np.sqrt(total) * gaussian(0.0, 1.0, 401)[None]
    n = np.tanh(gates.means["n"] + pre)
    known = np.divide(r * g2 * second, total, out=np.zeros_like(total), where=total > 0)
    u2 = (known * pre) ** 2 + np.maximum(1 - known * r, 0) * g2 * second
    change = g2 * r**2 + gates.gains["r"] ** 2 * slope(r) ** 2 * u2
    return mean(mean(n)), mean(mean(n**2)), mean(mean((1 - n**2) ** 2 * change))


def _candidate_before(gates: Gates, second: float) -> tuple[float, float, float]:
    """The same of n = tanh(x_n + w (r h)): w sums over all units, so that only means of r enter."""
    g2 = gates.gains["n"] ** 2
    r = sigmoid(gates.values("r", second))
    n = np.tanh(gaussian(gates.means["n"], gates.drives["n"] + g2 * mean(r**2) * second))
    change = mean(r**2) + gates.gains["r"] ** 2 * second * mean(slope(r) ** 2)
    return mean(n), mean(n**2), g2 * change * mean((1 - n**2) ** 2)


def _lstm(cell: LSTM, gates: Gates) -> tuple[float, float]:
    def given(second: float) -> dict[str, tuple[float, float]]:
        return {k: (gates.means[k], gates.variance(k, second)) for k in "ifgo"}

    second = _fixed(lambda second: lstm_second_moment(given(second)))
    return second, lstm_chi(given(second), gates.gains)


_THEORIES: dict[type, Callable[[Any, Gates], tuple[float, float]]] = {
    RNN: _rnn,
    GRU: _gru,
    LSTM: _lstm,
    MinimalRNN: _minimal,
}
"""For each cell, (Q, chi) of its gates."""


# ---- helpers -------------------------------------------------------------------------------------
def _fixed(following: Callable[[float], float], largest: float = 1.0) -> float:
    """The stable second moment Q = following(Q), in [0, largest]; zero if it falls below _LEAST."""

    def growth(second: float) -> float:
        return following(second) / second - 1

    return root(growth, _LEAST, largest) if growth(_LEAST) > 0 else 0.0


def _length(factor: float) -> float:
    if factor >= 1:
        return np.inf if factor == 1 else np.nan
    return float(-1 / np.log(factor)) if factor > 0 else 0.0


def _solved(cell: Any, gain: Any, input_variance: Any, bias: Any) -> tuple[float, float, Gates]:
    """(Q, chi, the arguments by gate); raise for a cell or argument that has no theory."""
    wanted = "a tanh RNN, GRU, LSTM or MinimalRNN"
    if type(cell) not in _THEORIES:
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
    second, chi = _THEORIES[type(cell)](cell, gates)
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
