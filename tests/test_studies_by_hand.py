"""Studies with networks made by hand: their closed forms, and small runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax import diagnostics
from lstm_jax.charts import table
from lstm_jax.data import GroupWords
from lstm_jax.studies import s12_gru_bound, s17_clipping_speed, s22_forward_errors
from lstm_jax.studies.provenance import to_json
from lstm_jax.studies.record import Setting
from lstm_jax.studies.s21_state_tracking import reflections
from lstm_jax.studies.s21_state_tracking import study as state_tracking


# ---- S21, state tracking -------------------------------------------------------------------------
def test_a_unit_that_only_forgets_comes_to_a_standstill():
    np.testing.assert_allclose(reflections.standstill_in_theory(0.9), 142.6, atol=0.1)
    assert reflections.standstill(0.5, 60) == pytest.approx(24, abs=2)


@pytest.mark.parametrize("permutation", [[0, 1, 2], [1, 2, 0, 3], [3, 2, 1, 0], [1, 2, 3, 4, 0]])
def test_permutations_are_products_of_reflections(permutation):
    n = len(permutation)
    product = np.eye(n)
    for v in reflections.reflections(permutation):
        product = (np.eye(n) - 2 * np.outer(v, v)) @ product
    wanted = np.zeros((n, n))
    wanted[permutation, np.arange(n)] = 1
    np.testing.assert_allclose(product, wanted, atol=1e-12)


def test_states_are_tracked_by_hand():
    key = jax.random.key(0)
    assert reflections.parity_by_hand(key, 500, 4) == 1
    assert reflections.words_by_hand(key, GroupWords(100, group="A5"), 2) == 1


# ---- S22, errors propagated forwards -------------------------------------------------------------
def test_errors_run_both_ways(x64, rng):
    """Backwards they are the gradients that the diagnostics have, forwards the same."""
    cell = lj.RNN(3)  # Near the identity, so that rounding does not grow.
    w_ih, w_hh = (0.1 * jnp.asarray(rng.uniform(-1, 1, (n, 3))) for n in (2, 3))
    params = {"w_ih": w_ih, "w_hh": jnp.eye(3) + w_hh, "b": jnp.zeros(3)}
    xs, local = (jnp.asarray(rng.standard_normal((6, n))) for n in (2, 3))
    network = s22_forward_errors.of_network(cell, params, xs, cell.initial_carry(params), local)
    backward = s22_forward_errors.backward_errors(network)
    wanted = diagnostics.gradients_by_lag(cell, params, xs, lambda ys: jnp.sum(ys * local))
    np.testing.assert_allclose(backward, wanted.h, rtol=1e-10)
    forward = s22_forward_errors.forward_errors(network, s22_forward_errors.first_error(network))
    np.testing.assert_allclose(forward, backward, rtol=1e-6)


def test_an_imprecision_grows_by_the_factor_of_a_unit(x64):
    assert s22_forward_errors._growth_of_unit(0.9) == pytest.approx(-np.log(0.9), rel=1e-6)
    grown, quality = np.array([2.0, 4.0, 6.0]), np.array([1.0, 0.95, 0.1])
    assert s22_forward_errors._horizon(grown, quality) == 5.0
    assert s22_forward_errors._horizon(grown, np.ones(3)) == np.inf


# ---- S12, a spectral bound for the GRU -----------------------------------------------------------
def test_the_origin_of_a_gru_in_closed_form():
    one = np.eye(3)
    assert s12_gru_bound.transition(one) == pytest.approx(2.0, rel=1e-12)
    assert s12_gru_bound.transition(-one) == pytest.approx(6.0, rel=1e-12)
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])  # Eigenvalues i and -i: |1/2 + i s/4| = 1.
    assert s12_gru_bound.transition(turn) == pytest.approx(12**0.5, rel=1e-12)
    assert s12_gru_bound.exponent_in_theory(2 * one) == pytest.approx(0.0, abs=1e-12)


def test_the_jacobian_of_a_gru_at_the_origin(x64):
    w = s12_gru_bound._matrix("Gaussian", jax.random.key(0))
    assert np.linalg.norm(w, 2) == pytest.approx(1.0, rel=1e-12)
    found = s12_gru_bound._jacobian(w, jax.random.key(1))
    np.testing.assert_allclose(found, np.eye(len(w)) / 2 + np.asarray(w).T / 4, atol=1e-14)


# ---- S17, why clipping accelerates ---------------------------------------------------------------
def test_updates_of_descent():
    largest = 4 / np.sinh(4)  # A larger rate leaves [-4, 4] at the first update.
    assert s17_clipping_speed.updates_of_descent(4.0, 1.01 * largest) == np.inf
    assert 0 < s17_clipping_speed.updates_of_descent(4.0, 0.5 * largest) < 100
    assert s17_clipping_speed.updates_of_descent(4.0, 0.5, 4.0) == 3  # 4 to 2, to about 0.
    assert s17_clipping_speed._correlation(
        np.array([1.0, 2, 4, np.nan]), np.array([1.0, 4, 16, 1])
    ) == (pytest.approx(1.0))


# ---- tiny runs -----------------------------------------------------------------------------------
def shrunk(monkeypatch, name):
    """The study with sizes that take no time."""
    if name == "state_tracking":
        monkeypatch.setattr(state_tracking, "PARITY", {"ci": state_tracking.Sizes(4, 8, 2, 4, 4)})
        words = {"S3": state_tracking.Sizes(3, 6, 2, 4, 4)}
        monkeypatch.setattr(state_tracking, "WORDS", {"ci": words})
        monkeypatch.setattr(state_tracking, "BY_HAND", 20)
        monkeypatch.setattr(state_tracking, "OF_PARITY", {"signed MinGRU": "grazzi"})
        monkeypatch.setattr(state_tracking, "OF_WORDS", ("LSTM",))
    elif name == "forward_errors":
        monkeypatch.setattr(s22_forward_errors, "LENGTHS", {"ci": (32,)})
        monkeypatch.setattr(s22_forward_errors, "UNITS", {"ci": 2, "cpu": 3})
        monkeypatch.setattr(s22_forward_errors, "GROWN", np.array([2.0, 30.0, 60.0]))
        monkeypatch.setattr(s22_forward_errors, "CELLS", {"tanh RNN": lj.RNN})
    elif name == "gru_bound":
        monkeypatch.setattr(s12_gru_bound, "SIZES", {"ci": s12_gru_bound.Sizes(4, 3, 20)})
        monkeypatch.setattr(s12_gru_bound, "NORMS", np.array([1.0, 5.0]))
        monkeypatch.setattr(s12_gru_bound, "SIZE", 4)
        monkeypatch.setattr(s12_gru_bound, "STEPS", 300)
    else:
        monkeypatch.setattr(
            s17_clipping_speed, "SIZES", {"ci": s17_clipping_speed.Sizes(4, 2, 3, 25)}
        )
        monkeypatch.setattr(s17_clipping_speed, "CHARACTERS", 2000)
        monkeypatch.setattr(s17_clipping_speed, "DISTANCES", (6.0, 8.0))
    return STUDIES[name].STUDY


STUDIES = {
    "state_tracking": state_tracking,
    "forward_errors": s22_forward_errors,
    "gru_bound": s12_gru_bound,
    "clipping_speed": s17_clipping_speed,
}


@pytest.mark.grid
@pytest.mark.parametrize("name", STUDIES)
def test_a_tiny_run_answers_its_anchors_and_can_be_drawn(name, monkeypatch):
    study = shrunk(monkeypatch, name)
    findings = study.run(Setting("ci", (0, 1)))
    judged = study.judge(findings, "ci")
    assert all(
        len(values) == 2 for values in (*findings.measured.values(), *findings.notes.values())
    )
    assert any(anchor["measured"] is not None for anchor in judged)
    data = json.loads(json.dumps(to_json(findings.data)))
    charts = study.draw(data)
    assert len({chart.name for chart in charts}) == len(charts)
    assert all(chart.seen and len(table(chart).splitlines()) > 1 for chart in charts)
