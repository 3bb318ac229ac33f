"""The study's parts: verdicts follow the numbers, figures and report hold them."""

import copy
import json

import numpy as np
import pytest

from lstm_jax import cli, report
from lstm_jax.studies import claims, cliff, flow, study
from lstm_jax.studies.models import CELL_NAMES

pytestmark = pytest.mark.xdist_group("study")  # One process, so that the study runs once.
KEYS = {"config", "environment", "cells", "claims", "text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One run of the smallest study, on a text of its own."""
    out = tmp_path_factory.mktemp("study")
    text = out / "text.txt"
    words = ["gradient", "state", "time", "the", "of", "a", "vanishes", "explodes"]
    chosen = np.random.default_rng(0).choice(words, 12_000)
    text.write_text(" ".join(chosen), encoding="utf-8")
    arguments = ["study", "--quick", "--text", str(text), "--out", str(out / "report")]
    cli.main(arguments)
    return out / "report"


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "study.json").read_text())


def test_study_json_has_its_keys(results):
    assert set(results) >= KEYS
    assert set(results["cells"]) == set(CELL_NAMES)
    assert [claim["id"] for claim in results["claims"]] == list(range(1, 8))
    for claim in results["claims"]:
        assert set(claim) >= {"id", "statement", "measured", "verdict"}
        assert claim["verdict"] in {"supported", "refuted", "mixed"}
    assert results["environment"]["versions"]["jax"]


def test_every_cell_has_its_numbers(results):
    for cell in results["cells"].values():
        for problem in ("task", "text"):
            for when in ("before", "after"):
                measured = cell[problem][when]
                assert set(measured["slope"]) == set(measured["norms"])
                assert np.isfinite(measured["lyapunov"])
        assert 0 <= cell["task"]["clip_rate"] <= 1
        assert cell["task"]["baseline"] == pytest.approx(1 / 6)


def test_text_is_learned_below_its_order0_entropy(results):
    order0 = results["text"]["order0_bits_per_character"]
    assert results["cells"]["lstm"]["text"]["bits_per_character"] < 0.9 * order0


def test_report_is_one_file_with_every_figure(folder, results):
    html = (folder / "report.html").read_text()
    pictures = list(folder.glob("*.png"))
    assert html.count("data:image/png;base64,") == len(pictures) == 5 + len(results["claims"])
    assert "http://" not in html and "https://" not in html and 'src="data' in html
    assert html.index("Summary") < html.index("Learning") < html.index("Configuration")
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_verdicts_turn_with_the_numbers(results):
    def verdict_of(number, change):
        changed = copy.deepcopy(results)
        change(changed)
        judged = {claim["id"]: claim["verdict"] for claim in claims.judge(changed)}
        return judged[number]

    def grow(r):
        before = r["cells"]["rnn-tanh"]["task"]["before"]
        before["slope"]["h"] = 0.1

    def no_spread(r):
        for start in r["starts"]["tanh"].values():
            start["slope"] = -0.2

    def none_flatter(r):
        for run in r["penalties"].values():
            run["slope"] = -0.3

    def all_flatter(r):
        for name, run in r["penalties"].items():
            run["slope"] = -0.3 if name == "none" else -0.1

    def clipped_lost(r):
        r["cliff"]["clipped"]["share_off_the_minimum"] = [0.5, 0.5]

    def bias_does_nothing(r):
        for start in r["forget_biases"].values():
            start["slope"] = start["keep_slope"] = -0.3
        for name in ("lstm", "gru"):
            for leaf in ("h", "c"):
                r["cells"][name]["task"]["after"]["slope"][leaf] = -0.01
        r["cells"]["rnn-tanh"]["task"]["after"]["slope"]["h"] = -0.2

    def bias_contradicts_gates(r):
        bias_does_nothing(r)
        r["forget_biases"]["5"]["keep_slope"] = 0.0

    assert verdict_of(6, bias_does_nothing) == "supported"
    assert verdict_of(6, bias_contradicts_gates) == "mixed"
    assert verdict_of(1, grow) == "refuted"
    assert verdict_of(2, clipped_lost) == "mixed"
    assert verdict_of(3, no_spread) == "refuted"
    assert verdict_of(4, none_flatter) == "refuted"
    assert verdict_of(4, all_flatter) == "supported"


def test_a_study_of_one_cell_judges_what_it_can(results):
    changed = copy.deepcopy(results)
    changed["cells"] = {"gru": results["cells"]["gru"]}
    assert {claim["id"] for claim in claims.judge(changed)} == {2, 3, 4, 7}


def test_numbers_that_are_not_finite_become_null():
    value = {"a": np.array([1.0, np.nan]), "b": float("inf"), "c": (np.int32(3), True)}
    assert study.to_json(value) == {"a": [1.0, None], "b": None, "c": [3, True]}


def test_by_lag_is_the_geometric_mean_of_what_is_alive():
    norms = np.array([[0.0, 4.0], [1.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(flow.by_lag(norms), [np.nan, 2.0, 4.0])


def test_cliff_separates_clipped_from_unclipped():
    plain, clipped = (cliff.study()[name] for name in ("plain", "clipped"))
    assert np.all(plain["share_off_the_minimum"] > 0.5)
    assert np.all(clipped["share_off_the_minimum"] == 0.0)
    np.testing.assert_allclose(clipped["largest_step_median"], 0.05, rtol=1e-6)


def test_report_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"out: got .*file.*--out"):
        report.check_folder(tmp_path / "file" / "report")
