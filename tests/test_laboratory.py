"""The laboratory: verdicts follow the numbers, a run resumes, pages hold what was found."""

import csv
import dataclasses
import html
import io
import json
import math
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import verdicts
from lstm_jax import _files, charts, cli, pages
from lstm_jax._commands import laboratory as command
from lstm_jax.comparison import jobs
from lstm_jax.plots import lines as drawn
from lstm_jax.plots import spark, theme
from lstm_jax.studies import (
    glossary,
    laboratory,
    means,
    record,
    s04_cliff_descent,
    s09_chrono,
    s19_memory,
    table,
)
from lstm_jax.studies.record import Anchor, Findings, Study


def anchor(kind="absolute", tolerance=0.1, published=1.0, provenance="C", **others):
    source = others.pop("source", "a formula")
    return Anchor("x", "a number", published, provenance, kind, tolerance, source, **others)


# ---- verdicts ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "tolerance", "inside", "outside"),
    [
        ("absolute", 0.1, [1.05, 0.92], [1.2, 0.8, math.nan, math.inf]),
        ("relative", 0.1, [2.1, 1.9], [2.3, 1.7]),
        ("factor", 2.0, [1.1, 3.9], [0.9, 4.1, -2.0, math.nan]),
        ("above", 0.5, [0.6, math.inf], [0.5, 0.4, math.nan]),
        ("below", 0.5, [0.4, -math.inf], [0.5, 0.6, math.nan]),
    ],
)
def test_kinds(kind, tolerance, inside, outside):
    published = 1.0 if kind == "absolute" else 2.0
    judged = anchor(kind, tolerance, published)
    assert all(judged.accepts(value) for value in inside)
    assert not any(judged.accepts(value) for value in outside)


def test_a_verdict_is_over_all_seeds():
    assert anchor().judge([1.0, 1.05, 0.95], "ci") == ("HOLDS", "3 of 3 seeds")
    assert anchor().judge([1.0, 1.05, 1.5], "ci") == ("MISSES", "2 of 3 seeds")
    assert anchor(median=True).judge([1.0, 1.05, 9.0], "ci") == ("HOLDS", "median 1.05")
    assert anchor(median=True).judge([1.0, 3.0, 9.0], "ci")[0] == "MISSES"
    assert anchor(median=True).judge([1.0, 1.0, math.nan], "ci")[0] == "MISSES"


def test_what_cannot_be_told_is_unverified():
    good = [1.0, 1.0, 1.0]
    for provenance in "SM":
        assert anchor(provenance=provenance).judge(good, "ci")[0] == "UNVERIFIED"
    assert anchor().judge(good[:2], "ci") == ("UNVERIFIED", "needs 3 seeds")
    assert anchor().judge(None, "ci")[0] == "UNVERIFIED"
    larger = anchor(scales=("cpu", "gpu"))
    assert larger.judge(good, "ci") == ("UNVERIFIED", "needs --scale cpu")
    assert larger.judge(good, "gpu")[0] == "HOLDS"


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [
        (["HOLDS", "MISSES", "UNVERIFIED"], "MISSES"),
        (["HOLDS", "UNVERIFIED"], "HOLDS"),
        (["UNVERIFIED"], "UNVERIFIED"),
        ([], "UNVERIFIED"),
    ],
)
def test_the_verdict_of_a_study(verdicts, wanted):
    assert record.verdict_of_study([{"verdict": v} for v in verdicts]) == wanted


def test_a_number_that_no_anchor_asks_for_is_an_error():
    with pytest.raises(KeyError, match="measured"):
        small().judge(Findings({"y": [1.0] * 3}, {}), "ci")


# ---- the table -----------------------------------------------------------------------------------
def test_the_catalogue_is_complete():
    """S1 to S22, each once."""
    assert not table.STUDIES.keys() & table.NOT_BUILT.keys()
    assert table.STUDIES.keys() | table.NOT_BUILT.keys() == {f"S{n}" for n in range(1, 23)}


@pytest.mark.parametrize("study", table.STUDIES.values(), ids=table.STUDIES)
def test_a_record_is_consistent(study):
    assert table.STUDIES[study.id] is study
    ids = [anchor.id for anchor in study.anchors]
    quantities = [anchor.quantity for anchor in study.anchors]
    assert ids and len(set(ids)) == len(ids) and len(set(quantities)) == len(ids)
    for each in study.anchors:
        assert set(each.scales) <= set(record.SCALES) and each.source and each.wanted
        if each.kind in ("absolute", "relative", "factor"):
            assert each.published is not None and each.tolerance > 0
            assert each.accepts(each.published)


# ---- closed forms --------------------------------------------------------------------------------
def test_the_curse_of_memory_in_closed_form():
    for decay, wanted in ((0.5, 2.963), (0.9, 263.9), (0.99, 2.513e5), (0.999, 2.501e8)):
        np.testing.assert_allclose(s19_memory.curvature(decay), wanted, rtol=1e-3)
    reparametrised = s19_memory.curvature_of_log(np.array([0.5, 0.9, 0.99, 0.9999]))
    assert np.all(np.diff(reparametrised) > 0) and reparametrised[-1] == pytest.approx(0.25, 1e-3)


def test_the_wall_in_closed_form():
    np.testing.assert_allclose(s04_cliff_descent.wall(5.0), [-2.612297, 779.4], rtol=1e-4)
    np.testing.assert_allclose(s04_cliff_descent.wall(6.0), [-3.234756, 3.029e6], rtol=2e-4)


def test_the_path_along_the_carry_decays_as_the_forget_gate():
    np.testing.assert_allclose(s09_chrono._slope(1.0), np.log(1 / (1 + np.exp(-1.0))), atol=1e-5)


def test_means_over_updates():
    losses = np.concatenate([np.ones(100), np.zeros(100)])[None]
    running = means.running_means(losses, 50)
    assert running.shape == (1, 151)
    np.testing.assert_allclose(running[0, [0, 75, 150]], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(means.window_means(losses, 80), [[1.0, 0.25]])


# ---- charts --------------------------------------------------------------------------------------
def chart():
    values = [[1.0, 2.0, None], [3.0, 4.0, None]]
    lines = [charts.line("a", [0, 1, 2], values), charts.line("b", [0, 1], [1, 2], theory=True)]
    return charts.Chart("small", "It rises", "x", "y", lines, "A caption.")


def test_a_table_has_every_number():
    rows = list(csv.reader(io.StringIO(charts.table(chart()))))
    assert rows[0] == ["line", "x", "y, run 1", "y, run 2"]
    assert rows[1:4] == [["a", "0", "1", "3"], ["a", "1", "2", "4"], ["a", "2", "nan", "nan"]]
    assert rows[4] == ["b", "0", "1"]


def test_a_chart_in_words():
    assert (
        chart().seen == "It rises. Lines of y against x. a: 2 at 0 to 3 at 1. b: 1 at 0 to 2 at 1."
    )


def test_a_peak_that_stands_out_is_marked_and_said():
    values = [[1.0, 2.0, 900.0, 2.0, 1.0]] * 3
    wall = dataclasses.replace(chart(), lines=[charts.line("wall", range(5), values)], log_y=True)
    assert [mark.text for mark in wall.marks[0]] == ["peak 900 at 2"]
    assert wall.seen.endswith("wall: 1 at 0 to 1 at 4, peak 900 at 2.")
    slope = charts.line("slope", range(5), [900.0, 30.0, 35.0, 5.0, 1.0])
    assert dataclasses.replace(wall, lines=[slope]).marks == [[]]  # Its highest is at its end.
    bump = charts.line("bump", range(5), [1.0, 2.0, 1.0, 1.0, 1.0])
    assert dataclasses.replace(wall, lines=[*wall.lines, bump]).marks[1] == []  # A small one.


def draw(chart):
    """(the axes of a chart, what lies beyond them)."""
    with matplotlib.rc_context(theme.THEME):
        figure = Figure(figsize=theme.SIZE, layout="constrained")
        beyond = drawn.draw_lines(figure, chart, "")
        figure.draw_without_rendering()
    return figure.axes[0], beyond


def test_what_a_seed_reaches_beyond_the_axis_is_cut_and_says_its_value():
    """The medians, which are the finding, are never cut."""
    rows = np.ones((3, 60)) + np.linspace(0, 1, 60)
    rows[1, 30] = 4e6
    alone = dataclasses.replace(chart(), lines=[charts.line("a", range(60), rows)])
    assert draw(alone)[1] == ["peak 4e+06"]
    rows[:, 30] = 4e6
    every = dataclasses.replace(chart(), lines=[charts.line("a", range(60), rows)])
    assert draw(every)[1] == [] and every.marks[0][0].text == "peak 4e+06 at 30"


def test_long_names_of_axes_are_not_cut():
    name = "the forgetting of the fastest unit over the whole sequence, T |ln l|, " * 2 + "in nats"
    axes, _ = draw(dataclasses.replace(chart(), x=name, y=name))
    figure = axes.get_figure()
    for text in (axes.xaxis.label, axes._left_title, axes.title):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_a_colour_and_a_dash_have_one_meaning():
    """A cell has its colour in every study; before training is dashed, a formula dotted."""
    lines = [
        charts.line("before learning", [0, 1], [1, 2], untrained=True),
        charts.line("GRU", [0, 1], [1, 2]),
        charts.line("LSTM, chrono", [0, 1], [1, 2]),
        charts.line("formula", [0, 1], [1, 2], theory=True),
    ]
    styles = drawn.styles(dataclasses.replace(chart(), lines=lines))
    assert [style["ls"] for style in styles] == ["--", "-", "-", ":"]
    assert styles[1]["color"] == theme.COLORS["GRU"] and styles[2]["color"] == theme.COLORS["LSTM"]
    assert not set(theme.PALETTE) & set(theme.COLORS.values())
    sparkline = spark(dataclasses.replace(chart(), lines=lines))
    assert sparkline.count("<path") == 3 and theme.COLORS["LSTM"] in sparkline


# ---- running -------------------------------------------------------------------------------------
CALLS = []


def small():
    """A study that takes no time, and counts its runs."""

    def run(setting):
        CALLS.append(setting)
        part = setting.path("sweep")
        np.savez(part, x=np.zeros(1))
        return Findings(
            {"x": [float(jnp.ones(())) + seed / 100 for seed in setting.seeds]},
            {"curve": np.array([[1.0, np.nan, 3.0]] * len(setting.seeds))},
            {"something <else>": [2.0, 2.0, np.inf]},
        )

    def draw(data):
        lines = [charts.line("curve", [0, 1, 2], data["curve"])]
        return [charts.Chart("curve", "It <rises>", "x", "y", lines)]

    return Study("S1", "A small study", "What is x?", (anchor(),), run, draw)


@pytest.fixture
def one_study(monkeypatch):
    CALLS.clear()
    study = small()
    monkeypatch.setitem(table.STUDIES, "S1", study)
    monkeypatch.delitem(table.NOT_BUILT, "S1")
    return study


def test_from_the_command_to_the_page(one_study, tmp_path, capsys):
    out = tmp_path / "lab"
    arguments = ["study", "S1", "--scale", "ci", "--out", str(out), "--seed", "3"]
    cli.main(arguments)
    said = capsys.readouterr().out
    assert "S1   HOLDS       A small study" in said and "1.03, 1.04, 1.05" in said
    names = {path.name for path in out.iterdir()}
    assert names == {"S1.json", "S1.html", "S1-curve.svg", "S1-curve.csv", "index.html"}
    result = json.loads((out / "S1.json").read_text())
    assert result["seeds"] == [3, 4, 5] and result["scale"] == "ci"
    assert result["environment"]["versions"]["jax"] and result["environment"]["command"]
    assert result["anchors"][0]["measured"] == [1.03, 1.04, 1.05]
    page, index = ((out / name).read_text() for name in ("S1.html", "index.html"))
    assert "It &lt;rises&gt;" in page and (out / "S1-curve.svg").read_text().strip() in page
    assert "not finite" in page and "a formula" in page and "HOLDS" in index
    assert all(html.escape(title) in index for title in table.NOT_BUILT.values())
    for text in (page, index):
        assert "http" not in text.replace("http://www.w3.org", "")
    assert 'class="spark"' in index and "<span>It &lt;rises&gt;</span>" in index
    files = {name: (out / name).read_bytes() for name in names}
    cli.main(arguments)
    assert len(CALLS) == 1
    assert {name: (out / name).read_bytes() for name in names} == files


def test_a_page_explains_its_words_and_no_others(one_study, tmp_path):
    asks = dataclasses.replace(one_study, question="At which lag does dL/dc vanish?")
    result = laboratory.complete(asks, "ci", (0, 1, 2), tmp_path)
    page = pages.write_study(asks, result, tmp_path).read_text()
    for names, meaning in glossary.TERMS:
        assert (html.escape(meaning) in page) == bool(names.keys() & {"lag", "c", "dL/dc"})
    assert "<dt>dL/dc</dt>" in page


def test_words_are_explained_by_the_names_that_occur():
    said = "The gradient is steep; clipping keeps the forget gate's b_f where perplexity is low."
    assert list(glossary.explained([said])) == [
        "forget gate, b_f",
        "gradient",
        "clipping",
        "perplexity",
    ]


def test_choices_of_an_option_are_what_can_be_typed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["study", "S9", "--scale", "big"])
    said = capsys.readouterr().err
    assert "gpu" in said and "None" not in said


def test_ids_are_found_in_small_letters_too():
    assert command.find(["s9", "S19"]) == [table.STUDIES["S9"], table.STUDIES["S19"]]


def test_the_index_begins_with_the_comparison_of_cells(tmp_path):
    claims = [{"verdict": v} for v in ("holds", "holds", "not tested")]
    found = {"claims": claims, "config": {"seeds": [7, 8]}}
    for content, seen in (("no JSON", False), (json.dumps(found), True)):
        (tmp_path / "study.json").write_text(content)
        page = pages.write_index({}, [], {}, tmp_path).read_text()
        assert ('href="report.html"' in page) == seen
    assert "Of its 3 claims 2 hold, 1 not tested (seeds 7, 8)." in page
    assert "Not built" not in page


def test_the_index_names_the_command_that_fills_a_row(one_study, tmp_path):
    result = laboratory.complete(one_study, "ci", (3, 4, 5), tmp_path)
    page = pages.write_index(table.STUDIES, [result], {}, tmp_path).read_text()
    assert f"lstm-jax study S9 --scale ci --seed 3 --out {tmp_path}<" in page
    assert f"lstm-jax study S9 --out {tmp_path}<" in (
        pages.write_index(table.STUDIES, [], {}, tmp_path).read_text()
    )


def test_an_index_lists_a_file_of_older_code(one_study, tmp_path):
    """It may lack what today's figures are drawn from."""
    result = laboratory.complete(one_study, "ci", (0, 1, 2), tmp_path) | {"data": {"old": 1}}
    pages.write_index(table.STUDIES, [result], table.NOT_BUILT, tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert 'href="S1.html"' in index and 'class="spark"' not in index


def test_a_file_that_lacks_a_part_is_no_studys(one_study, tmp_path):
    """It ended the command, and the index of all other studies with it, with a KeyError."""
    whole = laboratory.complete(one_study, "ci", (0, 1, 2), tmp_path)
    parts = ["scale", "seeds", "verdict", "environment", "anchors", "title", "data"]
    broken = [{name: whole[name] for name in whole if name != part} for part in parts]
    broken += [whole | {"anchors": [{}]}, whole | {"environment": None}, [whole], None]
    for each in broken:
        (tmp_path / "S1.json").write_text(json.dumps(each))
        assert laboratory.read_all(tmp_path, ["S1"]) == []
        with pytest.raises(ValueError, match="out: got .*S1.json', which exists, of no study"):
            laboratory.check_free(one_study, "ci", (0, 1, 2), tmp_path, "out")
    command.list_all(tmp_path)
    assert 'href="S1.html"' not in (tmp_path / "index.html").read_text()


def test_another_run_replaces_no_file(one_study, tmp_path, capsys):
    arguments = ["study", "S1", "--out", str(tmp_path)]
    cli.main([*arguments, "--scale", "ci"])
    for others, seen in ((["--scale", "cpu"], "of scale ci"), (["--seed", "1"], "of scale cpu")):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments, *others])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert "--out: got" in error and seen in error and "--overwrite" in error
        cli.main([*arguments, *others, "--overwrite"])
    assert [call.scale for call in CALLS] == ["ci", "cpu", "cpu"]


def test_what_an_interrupted_study_leaves_is_found_again(one_study, tmp_path):
    """Its sweeps' files have the same names, which are those of no other run."""

    def stop(setting):
        stopped.append(setting.path("sweep"))
        raise KeyboardInterrupt

    stopped, broken = [], dataclasses.replace(one_study, run=stop)
    for seeds in ((0, 1, 2), (0, 1, 2), (1, 2, 3)):
        with pytest.raises(KeyboardInterrupt):
            laboratory.complete(broken, "ci", seeds, tmp_path)
    assert stopped[0] == stopped[1] != stopped[2]
    laboratory.complete(one_study, "ci", (0, 1, 2), tmp_path)
    assert CALLS[0].path("sweep").name == stopped[0].name


# ---- two processes in one folder -----------------------------------------------------------------
@pytest.fixture
def two_studies(one_study, monkeypatch):
    """S1 and S2; a test puts what S1 does meanwhile into the list that it gets."""
    meanwhile = []

    def run(setting):
        found = one_study.run(setting)
        for act in meanwhile:
            act()
        return found

    monkeypatch.setitem(table.STUDIES, "S1", dataclasses.replace(one_study, run=run))
    monkeypatch.setitem(table.STUDIES, "S2", dataclasses.replace(one_study, id="S2"))
    monkeypatch.delitem(table.NOT_BUILT, "S2")
    return meanwhile


def lab(*ids, out, scale="ci"):
    cli.main(["study", *ids, "--scale", scale, "--out", str(out)])


def test_the_same_study_is_not_run_twice_at_once(two_studies, tmp_path, capsys):
    """What the second would replace without being asked to is the first's result."""

    def second():
        with pytest.raises(SystemExit) as stopped:
            lab("S2", "S1", out=tmp_path, scale="cpu")
        codes.append(stopped.value.code)

    codes = []
    two_studies.append(second)
    lab("S1", out=tmp_path)
    error = capsys.readouterr().err
    assert codes == [2] and "--out: got" in error and "another process is at work on S1" in error
    assert json.loads((tmp_path / "S1.json").read_text())["scale"] == "ci"
    assert not (tmp_path / "S2.json").exists() and not list(tmp_path.glob(".*"))
    lab("S2", out=tmp_path, scale="cpu")  # The folder is free again.


def test_different_studies_run_at_once_and_keep_their_parts(two_studies, tmp_path):
    """Neither takes the other's interrupted sweeps with it; nor does the comparison of cells."""

    def second():
        (part,) = tmp_path.glob("S1-parts/*.npz")
        lab("S2", out=tmp_path)
        jobs.Parts(tmp_path / jobs.FOLDER).clear()
        assert part.exists()

    two_studies.append(second)
    lab("S1", out=tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert 'href="S1.html"' in index and 'href="S2.html"' in index
    assert not list(tmp_path.glob("*parts*")) and not list(tmp_path.glob(".*"))


def test_studies_run_at_once_in_one_command(two_studies, tmp_path, capsys, monkeypatch):
    """Here in threads, which share what a test replaces."""
    met = threading.Barrier(2, timeout=60)
    two_studies.append(met.wait)
    changed = dataclasses.replace(table.STUDIES["S1"], id="S2")
    monkeypatch.setitem(table.STUDIES, "S2", changed)
    monkeypatch.setattr(command, "_workers", ThreadPoolExecutor)
    cli.main(["study", "S1", "S2", "--scale", "ci", "--jobs", "2", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "S1   HOLDS" in said and "S2   HOLDS" in said
    index = (tmp_path / "index.html").read_text()
    assert 'href="S1.html"' in index and 'href="S2.html"' in index


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_bar_names_the_studies_that_run(jobs, monkeypatch):
    monkeypatch.setattr(command, "_workers", ThreadPoolExecutor)
    said = []
    found = list(command._results(["S1", "S2", "S3"], str.lower, jobs, said.append))
    assert sorted(found) == ["s1", "s2", "s3"]
    if jobs == 1:
        assert said == ["S1", "S2", "S3"]
    else:
        assert said[0] == "S1 S2" and said[-1] == "" and len(said) == 4


def test_a_study_that_fails_ends_the_command(two_studies, tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("a study failed")

    two_studies.append(fail)
    monkeypatch.setattr(command, "_workers", ThreadPoolExecutor)
    with pytest.raises(RuntimeError, match="a study failed"):
        cli.main(["study", "S1", "S2", "--scale", "ci", "--jobs", "2", "--out", str(tmp_path)])
    assert not list(tmp_path.glob(".*"))


def test_processes_can_be_given_a_study():
    with command._workers(1) as pool:
        assert pool.submit(command.find, ["S9"]).exception() is None


def test_an_index_is_written_by_one_process_after_the_other(two_studies, tmp_path, monkeypatch):
    """One that was read before the other's study ended would not list that."""
    read_all = laboratory.read_all
    other = threading.Thread(target=lambda: lab("S2", out=tmp_path))

    def read_late(*arguments):
        found = read_all(*arguments)
        if other.ident is None:
            other.start()
            other.join(0.5)  # With a lock it ends after this one.
        return found

    monkeypatch.setattr(laboratory, "read_all", read_late)
    lab("S1", out=tmp_path)
    other.join()
    index = (tmp_path / "index.html").read_text()
    assert 'href="S1.html"' in index and 'href="S2.html"' in index


def test_the_comparison_of_cells_has_its_folder_for_itself(tmp_path, capsys):
    with _files.locked(tmp_path, "report"), pytest.raises(SystemExit) as stopped:
        cli.main(["study", "--quick", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--out: got" in (error := capsys.readouterr().err) and "at work on report" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["S99"], ["IDS: got 'S99'", "S9, S10", "--list"]),
        *([[id], [f"IDS: got {id!r}", "not built"]] for id in list(table.NOT_BUILT)[:1]),
        (["S9", "S9"], ["IDS: got S9 twice"]),
        (["all", "S9"], ["IDS: got 'all'"]),
        (["S9", "--quick"], ["--quick: got it beside S9, wanted it only without IDS; leave it"]),
        (["s9", "S9"], ["IDS: got S9 twice"]),
        (["s1"], ["IDS: got 's1', ", "not built"]),
        (["S9", "--cells", "lstm"], ["--cells: got"]),
        (["--scale", "ci"], ["--scale: got ci"]),
        (["S9", "--seed", "-1"], ["--seed: got -1"]),
        (["S9", "--jobs", "0"], ["--jobs: got 0"]),
        (["--jobs", "2"], ["--jobs: got 2", "without IDS"]),
    ],
)
def test_mistakes_name_what_was_typed(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["study", *arguments, "--out", str(tmp_path / "never")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(text in error for text in said)
    assert not (tmp_path / "never").exists()


def test_all_are_every_study_that_is_built():
    assert [study.id for study in command.find(["all"])] == list(table.STUDIES)


def test_list(capsys):
    cli.main(["study", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"S{n}" for n in range(1, 23)]
    for line in lines:
        assert line.endswith("(not built)") == (line.split()[0] in table.NOT_BUILT)


def test_pages_format_one_number_per_seed():
    assert pages.ours([1.0, 1.0, 1.0]) == "1" and pages.ours([1.0, None]) == "1, not finite"
    verdicts = ("HOLDS", "UNVERIFIED", "HOLDS")
    assert pages.tally([{"verdict": v} for v in verdicts]) == "2 hold, 1 unverified"
    assert command.find(["S9"])[0] is table.STUDIES["S9"]


def test_first_times_and_what_a_diverged_run_leaves():
    reached = np.array([[False, True, True], [False, False, False]])
    np.testing.assert_array_equal(means.updates_until(reached, 20), [21, np.inf])
    np.testing.assert_array_equal(means.updates_until(reached, 20, 20), [40, np.inf])
    history = {"loss": np.ones((1, 2, 4), np.float32)}
    runs: Any = types.SimpleNamespace(
        history=history, steps_to_divergence=np.array([[np.inf, 2.0]])
    )
    kept = means.survived(runs)
    assert (
        np.isfinite(kept[0, 0]).all() and np.isnan(kept[0, 1]).tolist() == [False] * 2 + [True] * 2
    )
    spiked = np.array([1e30, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(means.running_means(spiked, 2)[1:], 1.0)


# ---- the committed verdicts ----------------------------------------------------------------------
def test_the_page_has_the_verdicts_of_the_results():
    assert verdicts.shown() == verdicts.tables(), "run: python -m bench.verdicts --write"


def test_every_study_has_a_committed_verdict():
    for scale in ("ci", "cpu"):
        assert verdicts.kept(scale).keys() == table.STUDIES.keys()


def test_results_are_taken_without_their_data_and_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "RESULTS", tmp_path)
    monkeypatch.setattr(verdicts, "STUDIES", {"S1": small()})
    laboratory.complete(small(), "ci", (0, 1, 2), tmp_path)
    verdicts.main(["--take", str(tmp_path)])
    (found,) = verdicts.kept("ci").values()
    assert tuple(found) == verdicts.KEPT and "command" not in found["environment"]
    assert "| study | verdict | anchors | seeds | seconds |" in verdicts.tables()
    assert f"| {found['id']} | HOLDS | 1 hold | 0, 1, 2 |" in verdicts.tables()
