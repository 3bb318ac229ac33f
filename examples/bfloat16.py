"""Errors of gradients of bfloat16 parameters against float32, by the length of the sequence.

For each library the largest relative error (of 2-norms) over the parameters of a GRU; rounding a
number to bfloat16 alone changes it by up to 0.4 %. PyTorch and Flax are included if installed.
"""

import argparse
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax as lj

BATCH, INPUTS, HIDDEN = 8, 16, 32
Gradients = list[np.ndarray]


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    """Print a line for each library; return its errors in the order of the lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short sequences")
    lengths = (4, 8) if parser.parse_args(arguments).smoke else (64, 256, 1024, 4096)

    libraries = {
        "lstm_jax": ("lstm_jax", ours),
        "torch": ("PyTorch", torch),
        "flax": ("Flax", flax),
    }
    print("steps".ljust(10), *(f"{steps:9}" for steps in lengths))
    errors = {}
    for module, (name, gradients) in libraries.items():
        if importlib.util.find_spec(module) is not None:
            errors[name] = [worst(gradients, steps) for steps in lengths]
            print(name.ljust(10), *(f"{error:9.2%}" for error in errors[name]), flush=True)
    return errors


def worst(gradients: Callable[[np.ndarray, np.ndarray], tuple], steps: int) -> float:
    """Largest relative error of a parameter's gradient."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((steps, BATCH, INPUTS), np.float32)
    # A nonzero mean, so that the terms of a sum over time do not cancel.
    cotangent = rng.standard_normal((steps, BATCH, HIDDEN), np.float32) + 0.5
    pairs = zip(*gradients(xs, cotangent), strict=True)
    return max(float(np.linalg.norm(g - w) / np.linalg.norm(w)) for g, w in pairs)


def ours(xs: np.ndarray, cotangent: np.ndarray) -> tuple[Gradients, Gradients]:
    """Gradients by lstm_jax of bfloat16 parameters, and of the same numbers in float32."""
    cell = lj.GRU(HIDDEN)
    return of_jax(lambda params, xs: lj.unroll(cell, params, xs)[1], cell.init, xs, cotangent)


def flax(xs: np.ndarray, cotangent: np.ndarray) -> tuple[Gradients, Gradients]:
    """Gradients by flax.linen, which computes in the dtype of parameters and inputs."""
    from flax import linen

    net = linen.RNN(linen.GRUCell(HIDDEN), time_major=True)
    with jax.numpy_dtype_promotion("standard"):  # linen mixes a float32 carry with bfloat16.
        return of_jax(net.apply, lambda key, _: net.init(key, jnp.asarray(xs)), xs, cotangent)


def of_jax(apply: Callable, init: Callable, xs: np.ndarray, cotangent: np.ndarray) -> tuple:
    """Gradients of `apply` with respect to parameters in bfloat16, and in float32."""

    def loss(params, xs):
        return jnp.sum(apply(params, xs).astype(jnp.float32) * cotangent)

    def gradients(given):
        return [np.asarray(g, np.float32) for g in jax.tree.leaves(jax.jit(jax.grad(loss))(*given))]

    halves = cast((init(jax.random.key(0), INPUTS), xs), jnp.bfloat16)
    return gradients(halves), gradients(cast(halves, jnp.float32))


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def torch(xs: np.ndarray, cotangent: np.ndarray) -> tuple[Gradients, Gradients]:
    """Gradients by torch.nn.GRU."""
    import torch

    def gradients(module, xs):
        (module(xs)[0].float() * torch.from_numpy(cotangent)).sum().backward()
        return [p.grad.float().numpy() for p in module.parameters()]

    torch.manual_seed(0)
    halves = torch.nn.GRU(INPUTS, HIDDEN).bfloat16()
    floats = torch.nn.GRU(INPUTS, HIDDEN)
    floats.load_state_dict({name: x.float() for name, x in halves.state_dict().items()})
    inputs = torch.from_numpy(xs).bfloat16()
    return gradients(halves, inputs), gradients(floats, inputs.float())


if __name__ == "__main__":
    main()
