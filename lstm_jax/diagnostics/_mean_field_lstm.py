"""The mean field of an LSTM, whose cell state is not Gaussian.

c = f c + i g with f, i and g new in each step and independent of c. With phi_m(k) = <c^m exp(ikc)>,
and psi_m that of w = i g, its stationary law obeys

    phi_0(k) = <phi_0(f k)> psi_0(k)
    phi_1(k) = <f phi_1(f k)> psi_0(k) + <phi_0(f k)> psi_1(k)
    phi_2(k) = <f^2 phi_2(f k)> psi_0(k) + 2 <f phi_1(f k)> psi_1(k) + <phi_0(f k)> psi_2(k)

linear equations on a grid of k, as f k lies on it too. Means of functions of tanh(c) follow from
their Fourier transforms, which decay as exp(-pi k / 2):

    <sech(c)^2> = int_0^inf k / sinh(pi k / 2) Re phi_0(k) dk
    <sech(c)^4> = int_0^inf k (4 + k^2) / (6 sinh(pi k / 2)) Re phi_0(k) dk
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ._quadrature import gaussian, mean, root, sigmoid, slope

Gates = dict[str, tuple[float, float]]
"""{gate: (mean, variance)} of the pre-activations."""

_COUNT = 320
_K = np.geomspace(1e-6, 25.0, _COUNT)  # Up to where the Fourier transforms are 1e-16.
_AT = np.where(_K == _K[0], 0.0, _K)  # The first stands for all below it: for zero.
_DU = np.log(_K[1] / _K[0])
_SINH = _K / np.sinh(np.pi * _K / 2)
_NODES = 201


def lstm_second_moment(gates: Gates) -> float:
    """<h^2> = <o^2> <tanh(c)^2> after a step, for these pre-activations."""
    law = _Law(gates)
    o = sigmoid(gaussian(*gates["o"]))
    return mean(o**2) * law.tanh2


def lstm_chi(gates: Gates, gains: dict[str, float]) -> float:
    """Growth of <(dh)^2> and <(dc)^2> a step.

    With v(k) = <(dc)^2 exp(ikc)> and A = <(dh)^2>, in a step that multiplies both by chi:

        chi v(k) = <f^2 v(f k)> psi_0(k) + A s(k)
        chi A    = gain_o^2 <o'^2> <tanh(c)^2> A + <o^2> chi <sech(c)^4 (dc)^2>
        s(k)     = gain_f^2 <f'^2 phi_2(f k)> psi_0(k)
                   + <phi_0(f k)> (gain_i^2 <g^2 i'^2 exp(ikig)> + gain_g^2 <i^2 g'^2 exp(ikig)>)
    """
    law = _Law(gates)
    f, i, o = law.f, law.i, sigmoid(gaussian(*gates["o"]))
    g = law.g
    through_i = law.at_i(slope(i) ** 2) @ law.transform(g**2)
    through_g = law.at_i(i**2) @ law.transform((1 - g**2) ** 2)
    source = gains["f"] ** 2 * (law.at_f(slope(f) ** 2) @ law.phi2()) * law.psi
    source += law.ahead * (gains["i"] ** 2 * through_i + gains["g"] ** 2 * through_g)
    kept = law.psi[:, None] * law.at_f(f**2)
    direct = gains["o"] ** 2 * mean(slope(o) ** 2) * law.tanh2
    output = mean(o**2)

    def excess(chi: float) -> float:
        v = np.linalg.solve(chi * np.eye(_COUNT) - kept, source)
        return chi - direct - output * chi * _integral(_SINH * (4 + _K**2) / 6, np.real(v))

    low = max(mean(f**2), direct) * (1 + 1e-6) + 1e-12
    if excess(low) > 0:  # Hardly a path leads from h to c and back.
        return low
    high = 2 * low
    while excess(high) < 0:
        high *= 2
    return root(excess, low, high)


class _Law:
    """The stationary law of c: <tanh(c)^2>, <phi_0(f k)> and phi_2 on the grid."""

    def __init__(self, gates: Gates):
        self.f = sigmoid(gaussian(*gates["f"], _NODES))
        self.i = sigmoid(gaussian(*gates["i"], _NODES))
        self.g = np.tanh(gaussian(*gates["g"], 801))
        self._waves = np.exp(1j * _AT[:, None] * self.g)
        self.at_f, self.at_i = _scaling(self.f), _scaling(self.i)
        self.psi = self._psi(0)
        zeroth = self.at_f(np.ones(self.f.size))
        phi = _solved(self.psi, zeroth, np.zeros(_COUNT), start=1.0)
        self.ahead = zeroth @ phi
        # 1 - phi, not phi, so that a small variance keeps its digits.
        self.tanh2 = _integral(_SINH, 1 - np.real(phi))

    def phi2(self) -> np.ndarray:
        """<c^2 exp(ikc)> on the grid."""
        psi1, psi2 = self._psi(1), self._psi(2)
        first = self.at_f(self.f)
        phi1 = _solved(self.psi, first, self.ahead * psi1)
        known = 2 * (first @ phi1) * psi1 + self.ahead * psi2
        return _solved(self.psi, self.at_f(self.f**2), known)

    def _psi(self, m: int) -> np.ndarray:
        return self.at_i(self.i**m) @ self.transform(self.g**m)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """<values exp(ikg)> on the grid."""
        return mean(values * self._waves)


def _solved(
    psi: np.ndarray, scaled: np.ndarray, known: np.ndarray, start: float | None = None
) -> np.ndarray:
    """Solve phi = psi * (scaled @ phi) + known; with phi = `start` at the smallest k if given."""
    matrix = np.eye(_COUNT) - psi[:, None] * scaled
    known = known.astype(complex)
    if start is not None:
        matrix[0], known[0] = np.eye(_COUNT)[0], start
    return np.linalg.solve(matrix, known)


def _scaling(s: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function that maps weights w(s) to the matrix of phi -> <w phi(s k)>, on the grid.

    phi(s k) is interpolated by cubics in ln k.
    """
    at = np.arange(_COUNT)[:, None] + np.log(np.maximum(s, 1e-300))[None] / _DU
    at = np.maximum(at, 0.0)
    left = np.clip(at.astype(int), 1, _COUNT - 3)
    t = at - left
    shares = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    density = np.exp(-(np.linspace(-10, 10, s.size) ** 2) / 2)
    density = density / density.sum()
    cells = np.arange(_COUNT)[:, None] * _COUNT + left

    def matrix(weights: np.ndarray) -> np.ndarray:
        out: Any = np.zeros(_COUNT**2)
        for offset, share in zip((-1, 0, 1, 2), shares, strict=True):
            out += np.bincount(
                (cells + offset).ravel(), (share * (weights * density)[None]).ravel(), _COUNT**2
            )
        return out.reshape(_COUNT, _COUNT)

    return matrix


def _integral(kernel: np.ndarray, values: np.ndarray) -> float:
    """int_0^inf kernel(k) values(k) dk: the trapezoid in ln k, and the piece next to zero."""
    rows = kernel * values * _K
    return float(_DU * (rows.sum() - (rows[0] + rows[-1]) / 2) + kernel[0] * values[0] * _K[0])
