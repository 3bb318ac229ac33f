"""`implementation=None` on an accelerator: what a committed result shows right and faster."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import lstm_jax as lj
from bench import choice, ours, outcomes, record
from bench.cases import SUITES, Case
from lstm_jax._recurrence import measured
from lstm_jax._recurrence.measured import Measured

T, B, D, H = 4, 8, 3, 5
NAME, V5E = "pallas_tpu", "TPU v5 lite"
SLOWER = 'slower than "fused" in 2 of its cases'


@pytest.fixture
def on(monkeypatch):
    """Put this process on a device, with invented measurements."""

    def put(platform, kind, *rows):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(kind)])
        monkeypatch.setattr(measured, "MEASURED", rows)

    return put


@dataclasses.dataclass
class FakeDevice:
    device_kind: str


def lowered(cell, platform="tpu", mode=lambda run: run, **options):
    """The program for a platform, as text."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
    xs = jax.ShapeDtypeStruct((T, B, D), jnp.float32)
    run = jax.jit(mode(lambda p, x: lj.unroll(cell, p, x, **options)[1].sum()))
    return run.trace(params, xs).lower(lowering_platforms=(platform,)).as_text()


@dataclasses.dataclass(frozen=True)
class LSTM(lj.LSTM):
    """A user's, with the name of one of ours."""


# ---- what is chosen ------------------------------------------------------------------------------
def test_a_result_on_the_same_kind_of_device_puts_the_kernel_into_the_program(on):
    on("tpu", V5E, Measured(NAME, V5E, "LSTM", None))
    assert lj.which(lj.LSTM(H)).implementation == NAME
    assert lj.which(lj.LSTM(H)).rejected["fused"] == f"{NAME} comes first"
    assert lowered(lj.LSTM(H)).count("tpu_custom_call") == 1
    assert lowered(lj.LSTM(H), mode=jax.grad).count("tpu_custom_call") == 2
    assert "tpu_custom_call" not in lowered(lj.LSTM(H), implementation="fused")


@pytest.mark.parametrize(
    ("rows", "cell", "why"),
    [
        ([], lj.LSTM(H), "not yet run on a device"),
        ([("LSTM", SLOWER)], lj.LSTM(H), SLOWER),
        ([("LSTM", None)], lj.GRU(H), f"not measured for GRU on a {V5E}"),
        ([("LSTM", None)], LSTM(H), f"not measured for LSTM on a {V5E}"),
        ([("LSTM", None)], lj.zoneout(lj.LSTM(H), h=0.1), f"not measured for Zoneout on a {V5E}"),
    ],
    ids=["none", "slower", "another cell", "a user's", "wrapped"],
)
def test_without_one_it_is_fused_and_says_why(rows, cell, why, on):
    on("tpu", V5E, *(Measured(NAME, V5E, *row) for row in rows))
    found = lj.which(cell)
    assert found.implementation == "fused"
    assert found.rejected[NAME] == f"a kernel for TPUs, {why}; ask for it by name"
    assert "tpu_custom_call" not in lowered(cell)
    assert lj.which(cell, implementation=NAME).implementation == NAME


def test_a_result_on_another_kind_of_device_does_not_count(on):
    on("tpu", "TPU v6 lite", Measured(NAME, V5E, "LSTM", None))
    why = f"measured on {V5E} alone, and this is a TPU v6 lite"
    assert why in lj.which(lj.LSTM(H)).rejected[NAME]
    assert "tpu_custom_call" not in lowered(lj.LSTM(H))


def test_a_program_for_a_device_that_is_not_here_is_one_of_fused(on):
    """From a CPU for a TPU, whose kind nobody knows; and from a TPU for a CPU."""
    on("cpu", "cpu", Measured(NAME, V5E, "LSTM", None))
    found = lj.which(lj.LSTM(H), platform="tpu")
    assert found.implementation == "fused"
    assert f"measured on {V5E} alone, and the kind of device" in found.rejected[NAME]
    assert "tpu_custom_call" not in lowered(lj.LSTM(H))
    on("tpu", V5E, Measured(NAME, V5E, "LSTM", None))
    assert "tpu_custom_call" not in lowered(lj.LSTM(H), "cpu")


def test_what_is_measured_and_cannot_run_the_cell_is_not_chosen(on):
    on("tpu", V5E, Measured(NAME, V5E, "LSTM", None))
    found = lj.which(lj.LSTM(4096))
    assert found.implementation == "fused" and "VMEM" in found.rejected[NAME]


def test_a_result_also_says_what_is_not_to_be_chosen(on):
    assert lj.which(lj.MinGRU(H), platform="gpu").implementation == "associative"
    on("gpu", "NVIDIA H200", Measured("associative", "NVIDIA H200", "MinGRU", SLOWER))
    found = lj.which(lj.MinGRU(H))
    assert found.implementation == "fused"
    assert found.rejected["associative"] == f"{SLOWER}; ask for it by name"


# ---- the verdicts --------------------------------------------------------------------------------
CASES = [Case("lstm", 6, 3, 4, 5), Case("lstm", 9, 3, 4, 5, dtype="bfloat16")]


def row(name, case, mode, median, scatter=0.0, **more):
    """A row of a run."""
    found = {"contender": ours.PREFIX + name, "ours": True, "case": dataclasses.asdict(case)}
    found |= {"mode": mode, "status": "ok", "note": "", "median": median}
    return found | {"q1": median - scatter, "q3": median + scatter} | more


def ran(status="passed", why=""):
    cell = {"kind": "LSTM", "passed": 1, "failed": 0, "not run": 0, "status": status, "why": why}
    results = {name: {"lstm": dict(cell)} for name in ("fused", NAME)}
    return {"selected": None, "results": results}


def document(factors=(0.5, 0.5), **more):
    """A run in which the kernel took a part of fused's time, by case."""
    rows = [row("fused", case, mode, 1.0, 0.1) for case in CASES for mode in ("fwd", "train")]
    pairs = zip(CASES, factors, strict=True)
    rows += [row(NAME, case, mode, factor, 0.1) for case, factor in pairs
             for mode in ("fwd", "train")]  # fmt: skip
    environment = {"device": f"tpu: {V5E}", "commit": "0123456789", "started": "2027-01-02T03:04"}
    found = {"environment": environment, "ceilings": {}, "rows": rows, "not reached": []}
    return found | {"tests": ran(), "suite": {"name": "accelerator"}} | more


def verdict(found):
    (each,) = [each for each in choice.verdicts(found) if each["implementation"] == NAME]
    return each


def test_right_and_faster():
    found = verdict(document((0.5, 0.125)))
    assert found["right"] and found["faster"] and found["why_not"] is None
    assert found["mean"] == pytest.approx({"fwd": 4.0, "train": 4.0})
    assert found["worst"] == 2.0 and found["worst case"] == "lstm T6 B3 D4 H5, fwd"


def test_a_case_within_the_scatter_is_not_lost():
    assert verdict(document((0.5, 1.15)))["why_not"] is None
    assert verdict(document((0.5, 1.25)))["why_not"] == SLOWER
    assert verdict(document((1.05, 1.05)))["why_not"].startswith("on average no faster")


@pytest.mark.parametrize(
    ("changes", "right", "why"),
    [
        ({"tests": ran("failed", "off")}, False, "fails a test of lstm"),
        ({"tests": ran("not run")}, False, "not every test of lstm ran"),
        ({"tests": ran() | {"results": {}}}, False, "no test ran"),
        (
            {"tests": ran() | {"selected": "lstm"}},
            False,
            "only some of the tests were selected",
        ),
        ({"not reached": [dataclasses.asdict(CASES[0])]}, True, "not every case was timed"),
        (
            {"rows": [row(NAME, CASES[0], "fwd", 1.0, status="wrong")]},
            False,
            "wrong in lstm T6 B3 D4 H5, fwd",
        ),
        (
            {"rows": [row(NAME, CASES[0], "fwd", 1.0, status="cannot")]},
            True,
            "not every case was timed",
        ),
    ],
)
def test_what_is_not_shown_is_not_chosen(changes, right, why):
    found = verdict(document(**changes))
    assert found["right"] is right and found["why_not"] == why


def test_the_lines_of_the_tests_are_summed_up():
    of = '"implementation": "fused", "cell": "lstm", "kind": "LSTM"'
    lines = [f'{{"test": "{n}", {of}}}' for n in range(3)]
    found = outcomes.results([*lines, '{"test": "0", "outcome": "passed"}'])["fused"]["lstm"]
    assert (found["passed"], found["not run"], found["status"]) == (1, 2, "not run")
    assert found["why"] == outcomes.OVER
    lines += ['{"test": "1", "outcome": "failed", "why": "off by 1"}']
    found = outcomes.results(lines)["fused"]["lstm"]
    assert found["status"] == "failed" and found["why"] == "off by 1"


def test_what_the_suite_times_is_tested_first():
    found = {type(choice.problem.net_of(case)).__name__ for case in SUITES["accelerator"]()}
    assert found == set(outcomes.FIRST)


# ---- the table in the package --------------------------------------------------------------------
def test_the_package_holds_what_the_results_say():
    assert choice.shown() == choice.table(), "run: python -m bench.choice --write"


def test_a_result_becomes_rows(tmp_path):
    assert choice.table(tmp_path) == ""
    record.write(tmp_path / "accelerator-v5e.json", document())
    old = document((2.0, 2.0))
    old["environment"] |= {"started": "2026-12-31T03:04"}
    record.write(tmp_path / "accelerator-v5e-old.json", old)
    text = choice.table(tmp_path)
    assert text.startswith("    # accelerator-v5e.json: commit 01234567, 2027-01-02\n")
    assert eval(f"[\n{text}]", {"Measured": Measured}) == [Measured(NAME, V5E, "LSTM", None)]
    old["environment"] |= {"device": "cpu: cpu"}
    record.write(tmp_path / "accelerator-cpu.json", old)
    with pytest.raises(ValueError, match="only tried the command out"):
        choice.table(tmp_path)
