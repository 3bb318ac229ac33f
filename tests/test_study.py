"""The study's parts: verdicts follow the numbers, figures and report hold them."""

import dataclasses
import functools
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import studied

from lstm_jax import cli, report
from lstm_jax.comparison import claims, cliff, flow, study
from lstm_jax.comparison.settings import QUICK
from lstm_jax.studies import provenance
from lstm_jax.studies.cliff import descend

pytestmark = pytest.mark.xdist_group("study")  # One process, so that the study runs once.
CELLS = ("lstm",)
KEYS = {"config", "environment", "cells", "claims", "text"}
SMALL = dataclasses.replace(
    QUICK,
    task_length=12,
    task=dataclasses.replace(QUICK.task, hidden_size=6, steps=40),
    text=dataclasses.replace(QUICK.text, hidden_size=6, steps=20),
    penalised_length=6,
    penalised=dataclasses.replace(QUICK.penalised, hidden_size=6, steps=10),
    window=12,
    probe_batch=3,
    seeds=2,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """One run of a study that is smaller than a quick one, on a text of its own."""
    out = tmp_path_factory.mktemp("study")
    text = out / "text.txt"
    words = ["gradient", "state", "time", "the", "of", "a", "vanishes", "explodes"]
    chosen = np.random.default_rng(0).choice(words, 12_000)
    text.write_text(" ".join(chosen), encoding="utf-8")
    arguments = ["study", "--quick", "--text", str(text), "--out", str(out / "report")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "QUICK", SMALL)
        patch.setattr(cliff, "study", studied.cliff)  # It has a test of its own.
        cli.main([*arguments, "--seed", "7", "--cells", *CELLS])
    return out / "report"


@pytest.fixture(scope="session")
def results(folder):
    return json.loads((folder / "study.json").read_text())


@pytest.mark.grid
def test_study_json_has_its_keys(results):
    assert set(results) >= KEYS
    assert set(results["cells"]) == set(CELLS)
    assert results["config"]["seeds"] == [7, 8]
    assert [claim["id"] for claim in results["claims"]] == list(range(1, 8))
    for claim in results["claims"]:
        assert set(claim) >= {"id", "statement", "measured", "verdict", "sentence", "checks"}
        assert claim["verdict"] in {"holds", "refuted", "not tested"}
    assert results["environment"]["versions"]["jax"]


@pytest.mark.grid
def test_every_cell_has_its_numbers_for_each_seed(results):
    for cell in results["cells"].values():
        for problem in ("task", "text"):
            assert len(cell[problem]) == 2
            for run in cell[problem]:
                for when in ("before", "after"):
                    measured = run[when]
                    assert set(measured["slope"]) == set(measured["norms"])
                    assert np.isfinite(measured["lyapunov"])
        one, other = cell["task"]
        assert one["before"]["slope"]["h"] != other["before"]["slope"]["h"]
        assert 0 <= one["clip_rate"] <= 1
        assert one["baseline"] == pytest.approx(1 / 6)


@pytest.mark.grid
def test_report_is_one_file_with_every_figure(folder, results):
    html = (folder / "report.html").read_text()
    pictures = list(folder.glob("*.svg"))
    drawn = [claim["id"] for claim in results["claims"] if claim["checks"]]
    assert drawn == [2, 3, 4, 7] and len(pictures) == 6 + len(drawn)
    assert html.count("<figure>\n<h3>") == len(pictures)
    assert "http" not in html.replace("http://www.w3.org", "") and "<img" not in html
    assert html.index("Summary") < html.index("Learning") < html.index("Configuration")
    assert len(html) < 3e6 and not list(folder.glob("*.png"))
    for picture in pictures:
        svg, numbers = picture.read_text(), picture.with_suffix(".csv").read_text()
        assert ElementTree.fromstring(svg).get("aria-label") and "<text" in svg
        assert len(numbers.splitlines()) > 2
        assert all(f'href="{picture.stem}.{ending}"' in html for ending in ("csv", "svg"))


def test_verdicts_turn_with_the_numbers():
    def verdict_of(number, change):
        changed = studied.results()
        change(changed)
        return claims.judge(changed)[number - 1]["verdict"]

    def grow(r):
        r["cells"]["rnn-tanh"]["task"][1]["before"]["slope"]["h"] = 0.1

    def clipped_lost(r):
        r["cliff"]["clipped"]["share_off_the_minimum"] = [0.5, 0.5]

    def none_explodes(r):
        for run in r["starts"]:
            for start in run["tanh"].values():
                start["slope"] -= 1.0

    def none_flatter(r):
        for run in r["penalties"]:
            run["L2"]["slope"] = -0.3

    def bias_contradicts_gates(r):
        r["forget_biases"][2]["5"]["keep_slope"] = 0.1

    def gates_lose(r):
        r["cells"]["gru"]["text"][0]["after"]["slope"]["h"] = -0.3

    def one_diverges(r):
        r["cells"]["gru"]["text"][0]["bits_per_character"] = None

    assert [claim["verdict"] for claim in claims.judge(studied.results())] == 7 * ["holds"]
    assert verdict_of(1, grow) == "refuted"
    assert verdict_of(2, clipped_lost) == "refuted"
    assert verdict_of(3, none_explodes) == "refuted"
    assert verdict_of(4, none_flatter) == "refuted"
    assert verdict_of(6, bias_contradicts_gates) == "refuted"
    assert verdict_of(6, gates_lose) == "refuted"
    assert verdict_of(7, one_diverges) == "refuted"


def test_a_study_of_one_cell_says_what_the_others_need():
    judged = claims.judge(studied.results(cells=("gru",)))
    needs = {claim["id"]: claim["needs"] for claim in judged if claim["verdict"] == "not tested"}
    assert needs == {
        1: "--cells with rnn-tanh",
        5: "--cells with rnn-tanh rnn-relu",
        6: "--cells with rnn-tanh lstm",
    }


def test_numbers_that_are_not_finite_become_null():
    value = {"a": np.array([1.0, np.nan]), "b": float("inf"), "c": (np.int32(3), True)}
    assert provenance.to_json(value) == {"a": [1.0, None], "b": None, "c": [3, True]}


def test_by_lag_is_the_geometric_mean_of_what_is_alive():
    with np.errstate(divide="ignore"):
        logs = np.log(np.array([[0.0, 4.0], [1.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(flow.by_lag(logs), [np.nan, 2.0, 4.0])


@pytest.mark.grid
def test_cliff_separates_clipped_from_unclipped(monkeypatch):
    """Of the study's 2000 steps the first 800, after which every clipped descent has arrived."""
    monkeypatch.setattr(cliff, "descend", functools.partial(descend, steps=800))
    plain, clipped = (cliff.study()[name] for name in ("plain", "clipped"))
    assert np.all(plain["share_off_the_minimum"] > 0.5)
    assert np.all(clipped["share_off_the_minimum"] == 0.0)
    np.testing.assert_allclose(clipped["largest_step_median"], 0.05, rtol=1e-6)


def test_report_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"out: got .*file.*, wanted a folder .*; name another"):
        report.write({}, tmp_path / "file" / "report")
