"""The console command: `lstm-jax study`, `train`, `sample`, `convert` and `info`."""

import contextlib
import functools
import operator
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn

try:
    import tyro
except ImportError as error:
    sys.exit(f"lstm-jax: {error}; the command needs the extra: pip install 'lstm-jax[study]'")

import jax

from ._commands.convert import Convert
from ._commands.info import Info
from ._commands.sample import Sample
from ._commands.study import Study
from ._commands.train import Train
from .comparison.runs import Diverged

__all__ = ["console", "main"]
__dir__ = __all__.copy

INTERRUPTED = 130
PIPE_CLOSED = 141

COMMANDS = {"study": Study, "train": Train, "sample": Sample, "convert": Convert, "info": Info}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command of `lstm-jax`.

    Exit code 2 for an error of the caller, with one line on standard error; 1 if training diverged
    or memory ran out; 130 after Ctrl-C or SIGTERM.
    """
    try:
        try:
            command = _parsed(sys.argv[1:] if arguments is None else arguments)
            with _terminable():
                command.run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # The reader has gone, as in `lstm-jax info | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except KeyboardInterrupt as stop:
        _stop(INTERRUPTED, "interrupted", stop)
    except Diverged as error:
        _stop(1, f"training diverged: {error}; nothing was saved, lower the learning rate", error)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _stop(1, "out of memory", error)
    except (ValueError, OSError, ImportError) as error:
        _stop(2, str(error), error)


def _parsed(arguments: Sequence[str]) -> Any:
    """Parse a command; an error names the help of that command, and exits with code 2."""
    name, config = "".join(arguments[:1]), (tyro.conf.OmitArgPrefixes,)
    kind: Any = COMMANDS.get(name)
    if kind is not None:
        return tyro.cli(kind, prog=f"lstm-jax {name}", args=arguments[1:], config=config)
    each: Any = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items()]
    any_of: Any = functools.reduce(operator.or_, each)
    return tyro.cli(any_of, prog="lstm-jax", args=arguments, config=config)


def _stop(code: int, message: str, error: BaseException) -> NoReturn:
    """Print one line on standard error and exit."""
    notes = [note for note in getattr(error, "__notes__", []) if "\n" not in note]  # JAX adds more.
    print("lstm-jax:", "; ".join([message, *notes]), file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM act as Ctrl-C; outside the main thread, where no signal arrives, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def console() -> None:
    """Run `lstm-jax` from a shell; after Ctrl-C exit at once, without waiting for XLA to finish."""
    try:
        main()
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
