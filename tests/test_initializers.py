"""Initial weights: distributions, exact properties, gate roles, and use under transformations."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax.initializers

pytestmark = pytest.mark.sampled

# Untyped, for some tests pass what the types forbid.
init: Any = lstm_jax.initializers

PLAIN = [
    init.zeros(),
    init.constant(2.0),
    init.normal(0.1),
    init.uniform(),
    init.uniform(0.2),
    init.glorot_uniform(),
    init.glorot_normal(),
    init.lecun_normal(),
    init.orthogonal(),
    init.identity(),
    init.rotations(),
    init.spectral_radius(0.9),
    init.spectral_radius(0.9, nonzeros=3),
    init.uniform(1.5, low=1.0),
    init.truncated_normal(),
    init.truncated_normal(0.1),
    init.small_normal(),
]
RANDOM = [i for i in PLAIN if not isinstance(i, init.zeros | init.constant | init.identity)]
GATE = [init.forget_bias(), init.chrono(100), init.power_law(), init.summed(init.uniform())]
LSTM, GRU, RNN = ("i", "f", "g", "o"), ("r", "z", "n"), ("h",)
KEY = jax.random.key(7)


def numpy64(x):
    return np.asarray(x.astype(jnp.float32) if x.dtype.itemsize < 4 else x).astype(np.float64)


def gates(b, names):
    return dict(zip(names, np.split(numpy64(b), len(names)), strict=True))


def radius(w):
    return np.abs(np.linalg.eigvals(numpy64(w))).max()


# ------------------------------------------------------------------------- distributions


def test_zeros_constant_and_identity_are_what_they_say():
    assert (init.zeros()(KEY, (3, 4)) == 0).all()
    assert (init.constant(-1.5)(KEY, (3, 4)) == -1.5).all()
    np.testing.assert_array_equal(init.identity(0.5)(KEY, (3, 3)), 0.5 * np.eye(3))


@pytest.mark.parametrize(
    "i, bound, variance",
    [
        (init.uniform(), 1 / np.sqrt(400), 1 / 1200),
        (init.uniform(0.3), 0.3, 0.03),
        (init.normal(0.02), np.inf, 4e-4),
        (init.glorot_uniform(), np.sqrt(6 / 600), 2 / 600),
        (init.glorot_normal(), np.inf, 2 / 600),
        (init.lecun_normal(), np.inf, 1 / 200),
        (init.truncated_normal(0.5), 1.0, 0.7737 * 0.25),
        (init.truncated_normal(), 2 / np.sqrt(200), 0.7737 / 200),
        (init.small_normal(), np.inf, 2 / 1000),
    ],
)
def test_moments_and_bounds(i, bound, variance):
    w = numpy64(i(KEY, (200, 400)))
    assert np.abs(w).max() <= bound * (1 + 1e-6)
    if bound < np.inf:
        assert np.abs(w).max() > 0.999 * bound
    # 80,000 draws: the mean is within 4 deviations, the variance (at most 2 sigma^4) within 2 %.
    assert abs(w.mean()) < 4 * np.sqrt(variance / w.size)
    np.testing.assert_allclose(w.var(), variance, rtol=0.02)


def test_uniform_between_two_numbers():
    w = numpy64(init.uniform(2.0, low=0.5)(KEY, (80_000,)))
    assert 0.5 <= w.min() < 0.501 and 1.999 < w.max() <= 2
    assert abs(w.mean() - 1.25) < 4 * 1.5 / np.sqrt(12 * w.size)


def test_uniform_bias_bound_is_pytorchs():
    b = np.abs(numpy64(init.bias(init.uniform(), KEY, LSTM, 2000)))
    assert 0.99 < b.max() * np.sqrt(2000) <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(8, 8), (5, 8), (8, 5)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    w = numpy64(init.orthogonal(3.0)(KEY, shape)) / 3
    gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-6)


@pytest.mark.parametrize("size", [6, 7])
def test_rotations_turn_planes(size):
    """Eigenvalues exp(+-i angle), and 1 for the unit that has no partner."""
    w = numpy64(init.rotations()(KEY, (size, size)))
    np.testing.assert_allclose(w.T @ w, np.eye(size), atol=1e-6)
    assert np.linalg.det(w) == pytest.approx(1)
    planes = np.kron(np.eye(size // 2), np.ones((2, 2)))
    assert np.all((w[: size // 2 * 2, : size // 2 * 2] != 0) == (planes == 1))
    assert size % 2 == 0 or w[-1, -1] == 1


def test_the_angles_of_rotations_are_uniform():
    drawn = jax.vmap(lambda key: init.rotations(1.0)(key, (2, 2)))(jax.random.split(KEY, 2000))
    angles = np.arctan2(numpy64(drawn[:, 0, 1]), numpy64(drawn[:, 0, 0]))
    seen = np.quantile(angles, [0.001, 0.25, 0.5, 0.75, 0.999])
    np.testing.assert_allclose(seen, [-1, -0.5, 0, 0.5, 1], atol=0.05)


def test_orthogonal_is_haar():
    q = numpy64(jax.vmap(lambda key: init.orthogonal()(key, (3, 3)))(jax.random.split(KEY, 20_000)))
    # Haar on O(3): E q_ij = 0, E q_ij^2 = 1/3, det = +-1 evenly. Without the sign fix the diagonal
    # of R has one sign, so E q_11 is about -1/2 and det is always the same.
    np.testing.assert_allclose(q.mean(0), np.zeros((3, 3)), atol=0.02)
    np.testing.assert_allclose((q**2).mean(0), np.full((3, 3), 1 / 3), atol=0.01)
    np.testing.assert_allclose((np.linalg.det(q) > 0).mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(np.trace(q, axis1=1, axis2=2).var(), 1.0, atol=0.05)


@pytest.mark.parametrize("size, rho", [(1, 1.0), (8, 0.95), (50, 1.7)])
def test_spectral_radius_is_exact(size, rho):
    # Several keys, so that the largest eigenvalue is real for some and complex for others.
    for key in jax.random.split(KEY, 4):
        w = init.spectral_radius(rho)(key, (size, size))
        np.testing.assert_allclose(radius(w), rho, rtol=1e-5)


def test_spectral_radius_entries_are_gaussian():
    w = numpy64(init.spectral_radius()(KEY, (50, 50))).ravel()
    w /= w.std()
    assert abs(w.mean()) < 0.05
    np.testing.assert_allclose((w**4).mean(), 3.0, atol=0.4)


@pytest.mark.grid
def test_sparse_spectral_radius_keeps_the_incoming_weights_of_each_unit():
    w = init.spectral_radius(0.95, nonzeros=15)(KEY, (50, 50))
    incoming = (numpy64(w) != 0).sum(0)
    outgoing = (numpy64(w) != 0).sum(1)
    assert (incoming == 15).all()
    assert 2 < outgoing.min() < 15 < outgoing.max() < 30
    np.testing.assert_allclose(radius(w), 0.95, rtol=1e-5)


# ------------------------------------------------------------------------- blocks and bias


def test_blocks_draws_each_gate_alone():
    w = numpy64(init.blocks(init.orthogonal(), KEY, 8, 4, 8))
    assert w.shape == (8, 32)
    per_gate = np.split(w, 4, axis=1)
    for q in per_gate:
        np.testing.assert_allclose(q.T @ q, np.eye(8), atol=1e-6)
    assert np.abs(per_gate[0] - per_gate[1]).max() > 0.1


def test_blocks_fans_are_those_of_one_gate():
    w = numpy64(init.blocks(init.glorot_uniform(), KEY, 200, 4, 400))
    np.testing.assert_allclose(np.abs(w).max(), np.sqrt(6 / 600), rtol=1e-3)


@pytest.mark.parametrize(
    "i",
    [jax.nn.initializers.orthogonal(), jax.nn.initializers.he_normal(), jax.nn.initializers.zeros],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_takes_the_initializers_of_jax(i, dtype):
    w = init.blocks(i, KEY, 8, 4, 8, dtype)
    assert w.shape == (8, 32) and w.dtype == dtype


def test_bias_calls_a_plain_initializer_once_a_gate():
    b = gates(init.bias(init.normal(1.0), KEY, LSTM, 2000), LSTM)
    values = np.stack(list(b.values()))
    np.testing.assert_allclose(values.std(1), np.ones(4), rtol=0.1)
    assert np.abs(np.corrcoef(values) - np.eye(4)).max() < 0.15


def test_bias_takes_the_initializers_of_jax():
    b = init.bias(jax.nn.initializers.constant(3.0), KEY, GRU, 8)
    np.testing.assert_array_equal(b, np.full(24, 3.0))


# ------------------------------------------------------------------------- gate-aware biases


@pytest.mark.parametrize("names, keep", [(LSTM, "f"), (GRU, "z"), (("g", "f"), "f")])
def test_forget_bias_reaches_the_keep_gate_alone(names, keep):
    b = gates(init.bias(init.forget_bias(1.5), KEY, names, 8), names)
    for name in names:
        np.testing.assert_array_equal(b[name], np.full(8, 1.5 if name == keep else 0.0))


def test_chrono_trades_the_input_gate_for_the_forget_gate():
    b = gates(init.bias(init.chrono(100), KEY, LSTM, 2000), LSTM)
    np.testing.assert_array_equal(b["i"], -b["f"])
    assert not b["g"].any() and not b["o"].any()
    u = np.exp(b["f"])
    assert 1 <= u.min() < 1.5 and 98.5 < u.max() <= 99 * (1 + 1e-6)
    np.testing.assert_allclose(u.mean(), 50, rtol=0.05)
    np.testing.assert_allclose(u.var(), 98**2 / 12, rtol=0.1)


def test_chrono_of_a_gru_sets_the_update_gate():
    b = gates(init.bias(init.chrono(100), KEY, GRU, 2000), GRU)
    assert not b["r"].any() and not b["n"].any()
    np.testing.assert_allclose(np.exp(b["z"]).mean(), 50, rtol=0.05)


def test_chrono_timescales_span_t_min_to_t_max():
    b = gates(init.bias(init.chrono(t_max=80, t_min=20), KEY, LSTM, 2000), LSTM)
    f = 1 / (1 + np.exp(-b["f"]))
    times = 1 / (1 - f)
    assert 20 * (1 - 1e-5) <= times.min() < 20.5 and 79.5 < times.max() <= 80 * (1 + 1e-4)


@pytest.mark.parametrize("t, mean", [(50, 0.1508), (100, 0.1496), (200, 0.1491), (784, 0.1486)])
def test_chrono_memory_is_scale_free(t, mean):
    # Mean over units of f^T with t_max = T, and the share of units that keep a tenth: the same for
    # every T, which is the point of the method. 400,000 units: standard error 0.0003 and 0.0008.
    b = gates(init.bias(init.chrono(t), KEY, LSTM, 400_000), LSTM)
    kept = (1 / (1 + np.exp(-b["f"]))) ** t
    assert abs(kept.mean() - mean) < 1e-3
    # The share is U <= 1 / (0.1^(-1/T) - 1) exactly.
    last = 1 / (0.1 ** (-1 / t) - 1)
    assert abs((kept > 0.1).mean() - (1 - (last - 1) / (t - 2))) < 3e-3
    assert 0.56 < (kept > 0.1).mean() < 0.585


@pytest.mark.parametrize(
    "b_f, f_100", [(0.0, 7.9e-31), (1.0, 2.5e-14), (2.0, 3.1e-6), (5.0, 0.5109)]
)
def test_forget_bias_sets_the_decay_along_c(b_f, f_100):
    b = gates(init.bias(init.forget_bias(b_f), KEY, LSTM, 8), LSTM)
    f = 1 / (1 + np.exp(-b["f"]))
    np.testing.assert_allclose(f**100, f_100, rtol=0.02)


# ------------------------------------------------------------------------- as values


@pytest.mark.parametrize("i", PLAIN, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_float32_rounded_once(i, dtype):
    w, w32 = i(KEY, (8, 8), dtype), i(KEY, (8, 8), jnp.float32)
    assert w.dtype == dtype and w32.dtype == jnp.float32
    np.testing.assert_array_equal(numpy64(w), numpy64(w32.astype(dtype)))


@pytest.mark.parametrize("i", GATE + PLAIN[:5], ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_bias_dtype(i, dtype):
    b = init.bias(i, KEY, LSTM, 8, dtype)
    assert b.shape == (32,) and b.dtype == dtype


@pytest.mark.grid
def test_float64_is_drawn_in_float64():
    with jax.enable_x64(True):
        w = init.blocks(init.uniform(), KEY, 8, 2, 8, jnp.float64)
        assert w.dtype == jnp.float64 and (w != w.astype(jnp.float32).astype(jnp.float64)).any()
        w = np.asarray(init.orthogonal()(KEY, (16, 16), jnp.float64))
        assert np.abs(w.T @ w - np.eye(16)).max() < 1e-14
        w = init.spectral_radius(1.2)(KEY, (40, 40), jnp.float64)
        np.testing.assert_allclose(radius(w), 1.2, rtol=1e-12)
        assert init.bias(init.chrono(9), KEY, LSTM, 4, jnp.float64).dtype == jnp.float64


@pytest.mark.parametrize("i", RANDOM, ids=repr)
def test_same_key_same_draw_other_key_other_draw(i):
    w = i(KEY, (8, 8))
    np.testing.assert_array_equal(w, i(KEY, (8, 8)))
    assert (numpy64(w) != numpy64(i(jax.random.key(8), (8, 8)))).any()


@pytest.mark.parametrize("i", PLAIN + GATE, ids=repr)
def test_equal_hashable_and_printed_as_written(i):
    namesake = eval(repr(i), vars(init))  # noqa: S307
    assert namesake == i and hash(namesake) == hash(i)
    assert pickle.loads(pickle.dumps(i)) == i
    assert [j for j in PLAIN + GATE if j == i] == [i]


def test_static_argument_of_jit_does_not_retrace():
    traces = []

    def draw(i, key):
        traces.append(i)
        return i(key, (4, 4))

    draw = jax.jit(draw, static_argnums=0)
    draw(init.orthogonal(2.0), KEY)
    draw(init.orthogonal(2.0), KEY)
    assert len(traces) == 1


@pytest.mark.parametrize("i", [PLAIN[n] for n in (1, 3, 5, 8, 11)], ids=repr)
def test_jit_and_vmap_draw_the_same(i):
    keys = jax.random.split(KEY, 3)
    alone = np.stack([numpy64(i(key, (8, 8))) for key in keys])
    together = jax.jit(jax.vmap(lambda key: i(key, (8, 8))))(keys)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_raw_keys_work():
    w = init.blocks(init.spectral_radius(), jax.random.key_data(KEY), 4, 2, 4)
    np.testing.assert_array_equal(w, init.blocks(init.spectral_radius(), KEY, 4, 2, 4))


def test_shapes_are_known_without_drawing():
    out = jax.eval_shape(lambda k: init.blocks(init.spectral_radius(), k, 8, 3, 8), KEY)
    assert out.shape == (8, 24)


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: init.uniform(-0.1), r"bound: got -0.1, wanted .* >= 0"),
        (lambda: init.uniform(1.0, low=2.0), r"bound: got 1.0, wanted .* >= 2.0"),
        (lambda: init.uniform(1.0, low=float("nan")), r"low: got nan"),
        (lambda: init.uniform(low=0.5), r"bound: got None beside low=0.5"),
        (lambda: init.normal(-1.0), r"std: got -1.0, wanted .* >= 0"),
        (lambda: init.normal(float("nan")), r"std: got nan"),
        (
            lambda: init.constant(jnp.ones(())),
            r"value: got an array.*a finite Python number",
        ),
        (lambda: init.orthogonal(float("inf")), r"scale: got inf"),
        (lambda: init.spectral_radius(-0.5), r"rho: got -0.5"),
        (
            lambda: init.spectral_radius(nonzeros=0),
            r"nonzeros: got 0, wanted an integer of at",
        ),
        (lambda: init.spectral_radius(nonzeros=5)(KEY, (4, 4)), r"nonzeros: got 5, .* H = 4"),
        (lambda: init.identity()(KEY, (4, 5)), r"shape: got \(4, 5\) for identity.*\[H, H\]"),
        (lambda: init.spectral_radius()(KEY, (4,)), r"shape: got \(4,\) for spectral_radius"),
        (lambda: init.rotations(-1.0), r"limit: got -1.0, wanted .* >= 0"),
        (lambda: init.rotations()(KEY, (4, 5)), r"shape: got \(4, 5\) for rotations.*\[H, H\]"),
        (lambda: init.orthogonal()(KEY, (4,)), r"shape: got \(4,\) for orthogonal"),
        (lambda: init.glorot_uniform()(KEY, (4,)), r"shape: got \(4,\).*use zeros\(\)"),
        (lambda: init.bias(init.lecun_normal(), KEY, LSTM, 4), r"shape: got \(4,\)"),
        (lambda: init.normal()(KEY, (4,), jnp.int32), r"dtype: got int32, wanted a real floating"),
        (lambda: init.chrono(1), r"t_max: got 1, wanted at least t_min = 2"),
        (lambda: init.chrono(100, t_min=1), r"t_min: got 1, wanted a number above 1"),
        (lambda: init.forget_bias(float("nan")), r"value: got nan"),
        (lambda: init.bias(init.forget_bias(), KEY, RNN, 4), r"forget_bias.*\('h',\).*keep gate"),
        (lambda: init.bias(init.chrono(9), KEY, RNN, 4), r"chrono.*wanted a cell with a keep gate"),
        (lambda: init.blocks(init.chrono(9), KEY, 4, 4, 4), r"chrono.*for a matrix.*set b alone"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert ";" in str(error.value)
