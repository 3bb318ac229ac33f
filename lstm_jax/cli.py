"""The console command: `lstm-jax study`, `train`, `sample`, `convert` and `info`."""

import contextlib
import dataclasses
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

try:
    import tyro
except ImportError as error:
    sys.exit(f"lstm-jax: {error}; the command needs the extra: pip install 'lstm-jax[study]'")

import jax

from . import GRU, LSTM, RNN, __version__, _options, checkpoint, interop, train, which
from ._checks import fail
from ._files import check_target
from ._layers import Readout
from ._recurrence.native import library
from .studies import characters, jobs, language, runs, study
from .studies.settings import FULL, Training

CellName = Literal["rnn-tanh", "rnn-relu", "lstm", "gru"]
TaskName = Literal["adding", "copy", "temporal-order"]
ModelFile = Annotated[Path, tyro.conf.Positional]
NPZ = ".npz"
INTERRUPTED = 130
PIPE_CLOSED = 141
KEEP_EVERY = 60.0
"""Seconds from one writing of an unfinished run to the next: all that a power cut can cost."""


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
            from . import report  # Here, as drawing takes half a second to import.
        if not self.cells:
            raise fail("--cells", "none", "at least one", "name some, such as --cells lstm gru")
        _options.check_seed(self)
        config = study.Config(self.text, self.task, self.cells, self.seed, self.quick)
        with _options.named("--text"):
            study.read(config)
        _options.check_folder("--out", self.out)
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
    resume: bool = False
    """Go on with a run that was interrupted, to the same bits; the other options as they were."""

    def run(self) -> None:
        """Train, save, show."""
        run, unfinished = self._prepare(), self.out.with_suffix(f".unfinished{NPZ}")
        if self.resume:
            with _options.named("--resume"):
                run.resume(unfinished)
        elif unfinished.exists():
            seen = f"a run that was interrupted, {str(unfinished)!r}"
            raise fail("--out", seen, "--resume", "go on with that, or delete the file")
        try:
            params, training = run.learn(self.metrics, _every(KEEP_EVERY, run.keep, unfinished))
            with _options.named("--out"):
                language.save(self.out, run, params, training)
        except runs.Diverged:
            unfinished.unlink(missing_ok=True)
            raise
        except BaseException as error:
            _keep(run, unfinished, error)
            raise
        unfinished.unlink(missing_ok=True)
        trained = language.Language(run.model, params, run.corpus.vocabulary)
        print(trained.sample("\n", 300, self.seed))
        bits = f"{training['bits_per_character']:.3f} bits per character on held-out text"
        print(f"\n{bits} (order-0 entropy {run.corpus.order0:.3f}); saved {self.out}")

    def _prepare(self) -> runs.Run:
        """Check every option, read the text, and make ready."""
        counts = ("hidden_size", "steps", "batch_size", "window", "max_chars")
        _options.check_counts(self, *counts)
        _options.check_number(self, "learning_rate", "a finite number of at least 0", 0.0)
        _options.check_number(self, "max_norm", "a finite number above 0", 0.0, above=True)
        _options.check_number(self, "momentum", "a number in [0, 1)", 0.0, 1.0)
        _options.check_seed(self)
        with _options.named("--text"):
            corpus = characters.load(self.text, self.max_chars, FULL.max_symbols, self.window)
        _options.check_file("--out", self.out, NPZ)
        if self.metrics is not None:
            _check_metrics(self.metrics, self.out)
        settings = Training(
            self.hidden_size,
            self.batch_size,
            self.steps,
            self.learning_rate,
            self.max_norm,
            self.momentum,
        )
        return runs.Run(corpus, self.cell, settings, self.window, self.seed)


def _check_metrics(metrics: Path, out: Path) -> None:
    if metrics.resolve() == out.resolve():
        raise fail("--metrics", repr(str(metrics)), "another file than --out", "name one")
    with _options.named("--metrics"), train.JsonLines(metrics):
        pass


def _every(seconds: float, action: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    """What calls `action` when so many seconds have gone by since the last time."""
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            action(*arguments)
            last = time.monotonic()

    return tick


def _keep(run: runs.Run, path: Path, error: BaseException) -> None:
    """Save what an error or Ctrl-C has left of a run, and say so in its message."""
    if not run.done:
        return
    made = f"{run.done} of {run.settings.steps} updates"
    try:
        run.keep(path)
    except ValueError as full:
        error.add_note(f"{made} could not be kept ({full})")
    else:
        error.add_note(f"{made} are kept in {path}: the same command with --resume goes on")


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
        _options.check_counts(self, "length")
        _options.check_number(self, "temperature", "a finite number above 0", 0.0, above=True)
        _options.check_seed(self)
        with _options.named("model"):
            model = language.load(self.model)
        print(model.sample(self.prompt, self.length, self.seed, self.temperature))


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
        check_target(self.target, argument="target")
        net, params, more = self.read()
        left_out = ""
        if self.target.suffix == NPZ:
            checkpoint.save(self.target, params, {"net": interop.files.describe(net), **more})
        else:
            if isinstance(net, Readout):
                net, params, more = net.inner, params["inner"], {"readout": None, **more}
            interop.files.write(net, params, self.target)
            if more:
                left_out = f", without {' and '.join(more)}, which it has no place for"
        summary = interop.files.summary(net, params)
        print(f"{self.source}:\n{summary}\nwrote {self.target}{left_out}")

    def read(self) -> tuple[Any, Any, dict[str, Any]]:
        """(net, params, what else there is by name) of the source."""
        with _options.named("source"):
            if self.source.suffix != NPZ:
                return *interop.files.read(self.source, **self._options()), {}
            params, description = checkpoint.load(self.source)
            if "cell" in description:
                model = language.load(self.source)
                return *model.net(), {"vocabulary": model.vocabulary.chars}
            if "net" not in description:
                remedy = "pass a file that `lstm-jax train` or `lstm-jax convert` wrote"
                raise fail("source", str(sorted(description)), "a description of a net", remedy)
            net = interop.files.build(description["net"])
            more = {name: value for name, value in description.items() if name != "net"}
            return *interop.files.own(net, interop.files.by_path(params)), more

    def _options(self) -> dict[str, Any]:
        options = dataclasses.asdict(self)
        del options["source"], options["target"]
        if options["activation"] == "tanh":
            del options["activation"]
        return options


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
    """Run the command line.

    A caller's error is one line on standard error and exit code 2; training that diverged, exit
    code 1; Ctrl-C and SIGTERM, 130.
    """
    try:
        try:
            command = tyro.cli(
                Command, prog="lstm-jax", args=arguments, config=(tyro.conf.OmitArgPrefixes,)
            )  # type: ignore[arg-type]
            with _terminable():
                command.run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # Such as `lstm-jax info | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except KeyboardInterrupt as stop:
        _stop(INTERRUPTED, "interrupted", stop)
    except runs.Diverged as error:
        _stop(1, f"training diverged: {error}; nothing was written, lower the learning rate", error)
    except MemoryError as error:
        _stop(1, "out of memory", error)
    except (ValueError, OSError, ImportError) as error:
        _stop(2, str(error), error)


def _stop(code: int, message: str, error: BaseException) -> NoReturn:
    """Leave with one line."""
    notes = getattr(error, "__notes__", [])
    print("lstm-jax:", "; ".join([message, *notes]), file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C; other threads than the main one hear of neither."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Name the extra that a missing package belongs to."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; it comes with: pip install 'lstm-jax[study]'") from None


def console() -> None:
    """`lstm-jax`, as the shell runs it: after Ctrl-C it does not wait for what XLA is amid."""
    try:
        main()
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
