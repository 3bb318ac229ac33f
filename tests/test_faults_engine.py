"""Faults that users hit: the kernel's numbers, and orders of vmap and grad."""

import contextlib
import functools
import mmap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from lowered import operations

import lstm_jax as lj
from lstm_jax import diagnostics as dg
from lstm_jax._recurrence import equations
from lstm_jax._recurrence.engines.native import calls
from lstm_jax._recurrence.jaxprs import Untranslatable
from lstm_jax._recurrence.products import plain_product, product_p
from lstm_jax._recurrence.spec import Recurrence
from lstm_jax.diagnostics._qr import qr

pytestmark = pytest.mark.sampled

BY_KERNEL = functools.partial(jax.jit, static_argnames=("a_axis", "b_axis", "members"))(
    product_p.bind
)


# ---- 4: long sums --------------------------------------------------------------------------------
@registry.needs_kernel
@pytest.mark.parametrize("terms", [16_384, 65_536, pytest.param(1_048_576, marks=pytest.mark.grid)])
def test_fault_4_a_long_sum_keeps_its_digits(terms, rng):
    """dL/dw_ih, dL/dw_hh and dL/db, all of whose terms have one sign."""
    cell, steps = lj.RNN(1, "identity"), 4
    params = {"w_ih": np.full((1, 1), 0.75), "w_hh": np.full((1, 1), 0.5), "b": np.zeros(1)}
    xs = rng.uniform(0.5, 1.5, (steps, terms // steps, 1)).astype(np.float32)

    def loss(params, xs):
        return jnp.sum(lj.unroll(cell, params, xs, implementation="native")[1])

    seen = jax.jit(jax.grad(loss))(registry.cast(params, jnp.float32), xs)
    x, h, want = xs.astype(np.float64)[..., 0], 0.0, np.zeros(3)
    for t in range(steps):
        reach = sum(0.5**k for k in range(steps - t))  # of step t on the sum of all ys
        want += [reach * np.sum(x[t]), reach * np.sum(h * np.ones_like(x[t])), reach * x[t].size]
        h = 0.5 * h + 0.75 * x[t]
    seen = [np.asarray(seen[name]).item() for name in ("w_ih", "w_hh", "b")]
    np.testing.assert_allclose(seen, want, rtol=1e-6)


@registry.needs_kernel
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.grid)])
@pytest.mark.parametrize("sizes", [(1, 1), (60, 9), pytest.param((3, 70), marks=pytest.mark.grid)])
@pytest.mark.parametrize("axes", [(1, 0), (1, 1), (0, 0), (0, 1)])
def test_fault_4_every_form_of_product_keeps_its_digits(axes, sizes, dtype, rng):
    """Rows and columns of each path through the kernel, with a start."""
    terms, (rows, columns) = 40_000, sizes
    a, b = rng.uniform(0.5, 1.5, (rows, terms)), rng.uniform(0.5, 1.5, (terms, columns))
    a, b = (a if axes[0] else a.T), (b.T if axes[1] else b)
    a, b, start = jnp.asarray(a, dtype), jnp.asarray(b, dtype), jnp.ones(columns, jnp.float32)
    seen = BY_KERNEL(a, b, start, a_axis=axes[0], b_axis=axes[1], members=0)
    wide = [np.asarray(x, np.float64) for x in (a, b)]
    want = (wide[0] if axes[0] else wide[0].T) @ (wide[1].T if axes[1] else wide[1]) + 1
    np.testing.assert_allclose(seen, want, rtol=1e-6)


@registry.needs_kernel
@pytest.mark.parametrize(
    ("steps", "batch"), [pytest.param(2, 8192, marks=pytest.mark.grid), (8192, 2)]
)
def test_fault_4_sums_over_steps_and_rows_keep_their_digits(steps, batch, rng, x64):
    """What every step reads (b_hn of a GRU), and what every restart reads (a learned start)."""
    cell = lj.learned_start(lj.GRU(2))
    params = jax.tree.map(lambda s: 0.1 + 0 * s, cell.init(jax.random.key(0), 1))
    xs = rng.uniform(0.5, 1.5, (steps, batch, 1))
    resets = np.broadcast_to(np.arange(steps)[:, None] % 2 == 1, (steps, batch))

    def loss(params, xs, implementation="native"):
        ys = lj.unroll(cell, params, xs, resets=resets, implementation=implementation)[1]
        return jnp.sum(ys)

    seen = jax.jit(jax.grad(loss))(registry.cast(params, jnp.float32), jnp.asarray(xs, jnp.float32))
    of_fused = jax.grad(functools.partial(loss, implementation="fused"))
    want = jax.jit(of_fused)(registry.cast(params, jnp.float64), jnp.asarray(xs))
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# ---- 7: without compilation ----------------------------------------------------------------------
MODES = {
    "disable_jit": lambda: jax.disable_jit(),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "checking_leaks": lambda: jax.checking_leaks(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "make", [lj.LSTM, pytest.param(lj.MinGRU, marks=pytest.mark.grid)], ids=["lstm", "min_gru"]
)
def test_fault_7_every_mode_of_jax_gives_the_same(make, mode, rng):
    cell = make(3)
    params = registry.cast(registry.random_params(cell, 2, rng), jnp.float32)
    xs = jnp.asarray(rng.standard_normal((2, 3, 2)), jnp.float32)

    def run(params, xs):
        return jnp.sum(lj.unroll(cell, params, xs)[1])

    def both(params, xs):
        many = jax.tree.map(lambda p: jnp.stack([p, p]), params)
        return jax.value_and_grad(run)(params, xs), jax.vmap(run, (0, None))(many, xs)

    want = jax.jit(both)(params, xs)
    with MODES[mode]():
        seen = both(params, xs)
    registry.assert_close(seen, want, 1e-5)


@pytest.mark.parametrize("mode", ["disable_jit", "debug_nans"])
@pytest.mark.parametrize("derivative", [False, True], ids=["values", "gradient"])
def test_fault_7_an_infinite_input_is_named(derivative, mode):
    """Inf times 0 is NaN: debug_nans says so, and nothing calls itself without end."""
    cell = lj.LSTM(3)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 2))
    xs = jnp.full((2, 3, 2), jnp.inf)

    def run(params):
        return jnp.sum(lj.unroll(cell, params, xs)[1])

    raises = mode == "debug_nans"
    expected = (
        pytest.raises(FloatingPointError, match="nan") if raises else contextlib.nullcontext()
    )
    with MODES[mode](), expected:
        assert jnp.isnan(jax.tree.leaves((jax.grad(run) if derivative else run)(params))[0]).all()


# ---- 8: sixteen bits -----------------------------------------------------------------------------
HEADS = [lj.LSTM, lj.GRU, lj.RNN, lj.SLSTM]


@pytest.mark.parametrize("implementation", ["native", "fused", "scan"])
@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make", [HEADS[0], *(pytest.param(c, marks=pytest.mark.grid) for c in HEADS[1:])]
)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_fault_8_heads_in_sixteen_bits(make, steps, implementation, dtype, rng):
    cell = make(4, heads=2, param_dtype=dtype)
    if not registry.runs(cell, implementation):
        pytest.skip(f"{implementation} cannot run it")
    params = registry.cast(registry.random_params(cell, 3, rng), dtype)
    xs = jnp.asarray(rng.standard_normal((steps, 5, 3)), dtype)

    def run(dtype, params, xs):
        cell = make(4, heads=2, param_dtype=dtype)
        given = registry.cast((params, xs), dtype)
        return lj.unroll(cell, *given, implementation=implementation)[1].astype(jnp.float32)

    def loss(dtype, *given):
        return jnp.sum(run(dtype, *given))

    def both(dtype):
        def function(*given):
            return run(dtype, *given), jax.grad(loss, (1, 2))(dtype, *given)

        return jax.tree.map(lambda x: np.asarray(x, np.float32), jax.jit(function)(params, xs))

    registry.assert_close(both(dtype), both("float32"), 0.1)


# ---- 9: nothing to reshape -----------------------------------------------------------------------
@pytest.mark.parametrize("heads", [1, 2])
def test_fault_9_gradients_of_many_spectra(heads, rng):
    """`vector_step` unrolls no step at all, under vmap of grad over the parameters."""
    cell = lj.RNN(4, heads=heads)
    one = jax.tree.map(np.float32, registry.random_params(cell, 2, rng))
    many = jax.tree.map(lambda p: np.stack([p, 2 * p]), one)
    xs = jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)

    def loss(params):
        return jnp.sum(dg.lyapunov_spectrum(cell, params, xs, exponents=2).exponents ** 2)

    seen = jax.jit(jax.vmap(jax.grad(loss)))(many)
    first = jax.jit(jax.grad(loss))(one)
    registry.assert_close(jax.tree.map(lambda leaf: leaf[0], seen), first, 1e-4)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (0, 0, 2)])
def test_fault_9_no_step_or_no_sequence_in_every_order(shape, heads):
    cell = lj.LSTM(4, heads=heads)
    params = cell.init(jax.random.key(0), 2)
    many, xs = jax.tree.map(lambda p: np.stack([p, p]), params), np.zeros(shape, np.float32)

    def loss(params, xs):
        return jnp.sum(lj.unroll(cell, params, xs)[1])

    grads = jax.grad(loss, (0, 1))
    for function, given in [
        (grads, (params, xs)),
        (jax.vmap(grads, (0, None)), (many, xs)),
        (jax.grad(lambda p, x: jnp.sum(jax.vmap(loss, (0, None))(p, x)), (0, 1)), (many, xs)),
    ]:
        seen = jax.jit(function)(*given)
        for leaf, like in zip(*map(jax.tree.leaves, (seen, given)), strict=False):
            assert not np.any(leaf) and leaf.dtype == like.dtype


# ---- 12: large numbers ---------------------------------------------------------------------------
def test_fault_12_more_steps_than_the_kernel_counts_are_refused_by_name():
    cell, steps = lj.RNN(1), 2**30 + 1
    params = cell.init(jax.random.key(0), 1)

    def run(wx, carry):
        ops = equations.Operands(
            cell.weights(params), cell.extras(params), carry, None, wx, None, None
        )
        return calls.run(Recurrence(cell, additive=True), False, ops)

    for shape in ((steps, 1), (1, steps)):
        carry = lj.State(jax.ShapeDtypeStruct((shape[1], 1), jnp.float32))
        with pytest.raises(Untranslatable, match="more than 1073741824 steps or sequences"):
            jax.eval_shape(run, jax.ShapeDtypeStruct((*shape, 1), jnp.float32), carry)


@registry.needs_kernel
@pytest.mark.slow
def test_fault_12_a_product_of_more_terms_than_an_int_counts():
    """8 GiB that nobody wrote to: one page of zeros, again and again."""

    def untouched(terms):
        pages = mmap.mmap(-1, 4 * terms, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, np.float32).reshape(terms, 1)

    few = untouched(4096)
    if jax.device_put(few, may_alias=True).unsafe_buffer_pointer() != few.ctypes.data:
        pytest.skip("an array of NumPy would be copied")
    many = untouched(2**31 + 8)
    many[0] = many[-1] = 1
    a = jax.device_put(many, may_alias=True)
    seen = BY_KERNEL(a, a, a_axis=0, b_axis=0, members=0)
    np.testing.assert_array_equal(seen, [[2]])


# ---- 13: orders of vmap and grad -----------------------------------------------------------------
@registry.needs_kernel
@pytest.mark.parametrize("make", [lj.LSTM, lj.GRU])
def test_fault_13_a_gradient_of_members_takes_no_more_memory_than_members_of_gradients(make):
    """One product a member, and not one a step and member."""
    cell = make(16)
    params = cell.init(jax.random.key(0), 4)
    many = jax.tree.map(lambda p: jnp.stack([p * (1 + k) for k in range(3)]), params)
    xs = jnp.ones((50, 2, 4))

    def run(params):
        return jnp.sum(lj.unroll(cell, params, xs, implementation="native")[1])

    outside = jax.jit(jax.grad(lambda many: jnp.sum(jax.vmap(run)(many)))).lower(many).compile()
    inside = jax.jit(jax.vmap(jax.grad(run))).lower(many).compile()
    registry.assert_close(outside(many), inside(many), 1e-4)
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (outside, inside)]
    assert sizes[0] < 1.5 * sizes[1] + 2**16


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("axes", [(1, 0), (1, 1), (0, 0), (0, 1)])
def test_fault_13_a_product_with_one_new_axis_stays_that_many_products(axes, lead, rng):
    """The new axis is of rows or columns wherever one operand alone has it, of any position."""
    a = rng.standard_normal((7, 3, 4) if axes[0] else (7, 4, 3)).astype(np.float32)
    b = rng.standard_normal((7, 5, 4) if axes[1] else (7, 4, 5)).astype(np.float32)
    start = rng.standard_normal((7, 5)).astype(np.float32)
    given = [x if lead else x[0] for x in (a, b, start)]
    products = [
        functools.partial(f, a_axis=axes[0], b_axis=axes[1], members=lead)
        for f in (product_p.bind, plain_product)
    ]
    for place in range(2):
        for dims in ((place, None), (None, place), (place, None, None)):
            operands = [
                x if d is None else np.stack([x, 2 * x], d)
                for x, d in zip(given, dims, strict=False)
            ]
            seen, want = (jax.vmap(f, dims) for f in products)
            np.testing.assert_allclose(seen(*operands), want(*operands), atol=1e-4)
            (eqn,) = [
                e for e in jax.make_jaxpr(seen)(*operands).eqns if e.primitive.name == "product"
            ]
            assert eqn.params["members"] == lead
            # No operand is repeated along the new axis.
            assert sum(v.aval.size for v in eqn.invars) == sum(x.size for x in operands)


# ---- 16: one run, and no threads -----------------------------------------------------------------
@pytest.mark.parametrize("implementation", ["native", "fused", "scan"])
def test_fault_16_all_carries_of_a_net_take_one_run(implementation, rng):
    net = lj.stack(lj.RNN(3), lj.bidirectional(lj.RNN(2)))
    if not all(registry.runs(c, implementation) for c in (lj.RNN(3),)):
        pytest.skip(f"{implementation} cannot run it")
    params = net.init(jax.random.key(0), 2)
    xs = jnp.asarray(rng.standard_normal((4, 2, 2)), jnp.float32)

    def run(return_carries):
        options = {"return_carries": return_carries, "implementation": implementation}
        return jax.jit(lambda params: lj.unroll(net, params, xs, **options))

    counts = [
        str(run(flag).trace(params).jaxpr).count(name)
        for flag in (False, True)
        for name in [" scan[" if implementation == "scan" else " recurrence["]
    ]
    assert counts[0] == counts[1] == 3
    final, carries = run(True)(params)
    want, _ = run(False)(params)
    registry.assert_close(final, want, 1e-6)
    registry.assert_close(jax.tree.map(lambda leaf: leaf[-1], carries[0]), final[0], 1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (9, 4)])
def test_fault_16_a_qr_without_threads_is_lapacks(shape, rng, x64):
    a, da = rng.standard_normal((2, *shape))

    def positive(decomposed):
        q, r = decomposed
        sign = jnp.sign(jnp.diagonal(r))
        return q * sign[None], r * sign[:, None]

    functions = [lambda a: positive(qr(a)), lambda a: positive(jnp.linalg.qr(a))]
    seen, want = (jax.jit(lambda a, da, f=f: jax.jvp(f, (a,), (da,)))(a, da) for f in functions)
    registry.assert_close(seen, want, 1e-12)
    assert "lapack" not in jax.jit(qr).lower(a).as_text()


def test_fault_16_a_qr_of_a_singular_matrix_is_orthonormal():
    a = np.zeros((5, 3), np.float32)
    a[0, 1] = a[3, 2] = 1e-30
    q, r = jax.jit(qr)(a)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(q @ r, a, atol=1e-36)


# ---- 15: a step in a loop of the caller's own ----------------------------------------------------
@pytest.mark.parametrize("make", [lj.GRU, lj.LSTM, lj.RNN])
def test_fault_15_a_step_in_a_scan_makes_two_products_and_four_on_the_way_back(make):
    """Of x and h with their matrices, and of both cotangents of each: as few as there can be."""
    cell, xs = make(4), jnp.ones((5, 3, 2))
    params = cell.init(jax.random.key(0), 2)

    def loss(params, xs):
        carry = cell.initial_carry(params, (3,))
        return jnp.sum(jax.lax.scan(lambda c, x: cell.step(params, c, x), carry, xs)[1])

    found = operations(jax.jit(jax.grad(loss, (0, 1))).lower(params, xs), "stablehlo.dot_general")
    assert [inside for _, inside in found] == [True] * 6
