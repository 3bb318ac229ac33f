"""The progress bar: when it appears, where it stays silent, and what it shows."""

import io
import subprocess
import sys

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


def test_not_a_terminal_is_silent_unless_asked(clock):
    for show, silent in [(None, True), (False, True), (True, False)]:
        console = terminal(False)
        with progress(10, "train", show=show, console=console, clock=clock) as bar:
            clock.now += 5
            bar.advance(10)
        assert (written(console) == "") == silent


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
    assert (stderr.getvalue() != "") == is_terminal


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
    assert stderr.getvalue() == ""


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
