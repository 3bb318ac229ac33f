"""The command line: no run is lost when it is interrupted, none is wasted on a wrong call."""

import os
import signal
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.progress import progress
from lstm_jax.studies import jobs


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
        jobs.advance(2)
        jobs.advance(90)
        time.sleep(3 * jobs.TICK)

    jobs.run_jobs({("text", "lstm"): (10, work)}, Bar())
    assert "text lstm" in seen and [n for n in seen if n and isinstance(n, int)] == [2, 8]
    jobs.advance(1)  # Outside a job.
