"""Gate statistics and what the recurrent matrix says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from registry import CASES

import lstm_jax as lj
from lstm_jax import diagnostics

pytestmark = pytest.mark.sampled

T, B, D, H = 6, 4, 3, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate_statistics(cell, params, xs, carry=None, **flags):
    """The function under test, under jit."""
    function = functools.partial(diagnostics.gate_statistics, cell, **flags)
    return jax.jit(function)(params, xs, carry)


def problem(cell, rng, scale=2.0):
    params = registry.random_params(cell, D, rng)
    params = {name: scale * value for name, value in params.items()}
    xs = rng.standard_normal((T, B, D))
    carry = registry.random_carry(cell, registry.cast(params, np.float64), (B,), rng)
    return registry.cast((params, xs, carry), np.float64)


def by_hand(cell, params, xs, carry, valid, resets):
    """{gate: [steps, H]} of the valid steps, in NumPy and straight from the equations."""
    p = {name: np.asarray(value) for name, value in params.items()}
    blocks = {name: slice(i * H, (i + 1) * H) for i, name in enumerate(cell.gate_names)}
    rows = {name: [] for name in cell.gate_names}
    for b in range(B):
        h, c = np.asarray(carry[0])[b], np.asarray(carry[-1])[b]
        for t in range(T):
            if resets[t, b]:
                h, c = np.zeros(H), np.zeros(H)
            if not valid[t, b]:
                continue
            wx, u = np.asarray(xs)[t, b] @ p["w_ih"] + p["b"], h @ p["w_hh"]
            if isinstance(cell, lj.LSTM):
                i, f, o = (sigmoid((wx + u)[blocks[name]]) for name in "ifo")
                g = np.tanh((wx + u)[blocks["g"]])
                c = f * c + i * g
                h, gates = o * np.tanh(c), {"i": i, "f": f, "g": g, "o": o}
            else:
                r, z = (sigmoid((wx + u)[blocks[name]]) for name in "rz")
                if cell.reset_after:
                    n = np.tanh(wx[blocks["n"]] + r * (u[blocks["n"]] + p["b_hn"]))
                else:
                    n = np.tanh(wx[blocks["n"]] + (r * h) @ p["w_hh"][:, blocks["n"]])
                h, gates = (1 - z) * n + z * h, {"r": r, "z": z, "n": n}
            for name, value in gates.items():
                rows[name].append(value)
    return {name: np.stack(values) for name, values in rows.items()}


# ---- gates --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_before"])
def test_gates_are_those_of_the_equations(name, rng, x64):
    cell = CASES[name].make(H)
    params, xs, carry = problem(cell, rng)
    mask, resets = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    function = functools.partial(diagnostics.gate_statistics, cell, mask=mask, resets=resets)
    xs = jnp.where(mask[..., None], xs, jnp.nan)
    seen = jax.jit(function)(params, xs, carry)
    assert sorted(seen) == sorted(cell.gate_names)
    gates = by_hand(cell, params, xs, carry, mask, resets)
    keep = "f" if name == "lstm" else "z"
    for gate, values in gates.items():
        statistics = seen[gate]
        margin = 1 - np.abs(values) if gate in "gn" else np.minimum(values, 1 - values)
        near = np.mean(margin < 0.05, axis=0)
        assert 0 < near.mean() < 1  # The scale is such that some are and some are not.
        np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.saturated, near, rtol=1e-12)
        assert statistics.dead is None
        assert (statistics.timescale is None) == (gate != keep)
    kept = gates[keep]
    wanted = -1 / np.log(kept).mean(0)
    np.testing.assert_allclose(seen[keep].forgetting_time, wanted, rtol=1e-12)
    np.testing.assert_allclose(seen[keep].timescale, 1 / (1 - kept.mean(0)), rtol=1e-12)


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "rnn_identity", "rnn_callable"])
def test_the_gate_of_a_simple_network_is_its_state(name, rng, x64):
    cell = CASES[name].make(H)
    params, xs, carry = problem(cell, rng)
    lengths = np.array([6, 2, 0, 4], np.int32)
    seen = gate_statistics(cell, params, xs, carry, seq_lengths=lengths)["h"]
    valid = np.arange(T)[:, None] < lengths
    values = np.asarray(lj.unroll(cell, params, xs, carry)[1])[valid]
    np.testing.assert_allclose(seen.mean, values.mean(0), rtol=1e-12)
    if name == "rnn_tanh":
        wanted = np.mean(1 - np.abs(values) < 0.05, axis=0)
        np.testing.assert_allclose(seen.saturated, wanted, rtol=1e-12)
    else:
        assert seen.saturated is None
    assert (seen.dead is None) == (name != "rnn_relu")
    assert seen.timescale is None


def test_dead_units_are_those_that_never_fire(rng):
    cell = lj.RNN(3, "relu")
    params = {
        "w_hh": jnp.zeros((3, 3)),
        "w_ih": jnp.zeros((D, 3)).at[0, 1].set(1.0),
        "b": jnp.array([-1.0, -1.0, 1.0]),
    }
    xs = jnp.zeros((T, B, D)).at[2, 3, 0].set(5.0)  # One input wakes unit 1 once.
    assert gate_statistics(cell, params, xs)["h"].dead.tolist() == [True, False, False]
    mask = jnp.ones((T, B), bool).at[2, 3].set(False)
    dead = gate_statistics(cell, params, xs, mask=mask)["h"].dead
    assert dead.tolist() == [True, True, False]


@pytest.mark.parametrize("make", [lj.LSTM, lj.GRU])
def test_times_of_a_constant_keep_gate(make):
    """b = 5 and no weights: f = 0.99331, 1/(1-f) = 149.41 steps (a table's value, and its kin)."""
    cell = make(2)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), 1))
    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    keep = cell.gate_names.index("f" if make is lj.LSTM else "z")
    params["b"] = params["b"].at[2 * keep : 2 * keep + 1].set(5.0)
    seen = gate_statistics(cell, params, jnp.zeros((7, 1)))[cell.gate_names[keep]]
    np.testing.assert_allclose(seen.timescale, [149.41, 2.0], rtol=1e-4)
    np.testing.assert_allclose(seen.forgetting_time, [148.91, 1 / np.log(2)], rtol=1e-4)
    np.testing.assert_allclose(seen.saturated, [1, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gates_work_in_every_dtype(dtype, rng):
    for make in (lj.LSTM, functools.partial(lj.GRU, reset_after=False)):
        cell = make(H, dtype=dtype, param_dtype=dtype)
        params = registry.cast(registry.random_params(cell, D, rng), dtype)
        xs = jnp.asarray(rng.standard_normal((T, B, D)), dtype)
        for statistics in gate_statistics(cell, params, xs).values():
            assert np.isfinite(np.asarray(statistics.mean, np.float32)).all()


@dataclasses.dataclass(frozen=True)
class Silent(lj.Cell):
    """A cell that says nothing of its gates."""

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(wx + u))


@dataclasses.dataclass(frozen=True)
class Spoken(lj.Cell):
    """A cell with a step of its own, and a gate z in it."""

    def step(self, params, carry, x):
        z = self.step_gates(params, carry, x)["z"]
        h = z * carry.h + (1 - z)
        return lj.State(h), h

    def step_gates(self, params, carry, x):
        return {"z": jax.nn.sigmoid(self.project(params, x))}


@dataclasses.dataclass(frozen=True)
class Rewritten(lj.LSTM):
    """A cell that has the gates of its base, and equations of its own."""

    def update(self, carry, wx, u):
        return super().update(carry, -wx, u)


@dataclasses.dataclass(frozen=True)
class Retold(Rewritten):
    """The same, with the gates to it."""

    def gates(self, carry, wx, u):
        return super().gates(carry, -wx, u)


def test_users_cells_are_asked_for_their_gates(rng):
    xs = jnp.asarray(rng.standard_normal((T, B, D)), jnp.float32)

    def params_of(cell):
        return registry.cast(registry.random_params(cell, D, rng), np.float32)

    assert set(gate_statistics(Retold(H), params_of(Retold(H)), xs)) == set("ifgo")
    for cell in (Silent(H), Rewritten(H), CASES["user_step"].make(H)):
        with pytest.raises(ValueError, match=r"wanted a cell that says what its gates are; write"):
            gate_statistics(cell, params_of(cell), xs)
    cell = Spoken(H)
    params = params_of(cell)
    seen = gate_statistics(cell, params, xs)["z"]
    wanted = jax.nn.sigmoid(cell.project(params, xs)).mean((0, 1))
    np.testing.assert_allclose(seen.mean, wanted, rtol=1e-6)
    assert seen.timescale is not None


# ---- the recurrent matrix -----------------------------------------------------------------------
def test_radius_norm_and_normality_of_known_matrices(x64):
    c, s = np.cos(0.3), np.sin(0.3)
    turn = 0.8 * np.array([[c, -s], [s, c]])  # Eigenvalues 0.8 exp(+-0.3i), normal.
    shear = np.array([[0.5, 10.0], [0.0, 0.5]])  # Eigenvalues 0.5, far from normal.
    w = jnp.asarray(np.stack([turn, shear]))
    radius = jax.jit(diagnostics.spectral_radius)(w)
    np.testing.assert_allclose(radius, [0.8, 0.5], rtol=1e-7)
    top = np.sqrt((100.5 + np.sqrt(100.5**2 - 4 * 0.0625)) / 2)
    np.testing.assert_allclose(jax.jit(diagnostics.spectral_norm)(w), [0.8, top], rtol=1e-12)
    wanted = [0, np.sqrt(100 / 100.5)]
    np.testing.assert_allclose(jax.jit(diagnostics.henrici)(w), wanted, atol=1e-7)
    one_by_one = jax.jit(jax.vmap(diagnostics.spectral_radius))(w)
    np.testing.assert_array_equal(one_by_one, radius)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_radius_is_that_of_numpy(dtype, rng):
    w = jnp.asarray(rng.standard_normal((30, 30)).astype(np.float32)).astype(dtype)
    wanted = np.abs(np.linalg.eigvals(np.asarray(w, np.float64))).max()
    seen = diagnostics.spectral_radius(w)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, wanted, rtol=1e-6)
    norm = np.linalg.norm(np.asarray(w, np.float64), 2)
    np.testing.assert_allclose(diagnostics.spectral_norm(w), norm, rtol=1e-5)
    assert 0 < diagnostics.henrici(w) < 1


def test_a_diverged_matrix_is_nan_and_no_error():
    w = jnp.stack([jnp.eye(3), jnp.eye(3).at[0, 0].set(jnp.nan), jnp.full((3, 3), jnp.inf)])
    np.testing.assert_array_equal(diagnostics.spectral_radius(w), [1, np.nan, np.nan])


@registry.cells(["rnn_tanh", "lstm", "gru"])
def test_one_radius_a_gate(case):
    """Orthogonal blocks, each drawn by itself and then scaled by its place."""
    cell = case.make(H)
    params = cell.init(jax.random.key(0), D)
    scale = jnp.repeat(jnp.arange(1.0, 1 + len(cell.gate_names)), H)[None]
    blocks = diagnostics.gate_blocks(cell, params | {"w_hh": params["w_hh"] * scale})
    radii = jax.tree.map(diagnostics.spectral_radius, blocks)
    assert list(radii) == sorted(cell.gate_names)
    for place, name in enumerate(cell.gate_names):
        np.testing.assert_allclose(radii[name], 1 + place, rtol=1e-5)


def test_matrix_errors_name_the_remedy():
    cell = lj.LSTM(H)
    params = cell.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match=r"w: got shape \(5, 20\), wanted .*gate_blocks"):
        diagnostics.spectral_radius(params["w_hh"])
    with pytest.raises(ValueError, match=r"params: got only \['b'\], wanted w_hh"):
        diagnostics.gate_blocks(cell, {"b": params["b"]})
    with pytest.raises(ValueError, match=r"params: got w_hh of shape \(5, 20\)"):
        diagnostics.gate_blocks(lj.GRU(H), params)
