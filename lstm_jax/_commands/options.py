"""Options of the command line: checked before any work, and named in messages as they are typed."""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._checks import fail
from .._files import check_target

CellName = Literal["rnn-tanh", "rnn-relu", "lstm", "gru"]
TaskName = Literal["adding", "copy", "temporal-order"]
ModelFile = Annotated[Path, tyro.conf.Positional]
NPZ = ".npz"
SEEDS = 2**32


def typed(name: str) -> str:
    """A field of a command as the user types it."""
    return "--" + name.replace("_", "-")


@contextlib.contextmanager
def named(name: str, argument: str = r"[\w.]+") -> Iterator[None]:
    """Errors of the library about an argument name it `name`, as the user typed it.

    Args:
        name: of the option.
        argument: a pattern of the argument's names; errors about others, such as a tensor in the
            file, stay as they are.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        message = re.sub(rf"^{argument}: got", f"{name}: got", str(error))
        message = message.replace("pass path=None for", f"leave {name} out for")
        raise kind(message) from None


def check_counts(command: Any, *names: str) -> None:
    """Raise unless each of these options is at least 1."""
    for name in names:
        value = getattr(command, name)
        if value < 1:
            raise fail(typed(name), value, "an integer of at least 1", "give a larger one")


def check_number(
    command: Any, name: str, wanted: str, low: float, high: float = math.inf, above: bool = False
) -> None:
    """Raise unless the option is a number from `low` (with `above`: larger) to below `high`."""
    value = getattr(command, name)
    if not low <= value < high or (above and value == low):
        raise fail(typed(name), value, wanted, "give such a number")


def check_seed(command: Any) -> None:
    """Raise unless the seed is one that every key can be made of."""
    if not 0 <= command.seed < SEEDS:
        raise fail("--seed", command.seed, f"an integer in [0, {SEEDS})", "give a smaller one")


def check_folder(name: str, folder: Path) -> None:
    """Make a folder, or raise if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        seen = f"{str(folder)!r} ({error.strerror})"
        raise fail(name, seen, "a folder that can be written", "name another") from None
    check_target(folder / ".lstm-jax", argument=name)


def check_file(name: str, path: Path, suffix: str) -> None:
    """Raise unless a file with this suffix can be written; its folder is made."""
    if path.suffix != suffix:
        wanted = f"a name that ends in {suffix}"
        raise fail(name, repr(str(path)), wanted, "`lstm-jax convert` makes other formats of it")
    check_folder(name, path.parent)
    check_target(path, argument=name)
