"""Libraries that the package's build compiles beside their sources: find, check and ask them.

setup.py runs this file alone for the fingerprint: import nothing of ours.
"""

import ctypes
import functools
import hashlib
import pathlib


def fingerprint(folder: pathlib.Path) -> str:
    """Hash the C++ sources in `folder`; a library built from other sources is not used."""
    paths = sorted([*folder.glob("*.h"), *folder.glob("*.cc")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def newest(folder: pathlib.Path, pattern: str) -> pathlib.Path | None:
    """Find the library in `folder` that was built last."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


@functools.cache
def opened(path: pathlib.Path) -> ctypes.CDLL | None:
    """Open a library; None if it was built from other sources than those beside it.

    Raises:
        OSError, AttributeError: it does not load, or is none of ours.
    """
    library = ctypes.CDLL(str(path))
    return library if told(library, "sources") == fingerprint(path.parent) else None


def told(library: ctypes.CDLL, what: str) -> str:
    """Return what a library says of itself, by `lstm_jax_{what}`."""
    function = getattr(library, f"lstm_jax_{what}")
    function.restype = ctypes.c_char_p
    return function().decode()
