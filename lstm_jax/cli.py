"""The console command: `lstm-jax study`, `train`, `sample`, `convert` and `info`."""

import dataclasses
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import tyro

    from . import report
except ImportError as error:  # A missing extra is named, whichever part of it is missing.
    sys.exit(f"lstm-jax: {error}; the command needs the extra: pip install 'lstm-jax[study]'")

import jax

from . import GRU, LSTM, RNN, __version__, checkpoint, interop, which
from ._checks import fail
from ._recurrence.native import library
from .studies import characters, jobs, language, study
from .studies.settings import FULL, Training

CellName = Literal["rnn-tanh", "rnn-relu", "lstm", "gru"]
TaskName = Literal["adding", "copy", "temporal-order"]
ModelFile = Annotated[Path, tyro.conf.Positional]
NPZ = ".npz"


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
        if not self.cells:
            raise fail("cells", "none", "at least one", "name some, such as --cells lstm gru")
        report.check_folder(self.out)
        config = study.Config(self.text, self.task, self.cells, self.seed, self.quick)
        parts = self.out / jobs.FOLDER
        results = study.run(config, parts)
        report.write(results, self.out)
        jobs.Parts(parts).clear()
        for claim in results["claims"]:
            print(f"{claim['id']}. {claim['verdict']:9}  {claim['statement']}")
        seconds = results["environment"]["seconds"]
        print(f"{seconds:.0f} s; open {self.out / 'report.html'}")


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a character model on a text, print a sample, and save its parameters."""

    text: Path | None = None
    """A UTF-8 text file, or a folder of them. None: the source of Python's standard library."""
    cell: CellName = "lstm"
    """The recurrent cell."""
    hidden_size: int = 128
    """H."""
    steps: int = 1500
    """Updates."""
    batch_size: int = FULL.text.batch_size
    """Streams of text side by side."""
    window: int = FULL.window
    """Characters that the gradient runs back through."""
    learning_rate: float = FULL.text.learning_rate
    """Its peak: it warms up over the first fifth and falls as a cosine."""
    max_norm: float = FULL.text.max_norm
    """The gradient is scaled back to this norm."""
    momentum: float = FULL.text.momentum
    """Of SGD."""
    max_chars: int = FULL.max_chars
    """Of the text; what is beyond is left out."""
    out: Path = Path("model.npz")
    """The file for the parameters."""
    metrics: Path | None = None
    """A file that gets one line of JSON every few updates."""
    seed: int = 0
    """Of everything random."""

    def run(self) -> None:
        """Train, show, save."""
        report.check_folder(self.out.parent)
        corpus = characters.load(self.text, self.max_chars, FULL.max_symbols, self.window)
        settings = Training(
            self.hidden_size,
            self.batch_size,
            self.steps,
            self.learning_rate,
            self.max_norm,
            self.momentum,
        )
        trained, training = language.learn(
            corpus, self.cell, settings, self.window, self.seed, self.metrics
        )
        language.save(self.out, trained, self.cell, training)
        print(trained.sample("\n", 300, self.seed))
        bits = f"{training['bits_per_character']:.3f} bits per character on held-out text"
        print(f"\n{bits} (order-0 entropy {corpus.order0:.3f}); saved {self.out}")


@dataclasses.dataclass(frozen=True)
class Sample:
    """Continue a prompt with a model that `lstm-jax train` saved."""

    model: ModelFile
    """The file that `lstm-jax train` wrote."""
    prompt: str = "\n"
    """The text to continue."""
    length: int = 300
    """Characters to add."""
    temperature: float = 0.7
    """Below 1 the likely, above 1 the surprising."""
    seed: int = 0
    """Of the draw."""

    def run(self) -> None:
        """Print the prompt and what follows it."""
        print(
            language.load(self.model).sample(self.prompt, self.length, self.seed, self.temperature)
        )


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert weights from one format to another, by the suffixes of the files.

    .pt and .pth (PyTorch), .safetensors, .keras and .weights.h5 (Keras), .onnx, .npz (ours).
    """

    source: ModelFile
    """The file to read."""
    target: ModelFile
    """The file to write, whole or not at all."""
    prefix: str = ""
    """Where the names of a state dict begin, such as encoder.rnn."""
    layers: tuple[str, ...] = ()
    """The layers of a Keras model, or the nodes of an ONNX graph, to take, in order."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of an RNN, where the file does not tell."""
    double_bias: bool = False
    """Keep two biases apart, as they train otherwise than one."""

    def run(self) -> None:
        """Read, tell, write."""
        if self.target.suffix != NPZ:
            interop.files.check_suffix("target", self.target)
        net, params = self.read()
        if self.target.suffix == NPZ:
            checkpoint.save(self.target, params, {"net": interop.files.describe(net)})
        else:
            interop.files.write(net, params, self.target)
        print(f"{self.source}:\n{interop.files.summary(net, params)}\nwrote {self.target}")

    def read(self) -> tuple[Any, Any]:
        """(net, params) of the source."""
        if self.source.suffix != NPZ:
            options = dataclasses.asdict(self)
            del options["source"], options["target"]
            if options["activation"] == "tanh":
                del options["activation"]
            return interop.files.read(self.source, **options)
        params, description = checkpoint.load(self.source)
        if "net" not in description:
            remedy = "pass a file that `lstm-jax convert` wrote"
            raise fail("source", str(sorted(description)), "a description of a net", remedy)
        net = interop.files.build(description["net"])
        return interop.files.own(net, interop.files.by_path(params))


@dataclasses.dataclass(frozen=True)
class Info:
    """Versions, devices and the implementations that run here."""

    def run(self) -> None:
        """Print them."""
        print(f"lstm_jax {__version__} {library.summary()}")
        print(f"jax {jax.__version__}, Python {platform.python_version()}")
        print("devices:", ", ".join(str(device) for device in jax.devices()))
        cells = {"RNN": RNN(1), "LSTM": LSTM(1), "GRU": GRU(1)}
        cells["GRU, reset before"] = GRU(1, reset_after=False)
        for name, cell in cells.items():
            print(f"{name}: {which(cell)}")


Command = (
    Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a caller's error is one line on standard error and exit code 2."""
    command = tyro.cli(
        Command, prog="lstm-jax", args=arguments, config=(tyro.conf.OmitArgPrefixes,)
    )  # type: ignore[arg-type]
    try:
        command.run()
    except (ValueError, OSError, ImportError) as error:
        print(f"lstm-jax: {error}", file=sys.stderr)
        sys.exit(2)
