"""Helpers of the tests of `lstm_jax.interop`: ragged problems, comparisons with other libraries.

A gradient of the other library, converted by the same `from_X` as its weights, must equal ours: the
conversion is a permutation, transposition and change of sign, up to a constant.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 3, 4
LENGTHS = np.array([5, 3, 1], np.int32)
TOL = 2e-6


@contextlib.contextmanager
def lenient():
    """Allow promotion of ranks and dtypes, which other libraries need."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def cases(names: Iterable[str], slow: Iterable[str] = ()) -> list[Any]:
    """Parameters with these test ids; those in `slow` are marked so."""
    marks = dict.fromkeys(slow, pytest.mark.slow)
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def random_like(tree: Any, rng: np.random.Generator, scale: float = 0.5) -> Any:
    """Random float32 arrays of the shapes of `tree`, biases included."""
    return jax.tree.map(lambda leaf: jnp.asarray(scale * normal(rng, *np.shape(leaf))), tree)


def params_of(net: Any, seed: int = 0) -> Any:
    """Random parameters of a net for inputs of D = SIZE."""
    shapes = jax.eval_shape(lambda key: net.init(key, SIZE), jax.random.key(0))
    return random_like(shapes, np.random.default_rng(seed))


def inputs(rng: np.random.Generator, lengths: Any = LENGTHS) -> tuple[Any, Any, Any]:
    """Draw (xs [T, B, D], mask [T, B, 1] of the valid steps, weights of the loss [T, B, 1])."""
    lengths = np.full(BATCH, STEPS) if lengths is None else lengths
    mask = (np.arange(STEPS)[:, None] < lengths).astype(np.float32)[:, :, None]
    return normal(rng, STEPS, BATCH, SIZE), mask, mask * normal(rng, STEPS, BATCH, 1)


def states(carry: Any) -> list[Any]:
    """The carries of all cells, in the order of their run."""
    if hasattr(carry, "h"):
        return [carry]
    return [state for part in carry for state in states(part)]


def ours(
    net: Any, params: Any, xs: Any, weights: Any, lengths: Any = LENGTHS, carry: Any = None
) -> Any:
    """Run lstm_jax: ((ys, [carries]), gradients) of sum(w * ys) + sum of all final h.

    The gradients are with respect to params, xs and, if given, the first carry.
    """

    def loss(params, xs, carry):
        carry, ys = lj.unroll(net, params, xs, carry, seq_lengths=lengths)
        finals = sum(jnp.sum(state.h) for state in states(carry))
        return jnp.sum(jnp.broadcast_to(weights, ys.shape) * ys) + finals, (ys, states(carry))

    by = (0, 1) if carry is None else (0, 1, 2)
    run = jax.jit(jax.grad(loss, argnums=by, has_aux=True))
    grads, outs = run(params, jnp.asarray(xs), carry)
    return outs, grads


def linear(convert: Any, tree: Any) -> Any:
    """Apply the linear part of a conversion: the params of `convert(tree)` minus those of zeros."""
    zeros = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), np.float32), tree)
    return jax.tree.map(lambda a, b: a - b, convert(tree)[1], convert(zeros)[1])


def assert_outputs(seen: Any, ys: Any, hs: Any, cs: Any, mask: Any) -> None:
    """Compare our (ys, [carries]) with ys [T, B, N] at valid steps and lists of final h and c."""
    our_ys, carries = seen
    registry.assert_close(our_ys, np.asarray(ys) * mask, TOL)
    registry.assert_close([s.h for s in carries], list(hs), TOL)
    registry.assert_close([s.c for s in carries if hasattr(s, "c")], list(cs), TOL)


def assert_equal(a: Any, b: Any) -> None:
    """Assert that two trees are equal, bit by bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
