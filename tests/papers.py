"""Check of a cell against the equations of its paper, a NumPy step (params, carry, x) -> carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

T, B, D, H = 5, 3, 2, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    """Hard sigmoid of Keras 3."""
    return np.clip(x + 3, 0, 6) / 6


def problem(cell, rng):
    """Draw (params, xs, carry) for a cell."""
    params = registry.random_params(cell, D, rng)
    return params, rng.standard_normal((T, B, D)), registry.random_carry(cell, params, (B,), rng)


def loop(step, args):
    """Run the NumPy step over time: (final carry, ys)."""
    params, xs, carry = args
    ys = []
    for x in xs:
        carry = step(params, carry, x)
        ys.append(carry[0])
    return tuple(carry), np.stack(ys)


def check(cell, step, rng):
    """Check values and gradients by every implementation.

    Gradients with respect to parameters, input and first carry are compared with central
    differences of the loop.
    """
    args = problem(cell, rng)
    weights = registry.normal(loop(step, args), rng)
    names = [name for name in ("fused", "scan") if registry.runs(cell, name)]

    def loss(args, implementation):
        outs = lj.unroll(cell, *args, implementation=implementation)
        return weighted(outs, weights, jnp), outs

    run = jax.jit(
        lambda args: [jax.value_and_grad(loss, has_aux=True)(args, name) for name in names]
    )
    found = run(args)
    for (_, outs), gradient in found:
        registry.assert_close((tuple(outs[0]), outs[1]), loop(step, args), 1e-12)
        registry.assert_close(gradient, found[0][1], 1e-12)
    for along in one_leaf_at_a_time(args, rng):
        seen = registry.directional(found[0][1], along)
        assert seen == pytest.approx(central(step, args, along, weights), rel=1e-6, abs=1e-9)


def weighted(outs, weights, xp=np):
    """A scalar function of all outputs."""
    pairs = zip(jax.tree.leaves(outs), jax.tree.leaves(weights), strict=True)
    return sum(xp.sum(xp.sin(a) * b) for a, b in pairs)


def one_leaf_at_a_time(args, rng):
    leaves, tree = jax.tree.flatten(args)
    for i in range(len(leaves)):
        along = [np.zeros_like(leaf) for leaf in leaves]
        along[i] = rng.standard_normal(np.shape(leaves[i]))
        yield tree.unflatten(along)


def central(step, args, along, weights, eps=1e-6):
    ahead, behind = (
        weighted(loop(step, jax.tree.map(lambda a, v, s=s: a + s * v, args, along)), weights)
        for s in (eps, -eps)
    )
    return (ahead - behind) / (2 * eps)
