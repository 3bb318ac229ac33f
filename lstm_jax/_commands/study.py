"""The command `lstm-jax study`."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .._checks import fail
from .._files import check_folder, locked
from ..comparison import jobs, study
from . import laboratory, options
from .laboratory import SCALE
from .options import CellName, TaskName

_COMPARED = ("text", "task", "cells", "quick")
"""Options of the comparison of cells."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Study how gradients vanish or explode: four cells compared, or published experiments.

    Without IDS it trains several cells on a task and on text and reports on their gradients. With
    IDS, such as S9 S19 or s9 s19, it repeats these published experiments and says what holds.
    """

    ids: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Published experiments to repeat, or all; --list names them."""
    list: bool = False
    """Print the published experiments by id and title, and do nothing else."""
    scale: Literal["ci", "cpu", "gpu"] = SCALE
    """Size of published experiments: a minute or two, some minutes, or as published."""
    jobs: int = 1
    """Number of published experiments that run at once, in a process each."""
    text: Path | None = None
    """A UTF-8 text file or a folder of text files. None: the source of Python's own library."""
    task: TaskName = "adding"
    """The synthetic task that needs long memory."""
    cells: tuple[CellName, ...] = ("rnn-tanh", "rnn-relu", "lstm", "gru")
    """The cells to compare."""
    out: Path = Path("report")
    """The folder to write pages, numbers and figures to."""
    seed: int = 0
    """Random seed, the first of several."""
    quick: bool = False
    """A short comparison: every figure is drawn, but the cells train too briefly to learn."""
    overwrite: bool = False
    """Replace the report in the folder of --out if there is one, once the new one is made."""

    def run(self) -> None:
        """Do what the options say."""
        if self.list:
            laboratory.show()
        elif self.ids:
            options.check_seed(self)
            options.check_counts(self, "jobs")
            beside = f"beside {' '.join(self.ids)}"
            self._check_unused(_COMPARED, beside, "it only without IDS", "leave it out")
            with _extra():
                laboratory.run(self.ids, self.scale, self.seed, self.out, self.overwrite, self.jobs)
        else:
            remedy = "name some, such as S9, or use --quick"
            self._check_unused(("scale", "jobs"), "without IDS", "it only with IDS", remedy)
            self._compare_cells()

    def _check_unused(self, names: Sequence[str], where: str, wanted: str, remedy: str) -> None:
        """Raise if one of these options, which do nothing here, is not at its default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            value = getattr(self, name)
            if value != defaults[name]:
                raise fail(options.typed(name), f"{options.seen(value)} {where}", wanted, remedy)

    def _compare_cells(self) -> None:
        """Compare cells on a task and on text, and write the report."""
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
        with locked(self.out, "report", argument="--out"):
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
            laboratory.list_all(self.out)
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
