"""Networks whose dynamics are known: a product of given matrices, and the mean-field table."""

import dataclasses

import jax.numpy as jnp

import lstm_jax as lj


@dataclasses.dataclass(frozen=True)
class Given(lj.Cell):
    """A linear cell h_t = A_t h_{t-1}, with the matrices A_t [H, H] as its flattened inputs."""

    def init(self, key, input_size):
        return {"none": jnp.zeros(())}

    def step(self, params, carry, x):
        del params
        h = x.reshape(self.hidden_size, self.hidden_size) @ carry.h
        return lj.State(h), h


def given(matrices):
    """The cell, its parameters and the inputs of a product of `matrices` [T, H, H]."""
    size = matrices.shape[1]
    cell, xs = Given(size), jnp.asarray(matrices.reshape(len(matrices), -1))
    return cell, {"none": jnp.zeros((), xs.dtype)}, xs


G2 = {
    (0.5, 0.0): -0.69315,
    (0.5, 0.1): -0.79156,
    (0.5, 1.0): -1.09568,
    (0.9, 0.0): -0.10536,
    (0.9, 0.1): -0.26375,
    (0.9, 1.0): -0.55061,
    (1.1, 0.0): 0.00507,
    (1.1, 0.1): -0.12482,
    (1.1, 1.0): -0.37981,
    (1.5, 0.0): 0.06522,
    (1.5, 0.1): 0.02620,
    (1.5, 1.0): -0.14183,
    (2.0, 0.0): 0.15472,
    (2.0, 0.1): 0.14008,
    (2.0, 1.0): 0.04598,
    (5.0, 0.0): 0.53243,
    (5.0, 0.1): 0.53111,
    (5.0, 1.0): 0.51960,
}
"""The first exponent of x_{t+1} = J tanh(x_t) + s_t, by gain g and input variance s2."""
