"""`lstm-jax study`."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .._checks import fail
from ..studies import jobs, study
from . import options
from .options import CellName, TaskName


@dataclasses.dataclass(frozen=True)
class Study:
    """Train every cell on a task and on text, and report where their gradients go."""

    text: Path | None = None
    """A UTF-8 text file, or a folder of them. None: the source of Python's standard library."""
    task: TaskName = "adding"
    """The synthetic long-memory task."""
    cells: tuple[CellName, ...] = ("rnn-tanh", "rnn-relu", "lstm", "gru")
    """The cells to compare."""
    out: Path = Path("report")
    """The folder for report.html, study.json and the figures."""
    seed: int = 0
    """Of everything random."""
    quick: bool = False
    """Half a minute: every figure, but too little training to learn the task."""

    def run(self) -> None:
        """Run the study and write its report."""
        with _extra():
            from .. import report  # Here, as drawing takes half a second to import.
        if not self.cells:
            raise fail("--cells", "none", "at least one", "name some, such as --cells lstm gru")
        options.check_seed(self)
        config = study.Config(self.text, self.task, self.cells, self.seed, self.quick)
        with options.named("--text"):
            study.read(config)
        options.check_folder("--out", self.out)
        parts = self.out / jobs.FOLDER
        try:
            results = study.run(config, parts)
            report.write(results, self.out)
        except BaseException as error:
            if parts.is_dir():
                error.add_note(f"what is finished is kept in {parts} for the same command")
            raise
        jobs.Parts(parts).clear()
        for claim in results["claims"]:
            print(f"{claim['id']}. {claim['verdict']:10}  {claim['statement']}")
        seconds = results["environment"]["seconds"]
        print(f"{seconds:.0f} s; open {self.out / 'report.html'}")


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Name the extra that a missing package belongs to."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; it comes with: pip install 'lstm-jax[study]'") from None
