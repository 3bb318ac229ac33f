"""The second moment of h and the growth chi of small differences, for each cell of `mean_field`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.minimal import MinimalRNN
from .._cells.rnn import RNN
from .._checks import fail
from ._mean_field_lstm import lstm_chi, lstm_second_moment
from ._quadrature import gaussian, mean, nodes, root, sigmoid, slope

_LEAST = 1e-10  # A second moment below this is zero.
LARGEST = 1000.0
"""The largest variance of a pre-activation; the time of the quadratures grows with it."""


class Gates(NamedTuple):
    """The parameters of the network, {gate: number} each, as in `mean_field`."""

    gains: dict[str, float]
    drives: dict[str, float]
    means: dict[str, float]

    def variance(self, name: str, second: float) -> float:
        """Variance q of a gate's pre-activation, with Q = `second`.

        Raises:
            ValueError: it is beyond what the quadratures are for.
        """
        q = self.gains[name] ** 2 * second + self.drives[name]
        if q > LARGEST:
            wanted = f"a variance of at most {LARGEST:g}, at which the theory can be computed"
            seen = f"a pre-activation of the gate {name!r} of variance {q:.3g}"
            raise fail("gain, input_variance", seen, wanted, "pass smaller ones")
        return q

    def values(self, name: str, second: float, count: int = 4001) -> np.ndarray:
        """Values of a gate's pre-activation, over which `mean` averages."""
        return gaussian(self.means[name], self.variance(name, second), count)


def _rnn(cell: RNN, gates: Gates) -> tuple[float, float]:
    second = _fixed(lambda second: mean(np.tanh(gates.values("h", second)) ** 2))
    h = np.tanh(gates.values("h", second))
    return second, gates.gains["h"] ** 2 * mean((1 - h**2) ** 2)


def rnn_relaxation(gates: Gates, second: float) -> float:
    """Slope of the map of covariances at its stable limit, for two networks of common weights:

        c = g^2 <tanh(a) tanh(b)> + s2,   slope = g^2 <tanh'(a) tanh'(b)>

    with a and b = mu + sqrt(c) z_0 + sqrt(q - c) z, of a common z_0 and a z of each one's own.
    """
    g2, q = gates.gains["h"] ** 2, gates.variance("h", second)

    def products(c: float) -> tuple[float, float]:
        common, own = gaussian(0.0, c, 301), gaussian(0.0, max(q - c, 0.0), 301)
        a = common[:, None] + own[None]
        h = np.tanh(gates.means["h"] + a)
        return g2 * mean(mean(h) ** 2), g2 * mean(mean(1 - h**2) ** 2)

    def excess(c: float) -> float:
        return products(c)[0] + gates.drives["h"] - c

    high = q * (1 - 1e-6)
    if excess(high) >= 0:  # At the critical point the limit is q itself.
        return 1.0
    # Without inputs and biases zero is the limit, up to rounding.
    return products(root(excess, 0.0, high) if excess(0.0) > 1e-12 * q else 0.0)[1]


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
    pre = np.sqrt(total) * nodes(float(total.max()), 401)[None]
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


def _fixed(following: Callable[[float], float], largest: float = 1.0) -> float:
    """The stable second moment Q = following(Q), in [0, largest]; zero if it falls below _LEAST."""

    def growth(second: float) -> float:
        return following(second) / second - 1

    if growth(_LEAST) <= 0:
        return 0.0
    # At the end it is above zero by rounding alone, where every unit is saturated.
    return root(growth, _LEAST, largest) if growth(largest) < 0 else largest


THEORIES: dict[type, Callable[[Any, Gates], tuple[float, float]]] = {
    RNN: _rnn,
    GRU: _gru,
    LSTM: _lstm,
    MinimalRNN: _minimal,
}
"""For each cell, (Q, chi) of its gates."""
