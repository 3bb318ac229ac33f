"""Progress: when it appears, as a bar or as lines, where it stays silent, and what it shows."""

import io
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from lstm_jax.progress import progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def terminal(is_terminal=True):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=120, color_system=None)


def written(console):
    return console.file.getvalue()


def test_work_of_less_than_two_seconds_shows_nothing(clock):
    console = terminal()
    with progress(10, "train", console=console, clock=clock) as bar:
        for _ in range(10):
            clock.now += 0.199
            bar.advance()
        assert bar.done == 10
    assert written(console) == ""


def test_the_bar_appears_after_two_seconds_and_stays(clock):
    console = terminal()
    with progress(10, "train", console=console, clock=clock) as bar:
        clock.now += 1.9
        bar.advance(3)
        assert written(console) == ""
        clock.now += 0.2
        bar.advance(4, loss=0.123456, note="[red]", count=12)
        assert written(console) != ""
    last = written(console).split("\n")[-2]
    assert "train" in last
    assert "7/10" in last
    assert "0:00:02" in last  # since the work began, not since the bar did
    assert "loss 0.1235  note [red]  count 12" in last


def test_work_that_fails_leaves_its_bar_and_its_error(clock):
    console = terminal()
    with pytest.raises(RuntimeError, match="diverged"):
        with progress(None, "[train]", console=console, clock=clock) as bar:
            clock.now += 3
            bar.advance(5)
            raise RuntimeError("diverged")
    assert "[train]" in written(console)
    assert "5/?" in written(console)
    before = written(console)
    bar.advance(5)
    assert written(console) == before


def test_fault_22_lines_where_there_is_no_terminal(clock):
    console = terminal(False)
    with progress(10, "train", console=console, clock=clock) as bar:
        bar.advance(1)
        assert written(console) == ""
        clock.now += 2
        bar.tick("lstm")
        clock.now += 9
        bar.advance(2, loss=0.25)
        assert written(console) == "train 0:02  1 of 10, lstm\n"
        clock.now += 60
        bar.advance(3, loss=0.125)
    bar.advance(1)
    lines = written(console).splitlines()
    assert lines[1:] == ["train 1:11  6 of 10, lstm  loss 0.125"]


def test_fault_22_time_is_seen_to_pass_within_a_part(clock):
    console = terminal()
    with progress(10, "study", console=console, clock=clock, patience=0.0) as bar:
        bar.tick("lstm on text")
        assert "study" in written(console)
    assert "lstm on text" in written(console) and "0/10" in written(console)


def test_a_bar_that_is_asked_for_shows_its_end_without_a_terminal(clock):
    for show in (False, True):
        console = terminal(False)
        with progress(10, "train", show=show, console=console, clock=clock) as bar:
            clock.now += 5
            bar.advance(10)
        assert ("10/10" in written(console)) == show


def test_threads_share_a_bar():
    with progress(None, "train", show=False) as bar:

        def work():
            for _ in range(2000):
                bar.advance()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bar.done == 8000


def test_show_false_is_silent_on_a_terminal(clock):
    console = terminal()
    with progress(10, "train", show=False, console=console, clock=clock) as bar:
        clock.now += 5
        bar.advance(10)
    assert written(console) == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_standard_error_decides(monkeypatch, clock, is_terminal):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(10, "train", clock=clock) as bar:
        clock.now += 5
        bar.advance(10)
    assert ("train 0:05  10 of 10" in stderr.getvalue()) != is_terminal
    assert ("10/10" in stderr.getvalue()) == is_terminal


def test_no_standard_error_at_all_is_silent(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", None)
    with progress(10, "train", clock=clock) as bar:
        clock.now += 5
        bar.advance(10)
    assert bar.done == 10


def test_without_rich_a_bar_that_was_asked_for_names_the_extra(monkeypatch, clock):
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ImportError, match=r"show: got True .*'study'; .*lstm-jax\[study\]"):
        with progress(10, "train", show=True):
            raise AssertionError("the work began")
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(10, "train", clock=clock) as bar:
        clock.now += 5
        bar.advance(10)
    assert stderr.getvalue() == "train 0:05  10 of 10\n"


def test_rich_is_loaded_only_when_a_bar_appears():
    script = (
        "import sys\n"
        "from lstm_jax.progress import progress\n"
        "with progress(3, 'train', show=True) as bar:\n"
        "    bar.advance()\n"
        "assert not any(name.startswith('rich') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("total", [-1, 2.5, "10"])
def test_total_is_a_count(total):
    with pytest.raises(ValueError, match="total: got .*, wanted an integer of at least 0; pass"):
        with progress(total, "train"):
            pass


def test_rates_are_those_of_the_last_parts_and_tell_the_time_left(clock):
    console = terminal(False)
    rates = {"steps": 1, "tokens": 320}
    with progress(1000, "train", console=console, clock=clock, rates=rates) as bar:
        bar.advance(500, loss=0.5)  # Done before this process began.
        for _ in range(30):
            clock.now += 2
            bar.advance(10, loss=0.25)
    lines = written(console).splitlines()
    assert lines[0] == "train 0:02  510 of 1000, loss 0.25  5 steps/s  1600 tokens/s, 1:38 left"
    assert lines[-1] == "train 1:00  800 of 1000, loss 0.25  5 steps/s  1600 tokens/s, 0:40 left"


def test_a_bar_shows_rates_too(clock):
    console = terminal()
    with progress(None, "train", console=console, clock=clock, rates={"updates": 1}) as bar:
        for _ in range(3):
            clock.now += 2
            bar.advance(1)
    assert "0.5 updates/s" in written(console) and "left" not in written(console)
    with pytest.raises(ValueError, match=r"rates\['steps'\]: got 0, wanted a number above 0"):
        with progress(3, "train", rates={"steps": 0}):
            raise AssertionError("the work began")
