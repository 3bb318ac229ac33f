"""Checks of command-line options; messages name an option as the user types it."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._checks import fail
from .._files import check_folder, check_target

CellName = Literal["rnn-tanh", "rnn-relu", "lstm", "gru"]
TaskName = Literal[
    "adding", "copy", "group-words", "noise-padded", "parity", "reber", "temporal-order"
]
ModelFile = Annotated[Path, tyro.conf.Positional]
NPZ = ".npz"
SEEDS = 2**32
MOST = 2**31 - 1
"""The largest integer that JAX takes as a number without 64 bits."""


def typed(name: str) -> str:
    """The option of a command's field, as the user types it: `hidden_size` is --hidden-size."""
    return "--" + name.replace("_", "-")


def seen(value: Any) -> str:
    """What the user gave an option; a flag has no value."""
    if isinstance(value, bool):
        return "it"
    return " ".join(value) if isinstance(value, tuple) else str(value)


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Rename the argument in the library's errors to the option that the user typed, `name`."""
    instead = f"leave {name} out for"

    def change(text: str) -> str:
        text = re.sub(r"^[\w.]+: got", f"{name}: got", text)
        return text.replace("pass path=None for", instead)

    with _rewording(change):
        yield


@contextlib.contextmanager
def named_as(**options: str) -> Iterator[None]:
    """Rename arguments in the library's errors to options: `named_as(path="source")`.

    Errors about anything else, such as a tensor in the file, stay as they are.
    """
    names = "|".join(options)
    pattern = rf"^({names})(?=: got)|`({names})`|\b({names})=(?=\[)"

    def option(found: re.Match[str]) -> str:
        name = options[found[1] or found[2] or found[3]]
        return f"{name} " if found[3] else name

    with _rewording(lambda text: re.sub(pattern, option, text)):
        yield


@contextlib.contextmanager
def _rewording(change: Callable[[str], str]) -> Iterator[None]:
    """Change the messages of the library's errors."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(change(str(error))) from None


def check_counts(command: Any, *names: str, most: int = MOST) -> None:
    """Raise unless each of the named options is at least 1 and at most `most`."""
    for name in names:
        value = getattr(command, name)
        if value < 1:
            raise fail(typed(name), value, "an integer of at least 1", "give a larger one")
        if value > most:
            raise fail(typed(name), value, f"an integer of at most {most}", "give a smaller one")


def check_number(
    command: Any, name: str, wanted: str, low: float, high: float = math.inf, above: bool = False
) -> None:
    """Raise unless low <= option < high; with `above`, low < option < high."""
    value = getattr(command, name)
    if not low <= value < high or (above and value == low):
        raise fail(typed(name), value, wanted, "give one in this range")


def check_seed(command: Any) -> None:
    """Raise unless `jax.random.key` accepts the seed."""
    if not 0 <= command.seed < SEEDS:
        raise fail("--seed", command.seed, f"an integer in [0, {SEEDS})", "give one in this range")


def check_new(name: str, path: Path, overwrite: bool) -> None:
    """Raise if the file exists, unless the user gave --overwrite."""
    if path.exists() and not overwrite:
        remedy = "name another, or add --overwrite to replace it"
        raise fail(name, f"{str(path)!r}, which exists", "a name that is free", remedy)


def check_file(name: str, path: Path, suffix: str) -> None:
    """Create the file's folder; raise unless the file has this suffix and can be written."""
    if path.suffix != suffix:
        wanted = f"a name that ends in {suffix}"
        raise fail(name, repr(str(path)), wanted, "`lstm-jax convert` makes other formats of it")
    check_folder(path.parent, argument=name)
    check_target(path, argument=name)
