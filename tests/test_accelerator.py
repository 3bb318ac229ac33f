"""`python -m bench accelerator`, tried out on a CPU: what it runs, what it says, how it ends."""

import re
import subprocess
import sys

import pytest
import registry

from bench import __main__, accelerator, cases, process, record, report

OUT = "--platform", "cpu", "--suite", "smoke", "--select", "lstm-fused and gaps"


@pytest.fixture
def patient(monkeypatch):
    """Nothing here depends on how fast this machine starts a process."""
    monkeypatch.setattr(accelerator, "GRACE", 600.0)


def test_without_time_it_names_what_it_did_not_reach(patient, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(accelerator, "probe", lambda variables: ("cpu", "cpu"))
    monkeypatch.setattr(accelerator, "PROCESSES", {"cpu": 0})  # Pytest's own tests; starts faster.
    path = tmp_path / "none.json"
    __main__.main(["accelerator", "--json", str(path), *OUT, "--tests", "0", "--limit", "0"])
    document = record.read(path)
    assert [file.name for file in tmp_path.iterdir()] == ["none.json"]
    assert document["tests"]["ended"] == document["suite"]["ended"] == "exit code 0"
    lstm = document["tests"]["results"]["fused"]["lstm"]
    assert (lstm["status"], lstm["not run"], lstm["why"]) == ("not run", 1, "the time was over")
    assert document["rows"] == [] and len(document["not reached"]) == len(cases.smoke())
    shown = capfd.readouterr().out
    assert "fused LSTM: not every test of lstm ran" in shown
    assert f"cases not reached: {cases.smoke()[0]}, " in shown


@pytest.mark.grid
def test_from_end_to_end(patient, tmp_path, capfd):
    path = tmp_path / "cpu.json"
    more = ["--tests", "900", "--limit", "1800", "--rivals", "linen"]
    __main__.main(["accelerator", "--json", str(path), *OUT, *more])
    document = record.read(path)
    assert document["device"] == ["cpu", "cpu"] and document["not reached"] == []
    given = document["environment"]
    assert given["command"].startswith(f"python -m bench accelerator --json {path}")
    assert given["versions"]["jax"] and given["started"] and given["device"] == "cpu: cpu"
    assert document["tests"]["results"]["fused"]["lstm"]["status"] == "passed"
    assert {row["contender"] for row in document["rows"]} >= {"lstm_jax scan", "flax.linen"}
    found = {(each["implementation"], each["cell"]): each for each in document["choice"]}
    assert found["fused", "RNN"]["why_not"] == "no test ran"
    scan = found["scan", "LSTM"]
    assert scan["why_not"] == "no test ran" and set(scan["mean"]) == {"fwd", "train"}
    assert "## fwd" in report.markdown(document, "cpu.png")
    assert "fused LSTM: only some of the tests were selected\n" in capfd.readouterr().out


TESTS = """
import os
import pytest

class Case:
    name = "lstm"
    make = type("LSTM", (), {"__init__": lambda self, size: None})

def test_none():
    pass

@pytest.mark.parametrize(("case", "implementation"), [(Case, "scan"), (Case, "new"), (Case, "odd")])
@pytest.mark.parametrize("n", [0, 1])
def test_one(case, implementation, n):
    if implementation == "new":
        ENDS
    assert implementation == "scan" or n == 0, "off\\nby one"
    pytest.skip("no such thing") if n == 1 else None
"""


@pytest.mark.grid
@pytest.mark.parametrize(("processes", "ends"), [(1, "os._exit(9)"), (2, "os._exit(9)"), (1, "")])
def test_each_outcome_is_kept_and_a_crash_ends_no_other(processes, ends, monkeypatch, tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text(TESTS.replace("ENDS", ends or "pass"))
    monkeypatch.setattr(accelerator, "FILE", str(file))
    given = accelerator.parser().parse_args(["--json", "none", "--tests", "600"])
    found = accelerator.tested(tmp_path, given, processes, {})["results"]
    status = {name: (cells["lstm"]["status"], cells["lstm"]["why"])
              for name, cells in found.items()}  # fmt: skip
    assert status["scan"] == ("not run", "no such thing")
    assert status["odd"] == ("failed", "AssertionError: off")
    odd = found["odd"]["lstm"]
    assert (odd["kind"], odd["passed"], odd["failed"], odd["not run"]) == ("LSTM", 1, 1, 0)
    # Which of two workers gets the test is chance.
    why = r"worker 'gw\d' crashed while running" if ends else "AssertionError: off"
    assert status["new"][0] == "failed" and re.match(why, status["new"][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench: no accelerator: jax.devices() are cpu; run this on a machine with"),
        (["--tests", "9", "--limit", "8"], "bench: --tests, --limit: wanted"),
        (["--rivals", "theano"], "bench: --rivals: got 'theano'"),
        (["--json", "old.json"], "bench: --json: old.json exists; name another"),
        (["--json", "none/a.json"], "bench: --json: there is no folder none"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accelerator, "probe", lambda variables: ("cpu", "cpu"))
    (tmp_path / "old.json").touch()
    with pytest.raises(SystemExit) as error:
        __main__.main(["accelerator", "--json", "new.json", *arguments])
    lines = capsys.readouterr().err.splitlines()
    assert error.value.code == 2 and len(lines) == 1 and lines[0].startswith(message)
    assert not (tmp_path / "new.json").exists()


@pytest.mark.grid
def test_jax_is_asked_in_a_process_of_its_own():
    assert accelerator.probe({"JAX_PLATFORMS": "cpu"}) == ("cpu", "cpu")
    with pytest.raises(ValueError, match="^no accelerator: JAX does not start: .*nowhere"):
        accelerator.probe({"JAX_PLATFORMS": "nowhere"})


RUN = """
import subprocess, sys
from bench import process
INNER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
OUTER = [sys.executable, "-c", f"import subprocess; subprocess.run({INNER!r})"]
print(process.run(OUTER, SECONDS, {}))
"""


@pytest.mark.grid
def test_what_hangs_is_ended_with_its_own_processes():
    """Each holds standard error open as long as it lives."""
    command = [sys.executable, "-c", RUN.replace("SECONDS", "3")]
    seen = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True, timeout=300)
    assert seen.stdout == "ended after 3 s\n"


@pytest.mark.grid
def test_who_ends_the_command_ends_what_it_runs():
    command, pipe = [sys.executable, "-c", RUN.replace("SECONDS", "600")], subprocess.PIPE
    with subprocess.Popen(command, cwd=record.ROOT, stderr=pipe, text=True) as seen:
        assert seen.stderr.readline() == "up\n"
        seen.terminate()
        assert seen.stderr.read() == "" and seen.wait() == 143


def test_an_exit_code_is_told():
    assert process.run([sys.executable, "-c", "raise SystemExit(3)"], 600, {}) == "exit code 3"


def test_the_reference_of_the_tests_has_a_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert process.environment({})["JAX_PLATFORMS"] == "tpu,cpu"
    assert process.environment({"JAX_PLATFORMS": "cpu"})["JAX_PLATFORMS"] == "cpu"


def test_one_case_of_each_type_that_is_timed_is_tested_at_length():
    found = {type(registry.CASES[name].make(4)).__name__ for name in registry.MEASURED}
    assert found == set(accelerator.outcomes.FIRST)
