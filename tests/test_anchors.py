"""Analytic anchors of gradient flow, in float64: what theory says a recurrent network must do.

The names G1 to G8 are those of the catalogue of anchors that the studies cite. Each is a number
that was derived or computed apart from this library; the tests measure it with `diagnostics`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from dynamics import G2

import lstm_jax as lj
from lstm_jax import diagnostics, initializers

pytestmark = pytest.mark.sampled


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every anchor is checked in float64."""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple(w_hh, activation, w_ih=None, b=None):
    """An RNN h_t = f(x_t w_ih + h_{t-1} w_hh + b) and its parameters."""
    size = len(w_hh)
    w_ih = np.zeros((1, size)) if w_ih is None else w_ih
    b = np.zeros(size) if b is None else b
    params = registry.cast({"w_ih": w_ih, "w_hh": w_hh, "b": b}, np.float64)
    return lj.RNN(size, activation), params


@functools.partial(jax.jit, static_argnums=0)
def norms_of_the_last(cell, params, xs, v, carry=None):
    """ln |dL/ds_t| for every t, L = <v, y_T>."""

    def loss(ys):
        return jnp.vdot(v, ys[-1])

    return diagnostics.gradient_norms_by_lag(cell, params, xs, loss, carry)


spectrum = jax.jit(
    diagnostics.lyapunov_spectrum,
    static_argnums=0,
    static_argnames=("exponents", "warmup", "interval"),
)
step_jacobian = jax.jit(diagnostics.step_jacobian, static_argnums=0)
gate_statistics = jax.jit(diagnostics.gate_statistics, static_argnums=0)


def exponents(cell, params, xs, carry=None, **keywords):
    return np.asarray(spectrum(cell, params, jnp.asarray(xs), carry, **keywords).exponents)


def gaussian(rng, size, g):
    return g / np.sqrt(size) * rng.standard_normal((size, size))


# ---- G1: the linear network ---------------------------------------------------------------------
def test_g1_exponents_are_the_logs_of_the_eigenvalues(rng):
    """Pairs of complex eigenvalues turn, so a single exponent of one settles as 1/T."""
    w = gaussian(rng, 12, 0.9)
    cell, params = simple(w, "identity")
    seen = exponents(cell, params, np.zeros((6000, 1)), warmup=1000)
    wanted = np.sort(np.log(np.abs(np.linalg.eigvals(w))))[::-1]
    np.testing.assert_allclose(seen, wanted, rtol=0, atol=3e-3)


def test_g1_real_eigenvalues_are_met_exactly(rng):
    eigenvalues = np.array([1.2, -1.0, 0.7, 0.4, -0.2])
    v = rng.standard_normal((5, 5))
    cell, params = simple(v @ np.diag(eigenvalues) @ np.linalg.inv(v), "identity")
    seen = exponents(cell, params, np.zeros((400, 1)), warmup=300)
    np.testing.assert_allclose(seen, np.log(np.abs(eigenvalues)), rtol=0, atol=1e-11)


def test_g1_an_orthogonal_network_neither_vanishes_nor_explodes(rng):
    size, steps = 16, 300
    w = np.linalg.qr(rng.standard_normal((size, size)))[0]
    v = rng.standard_normal(size)
    v = jnp.asarray(v / np.linalg.norm(v))
    cell, params = simple(w, "identity")
    xs = jnp.zeros((steps, 1))
    np.testing.assert_allclose(exponents(cell, params, xs), 0, atol=1e-12)
    norms = norms_of_the_last(cell, params, xs, v)
    np.testing.assert_allclose(norms.h, 0, rtol=0, atol=1e-12)
    assert abs(diagnostics.slope_per_step(norms).h) < 1e-10


@pytest.mark.grid
def test_g1_circular_law(rng):
    """W ~ N(0, g^2/N): the fraction of exponents below s is exp(2s) / g^2."""
    size, g = 300, 0.9
    cell, params = simple(gaussian(rng, size, g), "identity")
    seen = exponents(cell, params, np.zeros((80, 1)), warmup=20, interval=4)
    for s in (-2.0, -1.0, -0.5, -0.2):
        assert abs(np.mean(seen < s) - np.exp(2 * s) / g**2) < 0.03


# ---- G2: the random tanh network ----------------------------------------------------------------
# The mean field of x_{t+1} = J tanh(x_t) + s_t, J ~ N(0, g^2/N), s_t ~ N(0, s2): x_t is Gaussian of
# variance q, and the first exponent is half the log of chi.
NODES = np.linspace(-12, 12, 200_001)
WEIGHTS = np.exp(-(NODES**2) / 2) / np.sqrt(2 * np.pi) * (NODES[1] - NODES[0])


def gaussian_mean(values):
    """E[f(z)], z ~ N(0, 1), by the dense trapezoid."""
    return np.sum(WEIGHTS * values)


def mean_field(g, s2):
    """(q*, lambda_1): q = g^2 <tanh^2> + s2;  chi = g^2 <sech^4>;  lambda_1 = ln(chi) / 2."""
    q, before = 1.0 + s2, 0.0
    while abs(q - before) > 1e-13 * max(q, 1e-3):
        before, q = q, g**2 * gaussian_mean(np.tanh(np.sqrt(q) * NODES) ** 2) + s2
    chi = g**2 * gaussian_mean(np.cosh(np.clip(np.sqrt(q) * NODES, -300, 300)) ** -4.0)
    return q, np.log(chi) / 2


@pytest.mark.parametrize(("g", "s2"), [(0.9, 0.0), (1.5, 0.0), (2.0, 1.0), (5.0, 0.1)])
def test_g2_theory_is_the_table(g, s2):
    assert abs(mean_field(g, s2)[1] - G2[g, s2]) < 6e-6


@pytest.mark.slow
@pytest.mark.parametrize(("g", "s2"), list(G2))
def test_g2_theory_is_the_whole_table(g, s2):
    assert abs(mean_field(g, s2)[1] - G2[g, s2]) < 6e-6


@pytest.mark.parametrize(("g", "s2"), [(1.1934, 0.01), (1.4093, 0.1), (1.8556, 1.0)])
def test_g2_input_moves_the_onset_of_chaos(g, s2):
    assert abs(mean_field(g, s2)[1]) < 1e-4


def test_g2_gauss_hermite_misses_a_narrow_slope():
    """At g = 5 sech^4 is narrow: 201 nodes give chi = 2.971 where the trapezoid has 2.900."""
    q, exponent = mean_field(5.0, 0.0)
    assert abs(q - 20.69937) < 1e-5
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    chi = 25 * np.sum(weights * np.cosh(np.sqrt(q) * nodes) ** -4.0) / np.sqrt(2 * np.pi)
    assert abs(chi - 2.971) < 1e-3 and abs(np.exp(2 * exponent) - 2.900) < 1e-3


def driven(rng, size, g, s2, steps):
    """The network as ours: with h_t = tanh(x_t), x_{t+1} = J h_t + s_t gives h_{t+1} = tanh(...).

    dh_t = D_t dx_t with D_t = diag(1 - h_t^2), so the products of Jacobians in h and in x differ by
    D_T in front and 1/D_0 behind, and the exponents are the same.
    """
    j = gaussian(rng, size, g)
    inputs = np.sqrt(s2) * rng.standard_normal((steps, size))
    start = np.tanh(rng.standard_normal(size))
    cell, params = simple(j.T, "tanh", w_ih=np.eye(size))
    return cell, params, inputs, lj.State(jnp.asarray(start))


def distance_from_theory(rng, g, s2, steps=1500):
    problem = driven(rng, 400, g, s2, steps)
    seen = exponents(*problem, exponents=2, warmup=steps // 5)[0]
    return abs(seen - mean_field(g, s2)[1])


@pytest.mark.grid
@pytest.mark.parametrize(("g", "s2"), [(2.0, 0.0), (2.0, 1.0)])
def test_g2_measured(g, s2, rng):
    assert distance_from_theory(rng, g, s2) <= 0.025


@pytest.mark.slow
@pytest.mark.parametrize(("g", "s2"), list(G2))
def test_g2_measured_everywhere(g, s2, rng):
    """The median of three matrices: near g = 1 with little input one in several is 0.03 away.

    At g = 0.5 the bound is wider. Where nothing is chaotic lambda_1 goes with the largest
    eigenvalue of one matrix (at s2 = 0 it is ln rho(J)), for finite N outside the circle of theory.
    """
    tolerance = 0.025 if g > 0.5 else 0.06
    assert np.median([distance_from_theory(own, g, s2) for own in rng.spawn(3)]) <= tolerance


def test_g2_both_variables_have_the_same_jacobians(rng):
    """P^h = D_T P^x D_0^{-1}, here over nine steps."""
    size, steps = 6, 9
    cell, params, inputs, start = driven(rng, size, 1.5, 0.3, steps)
    j, carry = np.asarray(params["w_hh"]).T, start
    p_h = p_x = np.eye(size)
    for t in range(steps):
        h = np.asarray(carry.h)
        p_x = j @ np.diag(1 - h**2) @ p_x  # dx_{t+1}/dx_t
        p_h = step_jacobian(cell, params, carry, jnp.asarray(inputs[t])) @ p_h
        carry, _ = cell.step(params, carry, jnp.asarray(inputs[t]))
    d_end, d_start = (np.diag(1 - np.asarray(s.h) ** 2) for s in (carry, start))
    np.testing.assert_allclose(p_h @ d_start, d_end @ p_x, rtol=1e-9, atol=1e-12)


# ---- orthogonal weights under tanh --------------------------------------------------------------
@pytest.mark.grid
@pytest.mark.parametrize("s2", [0.1, 1.0])
def test_tanh_takes_from_orthogonal_weights_what_mean_field_says(s2, rng):
    """With input, gradients vanish at the rate of the mean field for g = 1: by two diagnostics."""
    size, steps = 256, 400
    w = np.linalg.qr(rng.standard_normal((size, size)))[0]
    cell, params = simple(w, "tanh", w_ih=np.eye(size))
    xs = jnp.asarray(np.sqrt(s2) * rng.standard_normal((steps, size)))
    _, wanted = mean_field(1.0, s2)
    assert abs(exponents(cell, params, xs, exponents=1, warmup=50)[0] - wanted) < 0.01
    v = jnp.asarray(rng.standard_normal(size))
    norms = norms_of_the_last(cell, params, xs, v)
    slope = diagnostics.slope_per_step(norms.h[50:])
    assert abs(slope - wanted) < 0.01


@pytest.mark.grid
def test_tanh_without_input_forgets_orthogonal_weights_algebraically(rng):
    """|J_T ... J_1 v| ~ T^(-1/2), not exp(-T)."""
    size = 128
    w = np.linalg.qr(rng.standard_normal((size, size)))[0]
    cell, params = simple(w, "tanh")
    start = lj.State(jnp.asarray(np.tanh(rng.standard_normal(size))))
    growth = np.cumsum(spectrum(cell, params, jnp.zeros((1600, 1)), start, exponents=1).growth)
    for steps in (100, 400):
        slope = (growth[4 * steps - 1] - growth[steps - 1]) / np.log(4)
        np.testing.assert_allclose(slope, -0.5, atol=0.02)


# ---- G3: the cliff ------------------------------------------------------------------------------
def cliff(w, b, dtype: Any = np.float64):
    """E = (sigmoid(x_50) - 0.7)^2 of x_t = w sigmoid(x_{t-1}) + b, x_0 = 0.5.

    With h_t = sigmoid(x_t) it is our network of one unit, h_t = sigmoid(w h_{t-1} + b).
    """
    cell = lj.RNN(1, jax.nn.sigmoid)
    params = {"w_ih": jnp.zeros((1, 1), dtype), "w_hh": w.reshape(1, 1), "b": b.reshape(1)}
    start = lj.State(jax.nn.sigmoid(jnp.full(1, 0.5, dtype)))
    carry, _ = lj.unroll(cell, params, jnp.zeros((50, 1), dtype), start)
    return (carry.h[0] - 0.7) ** 2


GRADIENT = jax.jit(jax.grad(cliff, argnums=(0, 1)), static_argnums=2)
VALUE = jax.jit(cliff)


def cliff_gradient(w, b, dtype: Any = np.float64):
    return np.hypot(*GRADIENT(jnp.asarray(w, dtype), jnp.asarray(b, dtype), dtype))


SIGMA, SLOPE = 0.622459331201855, 0.235003712201594  # sigmoid(0.5) and its derivative there.


def wall(w):
    """(b*, |grad E| on the wall): x_0 = 0.5 is the unstable fixed point, of slope s = w sigma'."""
    s = SLOPE * w
    dx_db = (s**50 - 1) / (s - 1)
    return 0.5 - SIGMA * w, abs(2 * (SIGMA - 0.7) * SLOPE * dx_db) * np.hypot(1, SIGMA)


@pytest.mark.parametrize(
    ("w", "b_star", "norm", "left", "right"),
    [(5.0, -2.612297, 779.4, 0.3528, 0.0172), (6.0, -3.234756, 3.029e6, 0.4259, 0.0414)],
)
def test_g3_the_wall_has_the_height_of_its_formula(w, b_star, norm, left, right):
    b, analytic = wall(w)
    np.testing.assert_allclose([b, analytic], [b_star, norm], rtol=2e-4)
    np.testing.assert_allclose(cliff_gradient(w, b), analytic, rtol=1e-3)
    for offset, wanted in ((-0.05, left), (0.05, right)):
        seen = VALUE(jnp.asarray(w), jnp.asarray(b + offset))
        np.testing.assert_allclose(seen, wanted, atol=6e-5)


def test_g3_float32_sees_a_wall_where_there_is_none():
    """At one and the same (w, b), both exact in float32: it rounds x_t back to the fixed point.

    The true x_t leaves it by |b - b*| s^50, so at w = 6.5 float32 is wrong by seven decades.
    """
    for w, low, high in ((5.0, 0.98, 1.02), (6.5, 1e6, 1e9)):
        b = float(np.float32(wall(w)[0]))
        assert low < cliff_gradient(w, b, np.float32) / cliff_gradient(w, b) < high


def test_g3_it_is_flat_but_for_the_wall():
    """The wall is about 1e-4 wide; a grid of b in [-4.5, -1] goes past it."""
    bs = jnp.linspace(-4.5, -1.0, 2001)
    gradient = jax.grad(lambda w, b: cliff(w, b), argnums=(0, 1))
    norms = np.hypot(*jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(jnp.asarray(5.0), bs))
    np.testing.assert_allclose(np.median(norms), 0.046, atol=2e-3)
    assert norms.max() < 10 < 100 < wall(5.0)[1]


def test_g3_bistable_between_the_bifurcations():
    """w = 5: two attractors strictly between b_2 = -2.655610 and b_1 = -2.344390 (Doya)."""
    sigma = (1 + np.array([-1, 1]) * np.sqrt(1 - 4 / 5)) / 2  # 5 sigma (1 - sigma) = 1
    bounds = np.log(sigma / (1 - sigma)) - 5 * sigma
    np.testing.assert_allclose(bounds, [-2.344390, -2.655610], atol=1e-6)

    def distance(b):
        cell, params = simple(np.full((1, 1), 5.0), jax.nn.sigmoid, b=np.full(1, b))
        start = lj.State(jnp.asarray([[0.0], [1.0]]))
        low, high = lj.unroll(cell, params, jnp.zeros((3000, 2, 1)), start)[0].h[:, 0]
        return float(high - low)

    outside = [distance(b) for b in (bounds[0] + 1e-3, bounds[1] - 1e-3)]
    inside = [distance(b) for b in (bounds[0] - 1e-3, bounds[1] + 1e-3)]
    assert max(outside) < 1e-6 and min(inside) > 0.2


# ---- G4: the latch ------------------------------------------------------------------------------
@pytest.mark.grid
def test_g4_what_latches_must_vanish():
    """h = tanh(1.25 h): the fixed point .710412 holds the bit, with a slope of .619144 a step."""
    cell, params = simple(np.full((1, 1), 1.25), "tanh")
    start, _ = lj.unroll(cell, params, jnp.zeros((500, 1)), lj.State(jnp.ones(1)))
    np.testing.assert_allclose(start.h, 0.710412, atol=1e-6)
    function = functools.partial(diagnostics.jacobian_product_singular_values, cell)
    logs = jax.jit(function)(params, jnp.zeros((50, 1)), start)
    np.testing.assert_allclose(np.exp(logs[[0, 9, 49], 0]), [0.619144, 8.3e-3, 3.9e-11], rtol=0.01)
    np.testing.assert_allclose(np.exp(logs[0]), 0.619144, atol=1e-6)


# ---- G5: the cell state of an LSTM --------------------------------------------------------------
@pytest.mark.grid
@pytest.mark.parametrize(
    ("b_f", "f", "table"),
    [
        (0.0, 0.50000, {50: 8.9e-16, 100: 7.9e-31, 784: 9.8e-237}),
        (1.0, 0.73106, {50: 1.6e-7, 100: 2.5e-14, 784: 2.2e-107}),
        (2.0, 0.88080, {50: 1.8e-3, 100: 3.1e-6, 784: 6.1e-44}),
        (5.0, 0.99331, {50: 0.7148, 100: 0.5109, 784: 5.2e-3}),
    ],
)
def test_g5_the_cell_state_decays_as_its_forget_gate(b_f, f, table):
    """Without recurrent weights dL/dc_t falls by f = sigmoid(b_f) a step, and by nothing else."""
    cell, steps = lj.LSTM(2), 786
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    params = registry.cast(params, np.float64)
    params["b"] = params["b"].at[2:4].set(b_f)
    xs, start = jnp.zeros((steps, 1)), lj.LSTMState(jnp.zeros(2), jnp.ones(2))
    norms = norms_of_the_last(cell, params, xs, jnp.ones(2), start)
    last = steps - 2  # c_{T-1} acts through h_{T-1} alone, which is held.
    for lag, wanted in table.items():
        seen = jnp.exp(norms.c[last - lag] - norms.c[last])
        np.testing.assert_allclose(seen, sigmoid(b_f) ** lag, rtol=1e-10)
        np.testing.assert_allclose(seen, wanted, rtol=0.04)
    np.testing.assert_allclose(diagnostics.slope_per_step(norms).c, np.log(sigmoid(b_f)), rtol=1e-9)
    gates = gate_statistics(cell, params, xs, start)
    np.testing.assert_allclose(gates["f"].mean, f, rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "kept"), [(50, 0.1508), (100, 0.1496), (200, 0.1491), (784, 0.1486), (1000, 0.1486)]
)
def test_g5_chrono_is_free_of_scale(steps, kept):
    """With b_f = ln U[1, T-1], the mean of f^T over the units does not depend on T."""
    names, size = lj.LSTM(1).gate_names, 500_000
    init = initializers.chrono(steps)
    b = initializers.bias(init, jax.random.key(0), names, size, np.dtype(np.float64))
    left = sigmoid(np.asarray(b)[size : 2 * size]) ** steps
    assert abs(left.mean() - kept) < 1e-3
    assert 0.564 < np.mean(left > 0.1) < 0.581


# ---- G6: the GRU at the origin ------------------------------------------------------------------
@pytest.mark.parametrize("reset_after", [True, False])
def test_g6_a_gru_at_the_origin(reset_after, rng):
    """r = z = 1/2 there: J = I/2 + W_n/4, and |J| < 1 if |W_n| < 2. W_n as it acts on columns."""
    size = 7
    cell = lj.GRU(size, reset_after=reset_after)
    params = registry.cast(registry.random_params(cell, 2, rng), np.float64)
    params = {k: v if k == "w_hh" else jnp.zeros_like(v) for k, v in params.items()}
    origin = lj.GRUState(jnp.zeros(size))
    jacobian = step_jacobian(cell, params, origin, jnp.zeros(2))
    w_n = np.asarray(diagnostics.gate_blocks(cell, params)["n"]).T
    np.testing.assert_allclose(jacobian, np.eye(size) / 2 + w_n / 4, rtol=0, atol=1e-12)
    params["w_hh"] *= 1.99 / np.linalg.norm(w_n, 2)
    jacobian = step_jacobian(cell, params, origin, jnp.zeros(2))
    assert diagnostics.spectral_norm(jacobian) < 1


# ---- G7: the curse of memory --------------------------------------------------------------------
@pytest.mark.parametrize(("decay", "wanted"), [(0.5, 2.963), (0.9, 263.9), (0.99, 2.513e5)])
def test_g7_the_sensitivity_to_a_decay_explodes_with_memory(decay, wanted, rng):
    """h_{t+1} = l h_t + x_t, x white: E (dh/dl)^2 = (1 + l^2) / (1 - l^2)^3, by a jvp."""
    steps, batch = int(20 / (1 - decay)), 4000
    xs = jnp.asarray(rng.standard_normal((steps, batch, 1)))
    cell, params = simple(np.full((1, 1), decay), "identity", w_ih=np.ones((1, 1)))
    formula = (1 + decay**2) / (1 - decay**2) ** 3
    np.testing.assert_allclose(formula, wanted, rtol=1e-3)

    def states(w):
        return lj.unroll(cell, params | {"w_hh": w}, xs)[1]

    w = params["w_hh"]
    hs, dhs = jax.jit(lambda w: jax.jvp(states, (w,), (jnp.ones_like(w),)))(w)
    settled = slice(steps // 2, None)
    np.testing.assert_allclose(np.mean(hs[settled] ** 2), 1 / (1 - decay**2), rtol=0.03)
    np.testing.assert_allclose(np.mean(dhs[settled] ** 2), formula, rtol=0.03)


# ---- G8: the critical point of a MinimalRNN -----------------------------------------------------
@dataclasses.dataclass(frozen=True)
class MinimalRNN(lj.Cell):
    """MinimalRNN (Chen 2018): u = sigmoid(h_tm1 W + x V + b), h = u h_tm1 + (1 - u) x."""

    def step(self, params, carry, x):
        u = jax.nn.sigmoid(carry.h @ params["w_hh"] + x @ params["w_ih"] + params["b"])
        h = u * carry.h + (1 - u) * x
        return lj.State(h), h


def minimal_mean_field(sigma_w, sigma_v, r, mu):
    """(Q, chi): q = sw^2 Q + sv^2 R, Q = R E[(1-u)^2] / (1 - E[u^2]),

    chi = E[u^2] + sw^2 (Q + R) E[u'^2].
    """
    big_q = r
    for _ in range(300):
        u = sigmoid(np.sqrt(sigma_w**2 * big_q + sigma_v**2 * r) * NODES + mu)
        big_q = r * gaussian_mean((1 - u) ** 2) / (1 - gaussian_mean(u**2))
    spread = sigma_w**2 * (big_q + r) * gaussian_mean((u * (1 - u)) ** 2)
    return big_q, gaussian_mean(u**2) + spread


@pytest.mark.grid
def test_g8_the_critical_point():
    seen = minimal_mean_field(6.88, 1.39, 0.46, 0.0)
    np.testing.assert_allclose(seen, [0.3179, 0.9988], atol=6e-5)
    for mu, chi in ((0.0, 0.3645), (1.0, 0.5606), (2.0, 0.7444), (4.0, 0.9464), (6.0, 0.9920)):
        np.testing.assert_allclose(minimal_mean_field(1, 1, 1, mu)[1], chi, atol=6e-5)


@pytest.mark.parametrize("mu", [0.0, 2.0])
def test_g8_chi_is_the_mean_square_singular_value_of_a_step(mu, rng):
    """chi = |J|_F^2 / N, of a cell that is only a step."""
    size, steps = 400, 60
    cell = MinimalRNN(size)
    params = {
        "w_ih": gaussian(rng, size, 1.0),
        "w_hh": gaussian(rng, size, 1.0),
        "b": np.full(size, mu),
    }
    params = registry.cast(params, np.float64)
    xs = jnp.asarray(rng.standard_normal((steps, size)))
    _, carries = lj.unroll(cell, params, xs, return_carries=True)
    jacobian = functools.partial(jax.jit(diagnostics.step_jacobian, static_argnums=0), cell)
    chis = [
        jnp.sum(jacobian(params, lj.State(carries.h[t - 1]), xs[t]) ** 2) / size
        for t in range(30, steps, 10)
    ]
    np.testing.assert_allclose(np.mean(chis), minimal_mean_field(1, 1, 1, mu)[1], rtol=0.03)
