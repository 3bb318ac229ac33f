"""The studies of clipping: the temporal order problem (S3) and chaotic targets (S16)."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import charts, diagnostics
from lstm_jax._cells.lstm import LSTM
from lstm_jax._layers import Readout
from lstm_jax.studies.provenance import to_json
from lstm_jax.studies.record import Setting
from lstm_jax.studies.s03_clipping import regimes
from lstm_jax.studies.s03_clipping import study as clipping
from lstm_jax.studies.s16_chaotic import forcing, lorenz
from lstm_jax.studies.s16_chaotic import probes as chaotic_probes
from lstm_jax.studies.s16_chaotic import study as chaotic


# ---- S3 ------------------------------------------------------------------------------------------
def test_updates_until_the_task_is_solved():
    wrong = np.ones((2, 1000))
    wrong[0, 300:] = 0.0
    solved = clipping.solved_after(wrong, 500)
    # Of 500 updates in a row fewer than 5 must be wrong: the first such end at update 796.
    np.testing.assert_array_equal(solved, [796, np.inf])


def test_the_spectral_radius_at_solving():
    radii, probed = np.array([[1.0, 2.0, 3.0]] * 3), np.array([0, 50, 100])
    np.testing.assert_array_equal(
        clipping._at(radii, probed, np.array([50, 51, np.inf])), [2.0, 3.0, 3.0]
    )


@pytest.mark.parametrize("start", regimes.STARTS)
def test_the_starts_are_those_of_the_paper(start):
    net = regimes.network(regimes.STARTS[start].activation, 60, 4)
    drawn = regimes.start(net, jax.random.key(0), 6, regimes.STARTS[start]._asdict())
    w_hh, std = drawn["inner"]["w_hh"], regimes.STARTS[start].std
    for w in (drawn["w"], drawn["inner"]["w_ih"], *([] if "smart" in start else [w_hh])):
        np.testing.assert_allclose(np.std(w), std, rtol=0.2)
    if "smart" in start:
        np.testing.assert_array_equal(np.count_nonzero(w_hh, axis=0), 15)
        np.testing.assert_allclose(diagnostics.spectral_radius(w_hh), 0.95, rtol=1e-5)


# ---- S16 -----------------------------------------------------------------------------------------
def test_the_lorenz_system_contracts_volumes_as_it_must():
    """ln |det| of a step is DT times the divergence of the flow, -(10 + 1 + 8/3), everywhere."""
    system = lorenz.Lorenz()
    carry, x = lorenz.State(jnp.array([1.0, -4.0, 20.0])), jnp.zeros(1)
    jacobian = diagnostics.step_jacobian(system, system.classical(), carry, x)
    found = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    np.testing.assert_allclose(found, -41 / 3 * lorenz.DT, rtol=1e-4)


def test_the_divergence_of_histograms():
    rng = np.random.default_rng(0)
    truth, other = rng.normal(size=(2, 5000, 3))
    assert lorenz.divergence(truth, truth) == 0
    assert 0 < lorenz.divergence(truth, other) < lorenz.divergence(truth, other * 0.1)
    assert lorenz.divergence(truth, np.full((10, 3), np.nan)) == math.inf


def test_forcing_shows_the_data_and_cuts_the_sequence():
    net = Readout(LSTM(5), 3, bias=False)
    params = net.init(jax.random.key(0), 1)
    states = jax.random.normal(jax.random.key(1), (11, 2, 3))
    carry = forcing.forced(net, params, states[0])
    np.testing.assert_allclose(carry.h @ params["w"], states[0], atol=1e-5)
    assert not carry.c.any()
    parts = [forcing.loss(net, params, part, 5) for part in (states[:6], states[5:])]
    forced = forcing.loss(net, params, states, 5)
    np.testing.assert_allclose(forced, np.mean(parts), rtol=1e-5)
    assert abs(forced - forcing.loss(net, params, states, 10)) > 1e-4


def test_windows_are_pieces_of_the_trajectories():
    data = np.arange(700.0)[:, None, None] + np.array([0.0, 1e4])[:, None] + np.zeros(3)
    drawn = np.asarray(forcing.windows(jnp.asarray(data), jax.random.key(0), 50))
    assert drawn.shape == (forcing.LENGTH + 1, 50, 3)
    np.testing.assert_array_equal(np.diff(drawn, axis=0), 1.0)
    assert set(drawn[0, :, 0] // 1e4) == {0.0, 1.0}


# ---- both, whole and tiny ------------------------------------------------------------------------
@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(clipping.SIZES, "ci", regimes.Sizes(10, 12, 16, 60, 0.5))
    for scale, networks in (("ci", (forcing.GOOD,)), ("cpu", (*forcing.FORCED, forcing.CLIPPED))):
        monkeypatch.setitem(chaotic.SIZES, scale, forcing.Sizes(networks, 8, 4, 1, 1e-3))
    monkeypatch.setattr(chaotic, "DATA", (2, 700))
    monkeypatch.setattr(chaotic_probes, "PROBED", 2)
    monkeypatch.setattr(chaotic_probes, "FREE", (2, 10, 450))
    monkeypatch.setattr(chaotic_probes, "EXPONENTS", (100, 400))


@pytest.mark.parametrize(
    ("study", "scale"),
    [
        pytest.param(clipping.STUDY, "ci", id="S3", marks=pytest.mark.grid),
        pytest.param(chaotic.STUDY, "ci", id="S16", marks=pytest.mark.grid),
        pytest.param(chaotic.STUDY, "cpu", id="S16 of four networks", marks=pytest.mark.slow),
    ],
)
def test_a_tiny_run(study, scale, tiny):
    found = study.run(Setting(scale, (0, 1, 2)))
    judged = study.judge(found, scale)
    wanted = {anchor.id for anchor in study.anchors if scale in anchor.scales}
    assert wanted <= {each["id"] for each in judged if each["measured"] is not None}
    assert all(len(values) == 3 for values in (found.measured | found.notes).values())
    for chart in study.draw(json.loads(json.dumps(to_json(found.data)))):
        assert chart.seen and len(charts.table(chart).splitlines()) > 2
