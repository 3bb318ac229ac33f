"""The products of all time steps: the kernel's against XLA's, in every mode of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from lstm_jax._products import by_kernel, matmul, plain_product, product_p
from lstm_jax._recurrence.native import library

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))

AXES = [(1, 0), (1, 1), (0, 0), (0, 1)]


def operands(rng, rows, depth, columns, axes, dtype=np.float32):
    """a, b and a row to start with."""
    a, b = rng.standard_normal((rows, depth)), rng.standard_normal((depth, columns))
    start = rng.standard_normal(columns)
    a, b = (a if axes[0] else a.T), (b.T if axes[1] else b)
    return [jnp.asarray(x, dtype) for x in (a, b, start)]


def check(rng, rows, depth, columns, axes, dtype=np.float32):
    """One product, with a start and without."""
    a, b, start = operands(rng, rows, depth, columns, axes, dtype)
    tolerance = (1e-13 if dtype == np.float64 else 1e-5) * max(1, depth)
    for more in ((), (start,)):
        seen = product_p.bind(a, b, *more, a_axis=axes[0], b_axis=axes[1])
        want = plain_product(a, b, *more, a_axis=axes[0], b_axis=axes[1])
        np.testing.assert_allclose(seen, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("sizes", [(7, 5, 3), (1, 600, 65), (100, 513, 130), (97, 1, 1)])
def test_sizes_around_the_blocks(sizes, axes, rng):
    check(rng, *sizes, axes)


@pytest.mark.parametrize("axes", AXES)
def test_a_large_one_uses_every_thread(axes, rng):
    check(rng, 300, 700, 200, axes)
    check(rng, 700, 90, 30, axes)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 140), st.sampled_from(AXES))
def test_any_size(rows, depth, columns, axes):
    check(np.random.default_rng(rows), rows, depth, columns, axes)


@pytest.mark.parametrize("axes", AXES)
def test_derivatives(axes, rng, x64):
    a, b, start = operands(rng, 5, 4, 3, axes, np.float64)
    check(rng, 50, 40, 70, axes, np.float64)

    def function(*values):
        return jnp.sin(product_p.bind(*values, a_axis=axes[0], b_axis=axes[1]))

    check_grads(function, (a, b, start), order=2, eps=1e-5)
    check_grads(function, (a, b), order=2, eps=1e-5)


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (1, 2)])
@pytest.mark.parametrize("axes", AXES)
def test_vmap(in_axes, axes, rng):
    a, b, _ = operands(rng, 4, 5, 6, axes)

    def many(x, axis):
        return x if axis is None else jnp.stack([x, 2 * x, -x], axis)

    def function(f):
        return jax.vmap(lambda a, b: f(a, b, a_axis=axes[0], b_axis=axes[1]), in_axes)

    values = many(a, in_axes[0]), many(b, in_axes[1])
    np.testing.assert_allclose(
        function(product_p.bind)(*values), function(plain_product)(*values), atol=1e-5
    )


def test_matmul_with_biases(rng):
    x, w, b = operands(rng, 6, 5, 4, (1, 0))
    x = x.reshape(2, 3, 5)
    want = matmul(x, w, np.float32, [b, 2 * b])
    with by_kernel(True):
        jaxpr = jax.make_jaxpr(lambda x: matmul(x, w, np.float32, [b, 2 * b]))(x)
        seen = matmul(x, w, np.float32, [b, 2 * b])
    np.testing.assert_allclose(seen, want, atol=1e-5)
    assert "product" in str(jaxpr)


def test_narrow_inputs_stay_xlas(rng):
    x, w, _ = operands(rng, 6, 5, 4, (1, 0), jnp.bfloat16)
    with by_kernel(True):
        jaxpr = jax.make_jaxpr(lambda x: matmul(x, w, np.float32))(x)
    assert "dot_general" in str(jaxpr) and "product" not in str(jaxpr)
