"""The command line: no run is lost when it is interrupted, none is wasted on a wrong call."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM, checkpoint, cli, interop
from lstm_jax._checks import fail
from lstm_jax._commands import options
from lstm_jax._commands import train as train_command
from lstm_jax.comparison import characters, jobs, language, runs, study
from lstm_jax.comparison.settings import Training
from lstm_jax.progress import progress
from lstm_jax.train import JsonLines


@pytest.fixture(autouse=True)
def _interruptible():
    """As in a process of its own: a worker of pytest-xdist is deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    """Ctrl-C, as the terminal sends it."""
    os.kill(os.getpid(), signal.SIGINT)


def run_jobs(todo, parts=None):
    with progress(None, "test", show=False) as bar:
        try:
            return jobs.run_jobs(todo, bar, parts)
        finally:
            run_jobs.done = bar.done


# ---- jobs ----------------------------------------------------------------------------------------
def test_fault_20_an_interrupt_ends_jobs_at_once_and_keeps_what_is_finished(tmp_path):
    begun, ended = [], threading.Event()

    def finished():
        return {"norms": np.arange(3.0), "slope": float("nan"), "none": None, "gates": {}}

    def endless(interrupts):
        while not kept.exists():
            time.sleep(0.001)
        if interrupts:
            interrupt()
        try:
            while True:
                jobs.advance(1)
                time.sleep(0.001)
        finally:
            ended.set()

    folder = tmp_path / "parts"
    kept = folder / "task-lstm.npz"
    todo = {
        ("task", "lstm"): (3, finished),
        ("text", "lstm"): (5, lambda: endless(True)),
        ("text", "gru"): (5, lambda: endless(False)),
        ("text", "rnn"): (5, lambda: begun.append("rnn")),
    }
    with pytest.raises(KeyboardInterrupt):
        run_jobs(todo, jobs.Parts(folder, {"steps": 1}))
    assert ended.wait(10) and begun == []
    again = {name: (size, lambda: 7) for name, (size, _) in todo.items()}
    results = run_jobs(again, jobs.Parts(folder, {"steps": 1}))
    assert results.pop(("task", "lstm"))["norms"].tolist() == [0.0, 1.0, 2.0]
    assert set(results.values()) == {7} and run_jobs.done == 18
    other = run_jobs(again, jobs.Parts(folder, {"steps": 2}))
    assert set(other.values()) == {7}
    jobs.Parts(folder).clear()
    assert not folder.exists()


def test_fault_20_a_job_that_fails_keeps_the_others(tmp_path):
    def fails():
        while not (tmp_path / "good.npz").exists():
            time.sleep(0.001)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_jobs({("good",): (1, lambda: jnp.ones(2)), ("bad",): (1, fails)}, jobs.Parts(tmp_path))
    (tmp_path / "good.npz").write_bytes(b"damaged")
    assert run_jobs({("good",): (1, lambda: 3)}, jobs.Parts(tmp_path)) == {("good",): 3}


def test_fault_22_progress_moves_within_jobs_and_names_them():
    seen = []

    class Bar:
        def advance(self, n):
            seen.append(n)

        def tick(self, name):
            seen.append(name)

    def work():
        jobs.advance_share(0.2)
        jobs.advance(90)
        time.sleep(3 * jobs.TICK)

    jobs.run_jobs({("text", "lstm"): (10, work)}, Bar())
    assert "text lstm" in seen and [n for n in seen if n and isinstance(n, int)] == [2, 8]
    jobs.advance(1)  # Outside a job.


# ---- the command ---------------------------------------------------------------------------------
SIZES = ["--hidden-size", "8", "--batch-size", "4", "--window", "8", "--steps", "40"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with a text; XLA leaves most optimisations out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 10)
    (tmp_path / "short.txt").write_text("eleven char")
    (tmp_path / "empty.npz").write_bytes(b"")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield tmp_path
    jax.config.update("jax_disable_most_optimizations", before)


def train(*options):
    cli.main(["train", "--text", "text.txt", *SIZES, *map(str, options)])


@contextlib.contextmanager
def stops(code, capsys):
    """The command ends with this code and a line, which is the list's one entry."""
    said = []
    with pytest.raises(SystemExit) as stopped:
        yield said
    assert stopped.value.code == code
    said += [line for line in capsys.readouterr().err.splitlines() if line.startswith("lstm-jax:")]
    assert len(said) == 1


def interrupt_after(monkeypatch, calls, path):
    """Ctrl-C when training has made so many calls; it then waits until the run is kept."""
    call, count = runs.Run._call, iter(range(1000))

    def interrupted(self, *arguments):
        history = call(self, *arguments)
        if next(count) + 1 == calls:
            interrupt()
            while not path.exists():
                time.sleep(0.001)
        return history

    monkeypatch.setattr(runs.Run, "_call", interrupted)


def arrays(path):
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file if name != "__description__"}


@pytest.fixture
def unscored(monkeypatch):
    """Training does not compile what scores and what draws."""
    monkeypatch.setattr(characters, "bits_per_character", lambda *arguments: 1.0)
    monkeypatch.setattr(language.Language, "sample", lambda *arguments: "")


def test_fault_20_an_interrupted_training_goes_on_to_the_same_bits(
    here, unscored, monkeypatch, capsys
):
    train("--out", "whole.npz", "--metrics", "whole.jsonl")
    unfinished = here / "model.unfinished.npz"
    with monkeypatch.context() as patch, stops(130, capsys) as said:
        interrupt_after(patch, 1, unfinished)
        train("--metrics", "log.jsonl")
    kept = "20 of 40 updates are kept in model.unfinished.npz: the same command with --resume"
    assert f"interrupted; {kept}" in said[0] and not (here / "model.npz").exists()
    assert language.load(unfinished).vocabulary == language.load(here / "whole.npz").vocabulary
    with stops(2, capsys) as said:
        train()
    assert "--out: got a run that was interrupted" in said[0] and "--resume" in said[0]
    with stops(2, capsys) as said:
        train("--resume", "--seed", "1")
    assert "--resume: got seed 1, wanted 0, with which" in said[0]
    train("--resume", "--metrics", "log.jsonl")
    assert (here / "log.jsonl").read_text() == (here / "whole.jsonl").read_text()
    assert arrays("model.npz") == arrays("whole.npz") and not unfinished.exists()


KILLED = """
import sys
from lstm_jax import cli
from lstm_jax._commands import train
train.KEEP_EVERY = 0.0
cli.main(["train", "--text", "text.txt", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(here):
    """By SIGKILL, which no program hears, in processes of their own."""

    def start(*options):
        command = [sys.executable, "-c", KILLED, *SIZES, "--steps", "2000", *options]
        root = os.path.dirname(os.path.dirname(__file__))
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stdout=-3)

    def kept():
        try:
            return len(checkpoint.load("model.unfinished.npz")[0].history["loss"])
        except (FileNotFoundError, KeyError):
            return 0

    assert start("--out", "whole.npz").wait() == 0
    done = 0
    for resumes in ([], ["--resume"]):
        process = start(*resumes)
        while kept() <= done and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        done = kept()
    assert start("--resume").wait() == 0
    assert arrays("model.npz") == arrays("whole.npz")


def test_two_trainings_do_not_write_one_model(here, unscored, monkeypatch, capsys):
    """The second is told before it trains; who was killed holds nothing."""
    (here / ".model.npz.lock").touch()
    monkeypatch.setattr(train_command.Train, "_learn", lambda *arguments: train("--resume"))
    (here / "model.unfinished.npz").touch()
    with stops(2, capsys) as said:
        train()
    assert "--out: got 'model.npz', to which another run is writing" in said[0]
    assert not (here / ".model.npz.lock").exists()


def test_fault_20_a_termination_is_an_interrupt(monkeypatch, capsys):
    def run(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(cli.Info, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    with stops(130, capsys) as said:
        cli.main(["info"])
    assert said == ["lstm-jax: interrupted"] and signal.getsignal(signal.SIGTERM) == before


def test_fault_20_a_diverged_model_overwrites_nothing(here, unscored, capsys):
    (here / "model.npz").write_bytes(b"good")
    with stops(1, capsys) as said:
        rates = "--learning-rate", "1e38", "--max-norm", "1e30"
        train(*rates, "--cell", "rnn-relu", "--overwrite")
    assert "diverged" in said[0] and (here / "model.npz").read_bytes() == b"good"
    assert not (here / "model.unfinished.npz").exists()


def test_fault_20_a_full_disk_costs_no_model(here, unscored, monkeypatch, capsys):
    (here / "model.npz").write_bytes(b"good")
    full = [True]

    def fsync(descriptor, real=os.fsync):
        if full[0]:
            full[0] = False
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with stops(2, capsys) as said:
        train("--overwrite")
    assert "--out: got 'model.npz' (No space left on device)" in said[0]
    assert "40 of 40 updates are kept in model.unfinished.npz" in said[0]
    assert (here / "model.npz").read_bytes() == b"good"
    train("--resume", "--overwrite")
    assert language.load(here / "model.npz").model.cell.hidden_size == 8


MISTAKES = {
    "train --text short.txt": "--text: got 11 characters, wanted 490 or more",
    "train --learning-rate nan": "--learning-rate: got nan",
    "train --learning-rate inf": "--learning-rate: got inf",
    "train --learning-rate -1": "--learning-rate: got -1",
    "train --max-norm 0": "--max-norm: got 0",
    "train --momentum 1": "--momentum: got 1",
    "train --steps 0": "--steps: got 0, wanted an integer of at least 1",
    "train --window 0": "--window: got 0",
    "train --batch-size 0": "--batch-size: got 0",
    "train --hidden-size -3": "--hidden-size: got -3",
    "train --hidden-size 1000000000": "--hidden-size: got 1000000000, wanted an integer of at most",
    "train --steps 9999999999": "--steps: got 9999999999, wanted an integer of at most 2147483647",
    "train --max-chars 0": "--max-chars: got 0",
    "train --seed -1": "--seed: got -1",
    "train --seed 99999999999": "--seed: got 99999999999",
    "train --text text.txt --window 50": "--text: got 420 characters, wanted 510 or more",
    "train --text text.txt --window 9 --out .": "--out: got '.', wanted a name that ends in .npz",
    "train --text text.txt --window 9 --out folder.npz": "--out: got 'folder.npz', a folder",
    "train --text text.txt --window 9 --out m.pt": "`lstm-jax convert` makes other formats",
    "train --text text.txt --window 9 --out text.txt/m.npz": "--out: got 'text.txt'",
    "train --text text.txt --window 9 --metrics .": "--metrics: got '.'",
    "train --text text.txt --window 9 --metrics model.npz": "--metrics: got 'model.npz'",
    "train --text text.txt --window 9 --resume": "--resume: got 'model.unfinished.npz', which does "
    "not exist, wanted the file of an interrupted run beside --out; leave --resume out",
    "train --text text.txt --window 9 --out old.npz --resume": "--resume: got 'old.unfinished.npz',"
    " which does not exist; 'old.npz' is of a run that has finished, wanted",
    "train --text text.txt --window 9 --out old.npz": "--out: got 'old.npz', which exists, wanted "
    "a name that is free; name another, or add --overwrite to replace it",
    "study --out old": "--out: got 'old/report.html', which exists",
    "convert empty.npz old.npz": "target: got 'old.npz', which exists",
    "convert empty.npz out.npz --prefix a": "--prefix: got 'a', wanted none, for a .npz file",
    "convert empty.npz out.npz --double-bias": "--double-bias: got it, wanted none",
    "train --text none.txt": "leave --text out for Python's own source",
    "study --text short.txt": "--text: got 11 characters",
    "study --out text.txt": "--out: got 'text.txt'",
    "study --seed -1": "--seed: got -1",
    "study --cells": "--cells: got none",
    "study --cells gru lstm gru": "--cells: got gru twice",
    "sample empty.npz": "model: got 'empty.npz'",
    "sample text.txt": "model: got 'text.txt'",
    "sample pickled.npz": "model: got 'pickled.npz'",
    "sample empty.npz --temperature nan": "--temperature: got nan",
    "sample empty.npz --temperature inf": "--temperature: got inf",
    "sample empty.npz --length 0": "--length: got 0",
    "sample empty.npz --length 9999999999": "--length: got 9999999999",
    "convert empty.npz out.npz": "source: got 'empty.npz'",
    "convert empty.npz folder.npz": "target: got 'folder.npz', a folder",
    "convert empty.npz none/out.npz": "target: got 'none/out.npz' in a folder that does not exist",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_fault_21_mistakes_name_the_option_before_any_work(here, monkeypatch, capsys, arguments):
    def work(*arguments, **options):
        raise AssertionError("work has begun")

    monkeypatch.setattr(runs.Run, "learn", work)
    monkeypatch.setattr(study, "run", work)
    (here / "folder.npz").mkdir()
    np.savez(here / "pickled.npz", __description__=np.array({}, object))
    (here / "old.npz").write_bytes(b"old")
    (here / "old").mkdir()
    (here / "old" / "report.html").write_text("old")
    before = sorted(here.rglob("*"))
    with stops(2, capsys) as said:
        cli.main(arguments.split())
    assert MISTAKES[arguments] in said[0]
    assert "path=" not in said[0] and "pickle=" not in said[0]
    assert sorted(here.rglob("*")) == before


def test_a_finished_run_is_kept_where_another_has_saved_its_model_meanwhile(
    here, unscored, monkeypatch, capsys
):
    learn = runs.Run.learn

    def learned(self, *arguments):
        (here / "model.npz").write_bytes(b"another's")
        return learn(self, *arguments)

    with monkeypatch.context() as patch, stops(2, capsys) as said:
        patch.setattr(runs.Run, "learn", learned)
        train()
    assert "--out: got 'model.npz', which exists" in said[0]
    assert "40 of 40 updates are kept in model.unfinished.npz" in said[0]
    assert (here / "model.npz").read_bytes() == b"another's"


@pytest.mark.parametrize(
    "arguments",
    ["train --hiden-size 3", "train --hidden-size x", "sample", "convert a b --layer c"],
)
def test_an_error_of_a_command_points_to_the_help_of_that_command(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments.split())
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert stopped.value.code == 2
    assert f"lstm-jax {arguments.split()[0]} --help" in said and "lstm-jax --help" not in said


def test_an_error_of_interop_names_the_option_and_a_count_its_noun(here, capsys):
    with pytest.raises(ValueError, match=r"^--layers: got \['a'\], .*; pass --layers \['b'\]$"):
        with options.named_as(layers="--layers"):
            raise fail("layers", ["a"], "names", "pass layers=['b']")
    cell = LSTM(1)
    params = cell.init(jax.random.key(0), 1)
    checkpoint.save(here / "net.npz", params, {"net": interop.files.describe(cell)})
    cli.main(["convert", "net.npz", "same.npz"])
    assert "\n1 cell, 12 parameters\n" in capsys.readouterr().out
    cli.main(["convert", "net.npz", "same.npz", "--overwrite"])


def test_fault_20_a_study_that_is_interrupted_keeps_parts_and_no_report(here, monkeypatch, capsys):
    parts = here / "report" / "parts"

    def endless():
        while not (parts / "task-lstm.npz").exists():
            time.sleep(0.001)
        interrupt()
        while True:
            jobs.advance(0)
            time.sleep(0.001)

    todo = {("task", "lstm"): (1, lambda: 1), ("task", "gru"): (1, endless)}
    monkeypatch.setattr(study, "_jobs", lambda *arguments: todo)
    with stops(130, capsys) as said:
        cli.main(["study", "--text", "text.txt", "--quick"])
    assert "finished parts are kept in report/parts: the same command goes on from them" in said[0]
    assert sorted((here / "report").iterdir()) == [parts]


def test_out_of_memory_is_one_line(monkeypatch, capsys):
    def run(self):
        error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        error.add_note("----\nFor simplicity, JAX has removed its internal frames")
        error.add_note("3 of 7 updates are kept")
        raise error

    monkeypatch.setattr(cli.Info, "run", run)
    with stops(1, capsys) as said:
        cli.main(["info"])
    assert said == ["lstm-jax: out of memory; 3 of 7 updates are kept"]


def test_fault_20_a_missing_extra_is_named(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in ("report", "plots"):
        monkeypatch.delitem(sys.modules, f"lstm_jax.{module}", raising=False)
        monkeypatch.delattr(f"lstm_jax.{module}", raising=False)
    with stops(2, capsys) as said:
        cli.main(["study"])
    assert "pip install 'lstm-jax[study]'" in said[0]


def test_fault_20_a_closed_pipe_is_no_error(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed, pytest.raises(SystemExit) as stopped:
        monkeypatch.setattr(sys, "stdout", closed)
        cli.main(["info"])
    assert stopped.value.code == 141 and capsys.readouterr().err == ""


def test_fault_19_convert_reads_what_train_wrote(here, capsys):
    corpus = characters.load(here / "text.txt", 1000, 128, 8)
    run = runs.Run(corpus, "gru", Training(8, 4, 1, 0.1, 0.1), 8)
    language.save(here / "model.npz", run, run.params, {"bits_per_character": 1.0})
    model = language.load(here / "model.npz")
    cli.main(["convert", "model.npz", "net.npz"])
    params, description = checkpoint.load(here / "net.npz")
    assert params["w"].shape == (8, model.vocabulary.size)
    assert description["vocabulary"] == model.vocabulary.chars
    assert interop.files.build(description["net"]).output_size == model.vocabulary.size
    capsys.readouterr()
    pytest.importorskip("safetensors")
    cli.main(["convert", "model.npz", "net.safetensors"])
    assert "without readout and vocabulary" in capsys.readouterr().out
    _, params = interop.from_safetensors(here / "net.safetensors")
    np.testing.assert_array_equal(params["w_hh"], model.params["inner"]["w_hh"])
    cli.main(["convert", "net.npz", "again.safetensors"])
    assert (here / "again.safetensors").read_bytes() == (here / "net.safetensors").read_bytes()


def test_fault_20_metrics_may_go_to_a_pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading) as read, os.fdopen(writing, "w"):
        with JsonLines(f"/dev/fd/{writing}") as log:
            log.write({"step": 1})
        assert read.readline() == '{"step": 1}\n'


@pytest.mark.parametrize("room", [True, False])
def test_fault_20_a_run_is_kept_elsewhere_where_its_disk_is_full(tmp_path, monkeypatch, room):
    class Run:
        done, settings = 3, Training(8, 4, 7, 0.1, 0.1)

        def keep(self, path):
            if path.parent == tmp_path or not room:
                raise ValueError("full")
            path.write_bytes(b"kept")

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    error = KeyboardInterrupt()
    train_command._keep(Run(), tmp_path / "model.unfinished.npz", error)
    (kept,) = (tmp_path / "tmp").iterdir()
    said = f"3 of 7 updates are kept in {kept}/model.unfinished.npz: move it to {tmp_path}"
    assert error.__notes__[0].startswith(
        said if room else "3 of 7 updates could not be kept (full)"
    )
