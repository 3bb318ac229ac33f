"""The command `lstm-jax study`."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .._checks import fail
from .._files import check_folder
from ..studies import jobs, study
from . import options
from .options import CellName, TaskName


@dataclasses.dataclass(frozen=True)
class Study:
    """Train several cells on a task and on text; report how their gradients vanish or explode."""

    text: Path | None = None
    """A UTF-8 text file or a folder of text files. None: the source of Python's own library."""
    task: TaskName = "adding"
    """The synthetic task that needs long memory."""
    cells: tuple[CellName, ...] = ("rnn-tanh", "rnn-relu", "lstm", "gru")
    """The cells to compare."""
    out: Path = Path("report")
    """The folder to write report.html, study.json and the figures to."""
    seed: int = 0
    """Random seed."""
    quick: bool = False
    """Finish in half a minute: every figure is drawn, but the cells train too briefly to learn."""
    overwrite: bool = False
    """Replace the report in the folder of --out if there is one, once the new one is made."""

    def run(self) -> None:
        """Run the study and write its report."""
        with _extra():
            from .. import report  # Not above: matplotlib takes half a second to import.
        if not self.cells:
            raise fail("--cells", "none", "at least one", "name some, such as --cells lstm gru")
        twice = sorted({name for name in self.cells if self.cells.count(name) > 1})
        if twice:
            raise fail("--cells", f"{', '.join(twice)} twice", "each once", "leave one out")
        options.check_seed(self)
        config = study.Config(self.text, self.task, self.cells, self.seed, self.quick)
        with options.named("--text"):
            study.read(config)
        check_folder(self.out, argument="--out")
        for name in report.FILES:
            options.check_new("--out", self.out / name, self.overwrite)
        parts = self.out / jobs.FOLDER
        try:
            with options.named_as(path="--out"):
                results = study.run(config, parts)
                report.write(results, self.out)
        except BaseException as error:
            if parts.is_dir():
                error.add_note(
                    f"finished parts are kept in {parts}: the same command goes on from them"
                )
            raise
        jobs.Parts(parts).clear()
        for claim in results["claims"]:
            print(f"{claim['id']}. {claim['verdict']:10}  {claim['statement']}")
        seconds = results["environment"]["seconds"]
        print(f"{seconds:.0f} s; open {self.out / 'report.html'}")


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Add to an ImportError the extra that installs the missing package."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; it comes with: pip install 'lstm-jax[study]'") from None
