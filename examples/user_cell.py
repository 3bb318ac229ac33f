"""Two cells of your own: one defined by an elementwise `update`, one by a `step`."""

import argparse
import dataclasses

import jax
import jax.numpy as jnp

import lstm_jax as lj


@dataclasses.dataclass(frozen=True)
class MinimalGatedUnit(lj.Cell):
    """Minimal gated unit.

    f_t, n_t = split(x_t W + b + h_{t-1} U)
    h_t = (1 - sigmoid(f_t)) h_{t-1} + sigmoid(f_t) tanh(n_t)
    """

    gate_names = ("f", "n")

    def update(self, carry, wx, u):
        f, n = jnp.split(wx + u, 2, axis=-1)
        f = jax.nn.sigmoid(f)
        return lj.State((1 - f) * carry.h + f * jnp.tanh(n))


@dataclasses.dataclass(frozen=True)
class MultiplicativeRNN(lj.Cell):
    """Multiplicative RNN, h_t = tanh(x W + (x U) * h_{t-1}): it has no fixed recurrent matrix."""

    gate_names = ("w", "u")

    def step(self, params, carry, x):
        params, x, carry = self.prepare(params, x, carry)
        w, u = jnp.split(self.project(params, x), 2, axis=-1)
        h = jnp.tanh(w + u * carry.h.astype(w.dtype))
        return lj.State(h), h


def main(arguments: list[str] | None = None) -> dict[str, str]:
    """Unroll both with lengths and differentiate them; return which implementation runs each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="shorter sequences")
    steps = 5 if parser.parse_args(arguments).smoke else 100
    xs = jax.random.normal(jax.random.key(0), (steps, 3, 4))
    lengths = jnp.array([0, steps // 2, steps])
    ran = {}
    for cell in (MinimalGatedUnit(8), MultiplicativeRNN(8)):
        params = cell.init(jax.random.key(1), 4)

        def loss(params, cell=cell):
            _, ys = lj.unroll(cell, params, xs, seq_lengths=lengths)
            return jnp.mean(ys**2)

        grads = jax.jit(jax.grad(loss))(params)
        norms = jax.tree.map(lambda g: round(float(jnp.linalg.norm(g)), 4), grads)
        ran[type(cell).__name__] = lj.which(cell).implementation
        print(type(cell).__name__, "gradient norms", norms)
        print(lj.which(cell))
    return ran


if __name__ == "__main__":
    main()
