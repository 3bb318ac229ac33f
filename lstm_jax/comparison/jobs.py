"""Concurrent jobs, whose finished results survive an interrupted run.

Jobs run in threads and share JAX's compiled programs. The main thread only waits, so it handles
Ctrl-C at once: queued jobs never start, and running ones end at their next `advance`.
"""

import contextvars
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from .. import checkpoint
from ..progress import Bar

__all__ = [
    "FOLDER",
    "TICK",
    "WORKERS",
    "Job",
    "Name",
    "Parts",
    "Stopped",
    "advance",
    "advance_share",
    "run_jobs",
]
__dir__ = __all__.copy

WORKERS = 2
"""Number of concurrent jobs. A recurrence of this size keeps one core busy, compiling included."""
TICK = 0.2
"""Seconds between two checks of the jobs."""
FOLDER = "parts"

Name = tuple[str, ...]


class Job(NamedTuple):
    """A function without arguments, `work`, and its share of all work, `size`, in any unit."""

    size: int
    work: Callable[[], Any]


class Stopped(BaseException):
    """Raised by `advance` in a job whose run was interrupted."""


_running: contextvars.ContextVar[tuple[int, Callable[[int], None]]]
_running = contextvars.ContextVar("running", default=(0, lambda n: None))


def advance(n: int) -> None:
    """Count n parts of the running job's `size` as done; outside a job do nothing.

    Call it between compiled calls: if the run was interrupted, the job ends here.
    """
    _running.get()[1](n)


def advance_share(share: float) -> None:
    """Count a share of the running job's size as done."""
    size, count = _running.get()
    count(round(share * size))


class Parts:
    """Results of finished jobs, each in a file, so that a later run need not repeat them.

    Args:
        folder: the folder of the files, created with the first one; None: keep nothing.
        settings: everything that the results depend on, in JSON; results of other settings are
            not found.
    """

    def __init__(self, folder: Path | None, settings: Any = None):
        self._folder = folder
        text = json.dumps(settings, sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()

    def find(self, name: Name) -> tuple[Any] | None:
        """Find a result of these settings: (result,), or None."""
        if self._folder is None:
            return None
        try:
            result, description = checkpoint.load(self._path(name))
        except (ValueError, FileNotFoundError):
            return None
        return (result,) if description.get("key") == self._key else None

    def keep(self, name: Name, result: Any) -> None:
        """Write a result; errors are `checkpoint.save`'s."""
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            checkpoint.save(self._path(name), result, {"key": self._key})

    def clear(self) -> None:
        """Remove all kept results in the folder."""
        if self._folder is not None and self._folder.is_dir():
            for path in self._folder.glob("*.npz"):
                path.unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _path(self, name: Name) -> Path:
        return Path(self._folder or "", "-".join(filter(None, name)) + ".npz")


def run_jobs(
    jobs: Mapping[Name, tuple[int, Callable[[], Any]]],
    bar: Bar,
    parts: Parts | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> dict[Name, Any]:
    """Run `jobs` and return their results by name; the bar's total is the sum of their sizes.

    Args:
        jobs: the jobs by name, in the order of their start.
        bar: the progress bar, advanced by the jobs.
        parts: results of finished jobs, to reuse and to add to.
        tick: called a few times a second, in the calling thread.

    Raises:
        KeyboardInterrupt: at once; finished jobs are kept.
        Exception: the error of the first job that fails; finished jobs are kept.
    """
    jobs = {name: Job(*job) for name, job in jobs.items()}
    parts = parts or Parts(None)
    results = {name: found[0] for name in jobs if (found := parts.find(name)) is not None}
    bar.advance(sum(jobs[name].size for name in results))
    running: list[Name] = []
    stop = threading.Event()
    pool = ThreadPoolExecutor(WORKERS)
    try:
        left = [name for name in jobs if name not in results]
        futures = {pool.submit(_work, n, jobs[n], bar, running, stop): n for n in left}
        while futures:
            done, _ = wait(futures, TICK, FIRST_COMPLETED)
            for future in done:
                name = futures.pop(future)
                results[name] = future.result()
                parts.keep(name, results[name])
            bar.tick(", ".join(" ".join(filter(None, name)) for name in running))
            tick()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return results


def _work(name: Name, job: Job, bar: Bar, running: list[Name], stop: threading.Event) -> Any:
    """Run a job in its thread; when it ends, count its whole size as done."""
    counted = 0

    def count(n: int) -> None:
        nonlocal counted
        n = min(n, job.size - counted)
        counted += n
        bar.advance(n)
        if stop.is_set():
            raise Stopped

    running.append(name)
    _running.set((job.size, count))
    try:
        result = job.work()
        bar.advance(job.size - counted)
        return result
    finally:
        running.remove(name)
