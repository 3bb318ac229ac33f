"""The benchmark: what it says it measures, it measures; no test here measures time itself."""

import dataclasses
import importlib
import itertools
import json
import math
import subprocess
import sys

import interop_check as check
import jax
import numpy as np
import pytest

from bench import (
    __main__,
    cases,
    contender,
    deepbench,
    losses,
    measure,
    memory,
    others,
    ours,
    problem,
    ratios,
    record,
    report,
    rivals,
    roofline,
    run,
    slope,
    table,
)
from bench import check as bench_check
from bench.cases import Case

CEILINGS = {"flops_per_s": 1e9, "bytes_per_s": 1e8}
TINY = Case("lstm", 6, 3, 4, 5)

pytestmark = [
    pytest.mark.sampled,
    # Keras's own variables, where it copies them to NumPy 2; torch's forward mode.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Little optimisation, so that XLA compiles fast; the rivals promote ranks and dtypes.

    What other tests have compiled in this process stays.
    """
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, True)
    with check.lenient():
        yield
    jax.config.update(option, before)
    if "keras" in sys.modules:  # The rival sets it, for the process.
        sys.modules["keras"].config.set_floatx("float32")


# ---- suites --------------------------------------------------------------------------------------
def test_suites_have_the_sizes_they_say():
    sizes = {name: len(suite()) for name, suite in cases.SUITES.items()}
    assert sizes["deepbench"] == 53
    assert sizes["deepbench-server"] == 69
    assert sizes["deepbench-device"] == 3
    assert sizes["everyday"] == 16
    for suite in cases.SUITES.values():
        names = [str(case) for case in suite()]
        assert len(set(names)) == len(names)


def test_everyday_covers_its_grid():
    chosen = cases.everyday()
    corners = set(itertools.product((32, 512), (1, 128), (32, 512))) - {(512, 128, 512)}
    assert corners | {(128, 128, 512)} <= {(c.T, c.B, c.H) for c in chosen if c.cell == "lstm"}
    grid = {"H": (32, 64, 128, 256, 512), "B": (1, 8, 32, 128), "T": (32, 128, 512)}
    for letter, values in grid.items():
        seen = [getattr(case, letter) for case in chosen]
        assert set(seen) == set(values) and all(seen.count(value) >= 2 for value in values)


def test_deepbench_is_as_published():
    """Rows of the header and of the sheet, copied here by hand."""
    training = cases.deepbench_training()
    lstm = next(c for c in training if (c.cell, c.H, c.B) == ("lstm", 512, 64))
    assert lstm.T == 25 and [ms for _, ms in lstm.published] == [
        1.34,
        1.26,
        0.436,
        0.79,
        1.05,
        0.115,
    ]
    assert training[0] == dataclasses.replace(
        Case("rnn_relu", 50, 16, 1760, 1760), published=training[0].published
    )
    assert (training[-1].cell, training[-1].B, training[-1].T) == ("gru", 64, 1500)
    assert all(c.D == c.H and c.L == 1 and len(c.published) == 6 for c in training)
    shapes = {(c.H, c.B, c.T) for c in training if c.cell == "gru"}
    grid = set(itertools.product((2816, 2048, 1536, 2560), (32,), (1500, 750, 375, 187)))
    assert shapes == grid | {(512, 32, 1), (1024, 32, 1500), (1024, 64, 1500)}
    server = [(c.cell, c.H, c.B, c.T) for c in cases.deepbench_server()]
    assert ("gru", 2816, 4, 187) in server and ("lstm", 256, 2, 150) in server
    assert {B for _, _, B, _ in server} == {1, 2, 4} and len(set(server)) == 69
    assert deepbench.DEVICE[0] == ("vanilla", 32, 1, 672)


def test_cases_are_parsed():
    assert cases.parse("100,32,64,128") == Case("lstm", 100, 32, 64, 128)
    assert cases.parse("9,8,7,6,2").L == 2
    assert str(Case("gru", 9, 8, 7, 6, L=2, resets=0.03)) == "gru T9 B8 D7 H6 L2 resets 0.03"
    for text in ("1,2,3", "1,2,3,4,5,6", "a,b,c,d", "1,2,3,0"):
        with pytest.raises(ValueError, match="^--case: got"):
            cases.parse(text)
    assert [c.T for c in cases.at_three_lengths([TINY])] == [1, 3, 6]


# ---- the problem and its floor -------------------------------------------------------------------
def test_a_problem_is_the_same_for_the_same_seed():
    case = dataclasses.replace(TINY, ragged=True, resets=0.3, cell="gru")
    a, b = problem.make(case, 1), problem.make(case, 1)
    check.assert_equal([a.params, a.xs, a.lengths, a.resets], [b.params, b.xs, b.lengths, b.resets])
    assert not a.params["b_hn"].any() and a.params["b"].all()
    assert a.lengths.max() == case.T and a.lengths.min() >= 1 and a.steps == a.mask.sum()


@pytest.mark.parametrize(
    ("changes", "fwd"),
    [
        ({}, 2 * 18 * 20 * 9),
        ({"cell": "gru"}, 2 * 18 * 15 * 9),
        ({"cell": "min_gru"}, 2 * 18 * 10 * 4),
        ({"inputs": "skip", "D": 5}, 2 * 18 * 20 * 5),
        ({"H": 6, "heads": 3, "inputs": "projected"}, 2 * 18 * 24 * 2),
        ({"L": 2, "bidirectional": True}, 2 * 18 * 20 * 2 * (9 + 15)),
    ],
)
def test_flops_are_those_of_the_matmuls(changes, fwd):
    case = dataclasses.replace(TINY, **changes)
    assert roofline.flops(case, 18, "fwd") == fwd
    assert roofline.flops(case, 18, "train") == roofline.flops(case, 18, "jvp") == 3 * fwd


def test_the_floor():
    given = problem.make(TINY)
    xs, ys, weights = 6 * 3 * 4, 6 * 3 * 5, 4 * 20 + 5 * 20 + 20
    assert roofline.least_bytes(given, "fwd") == 4 * (xs + ys + weights)
    assert roofline.least_bytes(given, "train") == 8 * (xs + weights)
    least = roofline.floor(given, "fwd", CEILINGS)
    assert least["seconds"] == max(6480 / 1e9, 4 * (xs + ys + weights) / 1e8)


# ---- contenders ----------------------------------------------------------------------------------
CHANGES = {
    "lstm": {},
    "gru_deep": {"cell": "gru", "L": 2, "bidirectional": True},
    "relu_resets": {"cell": "rnn_relu", "resets": 0.3},
    "lstm_resets": {"resets": 0.3},
    "tanh_ragged": {"cell": "rnn", "ragged": True},
    "lstm_ragged_deep": {"ragged": True, "L": 2},
    "bfloat16": {"dtype": "bfloat16"},
}
CANNOT = {
    ("haiku", "gru_deep"), ("haiku", "tanh_ragged"), ("equinox", "gru_deep"),
    ("equinox", "tanh_ragged"), ("equinox", "relu_resets"), ("nnx", "relu_resets"),
    ("nnx", "lstm_resets"), ("keras", "relu_resets"), ("keras", "lstm_resets"),
}  # fmt: skip
PAIRS = [
    pytest.param(name, what, marks=() if what == "lstm" else pytest.mark.slow)
    for what in CHANGES
    for name in rivals.NAMES
]


@pytest.mark.grid
@pytest.mark.parametrize(("name", "what"), PAIRS)
def test_every_rival_agrees_with_us_or_says_why_not(name, what):
    """Outputs, loss, and gradients with respect to every weight and the inputs."""
    pytest.importorskip(f"bench.rivals.{name}")
    case = dataclasses.replace(TINY, **CHANGES[what])
    modes = ("train",) if what == "lstm" else contender.MODES
    options = run.Options(modes, ("fused",), (name,), samples=1, budget=0.0)
    *_, row = run.run(case, options, CEILINGS)
    refused = name == "jax_rnn" or (name, what) in CANNOT
    if name == "torch" and row["mode"] == "jvp":  # Which its kernels lack, here and there.
        refused = row["status"] == "cannot"
    assert row["status"] == ("cannot" if refused else "ok"), row["note"]
    assert ("samples" in row) != refused


def twisted(change):
    """Ours, with an answer changed."""

    class Twisted(ours.Ours):
        def program(self, problem, mode):
            program = super().program(problem, mode)
            return dataclasses.replace(program, answer=lambda out: change(program.answer(out)))

    return Twisted("fused")


def test_a_wrong_contender_is_refused():
    given = problem.make(TINY)
    wanted = bench_check.reference(given, "train")
    row, program = run.attempt(twisted(lambda answer: answer), given, "train", wanted)
    assert row["status"] == "ok" and program is not None
    wrong = twisted(lambda answer: answer | {"xs": 1.01 * answer["xs"]})
    row, program = run.attempt(wrong, given, "train", wanted)
    assert row["status"] == "wrong" and program is None
    assert row["note"] == "['xs'] is off by 0.01" and row["error"] > row["tolerance"]


ONES = {"loss": np.ones(()), "grads": {"b": np.ones(4), "b_hn": np.ones(2)}}


@pytest.mark.parametrize(
    ("seen", "place", "error"),
    [
        (ONES, "b", 0.0),
        (ONES | {"loss": np.float32(1.5)}, "loss", 0.5),
        (ONES | {"grads": {"b": np.ones(4)}}, "b", 0.0),  # flax.nnx has no b_hn.
        (ONES | {"grads": {"b": np.array([1, 1, 1, 3.0]), "b_hn": np.ones(2)}}, "b", 1.0),
        (ONES | {"grads": {"b": np.ones(3)}}, "b", np.inf),
        (ONES | {"grads": {"b": np.ones(4), "b_hn": np.array([1, np.nan])}}, "b_hn", np.inf),
        ({"loss": np.ones(())}, "b", np.inf),
    ],
)
def test_errors_are_relative_and_of_every_array(seen, place, error):
    path, value = bench_check.error(seen, ONES)
    assert value == error and path.endswith(f"['{place}']")


class Raising:
    NAME = "raising"

    def __init__(self, error):
        self.error = error

    def program(self, problem, mode):
        raise self.error


@pytest.mark.parametrize(
    ("other", "status", "note"),
    [
        (Raising(contender.Cannot("has none")), "cannot", "has none"),
        (Raising(NotImplementedError("no\nmore")), "cannot", "no"),
        (Raising(RuntimeError("out of\nmemory")), "failed", "RuntimeError: out of"),
        (run.Missing("keras", "no keras"), "missing", "no keras"),
    ],
)
def test_what_is_not_timed_says_why(other, status, note):
    row, program = run.attempt(other, problem.make(TINY), "fwd", None)
    assert (row["status"], row["note"], program) == (status, note, None)
    assert f"{status}: {note}" in table.text([row], CEILINGS)


def test_without_a_reference_nothing_is_timed():
    row, program = run.attempt(ours.Ours("fused"), problem.make(TINY), "fwd", MemoryError("all"))
    assert row["status"] == "failed" and row["note"] == "no reference: MemoryError: all"
    assert program is None


def test_a_missing_library_is_a_row(monkeypatch):
    def load(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(rivals, "load", load)
    found = run.contenders(TINY, run.Options(rivals=("keras",)))
    assert {type(each) for each in found[:-1]} == {ours.Ours}
    assert isinstance(found[-1], run.Missing)
    assert "No module named 'keras'; pip install" in found[-1].reason


@pytest.mark.grid
@pytest.mark.parametrize("cell", cases.OWN | cases.APART)
def test_cells_that_no_rival_has_are_timed_on_all_of_ours(cell):
    case = dataclasses.replace(TINY, cell=cell)
    rows = run.run(case, run.Options(rivals=("torch", "linen"), samples=1, budget=0), CEILINGS)
    status = {row["contender"]: row["status"] for row in rows}
    mine = {name for name in status if name.startswith(ours.PREFIX)}
    assert {status[name] for name in mine} == {"ok"} and len(mine) > 1
    assert {status[name] for name in status.keys() - mine} == {"cannot"}


# ---- timing --------------------------------------------------------------------------------------
class Clock:
    """Time that passes only where a program says so."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(measure, "settle", lambda: None)

    def program(self, name, seconds):
        def call():
            self.now += seconds
            self.order.append(name)

        return contender.Program(call, lambda out: None, lambda out: {})


def test_samples_are_interleaved_and_all_kept(monkeypatch):
    clock = Clock(monkeypatch)
    programs = {"slow": clock.program("slow", 0.25), "fast": clock.program("fast", 2**-9)}
    taken = measure.interleave(programs, samples=8, budget=1e9)
    assert {name: samples.inner for name, samples in taken.items()} == {"slow": 1, "fast": 3}
    assert taken["slow"].seconds == [0.25] * 8 and taken["fast"].seconds == [2**-9] * 8
    assert clock.order.count("fast") == 2 + 8 * (1 + 3) and clock.order.count("slow") == 2 + 8


def test_every_round_has_an_order_of_its_own(monkeypatch):
    clock = Clock(monkeypatch)
    measure.interleave({name: clock.program(name, 1.0) for name in "abc"}, 8, 1e9)
    timed = clock.order[2 * 3 :]  # After the calls that say how long one takes.
    rounds = {tuple(timed[n : n + 3]) for n in range(0, len(timed), 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds) and len(rounds) > 2


@pytest.mark.parametrize(("platform", "waits"), [("cpu", 3), ("gpu", 1)])
def test_what_is_in_flight_is_waited_for(monkeypatch, platform, waits):
    """On a CPU every call, elsewhere the last of a sample."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    waited = []
    program = contender.Program(lambda: len(waited), waited.append, lambda out: {})
    measure._timed(program, 3)
    assert len(waited) == waits


def test_a_budget_ends_the_rounds_but_not_before_three(monkeypatch):
    clock = Clock(monkeypatch)
    for budget, count in ((0.0, 3), (4.5, 5), (100.0, 20)):
        taken = measure.interleave({"a": clock.program("a", 1.0)}, samples=20, budget=budget)
        assert len(taken["a"].seconds) == count


def test_quartiles():
    assert measure.quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert measure.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)


def test_memory_sees_what_a_call_takes():
    result, taken = memory.watched(lambda: np.ones(2**24).sum())
    assert result == 2**24
    assert taken is None or taken >= 2**26


def test_a_sample_waits_for_the_threads_of_the_last(monkeypatch, tmp_path):
    """Until they sleep; and where one never does, not for ever."""
    for thread in "12":
        (tmp_path / thread).mkdir()
    now, asleep = [0.0], [3.0]
    for name, value in {"TASKS": tmp_path, "PAUSE": 1.0, "LONGEST": 10.0}.items():
        monkeypatch.setattr(others, name, value)
    monkeypatch.setattr(others.time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds
        (tmp_path / "1" / "stat").write_text("1 (main) R 0")
        state = "S" if now[0] >= asleep[0] else "R"
        (tmp_path / "2" / "stat").write_text(f"2 (a) R (b) {state} 0")

    monkeypatch.setattr(others.time, "sleep", sleep)
    others.settle()
    assert now[0] == 3.0
    asleep[0] = 1e9
    others.settle()
    assert now[0] == 13.0


def test_others_are_seen(monkeypatch, tmp_path):
    """90 of 100 CPU seconds were busy, 20 of them ours."""
    monkeypatch.setattr(others, "STAT", tmp_path / "stat")
    monkeypatch.setattr(others.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(others.os, "cpu_count", lambda: 4)
    clocks = iter([0.0, 25.0]), iter([5.0, 25.0])
    monkeypatch.setattr(others.time, "perf_counter", lambda: next(clocks[0]))
    monkeypatch.setattr(others.time, "process_time", lambda: next(clocks[1]))
    others.STAT.write_text("cpu 100 100 100 7 7 100 100 100 0 0\n")
    watch = others.Watch()
    others.STAT.write_text("cpu 4100 1100 1100 9 9 1100 1100 1100 0 0\n")
    share = watch.share()
    assert share == 0.7 and "70%" in others.warning(share)
    assert others.warning(0.05) == others.warning(None) == ""
    monkeypatch.setattr(others, "STAT", tmp_path / "none")
    assert others._busy() is None


# ---- the command ---------------------------------------------------------------------------------
def test_the_smoke_suite_from_end_to_end(tmp_path, capsys):
    path = tmp_path / "smoke.json"
    arguments = ["--suite", "smoke", "--samples", "3", "--rivals", "linen", "--modes", "fwd"]
    __main__.main([*arguments, "--implementations", "fused", "--json", str(path)])
    shown = capsys.readouterr().out
    document = record.read(path)
    assert [file.name for file in tmp_path.iterdir()] == ["smoke.json"]
    assert len(document["rows"]) == 4 * 2
    for row in document["rows"]:
        assert row["status"] == "ok" and len(row["samples"]) == 3 and row["inner"] >= 1
        assert row["q1"] <= row["median"] <= row["q3"] and row["floor_s"] > 0
        assert row["lower_s"] > 0 and row["compile_s"] > 0 and "temp_size_in_bytes" in row["memory"]
        assert str(Case(**row["case"])) in shown
    given = document["environment"]
    assert given["command"].endswith(str(path)) and given["versions"]["jax"] == jax.__version__
    assert len(document["ceilings"]["matmul"]["samples"]["jax"]) == 7

    __main__.main(["report", str(path), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "smoke.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "smoke.png").stat().st_size > 5000
    assert all(name in page for name in ("## fwd", "flax.linen", "geometric mean"))


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "bench", "--help"]
    seen = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True, timeout=120)
    assert seen.returncode == 0 and "--suite" in seen.stdout


def test_the_page_says_where_we_lose_as_the_results_do():
    remedy = "run: python -m bench.losses --write"
    assert losses.shown() == losses.tables(), remedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench: --suite: got none"),
        (["--case", "1,2"], "bench: --case: got '1,2'"),
        (["--case", "1,2,3,4", "--modes", "fwd,vjp"], "bench: --modes: got"),
        (["--case", "1,2,3,4", "--rivals", "theano"], "bench: --rivals: got 'theano'"),
        (
            ["--case", "1,2,3,4", "--implementations", "fast"],
            "bench: --implementations: got 'fast'",
        ),
        (["--case", "1,2,3,4", "--skip-input"], "bench: --skip-input: wanted"),
        (["--case", "1,2,3,4", "--samples", "0"], "bench: --samples"),
        (["--case", "1,2,3,4", "--json", "none/a.json"], "bench: --json: there is no folder none"),
        (
            ["--case", "1,2,3,4", "--json", "old.json"],
            "bench: --json: old.json exists; name another",
        ),
        (["report", "none.json"], "bench: [Errno 2]"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.json").touch()
    with pytest.raises(SystemExit) as error:
        __main__.main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert error.value.code == 2 and len(lines) == 1 and lines[0].startswith(message)


def test_options_change_every_case_once():
    given = __main__.parser().parse_args(["--suite", "everyday", "--cell", "gru", "--slope"])
    chosen = __main__.chosen_cases(given)
    assert {case.cell for case in chosen} == {"gru"} and len(set(chosen)) == len(chosen)
    given = __main__.parser().parse_args(["--suite", "deepbench", "--skip-input"])
    chosen = __main__.chosen_cases(given)
    assert len(chosen) == 53 and all(case.inputs == "skip" and case.published for case in chosen)


def test_names_of_rivals():
    assert rivals.chosen("torch,flax") == ["torch", "linen", "nnx"]
    assert rivals.chosen("none") == [] and rivals.chosen("all,torch") == list(rivals.NAMES)


# ---- the report ----------------------------------------------------------------------------------
def row_of(case, name, median, **more):
    own = name.startswith(ours.PREFIX)
    row = {"case": dataclasses.asdict(case), "contender": name, "mode": "fwd", "ours": own}
    row |= {"default": name == "lstm_jax fused", "status": "ok", "note": "", "median": median}
    row["floor_s"] = 1e-4
    return row | more


def by_hand():
    """Theirs against our default: 2 and 1/2 for torch, 4 for haiku, which cannot do the second."""
    one, two = Case("lstm", 6, 3, 4, 5), Case("gru", 6, 3, 4, 5)
    rows = [
        row_of(one, "lstm_jax scan", 5e-4),
        row_of(one, "lstm_jax fused", 1e-3),
        row_of(one, "torch", 2e-3, others=0.4),
        row_of(one, "haiku", 4e-3),
        row_of(two, "lstm_jax fused", 8e-3),
        row_of(two, "torch", 4e-3),
        row_of(two, "haiku", None, status="cannot", note="another GRU"),
    ]
    environment = record.environment(["--case", "6,3,4,5"], "float32")
    sizes = {"matmul": {"rows": 8}, "copy": {"bytes": 8}}
    return {"environment": environment, "ceilings": CEILINGS | sizes, "rows": rows}


def test_ratios_and_geometric_means():
    document = by_hand()
    found = ratios.ratios(document, "fwd")
    first, second = ratios.by_case(document)
    assert found["torch"] == {first: 2.0, second: 0.5} and found["haiku"] == {first: 4.0}
    assert found["lstm_jax scan"] == {first: 0.5} and "lstm_jax fused" not in found
    assert math.isclose(ratios.geometric_mean([2.0, 0.5]), 1.0)
    assert math.isclose(ratios.geometric_mean([1.0, 2.0, 4.0]), 2.0)


def test_the_best_of_jax_and_what_else_a_call_costs():
    """Of every case the fastest that JAX compiles; seconds to compile, bytes, theirs over ours."""
    document = by_hand()
    one, *_ = (Case(**row["case"]) for row in document["rows"])
    compiled = {"lower_s": 1.0, "compile_s": 2.0, "memory": {"temp_size_in_bytes": 6}}
    document["rows"][1] |= {"lower_s": 0.5, "compile_s": 0.5, "memory": {"temp_size_in_bytes": 4}}
    document["rows"][3] |= compiled
    assert not ratios.best_of_jax(document, ratios.ratios(document, "fwd"))
    document["rows"].append(row_of(one, "keras", 3e-3) | compiled)
    found = ratios.ratios(document, "fwd")
    assert ratios.best_of_jax(document, found) == {str(one): 3.0}
    page = report.markdown(document, "hand.png")
    assert "| compile: trace, lower, compile | 3.00 (3.00) | 3.00 (3.00) |" in page
    assert "| memory: XLA's temporary arrays | 1.50 (1.50) | 1.50 (1.50) |" in page


def test_the_page_marks_where_we_lose(tmp_path):
    path = tmp_path / "hand.json"
    record.write(path, by_hand())
    assert [file.name for file in report.main([path], None)] == ["hand.md", "hand.png"]
    page = (tmp_path / "hand.md").read_text(encoding="utf-8")
    assert "| gru T6 B3 D4 H5 | 8 ms | 1% | - | **0.50** ▼ | - |" in page
    assert "| **geometric mean** |  |  | **0.50** ▼ | 1.00 | 4.00 |" in page
    assert "| **worst case** |  |  | **0.50** ▼ | **0.50** ▼ | 4.00 |" in page
    assert "| **cases lost** |  |  | 1 of 1 | 1 of 2 | 0 of 1 |" in page
    assert "- haiku, cannot: another GRU (gru T6 B3 D4 H5)" in page
    assert "- lstm T6 B3 D4 H5: others used 40% of the machine" in page


def test_without_our_default_the_first_of_ours_is_the_base():
    rows = [row_of(TINY, "torch", 1.0), row_of(TINY, "lstm_jax scan", 2.0)]
    assert table.base(rows, "fwd") is rows[1]
    assert table.base(rows[:1], "fwd") is None


def test_slopes():
    lengths = [dataclasses.replace(TINY, T=T) for T in (4, 8, 16)]
    rows = [row_of(case, "torch", 5e-6 + 2e-6 * case.T) for case in lengths]
    (line,) = slope.slopes(
        [*rows, row_of(TINY, "haiku", 1.0), row_of(TINY, "x", 1, status="wrong")]
    )
    assert line["T"] == [4, 8, 16] and line["case"]["T"] == 16
    assert math.isclose(line["slope_s"], 2e-6) and math.isclose(line["intercept_s"], 5e-6)
    assert "2.000 us a step" in slope.text([line])


def test_only_its_own_files_are_read(tmp_path):
    for text in ("[]", "{}", "no json", json.dumps({"rows": []})):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json: not a file that"):
            record.read(tmp_path / "a.json")


def test_numbers_that_are_not_finite_become_null(tmp_path):
    record.write(tmp_path / "a.json", {"rows": [math.inf, (1.5, math.nan)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"rows": [None, [1.5, None]]}


@pytest.mark.grid
def test_steps_of_all_contenders_are_timed_once_they_agree(monkeypatch, capsys, tmp_path):
    """Every cell and kind, ours first; and a loop that gives something else is not timed."""
    pytest.importorskip("flax")
    steps = importlib.import_module("bench.steps")
    monkeypatch.setattr(steps, "CALLS", 2)
    monkeypatch.setattr(steps, "STEPS", 3)
    file = tmp_path / "a.json"
    monkeypatch.setattr(
        "sys.argv", ["steps", "--turns", "1", "--shape", "2,4", "--json", str(file)]
    )
    steps.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 3 * 4 and "linen.OptimizedLSTMCell" in lines[2]
    kept = json.loads(file.read_text())["rows"]
    assert [row["kind"] for row in kept] == list(steps.KINDS) * 3
    assert {len(row["samples"]) for row in kept} == {5, 3}
    with pytest.raises(ValueError, match="linen: its loop gives 2.0, ours 1.0"):
        steps.check({"lstm_jax": 1.0, "linen": 2.0})


@pytest.mark.grid
@pytest.mark.parametrize("name", ["orders"])
def test_the_small_tables_are_printed(name, monkeypatch, capsys):
    pytest.importorskip("equinox")
    small = {
        "orders": ["--turns", "1", "--case", "GRU,2,3,1,2,4", "--order", "both/grad-vmap"],
    }
    monkeypatch.setattr("sys.argv", [name, *small[name]])
    importlib.import_module(f"bench.{name}").main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1
    assert all(" ms" in line for line in lines[1:])
