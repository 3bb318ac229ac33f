"""Mean-field theory: published tables, closed forms, and networks with new weights in each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics import G2

import lstm_jax as lj
from lstm_jax import diagnostics
from lstm_jax.diagnostics import _quadrature, critical_gain, mean_field

pytestmark = pytest.mark.sampled

Q_STAR = {0.5: 0.0, 0.9: 0.0, 1.1: 0.11275, 1.5: 0.79335, 2.0: 2.12147, 5.0: 20.69937}
"""The variance of x_t without input."""


def test_the_tanh_network_is_the_table():
    for (g, s2), wanted in G2.items():
        seen = mean_field(lj.RNN(1), gain=g, input_variance=s2)
        assert abs(seen.exponent - wanted) < 6e-6, (g, s2)
        np.testing.assert_allclose(seen.exponent, np.log(seen.chi) / 2)
        if not s2:
            assert abs(seen.q["h"] - Q_STAR[g]) < 6e-6
            np.testing.assert_allclose(seen.q["h"], g**2 * seen.second_moment)


def test_input_moves_the_onset_of_chaos():
    for s2, wanted in {0.0: 1.0, 0.01: 1.1934, 0.1: 1.4093, 1.0: 1.8556}.items():
        assert abs(critical_gain(lj.RNN(7), input_variance=s2) - wanted) < 6e-5


def hermite_map(g, s2, q, nodes=201):
    """The map of covariances c by Gauss-Hermite nodes, which do for small q."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()

    def following(c):
        h = np.tanh(np.sqrt(c) * z[:, None] + np.sqrt(max(q - c, 0)) * z[None])
        return g**2 * np.sum(w * (h @ w) ** 2) + s2

    return following


@pytest.mark.parametrize(("g", "s2"), [(2.0, 0.1), (0.9, 0.1), (1.5, 0.1), (1.5, 0.0)])
def test_two_networks_come_together_at_the_rate_of_the_correlation_length(g, s2):
    """Iterated from nearby: the distance from the limit falls by exp(-1 / xi) a step."""
    seen = mean_field(lj.RNN(1), gain=g, input_variance=s2)
    q = seen.q["h"]
    if seen.chi < 1:
        np.testing.assert_allclose(seen.length, -1 / np.log(seen.chi))
    following, c = hermite_map(g, s2, q), [0.5 * q]
    for _ in range(1000):
        c.append(following(c[-1]))
    gaps = np.abs(np.array(c[:-1]) - c[-1])
    late = np.flatnonzero((gaps > 1e-9 * q) & (gaps < 1e-5 * q))
    assert late.size > 2
    rate = -np.polyfit(late, np.log(gaps[late]), 1)[0]
    np.testing.assert_allclose(seen.length, 1 / rate, rtol=0.02)


def test_the_minimal_rnn_is_critical_where_it_was_published():
    """Chen, Pennington & Schoenholz (2018): (sigma_w, sigma_v, R) = (6.88, 1.39, 0.46)."""
    drive = {"z": 1.39**2 * 0.46, "n": 0.46}
    seen = mean_field(lj.MinimalRNN(1), gain=6.88, input_variance=drive)
    np.testing.assert_allclose(seen.q["z"], 15.936, atol=6e-4)
    np.testing.assert_allclose([seen.second_moment, seen.chi], [0.3179, 0.9988], atol=6e-5)
    for bias, chi in ((0.0, 0.3645), (1.0, 0.5606), (2.0, 0.7444), (4.0, 0.9464), (6.0, 0.9920)):
        drive = {"z": 1.0, "n": 1.0}
        seen = mean_field(lj.MinimalRNN(1), gain=1.0, input_variance=drive, bias=bias)
        assert abs(seen.chi - chi) < 6e-5


@pytest.mark.parametrize(
    "cell", [lj.LSTM(1), lj.GRU(1), lj.GRU(1, reset_after=False)], ids=["lstm", "gru", "before"]
)
def test_gated_cells_at_the_origin(cell):
    """All gates are 1/2: a GRU has J = I/2 + W/4, an LSTM dc -> dc/2 + W dh/2 and dh = dc/2."""
    seen = mean_field(cell, gain=2.0)
    np.testing.assert_allclose(seen.chi, 0.25 + 2.0**2 / 16, rtol=2e-6)
    np.testing.assert_allclose(seen.second_moment, 0, atol=1e-12)
    np.testing.assert_allclose(seen.length, -1 / np.log(0.5), rtol=1e-5)


@pytest.mark.grid
@pytest.mark.parametrize(
    "cell",
    [
        lj.GRU(1),
        lj.GRU(1, reset_after=False),
        pytest.param(lj.LSTM(1), marks=pytest.mark.slow),  # A minute.
    ],
)
def test_gated_cells_without_inputs_are_critical_at_the_root_of_twelve(cell):
    np.testing.assert_allclose(critical_gain(cell), np.sqrt(12), rtol=1e-5)


@pytest.mark.grid
def test_the_cell_state_without_recurrent_weights():
    """c = i g / (1 - f) for constant gates, and a difference of c falls by f."""
    bias = {"i": 0.5, "f": 1.0, "g": 0.8, "o": 0.3}
    seen = mean_field(lj.LSTM(1), gain=0.0, bias=bias)
    i, f, o = (1 / (1 + np.exp(-bias[gate])) for gate in "ifo")
    h = o * np.tanh(i * np.tanh(0.8) / (1 - f))
    np.testing.assert_allclose(seen.second_moment, h**2, rtol=1e-5)
    np.testing.assert_allclose(seen.chi, f**2, rtol=1e-5)


CASES = {
    "gru": (
        lj.GRU(1),
        {"r": 1.5, "z": 1.2, "n": 2.0},
        {"r": 0.3, "z": 0.2, "n": 0.5},
        {"r": 0.5, "z": 1.0, "n": 0.4},
    ),
    "gru_before": (
        lj.GRU(1, reset_after=False),
        {"r": 1.5, "z": 1.2, "n": 3.0},
        {"r": 0.3, "z": 0.2, "n": 0.1},
        {"r": 0.5, "z": 0.5, "n": 0.0},
    ),
    "lstm": (
        lj.LSTM(1),
        {"i": 1.0, "f": 1.5, "g": 2.0, "o": 1.0},
        {"i": 0.3, "f": 0.3, "g": 0.2, "o": 0.5},
        {"i": 0.0, "f": 1.0, "g": 0.3, "o": 0.0},
    ),
    "lstm_chaotic": (
        lj.LSTM(1),
        {"i": 3.0, "f": 3.0, "g": 4.0, "o": 3.0},
        {"i": 0.0, "f": 0.0, "g": 0.0, "o": 0.0},
        {"i": 0.0, "f": 2.0, "g": 0.0, "o": 0.0},
    ),
    "minimal": (lj.MinimalRNN(1), {"z": 4.0}, {"z": 0.5, "n": 0.4}, {"z": 0.5}),
}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def simulated(case, rng, size, steps):
    """(Q, chi) of a network with new weights [N, N] in each step, and a tangent beside it."""
    cell, gains, drives, means = case
    h, c, dh, dc = rng.standard_normal((4, size))
    seconds, logs = [], []
    for _ in range(steps):
        w = {k: g * rng.standard_normal((size, size)) / size**0.5 for k, g in gains.items()}
        x = {k: means.get(k, 0) + v**0.5 * rng.standard_normal(size) for k, v in drives.items()}
        size_before = np.sum(dh**2) + (np.sum(dc**2) if isinstance(cell, lj.LSTM) else 0)
        if isinstance(cell, lj.LSTM):
            da = {k: w[k] @ dh for k in "ifgo"}
            i, f, o = (sigmoid(x[k] + w[k] @ h) for k in "ifo")
            g = np.tanh(x["g"] + w["g"] @ h)
            dc = f * dc + c * f * (1 - f) * da["f"] + g * i * (1 - i) * da["i"]
            dc, c = dc + i * (1 - g**2) * da["g"], f * c + i * g
            dh = o * (1 - o) * np.tanh(c) * da["o"] + o / np.cosh(c) ** 2 * dc
            h = o * np.tanh(c)
        else:
            z = sigmoid(x["z"] + w["z"] @ h)
            n, dn = x["n"], np.zeros(size)
            if isinstance(cell, lj.GRU):
                r = sigmoid(x["r"] + w["r"] @ h)
                dr, u, du = r * (1 - r) * (w["r"] @ dh), w["n"] @ h, w["n"] @ dh
                inner, dinner = r * u, dr * u + r * du
                if not cell.reset_after:
                    inner, dinner = w["n"] @ (r * h), w["n"] @ (dr * h + r * dh)
                n = np.tanh(x["n"] + inner)
                dn = (1 - n**2) * dinner
            dh = z * dh + (h - n) * z * (1 - z) * (w["z"] @ dh) + (1 - z) * dn
            h = z * h + (1 - z) * n
        grown = np.sum(dh**2) + (np.sum(dc**2) if isinstance(cell, lj.LSTM) else 0)
        scale = np.sqrt(grown)
        dh, dc = dh / scale, dc / scale
        seconds.append(np.mean(h**2))
        logs.append(np.log(grown / size_before))
    late = slice(steps // 3, None)
    return np.mean(seconds[late]), np.exp(np.mean(logs[late]))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_theory_is_what_new_weights_do(name, rng):
    """N = 1000. Of 40 steps the mean of ln chi is known to about 1 %."""
    cell, gains, drives, means = CASES[name]
    seen = mean_field(cell, gain=gains, input_variance=drives, bias=means)
    second, chi = simulated(CASES[name], rng, 1000, 60)
    np.testing.assert_allclose(seen.second_moment, second, rtol=0.05)
    np.testing.assert_allclose(seen.chi, chi, rtol=0.04)


@pytest.mark.grid
@pytest.mark.parametrize(("g", "s2"), [(2.0, 0.0), (2.0, 1.0), (1.5, 0.1)])
def test_the_spectrum_of_one_tanh_network_starts_there(g, s2, rng):
    """The same weights in each step, N = 400, which the tanh network forgives."""
    size, steps = 400, 1500
    w = g * rng.standard_normal((size, size)) / size**0.5
    params = {"w_ih": np.eye(size), "w_hh": w, "b": np.zeros(size)}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    xs = jnp.asarray(s2**0.5 * rng.standard_normal((steps, size)), jnp.float32)
    start = lj.State(jnp.asarray(np.tanh(rng.standard_normal(size)), jnp.float32))
    seen = diagnostics.lyapunov_spectrum(
        lj.RNN(size), params, xs, start, exponents=2, warmup=steps // 5
    )
    wanted = mean_field(lj.RNN(1), gain=g, input_variance=s2).exponent
    assert abs(seen.exponents[0] - wanted) <= 0.025


@pytest.mark.parametrize(
    ("cell", "keywords", "match"),
    [
        (lj.MGU(1), {}, "cell: got MGU"),
        (lj.RNN(1, "relu"), {}, "cell: got the options activation"),
        (lj.LSTM(1, peepholes=True), {}, "cell: got the options peepholes"),
        (lj.GRU(1), {"gain": {"f": 1.0}}, "gain: got the gate 'f', wanted names of r, z, n"),
        (lj.RNN(1), {"gain": -1.0}, "gain: got -1.0, wanted finite numbers of at least 0"),
        (lj.RNN(1), {"input_variance": np.inf}, "input_variance: got inf"),
        (lj.RNN(1), {"bias": "b"}, "bias: got 'b', wanted finite numbers"),
    ],
)
def test_errors_name_the_argument(cell, keywords, match):
    with pytest.raises(ValueError, match=match):
        mean_field(cell, **keywords)


def test_at_the_critical_point_the_correlation_length_is_infinite():
    gain = critical_gain(lj.RNN(1), input_variance=0.1)
    for factor in (1 - 1e-9, 1, 1 + 1e-9):
        assert mean_field(lj.RNN(1), gain=factor * gain, input_variance=0.1).length > 1e6


def test_without_a_critical_gain_it_says_so():
    with pytest.raises(ValueError, match="largest: got 0.5, wanted a gain at which chi is above 1"):
        critical_gain(lj.RNN(1), largest=0.5)
    with pytest.raises(ValueError, match="bias: got {'f': 40.0}, with which chi is 1 at the gain"):
        critical_gain(lj.LSTM(1), bias={"f": 40.0})
    with pytest.raises(ValueError, match="largest: got 1.0, wanted a gain"):
        critical_gain(lj.RNN(1), bias=400.0, largest=1.0)  # chi is 0: its slope is nowhere.


@pytest.mark.parametrize("cell", [lj.RNN(1), lj.GRU(1), lj.GRU(1, reset_after=False), lj.LSTM(1)])
def test_steep_gates_are_resolved_or_refused(cell, monkeypatch):
    """At gain 20 tanh turns within a twentieth of a standard deviation; more values change nothing.

    With the number of values that does for gain 1, chi of a GRU was too large by 9 % at gain 30.
    """
    seen = mean_field(cell, gain=20.0, input_variance=0.1)
    monkeypatch.setattr(_quadrature, "_STEP", 0.3)
    finer = mean_field(cell, gain=20.0, input_variance=0.1)
    np.testing.assert_allclose(
        [seen.chi, seen.second_moment], [finer.chi, finer.second_moment], 2e-6
    )
    if isinstance(cell, lj.RNN):
        np.testing.assert_allclose(seen.length, finer.length, 1e-4)
    with pytest.raises(ValueError, match="gain, input_variance: got a pre-activation of the gate"):
        mean_field(cell, gain=100.0)


def test_chi_of_a_steep_tanh_is_the_density_at_zero():
    """g^2 <sech(a)^4> -> g^2 (4/3) / sqrt(2 pi q), q = g^2 Q."""
    seen = mean_field(lj.RNN(1), gain=30.0)
    q = seen.q["h"]
    np.testing.assert_allclose(seen.chi, 30.0**2 * 4 / 3 / np.sqrt(2 * np.pi * q), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "gain", "wanted"), [(lj.GRU, 1.0, -0.41), (lj.LSTM, 1.0, -0.44), (lj.LSTM, 3.0, -0.09)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_keeps_its_weights_vanishes_more_slowly(cell, gain, wanted, seed):
    """The figures of `mean_field`'s docstring: H = 400, white inputs of variance 1, 450 steps."""
    size, steps = 400, 500
    key_w, key_x = jax.random.split(jax.random.key(seed))
    cell = cell(size)
    params = jax.tree.map(jnp.zeros_like, cell.init(key_w, 1))
    columns = params["w_hh"].shape[1]
    w_hh = gain / np.sqrt(size) * jax.random.normal(key_w, params["w_hh"].shape)
    params |= {"w_ih": jnp.eye(columns), "w_hh": w_hh}
    xs = jax.random.normal(key_x, (steps, columns))
    run = jax.jit(
        lambda p: diagnostics.lyapunov_spectrum(cell, p, xs, exponents=1, warmup=50).exponents[0]
    )
    assert abs(run(params) - wanted) < 0.015
    assert run(params) > mean_field(type(cell)(1), gain=gain, input_variance=1.0).exponent + 0.05
