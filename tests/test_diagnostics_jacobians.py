"""Step Jacobians, the singular values of their products, Lyapunov spectra."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from dynamics import given
from registry import CASES

import lstm_jax as lj
from lstm_jax import diagnostics, regularizers
from lstm_jax.diagnostics import _graded, _qr

pytestmark = pytest.mark.sampled

D, H = 2, 3


def compiled(function, *names):
    """`function` under jit, of a cell and with options `names`; in NumPy."""
    run = jax.jit(function, static_argnums=0, static_argnames=names)

    @functools.wraps(function)
    def in_numpy(*args, **options):
        return jax.device_get(run(*args, **options))

    return in_numpy


# One object each, so that tests of one cell and one shape share what was compiled.
singular_values = compiled(diagnostics.jacobian_product_singular_values, "every")
lyapunov_spectrum = compiled(diagnostics.lyapunov_spectrum, "exponents", "warmup", "interval")
step_jacobian = jax.jit(diagnostics.step_jacobian, static_argnums=0)
log_singular_values = jax.jit(_graded.log_singular_values)


def problem(case, rng, steps=6):
    cell = case.make(H)
    params = registry.random_params(cell, D, rng)
    carry = registry.random_carry(cell, params, (), rng)
    xs = rng.standard_normal((steps, D))
    return cell, params, xs, carry


def jacobians(cell, params, xs, carry):
    """J_t [T, N, N] along the trajectory, as NumPy arrays."""

    def step(carry, x):
        return cell.step(params, carry, x)[0], diagnostics.step_jacobian(cell, params, carry, x)

    return np.asarray(jax.jit(lambda xs, carry: jax.lax.scan(step, carry, xs)[1])(xs, carry))


def products(matrices):
    """J_t ... J_1 for every t."""
    out = [matrices[0]]
    for matrix in matrices[1:]:
        out.append(matrix @ out[-1])
    return np.stack(out)


def random_orthogonal(rng, size, count):
    return np.linalg.qr(rng.standard_normal((count, size, size)))[0]


# ---- one step -----------------------------------------------------------------------------------
def test_vectors_and_carries_are_each_others_inverse(rng):
    carry = lj.LSTMState(jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), -jnp.ones((2, 3)))
    vector = diagnostics.carry_to_vector(carry)
    assert vector.shape == (2, 6) and vector.dtype == np.float32
    np.testing.assert_array_equal(vector[1], [3, 4, 5, -1, -1, -1])
    back = diagnostics.vector_to_carry(vector, carry)
    assert back.h.dtype == jnp.bfloat16 and back.c.dtype == np.float32
    registry.assert_close(back, carry, 0)
    with pytest.raises(ValueError, match=r"vector: got shape \(5,\), wanted .* N = 6"):
        diagnostics.vector_to_carry(jnp.zeros(5), carry)


@registry.cells(dear=True)
def test_step_jacobian_is_a_central_difference(case, rng, x64):
    cell, params, xs, carry = problem(case, rng)
    seen = step_jacobian(cell, params, carry, xs[0])
    vector = np.asarray(diagnostics.carry_to_vector(carry))

    def step(rows):
        carries = diagnostics.vector_to_carry(rows, carry)
        new, _ = jax.vmap(lambda s: cell.step(params, s, xs[0]))(carries)
        return diagnostics.carry_to_vector(new)

    eps = 1e-6 * np.eye(vector.size)
    rows = jnp.asarray(np.concatenate([vector + eps, vector - eps]))
    plus, minus = jnp.split(jax.jit(step)(rows), 2)
    np.testing.assert_allclose(seen, (plus - minus).T / 2e-6, rtol=0, atol=1e-8)


def test_step_jacobian_of_a_lstm_has_four_blocks(rng, x64):
    """dc_t/dc_{t-1} = f_t on the diagonal; the full carry is (h, c) in R^{2H}."""
    cell, params, xs, carry = problem(CASES["lstm"], rng)
    assert isinstance(cell, lj.LSTM)
    jacobian = step_jacobian(cell, params, carry, xs[0])
    assert jacobian.shape == (2 * H, 2 * H)
    wx, u = cell.project(params, xs[0]), cell.recur(params, carry)
    f = cell.gates(carry, wx, u)["f"]
    np.testing.assert_allclose(jacobian[H:, H:], np.diag(f), rtol=1e-13, atol=1e-16)


def test_step_jacobian_is_batched_by_vmap_and_says_so(rng, x64):
    cell, params, xs, _ = problem(CASES["lstm"], rng)
    batch = registry.random_carry(cell, params, (4,), rng)
    function = functools.partial(diagnostics.step_jacobian, cell, params)
    seen = jax.jit(jax.vmap(function))(batch, xs[:4])
    last = jax.tree.map(lambda leaf: leaf[3], batch)
    np.testing.assert_allclose(seen[3], function(last, xs[3]), rtol=1e-12)
    with pytest.raises(ValueError, match=r"xs: got 1 batch axes .*wanted one example.*jax.vmap"):
        function(batch, xs[:4])
    with pytest.raises(ValueError, match=r"carry.h: got shape \(4, 3\)"):
        function(batch, xs[0])


# ---- products of steps --------------------------------------------------------------------------
@registry.cells(["lstm", "user_step"])
def test_singular_values_are_those_of_the_plain_product(case, rng, x64):
    cell, params, xs, carry = problem(case, rng)
    both = jax.jit(
        jax.vmap(diagnostics.jacobian_product_singular_values, in_axes=(None, None, 0, None)),
        static_argnums=0,
    )
    seen = np.asarray(both(cell, params, np.stack([xs[::-1], xs]), carry))[1]
    plain = products(jacobians(cell, params, xs, carry))
    wanted = np.log(np.linalg.svd(plain, compute_uv=False))
    # NumPy's own error: eps times the largest, for every singular value.
    error = 1e-14 * np.exp(wanted[:, :1] - wanted)
    assert seen.shape == wanted.shape and error.min() < 1e-12
    assert np.all(np.abs(seen - wanted) < 1e-11 + 10 * error)


LONG, SIZE = 400, 6


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_singular_values_far_beyond_the_floating_point_range(dtype, rng):
    """A_t = U_t D U_{t-1}^T: the product is U_T D^T U_0^T, its values known to the last digit.

    They spread over exp(+-800), and lie close together too, which plain QR would not separate.
    """
    steps, logs = LONG, np.array([2.0, 1.999, 0.0, -0.5, -0.5, -2.0])
    u = random_orthogonal(rng, SIZE, steps + 1)
    matrices = u[1:] * np.exp(logs) @ u[:-1].transpose(0, 2, 1)
    with jax.enable_x64(dtype is np.float64):
        cell, params, xs = given(matrices.astype(dtype))
        seen = singular_values(cell, params, xs)
    wanted = np.arange(1, steps + 1)[:, None] * logs
    assert seen.dtype == dtype
    # A rounding error a step, of the size of the condition of one step.
    bound = 200 * np.finfo(dtype).eps * np.arange(1, steps + 1)[:, None]
    assert np.all(np.abs(np.asarray(seen) - wanted) < bound)


@pytest.mark.grid
def test_singular_values_of_a_long_contraction_in_float32():
    cell, steps = lj.RNN(2, "identity"), 10_000
    params = {"w_ih": jnp.zeros((1, 2)), "w_hh": 0.5 * jnp.eye(2), "b": jnp.zeros(2)}
    xs = jnp.zeros((steps, 1))
    seen = singular_values(cell, params, xs, every=steps)
    assert seen.shape == (1, 2) and seen.dtype == np.float32
    np.testing.assert_allclose(seen[-1], steps * np.log(0.5), rtol=2e-6)


def test_singular_values_of_an_orthogonal_matrix_are_one(rng, x64):
    size, steps = 8, 300
    cell, xs = lj.RNN(size, "identity"), jnp.zeros((steps, 1))
    w_hh = jnp.asarray(random_orthogonal(rng, size, 1)[0])
    params = {"w_ih": jnp.zeros((1, size)), "w_hh": w_hh, "b": jnp.zeros(size)}
    seen = singular_values(cell, params, xs, every=100)
    assert seen.shape == (3, size)
    np.testing.assert_allclose(seen, 0, atol=1e-12)


def test_singular_values_of_a_defective_matrix(x64):
    """[[a, 1], [0, a]]^t = a^t [[1, t/a], [0, 1]]: started in its own invariant subspace."""
    a = 0.9
    matrix = np.kron(np.eye(SIZE // 2), [[a, 1.0], [0.0, a]])  # Three times over.
    seen = singular_values(*given(np.broadcast_to(matrix, (LONG, SIZE, SIZE))))
    t = np.arange(1, LONG + 1)
    top = np.arcsinh(t / a / 2)  # The two values are a^t exp(+-arcsinh(t / 2a)).
    wanted = t[:, None] * np.log(a) + np.stack([top] * 3 + [-top] * 3, axis=1)
    np.testing.assert_allclose(seen, wanted, rtol=0, atol=1e-9)


def test_singular_values_of_what_dies(x64):
    """A dead unit costs 34 nats a step or more, a dead network everything, and nothing is NaN."""
    dead_unit = np.diag([0.5] * (SIZE - 1) + [0.0])
    matrices = np.stack([dead_unit] * 300 + [np.zeros((SIZE, SIZE))] * (LONG - 300))
    seen, t = np.asarray(singular_values(*given(matrices))), np.arange(1, 301)
    wanted = np.broadcast_to(np.log(0.5) * t[:, None], (300, SIZE - 1))
    np.testing.assert_allclose(seen[:300, :-1], wanted, rtol=1e-12)
    assert np.all(seen[:300, -1] < -34 * t)
    np.testing.assert_array_equal(seen[300:], -np.inf)


def test_graded_matrices_keep_every_rows_digits(rng, x64):
    """Rows that are orthogonal, of norms 2^e times a number in [1, 2)."""
    for spread in (0, 3, 3000):
        e = rng.integers(-spread, spread + 1, SIZE).astype(np.int32)
        scale = 1 + rng.random(SIZE)
        rows = scale[:, None] * random_orthogonal(rng, SIZE, 1)[0]
        seen = log_singular_values(_graded.Graded(jnp.asarray(e), jnp.asarray(rows)))
        wanted = np.sort(e * np.log(2) + np.log(scale))[::-1]
        np.testing.assert_allclose(seen, wanted, rtol=1e-14, atol=1e-13)


@pytest.mark.grid
@pytest.mark.parametrize("size", [1, 5, SIZE])
def test_jacobi_agrees_with_lapack(size, rng, x64):
    matrix = rng.standard_normal((size, size))
    a = _graded.multiplied(jnp.asarray(matrix), _graded.identity(size, np.dtype(np.float64)))
    wanted = np.log(np.linalg.svd(matrix, compute_uv=False))
    np.testing.assert_allclose(log_singular_values(a), wanted, atol=1e-12)


def test_every_must_divide_the_steps(rng, x64):
    cell, params, xs, carry = problem(CASES["gru"], rng)
    with pytest.raises(ValueError, match=r"every: got 4, wanted a divisor of T = 6"):
        diagnostics.jacobian_product_singular_values(cell, params, xs, carry, every=4)


# ---- Lyapunov spectra ---------------------------------------------------------------------------


@registry.cells(dear=True)
def test_exponents_sum_to_the_mean_log_determinant(case, rng, x64):
    """Where a step loses a direction its determinant is zero, the last exponent but rounding."""
    cell, params, xs, carry = problem(case, rng, steps=40)
    seen = lyapunov_spectrum(cell, params, xs, carry)
    each = jacobians(cell, params, xs, carry)
    size = diagnostics.carry_to_vector(carry).size
    assert seen.exponents.shape == (size,)
    assert np.all(np.diff(seen.exponents) <= 0)
    lost = np.mean(np.linalg.matrix_rank(each, tol=1e-12) < size)
    if lost:
        assert seen.exponents[-1] < -20 * lost
        return
    wanted = np.linalg.slogdet(each)[1].mean()
    np.testing.assert_allclose(seen.exponents.sum(), wanted, rtol=0, atol=1e-10)


def test_a_leaf_that_is_a_function_of_another_adds_no_exponents(rng, x64):
    """h_t = tanh(m_t + p): of the 2H directions, H are lost in every step."""
    cell, params, xs, carry = problem(CASES["user_update"], rng, steps=40)
    seen = lyapunov_spectrum(cell, params, xs, carry).exponents
    assert seen[H - 1] > -10 and seen[H] < -30


@pytest.mark.grid
@registry.cells(["rnn_tanh", "lstm"])
def test_spectrum_does_not_depend_on_the_interval(case, rng, x64):
    """5 and 10 divide neither the warm-up nor the steps after it."""
    cell, params, xs, carry = problem(case, rng, steps=63)
    blocks = random_orthogonal(rng, H, len(cell.gate_names))
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    params["w_hh"] = jnp.asarray(np.concatenate(blocks, axis=1))
    spectrum = functools.partial(lyapunov_spectrum, cell, params, xs, carry, warmup=12)
    wanted = spectrum()
    assert wanted.growth.shape[0] == 51
    np.testing.assert_allclose(np.sort(wanted.growth.mean(0))[::-1], wanted.exponents, rtol=1e-12)
    for interval, blocks in ((5, 11), (10, 6)):
        seen = spectrum(interval=interval)
        assert seen.growth.shape[0] == blocks
        # The rule of the docstring: beyond 15 nats float64 cannot hold the directions apart, and
        # half of an LSTM's exponents lie that low.
        kept = interval * (wanted.exponents[0] - wanted.exponents) < 15
        assert kept.sum() >= H
        np.testing.assert_allclose(seen.exponents[kept], wanted.exponents[kept], rtol=0, atol=1e-6)


def test_the_warm_up_is_not_counted(x64):
    factors = np.array([7.0] * 3 + [2.0] * 5)
    problem = given(factors[:, None, None])
    spectrum = lyapunov_spectrum(*problem, warmup=3)
    np.testing.assert_allclose(spectrum.exponents, np.log(2), rtol=1e-14)
    assert spectrum.growth.shape == (5, 1)
    seen = lyapunov_spectrum(*problem).exponents
    np.testing.assert_allclose(seen, np.log(factors).mean(), rtol=1e-14)


def test_a_few_exponents_are_the_first_of_all(rng, x64):
    """From the same 2,000 steps: the leading direction of two is that of all six."""
    cell, params, xs, carry = problem(CASES["lstm"], rng, steps=2000)

    spectrum = functools.partial(lyapunov_spectrum, cell, params, xs, carry, warmup=200)
    np.testing.assert_allclose(spectrum(exponents=2).exponents, spectrum().exponents[:2], atol=1e-6)


def test_first_exponent_is_the_growth_of_a_vector(rng, x64):
    """lambda_1 = slope of ln |J_t ... J_1 v|, for a driven LSTM in (h, c)."""
    cell, params, xs, carry = problem(CASES["lstm"], rng, steps=1500)
    seen = lyapunov_spectrum(cell, params, xs, carry, exponents=1, warmup=300).exponents[0]
    v, logs = rng.standard_normal(2 * H), []
    for jacobian in jacobians(cell, params, xs, carry):
        v = jacobian @ v
        logs.append(np.log(np.linalg.norm(v)))
        v = v / np.linalg.norm(v)
    np.testing.assert_allclose(np.mean(logs[300:]), seen, rtol=0, atol=1e-3)


@pytest.mark.grid
def test_exponents_are_the_slopes_of_the_singular_values(rng, x64):
    cell, params, xs, carry = problem(CASES["gru"], rng, steps=600)
    logs = singular_values(cell, params, xs, carry, every=300)
    seen = lyapunov_spectrum(cell, params, xs, carry, warmup=300)
    np.testing.assert_allclose((logs[1] - logs[0]) / 300, seen.exponents, atol=0.02)


@pytest.mark.grid
def test_vmap_and_grad_go_through(rng, x64):
    """Gradient flossing differentiates the exponents: against a central difference."""
    cell, params, xs, carry = problem(CASES["rnn_tanh"], rng, steps=8)

    def floss(w, xs):
        own = params | {"w_hh": w}
        spectrum = diagnostics.lyapunov_spectrum(cell, own, xs, carry, exponents=2, interval=2)
        return jnp.mean(spectrum.exponents**2)

    w, direction = params["w_hh"], jnp.asarray(rng.standard_normal((H, H)))
    both = jax.jit(jax.vmap(jax.value_and_grad(floss), in_axes=(None, 0)))
    values, grads = both(w, jnp.stack([xs[::-1], xs]))
    plus, _ = both(w + 1e-6 * direction, jnp.stack([xs[::-1], xs]))
    minus, _ = both(w - 1e-6 * direction, jnp.stack([xs[::-1], xs]))
    wanted = (plus - minus) / 2e-6
    np.testing.assert_allclose(jnp.sum(grads * direction[None], (1, 2)), wanted, rtol=1e-6)
    assert values[0] != values[1]


@pytest.mark.parametrize("steps", [1, pytest.param(200, marks=pytest.mark.grid)])
@pytest.mark.parametrize(
    ("units", "dead"), [(3, 2), pytest.param(16, 3, marks=pytest.mark.grid), (16, 14)]
)
def test_flossing_has_a_finite_gradient_with_dead_units(units, dead, steps):
    """In float32, of all exponents, also those of directions that a step maps to zero; by vmap."""
    cell = lj.RNN(units, "relu")

    def loss(key):
        keys = jax.random.split(key)
        params = cell.init(keys[0], 2)
        params["b"] = jnp.where(jnp.arange(units) < dead, -100.0, 0.1)
        xs = jax.random.normal(keys[1], (steps, 2))

        def floss(params):
            return jnp.mean(diagnostics.lyapunov_spectrum(cell, params, xs).exponents ** 2)

        return jax.value_and_grad(floss)(params)

    values, grads = jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(0), 4))
    assert jnp.isfinite(values).all() and values.min() > 100
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert jnp.any(grads["w_hh"] != 0)
    if units == 3:  # What is off has no influence.
        np.testing.assert_array_equal(grads["w_hh"][:, :, :dead], 0)


@pytest.mark.parametrize(
    "function",
    [
        lambda *given: jax.grad(lambda p: lyapunov_sum(given[0], p, given[2]))(given[1]),
        diagnostics.jacobian_product_singular_values,
        functools.partial(diagnostics.leading_singular_values, count=2),
    ],
    ids=["flossing", "singular_values", "leading"],
)
def test_no_step_calls_lapack(function, rng):
    """Whose threads wait for each other: a QR, and the triangular system of its derivative."""
    cell, xs = lj.RNN(3), jnp.zeros((4, D))
    params = cell.init(jax.random.key(0), D)
    lowered = jax.jit(lambda params: function(cell, params, xs)).lower(params).as_text()
    assert "scan" in lowered or "while" in lowered
    assert not re.search("lapack|blas", lowered)


def lyapunov_sum(cell, params, xs):
    return diagnostics.lyapunov_spectrum(cell, params, xs).exponents.sum()


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"exponents": 7}, r"exponents: got 7, wanted at most N = 6"),
        ({"exponents": 0}, r"exponents: got 0, wanted an integer of at least 1"),
        ({"warmup": 6}, r"warmup: got 6, wanted an integer in \[0, T\) = \[0, 6\)"),
        ({"interval": 0}, r"interval: got 0"),
    ],
)
def test_lyapunov_errors_name_the_argument(keywords, match, rng, x64):
    cell, params, xs, carry = problem(CASES["lstm"], rng)
    with pytest.raises(ValueError, match=match):
        diagnostics.lyapunov_spectrum(cell, params, xs, carry, **keywords)


@pytest.mark.parametrize(
    ("exponents", "dimension", "entropy"),
    [
        ([0.9056, 0.0, -14.5723], 2 + 0.9056 / 14.5723, 0.9056),  # Lorenz, per unit of time.
        ([0.5, 0.2, -1.4], 2.5, 0.7),
        ([-0.1, -0.2], 0.0, 0.0),
        ([0.3, 0.1], 2.0, 0.4),
        ([0.0, -1.0], 1.0, 0.0),
        ([-14.5723, 0.9056, 0.0], 2 + 0.9056 / 14.5723, 0.9056),  # In any order.
        ([0.5, np.nan, -1.4], np.nan, np.nan),
    ],
)
def test_dimension_and_entropy(exponents, dimension, entropy, x64):
    exponents = jnp.asarray(exponents)
    seen = jax.jit(diagnostics.kaplan_yorke_dimension)(exponents)
    np.testing.assert_allclose(seen, dimension, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(diagnostics.entropy)(exponents), entropy, rtol=1e-12)


# ---- near the end of the range, and in full precision ------------------------------------------
def test_a_step_near_the_end_of_float32(rng):
    """One step that turns and stretches: the products of a plain QR overflow."""
    size = 2.0**127
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0] * [1.9, 0.5, 0.25]
    cell, xs = lj.RNN(3, "relu"), jnp.zeros((1, 1))
    params = {"w_ih": jnp.zeros((1, 3)), "w_hh": jnp.asarray(size * turn, jnp.float32)}
    params["b"] = jnp.ones(3)  # Every unit is on.
    wanted = np.log(size) + np.log([1.9, 0.5, 0.25])
    spectrum = diagnostics.lyapunov_spectrum(cell, params, xs).exponents
    np.testing.assert_allclose(spectrum.sum(), wanted.sum(), rtol=1e-6)
    seen = diagnostics.jacobian_product_singular_values(cell, params, xs)[0]
    np.testing.assert_allclose(seen, wanted, atol=3e-5)
    leading = diagnostics.leading_singular_values(cell, params, xs, count=3)
    np.testing.assert_allclose(leading.logs, wanted, atol=3e-5)


def matmuls(jaxpr):
    """Every matmul of a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from matmuls(inner)


@pytest.mark.parametrize(
    "function",
    [
        _qr.qr,
        lambda a: jax.jvp(_qr.orthonormal, (a,), (a,)),
        regularizers.orthogonality,
        lambda w: regularizers.clip_singular_values(w, 0.5, 1.0),
        lambda w: regularizers.Orthogonal().weights(regularizers.Orthogonal().free({"w_hh": w})),
    ],
)
def test_matmuls_of_its_own_are_in_full_precision(function):
    """By default a GPU or TPU multiplies float32 in fewer bits: nothing would be orthogonal."""
    found = list(matmuls(jax.make_jaxpr(function)(jnp.ones((3, 3))).jaxpr))
    found = [eqn for eqn in found if eqn.invars[1].aval.ndim > 1]  # A sum of sizes needs no bits.
    highest = jax.lax.Precision.HIGHEST
    assert found and all(eqn.params["precision"] == (highest, highest) for eqn in found)


# ---- nets ---------------------------------------------------------------------------------------
def deep(embedded=False):
    net = lj.readout(lj.stack(lj.zoneout(lj.LSTM(H), 0.2, 0.1), lj.residual(lj.GRU(H))), 2)
    return lj.embedding(net, 5, D) if embedded else net


def net_problem(net, rng, steps=6):
    """Inputs are token numbers where the net has an embedding."""
    drawn = jax.jit(net.init, static_argnums=1)(jax.random.key(3), D)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn)
    xs = rng.standard_normal((steps, D)) if net.input_ndim else rng.integers(0, 5, steps)
    carry = registry.normal(jax.eval_shape(net.initial_carry, params), rng, 0.5)
    return net, params, xs, carry


def determinants(net, params, xs, carry):
    return np.linalg.slogdet(jacobians(net, params, xs, carry))[1].mean()


@pytest.mark.grid
@pytest.mark.parametrize("embedded", [True, False])
def test_jacobian_of_a_net_is_block_triangular(embedded, rng, x64):
    net, params, xs, carry = net_problem(deep(embedded), rng, steps=1)
    seen = step_jacobian(net, params, carry, xs[0])
    vector = diagnostics.carry_to_vector(carry)
    assert seen.shape == (3 * H, 3 * H) and not seen[: 2 * H, 2 * H :].any()

    def step(vector):
        new, _ = net.step(params, diagnostics.vector_to_carry(vector, carry), xs[0])
        return diagnostics.carry_to_vector(new)

    eps = 1e-6 * jnp.eye(vector.size)
    rows = jax.jit(jax.vmap(step))(vector[None] + jnp.concatenate([eps, -eps]))
    plus, minus = jnp.split(rows, 2)
    np.testing.assert_allclose(seen, (plus - minus).T / 2e-6, rtol=0, atol=1e-8)


@pytest.mark.grid
def test_spectra_of_a_net_are_those_of_all_its_layers(rng, x64):
    net, params, xs, carry = net_problem(deep(True), rng, steps=20)
    wanted = determinants(net, params, xs, carry)
    exponents = lyapunov_spectrum(net, params, xs, carry).exponents
    assert exponents.shape == (3 * H,)
    np.testing.assert_allclose(exponents.sum(), wanted, atol=1e-10)


@pytest.mark.grid
def test_singular_values_of_a_net_are_those_of_all_its_layers(rng, x64):
    net, params, xs, carry = net_problem(deep(True), rng, steps=20)
    logs = singular_values(net, params, xs, carry, every=20)
    wanted = 20 * determinants(net, params, xs, carry)
    np.testing.assert_allclose(logs.sum(), wanted, atol=1e-9)


@pytest.mark.parametrize("function", [lyapunov_spectrum, singular_values])
@pytest.mark.parametrize("bare", [False, True])
def test_each_direction_has_its_spectrum(function, bare, rng, x64):
    """Alone, or with an embedding and a readout around it."""
    both = lj.bidirectional(lj.RNN(H), lj.RNN(2, "identity") if bare else None)
    net = both if bare else lj.embedding(lj.readout(both, 2), 5, D)
    net, params, xs, carry = net_problem(net, rng, steps=4)
    inner, rows = (params, xs) if bare else (params["inner"]["inner"], params["e"][xs])
    seen = function(net, params, xs, carry)
    assert type(seen) is type(carry)
    forward = function(both.forward, inner["forward"], rows, carry.forward)
    backward = function(both.backward, inner["backward"], rows[::-1], carry.backward)
    registry.assert_close(jax.tree.leaves(seen), jax.tree.leaves((forward, backward)), 1e-12)


@pytest.mark.grid
@pytest.mark.parametrize("make", [lambda: lj.RNN(H, param_dtype="bfloat16"), deep])
def test_spectra_in_bfloat16_are_computed_in_float32(make, rng):
    net = make()
    drawn = jax.jit(net.init, static_argnums=1)(jax.random.key(0), D)
    params = registry.cast(drawn, jnp.bfloat16)
    xs = jnp.asarray(rng.standard_normal((30, D)), jnp.bfloat16)
    seen = lyapunov_spectrum(net, params, xs, exponents=2).exponents
    wide = registry.cast((params, xs), jnp.float32)
    assert seen.dtype == np.float32
    net = lj.RNN(H) if isinstance(net, lj.RNN) else net
    np.testing.assert_allclose(seen, lyapunov_spectrum(net, *wide, exponents=2).exponents, atol=0.1)


@pytest.mark.grid
@pytest.mark.parametrize(
    "case", registry.SPATIAL.values(), ids=[case.name for case in registry.SPATIAL.values()]
)
def test_jacobian_of_a_spatial_cell_is_of_all_its_carry(case, rng, x64):
    cell = case.make(1)
    xs = jnp.asarray(rng.standard_normal((3, *cell.input_shape, 2)))
    params = registry.cast(cell.init(jax.random.key(0), 2), np.float64)
    carry = cell.initial_carry(params)
    size = sum(leaf.size for leaf in jax.tree.leaves(carry))
    assert step_jacobian(cell, params, carry, xs[0]).shape == (size, size)
    seen = lyapunov_spectrum(cell, params, xs, carry).exponents
    np.testing.assert_allclose(seen.sum(), determinants(cell, params, xs, carry), atol=1e-10)
