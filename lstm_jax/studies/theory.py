"""Mean-field theory of random networks: the tanh network and the MinimalRNN.

For many units with independent weights, pre-activations are Gaussian of a variance q that a step
maps to itself, and small differences grow in the mean square by chi a step: lambda_1 = ln(chi) / 2.
"""

import numpy as np

__all__ = ["critical_gain", "minimal_rnn", "tanh_network"]
__dir__ = __all__.copy

# Gauss-Hermite nodes miss the narrow slope of tanh at a large variance; a dense trapezoid does not.
_NODES = np.linspace(-12, 12, 20_001)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.sqrt(2 * np.pi) * (_NODES[1] - _NODES[0])


def _mean(values: np.ndarray) -> float:
    """E[f(z)] of values f(z) at the nodes, z ~ N(0, 1)."""
    return float(np.sum(_WEIGHTS * values))


def tanh_network(gain: float, input_variance: float) -> tuple[float, float]:
    """(q, lambda_1) of x_{t+1} = J tanh(x_t) + s_t, J ~ N(0, gain^2/N), s_t ~ N(0, variance).

    q = gain^2 <tanh^2> + variance,     chi = gain^2 <sech^4>
    """
    q, before = 1.0 + input_variance, 0.0
    while abs(q - before) > 1e-12 * max(q, 1e-3):
        before, q = q, gain**2 * _mean(np.tanh(np.sqrt(q) * _NODES) ** 2) + input_variance
    chi = gain**2 * _mean((1 - np.tanh(np.sqrt(q) * _NODES) ** 2) ** 2)
    return q, float(np.log(chi) / 2)


def critical_gain(input_variance: float) -> float:
    """The gain at which lambda_1 of the tanh network is 0, by bisection; variance > 0."""
    low, high = 1.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tanh_network(middle, input_variance)[1] < 0 else (low, middle)
    return (low + high) / 2


def minimal_rnn(
    gain: float, input_gain: float, input_square: float, bias: float
) -> tuple[float, float]:
    """(Q, chi) of h' = u h + (1-u) x, u = sigmoid(W h + V x + bias), with R = <x^2>.

    q = gain^2 Q + input_gain^2 R,    Q = R <(1-u)^2> / (1 - <u^2>)
    chi = <u^2> + gain^2 (Q + R) <u'^2>
    """
    square = input_square
    u = np.zeros_like(_NODES)
    for _ in range(300):
        q = gain**2 * square + input_gain**2 * input_square
        u = 1 / (1 + np.exp(-(np.sqrt(q) * _NODES + bias)))
        square = input_square * _mean((1 - u) ** 2) / (1 - _mean(u**2))
    spread = gain**2 * (square + input_square) * _mean((u * (1 - u)) ** 2)
    return square, _mean(u**2) + spread
