"""Atomic writing of files: complete or not at all, also with several writers; locks."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ._checks import check_path, fail

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

WANTED = "a file that can be written"


def write_whole(
    path: str | os.PathLike[str],
    content: bytes | Callable[[BinaryIO], Any],
    *,
    argument: str = "path",
) -> None:
    """Write a file atomically; if writing fails, an older file at `path` stays as it was.

    The content goes to a temporary file beside the target, is flushed to disk and renamed. A
    symbolic link is followed, the mode of an older file is kept, and of several writers at once the
    last one wins.

    Args:
        path: the file.
        content: the bytes, or a function that writes them to an open binary file.
        argument: the name of `path` in errors.

    Raises:
        ValueError: the file cannot be written: no folder, no permission, no space, a name that is
            too long, or `path` is something other than a file, such as a folder or a device.
    """
    target, mode = check_target(path, argument=argument)
    # A short name, which fits wherever the name of the target does.
    temporary = target.with_name(f".{secrets.token_hex(8)}")
    try:
        with _refused(path, argument):
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as f:
                content(f) if callable(content) else f.write(content)
                f.flush()
                os.fsync(f.fileno())
            if target.exists():
                os.chmod(temporary, mode)  # The umask may have narrowed the mode given above.
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_folder(folder: Path, *, argument: str = "path") -> None:
    """Create a folder unless it exists; raise unless files can be written in it.

    Raises:
        ValueError: it cannot be created or written in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        seen = f"{str(folder)!r} ({error.strerror})"
        raise fail(argument, seen, "a folder that can be written", _ANOTHER) from None
    check_target(folder / ".lstm-jax", argument=argument)


@contextlib.contextmanager
def only_writer(target: Path, *, argument: str = "path") -> Iterator[None]:
    """Hold a file, or a folder that exists, as the only process that writes it.

    The lock is on an empty file in the folder or beside the file. It ends with the process, also
    with one that is killed.

    Raises:
        ValueError: it is held already.
    """
    lock = target / ".lock" if target.is_dir() else target.with_name(f".{target.name}.lock")
    seen = f"{str(target)!r}, to which another run is writing"
    told = seen, "one of its own for each run", _ANOTHER
    with _held(lock, argument, target, told):
        yield


def check_target(path: str | os.PathLike[str], *, argument: str = "path") -> tuple[Path, int]:
    """Find the file that `path` leads to and the mode to write it with; write nothing.

    Raises:
        ValueError: the file cannot be written, for any reason of `write_whole` but space.
    """
    check_path(argument, path)
    with _refused(path, argument):
        target = Path(os.path.realpath(path))
        folder = target.parent
        if not folder.is_dir():
            raise fail(argument, f"{str(path)!r} in a folder that does not exist", WANTED, _MAKE)
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


@contextlib.contextmanager
def locked(
    folder: Path, name: str, *, argument: str = "path", wait: bool = False
) -> Iterator[None]:
    """Keep every other process, and thread, from what `name` stands for in a folder.

    The lock is that of a file in the folder, which goes with it. The system frees the lock of a
    process that is killed. A system or disk without such locks locks nothing.

    Args:
        folder: a folder that exists.
        name: what is locked, such as "S9"; it is part of the name of the file.
        argument: the name of `folder` in errors.
        wait: wait for the lock if another has it.

    Raises:
        ValueError: another has it, without `wait`; or the folder cannot be written.
    """
    path = folder / f".{name}.lock"
    seen = f"{str(folder)!r}, where another process is at work on {name}"
    told = seen, "a folder of its own", f"wait for its end, or {_ANOTHER}"
    with _held(path, argument, path, told, wait):
        yield


@contextlib.contextmanager
def _held(
    path: Path, argument: str, written: Path, told: tuple[str, str, str], wait: bool = False
) -> Iterator[None]:
    """Hold the lock of the file `path`, which goes with it.

    Args:
        argument: the name of the argument in errors.
        written: what cannot be written if the file cannot.
        told: seen, wanted and remedy, if another has the lock.
    """
    with _refused(written, argument):
        file = _lock(path, wait)
    if file is None:
        raise fail(argument, *told)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _lock(path: Path, wait: bool) -> int | None:
    """Open and lock a file; None if another has the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Its last holder may have removed it between the two lines above.
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return file
            os.close(file)
            raise
        os.close(file)


_ANOTHER = "name another"
_MAKE = "create the folder or name another"


@contextlib.contextmanager
def _refused(path: Any, argument: str) -> Any:
    """Turn an OSError into a ValueError that names the path."""
    try:
        yield
    except OSError as error:
        seen = f"{str(path)!r} ({error.strerror or error})"
        raise fail(argument, seen, WANTED, _ANOTHER) from None
