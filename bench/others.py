"""Other load of the machine during a measurement: other processes, and threads of our own.

Times measured beside other work are not reproducible, least of all those of a library whose threads
spin while they wait for each other. So every row has the share of other processes (on Linux, else
None), and a sample begins only when the threads of the last one sleep.
"""

import contextlib
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
TASKS = Path("/proc/self/task")
PAUSE = 2e-3
LONGEST = 50e-3
LIMIT = 0.1
"""Share of other processes from which on there is a warning."""


def settle() -> None:
    """Wait until no other thread of this process runs, but not longer than `LONGEST`.

    OpenMP's threads spin for 5 to 10 ms after a call. On two cores the next program lost a quarter
    of its speed to them (LSTM, T32 B32 H256, after PyTorch).
    """
    end = time.perf_counter() + LONGEST
    time.sleep(PAUSE)
    while _running() > 1 and time.perf_counter() < end:  # One is this thread.
        time.sleep(PAUSE)


def _running() -> int:
    """Number of threads of this process that run or wait for a core; 0 if unknown."""
    count = 0
    for task in TASKS.glob("*/stat"):
        with contextlib.suppress(OSError):  # The thread has ended meanwhile.
            count += task.read_text().rpartition(")")[2].split()[0] == "R"
    return count


class Watch:
    """Counter of the CPU time of other processes, from its creation on."""

    def __init__(self):
        self._busy, self._own, self._start = _busy(), time.process_time(), time.perf_counter()

    def share(self) -> float | None:
        """CPU seconds of other processes and of the hypervisor, over all CPU seconds; in [0, 1]."""
        busy, own = _busy(), time.process_time() - self._own
        if busy is None or self._busy is None:
            return None
        cpu_seconds = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (busy - self._busy - own) / max(cpu_seconds, 1e-9)))


def _busy() -> float | None:
    """CPU seconds that were not idle, of all processes since the machine started."""
    try:
        words = STAT.read_text().splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def warning(share: float | None) -> str:
    """A warning if others were busy, else ""."""
    if share is None or share < LIMIT:
        return ""
    return f"others used {share:.0%} of the machine meanwhile: these times will not repeat"
