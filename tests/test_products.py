"""The products of all time steps: the kernel's against XLA's, in every mode of differentiation."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

import lstm_jax as lj
from lstm_jax._numerics import matmul
from lstm_jax._recurrence import products
from lstm_jax._recurrence.engines.native import library
from lstm_jax._recurrence.products import plain_product, product_p

pytestmark = [
    registry.needs_kernel,
    pytest.mark.sampled,
]

AXES = [(1, 0), (1, 1), (0, 0), (0, 1)]

product = jax.jit(product_p.bind, static_argnames=("a_axis", "b_axis", "members"))
"""Compiled, as the kernel has it: what is not compiled XLA computes."""

plain = jax.jit(plain_product, static_argnames=("a_axis", "b_axis", "members"))


def operands(rng, rows, depth, columns, axes, dtype=np.float32):
    """a, b and a row to start with."""
    a, b = rng.standard_normal((rows, depth)), rng.standard_normal((depth, columns))
    start = rng.standard_normal(columns)
    a, b = (a if axes[0] else a.T), (b.T if axes[1] else b)
    return [jnp.asarray(x, dtype) for x in (a, b, start)]


def by_numpy(a, b, *start, axes):
    """The product in float64, of the numbers as they are given."""
    a, b, *start = (np.asarray(x, np.float64) for x in (a, b, *start))
    product = (a if axes[0] else a.T) @ (b.T if axes[1] else b)
    return product + start[0] if start else product


def check(rng, rows, depth, columns, axes, dtype=np.float32):
    """One product, with a start and without."""
    a, b, start = operands(rng, rows, depth, columns, axes, dtype)
    tolerance = (1e-13 if dtype == np.float64 else 1e-5) * max(1, depth)
    for more in ((), (start,)):
        seen = product(a, b, *more, a_axis=axes[0], b_axis=axes[1], members=0)
        np.testing.assert_allclose(seen, by_numpy(a, b, *more, axes=axes), rtol=0, atol=tolerance)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    "sizes", [(7, 5, 3), (1, 600, 65), (100, 513, 130), (97, 1, 1), (20, 9, 600), (70, 9, 601)]
)
def test_sizes_around_the_blocks(sizes, axes, rng):
    check(rng, *sizes, axes)


@pytest.mark.parametrize("axes", AXES)
def test_large_ones(axes, rng):
    """Cut for the threads, by columns and by rows."""
    check(rng, 300, 700, 200, axes)
    check(rng, 700, 90, 30, axes)


@pytest.mark.grid
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 140), st.sampled_from(AXES))
def test_any_size(rows, depth, columns, axes):
    check(np.random.default_rng(rows), rows, depth, columns, axes)


@pytest.mark.grid
@pytest.mark.parametrize("axes", AXES)
def test_derivatives(axes, rng, x64):
    a, b, start = operands(rng, 5, 4, 3, axes, np.float64)
    check(rng, 50, 40, 70, axes, np.float64)

    @jax.jit
    def function(*values):
        return jnp.sin(product(*values, a_axis=axes[0], b_axis=axes[1], members=0))

    check_grads(function, (a, b, start), order=2, eps=1e-5)
    check_grads(function, (a, b), order=2, eps=1e-5)


def many(x, axis, count=3):
    """So many multiples of `x` along a new axis; itself where there is none."""
    if axis is None:
        return x
    x = np.asarray(x)
    return np.stack([x * np.asarray(1 + k, x.dtype) for k in range(count)], axis)


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("start_axis", ["none", None, 0, 1])
def test_vmap(in_axes, axes, start_axis, rng):
    """Values and derivatives, and every product by the kernel."""
    a, b, start = operands(rng, 4, 5, 6, axes)
    a = a.reshape(2, 2, 5) if axes[0] else a  # Any number of axes.
    a, b = many(a, in_axes[0]), many(b, in_axes[1])
    more = [] if start_axis == "none" else [many(start, start_axis)]
    in_axes = in_axes if not more else (*in_axes, start_axis)

    def function(f):
        def one(*values):
            return f(*values, a_axis=axes[0], b_axis=axes[1], members=0)

        def loss(*values):
            return jnp.sum(jnp.sin(jax.vmap(one, in_axes)(*values)))

        each = jax.grad(lambda *v: jnp.sum(jnp.sin(one(*v))), range(len(in_axes)))
        return lambda *v: (
            jax.vmap(one, in_axes)(*v),
            jax.grad(loss, range(len(v)))(*v),
            jax.vmap(each, in_axes)(*v),
        )

    values = a, b, *more
    seen = jax.jit(function(product))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4),
        seen(*values),
        jax.jit(function(plain_product))(*values),
    )
    assert "dot_general" not in seen.lower(*values).as_text()


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("sizes", [(9, 5, 3), (40, 70, 90)])
def test_many_members(sizes, dtype, axes, rng, x64):
    """As many as go to the threads whole, and nested ones."""
    a, b, start = (many(x, 0, 12) for x in operands(rng, *sizes, axes, dtype))

    def function(f):
        return jax.vmap(functools.partial(f, a_axis=axes[0], b_axis=axes[1], members=0))

    tolerance = 1e-10 if dtype == "float64" else 1e-3 * sizes[1]
    seen, want = (function(f)(a, b, start) for f in (product, plain))
    np.testing.assert_allclose(seen, want, rtol=1e-6, atol=tolerance)
    nested = [x.reshape(3, 4, *x.shape[1:]) for x in (a, b, start)]
    seen = jax.vmap(function(product), (0, 0, None))(*nested[:2], nested[2][1])
    want = jax.vmap(function(plain), (0, 0, None))(*nested[:2], nested[2][1])
    np.testing.assert_allclose(seen, want, rtol=1e-6, atol=tolerance)


def test_any_axes(rng):
    """Several axes stand for one, and in a derivative too."""
    x, w, b = operands(rng, 6, 5, 4, (1, 0))
    x = x.reshape(2, 3, 5)
    want = plain_product(x.reshape(6, 5), w, b, a_axis=1, b_axis=0, members=0).reshape(2, 3, 4)
    np.testing.assert_allclose(product(x, w, b, a_axis=1, b_axis=0, members=0), want, atol=1e-5)

    def loss(product, x, w, b):
        return jnp.sum(jnp.sin(product(x, w, b, a_axis=1, b_axis=0, members=0)))

    def gradients(product):
        return jax.jit(jax.grad(lambda *args: loss(product, *args), (0, 1, 2)))(x, w, b)

    for seen, want in zip(gradients(product), gradients(plain_product), strict=True):
        np.testing.assert_allclose(seen, want, atol=1e-5)


def test_nothing_stands_between_the_projection_and_the_recurrence(rng):
    """XLA would copy what it cannot give away, and wx is the largest array of all."""
    cell = lj.LSTM(16)
    params, xs = cell.init(jax.random.key(0), 8), jnp.ones((10, 4, 8), jnp.float32)

    def run(params, xs):
        return lj.unroll(cell, params, xs, implementation="native")[1]

    compiled = jax.jit(run).lower(params, xs).compile()
    assert "copy" not in "".join(re.findall(r"= f32\[10,4,64\]\S* (\S+)\(", compiled.as_text()))
    wx, state = 10 * 4 * 64 * 4, 10 * 4 * 16 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < wx + 3 * state + 4096


def test_a_projection_with_two_biases_is_one_product(rng):
    cell = lj.LSTM(4, double_bias=True)
    params, xs = registry.random_params(cell, 5, rng), rng.standard_normal((3, 2, 5))
    params, xs = registry.cast((params, xs), jnp.float32)
    run = functools.partial(lj.unroll, cell, implementation="native")
    seen, want = run(params, xs)[1], lj.unroll(cell, params, xs, implementation="scan")[1]
    jaxpr = jax.make_jaxpr(run)(params, xs)
    np.testing.assert_allclose(seen, want, atol=1e-5)
    assert "dot_general" not in str(jaxpr)


@pytest.mark.parametrize(("name", "count"), [("SRU", 2), ("MinimalRNN", 6), ("LayerNormLSTM", 3)])
def test_the_matmuls_of_any_projection_are_the_kernels(name, count):
    """One each forwards, and each with a gradient by weights and, where it goes on, by inputs."""
    cell = getattr(lj, name)(6)
    params, xs = cell.init(jax.random.key(0), 6), jnp.ones((5, 2, 6))

    def loss(params):
        return jnp.sum(lj.unroll(cell, params, xs, implementation="native")[1])

    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    assert text.count("lstm_jax_product") == count and "dot_general" not in text


def test_a_product_with_a_bias(rng):
    x, w, b = operands(rng, 6, 5, 4, (1, 0))
    x = x.reshape(2, 3, 5)
    want = matmul(x, w, np.float32, [b, 2 * b])
    seen = products.product(x, w, 3 * b)
    np.testing.assert_allclose(seen, want, atol=1e-5)
    bound = jax.jit(lambda x: product(x, w, b, a_axis=1, b_axis=0, members=0))
    assert "lstm_jax_product_float" in bound.lower(x).as_text()  # Or XLA were held against itself.


# ---- bfloat16 ------------------------------------------------------------------------------------
NARROW = [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")]


MULTIPLIED = ("amx", "avx512bf16")
"""Instructions that multiply numbers in bfloat16."""


@pytest.mark.parametrize("dtypes", NARROW)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    "sizes", [(7, 5, 3), (1, 600, 65), (100, 513, 130), (5, 40, 70), (97, 1, 1), (700, 90, 30)]
)
def test_operands_in_bfloat16(sizes, axes, dtypes, rng):
    """Each product and sum is in float32; where the machine multiplies bfloat16, of such alone."""
    a, b, start = operands(rng, *sizes, axes)
    a, b = (registry.cast(x, dtype) for x, dtype in zip((a, b), dtypes, strict=True))
    rounded = registry.cast((a, b), "bfloat16" if library.instructions() in MULTIPLIED else None)
    for more in ((), (start,), (registry.cast(start, "bfloat16"),)):
        seen = product(a, b, *more, a_axis=axes[0], b_axis=axes[1], members=0)
        want = by_numpy(*rounded, *more, axes=axes)
        assert seen.dtype == np.float32
        np.testing.assert_allclose(seen, want, rtol=0, atol=1e-5 * sizes[1])


@pytest.mark.parametrize("axes", AXES)
def test_derivatives_have_the_dtypes_of_what_they_are_of(axes, rng):
    a, b, start = operands(rng, 50, 9, 33, axes)
    a, b = registry.cast((a, b), "bfloat16")
    ct = rng.integers(-100, 100, (50, 33)).astype("float32")  # Exact in bfloat16.

    def loss(product, *values):
        return jnp.vdot(ct, product(*values, a_axis=axes[0], b_axis=axes[1], members=0))

    seen = jax.jit(jax.grad(lambda *v: loss(product, *v), (0, 1, 2)))(a, b, start)
    wide = *registry.cast((a, b), "float32"), start
    want = jax.jit(jax.grad(lambda *v: loss(plain_product, *v), (0, 1, 2)))(*wide)
    assert [x.dtype for x in seen] == [jnp.bfloat16, jnp.bfloat16, np.float32]
    for x, y in zip(seen, want, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float32), y, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "sums", "kernel"),
    [
        ("bfloat16", "float32", True),
        ("float32", "float32", True),
        ("bfloat16", "bfloat16", False),
        ("float16", "float32", False),
    ],
)
def test_which_dtypes_the_kernel_multiplies(inputs, sums, kernel, rng):
    x, w, _ = operands(rng, 6, 5, 4, (1, 0), inputs)
    assert products.serves(x, w, np.dtype(sums)) == kernel
