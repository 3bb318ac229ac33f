"""Files written whole or not at all, whoever else writes to the same path."""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ._checks import fail

WANTED = "a file that can be written"


def write_whole(
    path: str | os.PathLike[str],
    content: bytes | Callable[[BinaryIO], Any],
    *,
    argument: str = "path",
) -> None:
    """Write a file whole or not at all; until then what stood there stays.

    The content goes to a file of its own beside the target, and from there to the disk and into
    place in one move. A link is followed, an older file's mode is kept, and of several writers at
    once the last one wins.

    Args:
        path: of the file.
        content: its bytes, or what writes them to an open binary file.
        argument: what an error calls `path`.

    Raises:
        ValueError: it cannot be written: no folder, no right, no space, a name that is too long, or
            something at `path` that is no file, such as a folder or a device.
    """
    target, mode = check_target(path, argument=argument)
    # Short, so that every name that the system takes for the target has room for this one.
    temporary = target.with_name(f".{secrets.token_hex(8)}")
    try:
        with _refused(path, argument):
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as f:
                content(f) if callable(content) else f.write(content)
                f.flush()
                os.fsync(f.fileno())
            if target.exists():
                os.chmod(temporary, mode)  # Above, the umask took its part.
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_target(path: str | os.PathLike[str], *, argument: str = "path") -> tuple[Path, int]:
    """(the file that `path` leads to, its mode or a new file's); nothing is written.

    Raises:
        ValueError: no file could be written there; as `write_whole`, but for the space.
    """
    with _refused(path, argument):
        target = Path(os.path.realpath(path))
        folder = target.parent
        if not folder.is_dir():
            raise fail(argument, f"{str(path)!r} in a folder that is not there", WANTED, _MAKE)
        if not os.access(folder, os.W_OK | os.X_OK):
            seen = f"{str(path)!r} in a folder that may not be written"
            raise fail(argument, seen, WANTED, _ANOTHER)
        try:
            found = os.stat(target).st_mode
        except FileNotFoundError:
            return target, 0o666
        if not stat.S_ISREG(found):
            kind = "a folder" if stat.S_ISDIR(found) else "a device, pipe or socket"
            raise fail(argument, f"{str(path)!r}, {kind}", WANTED, _ANOTHER)
        if not os.access(target, os.W_OK):
            raise fail(argument, f"{str(path)!r}, which is write-protected", WANTED, _ANOTHER)
        return target, stat.S_IMODE(found)


_ANOTHER = "name another"
_MAKE = "create the folder or name another"


@contextlib.contextmanager
def _refused(path: Any, argument: str) -> Any:
    """Turn the system's error into one that names the path."""
    try:
        yield
    except OSError as error:
        seen = f"{str(path)!r} ({error.strerror or error})"
        raise fail(argument, seen, WANTED, _ANOTHER) from None
