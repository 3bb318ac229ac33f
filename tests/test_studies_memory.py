"""Studies of what a cell keeps: the forget gate, noise-padded inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.data import Reber
from lstm_jax.studies import s20_noise_padding
from lstm_jax.studies.record import Setting
from lstm_jax.studies.s07_forget_gate import reber_stream
from lstm_jax.studies.s07_forget_gate import study as forget_gate

KEY = jax.random.key(0)
TINY = {
    "S7": (forget_gate, forget_gate.Sizes(20, 10, 60)),
    "S20": (s20_noise_padding, s20_noise_padding.Sizes(10, 4, 5, 20)),
}


def test_strings_of_a_stream_start_after_an_end():
    """At each B that follows an E, which the string inside never has."""
    task = Reber(60)
    xs = task.sample(KEY, 20).xs
    symbols = np.asarray(xs.argmax(-1))
    first = np.zeros(symbols.shape, bool)
    first[1:] = (symbols[:-1] == 6) & (symbols[1:] == 0)
    assert first.sum() > 20
    np.testing.assert_array_equal(reber_stream.starts(task, xs), first)


def test_gates_around_the_last_symbols():
    """A gate that is the number of steps since the last symbol, in its own unit's multiples."""
    steps, last = 40, np.array([10, 25])
    since = np.arange(steps) - last[np.searchsorted(last, np.arange(steps) - 5).clip(max=1)]
    recall = np.isin(np.arange(steps), last - 2)[:, None]
    f = jnp.asarray(since[:, None, None] * np.array([1.0, 2.0]), jnp.float32)
    found = reber_stream.around_ends(f, jnp.asarray(recall))
    wanted = reber_stream.AROUND[:, None] * np.array([1.0, 2.0])
    np.testing.assert_allclose(found, wanted)


def test_no_direction_of_an_antisymmetric_step_vanishes():
    sizes = s20_noise_padding.SIZES["ci"]
    cell = s20_noise_padding._cells(sizes)[s20_noise_padding.PLAIN,]
    params = cell.init(KEY, 3)
    assert abs(s20_noise_padding.off_the_formula(cell, params)) < 1e-6
    grown = params | {"w_hh": 2 * params["w_hh"]}
    assert abs(s20_noise_padding.off_the_formula(cell, grown)) < 1e-6


@pytest.mark.grid
@pytest.mark.parametrize(
    "id",
    ["S7", pytest.param("S20", marks=pytest.mark.slow)],  # Its four networks compile long.
)
def test_a_study_measures_what_its_anchors_ask_for(id, monkeypatch):
    """A tiny run: every figure is drawn, numbers that a start alone gives are right."""
    module, sizes = TINY[id]
    monkeypatch.setitem(module.SIZES, "ci", sizes)
    findings = module.STUDY.run(Setting("ci", (0, 1, 2)))
    judged = {each["id"]: each for each in module.STUDY.judge(findings, "ci")}
    assert module.STUDY.id == id
    missing = {"bias 1", "bias"}  # Where nothing has learned nobody can tell.
    for name, each in judged.items():
        assert name in missing or len(each["measured"]) == 3
    for chart in module.STUDY.draw(findings.data):
        assert chart.title and chart.lines and "nan" not in chart.title


def test_a_run_that_has_diverged_is_drawn_and_said():
    """Its norms are null in JSON, NaN here."""
    norms = np.linspace(0.0, -5.0, 6) + np.zeros((3, 1))
    names = [s20_noise_padding.ZERO, s20_noise_padding.CHRONO, s20_noise_padding.PLAIN]
    nets = {name: {"after": norms} for name in names}
    nets[names[0]] = {"after": np.full((3, 6), np.nan)}
    chart = s20_noise_padding._by_lag(nets, "after", 5)
    assert "by a factor that is not finite with a forget bias of 0, by e^-4" in chart.title
