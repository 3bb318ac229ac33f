"""The compiled kernel: where it is or why it is not there, and what it says of itself.

Two variables of the environment are read when it is first used: LSTM_JAX_NO_NATIVE=1 does without
it, LSTM_JAX_INSTRUCTIONS=avx2 or portable asks for less than the machine has.
"""

import ctypes
import functools
import os
import pathlib
import re
import sys

import jax

from ..._checks import check_choice
from ..._jax import why_not as why_not_with_jax
from .sources import fingerprint

FUNCTIONS = ("run", "linearized", "transposed", "product")
TYPES = {"float32": "float", "float64": "double"}
INSTRUCTIONS = ("avx512", "avx2", "portable")
FOLDER = pathlib.Path(__file__).parent
KERNEL = "_kernel*.so"
DISABLED = "LSTM_JAX_NO_NATIVE is set"


def load() -> ctypes.CDLL | None:
    """The library with its functions registered; None where there is none.

    Raises:
        ValueError: LSTM_JAX_INSTRUCTIONS is none of `INSTRUCTIONS`.
    """
    return _loaded()[0]


def why_not() -> str | None:
    """One line that says why there is no library; None where there is. Raises as `load`."""
    return _loaded()[1]


def summary() -> str:
    """One line: whether the kernel is there, what it runs, and whose it is, or why it is not."""
    why, package = why_not(), FOLDER.parents[1]
    if why is None:
        return f"with the CPU's kernel ({instructions()}), from {package}"
    other = shadowed()
    beside = f"; {other} has one, and {package.parent} comes before it on sys.path" if other else ""
    return f"WITHOUT the CPU's kernel, from {package}: {why}{beside}"


def shadowed() -> pathlib.Path | None:
    """Another lstm_jax on sys.path that has a kernel, where this one has none that runs."""
    if why_not() in (None, DISABLED):
        return None
    inside = FOLDER.relative_to(FOLDER.parents[2])
    folders = [pathlib.Path(entry).resolve() / inside for entry in sys.path]
    others = [folder for folder in folders if folder != FOLDER and any(folder.glob(KERNEL))]
    return others[0].parents[1] if others else None


@functools.cache
def operations() -> list[str]:
    """The names of the machine's instructions, in its order."""
    return _told(_there(), "operations").split()


def instructions() -> str:
    """Which of `INSTRUCTIONS` the kernel runs here."""
    return _told(_there(), "instructions")


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get("LSTM_JAX_NO_NATIVE", "0") not in ("", "0"):
        return None, DISABLED
    if missing := why_not_with_jax():
        return None, missing
    check_choice(
        "LSTM_JAX_INSTRUCTIONS", os.environ.get("LSTM_JAX_INSTRUCTIONS") or "avx512", INSTRUCTIONS
    )
    newest = _newest()
    if newest is None:
        # Without these options pip takes the wheel that it built without a compiler.
        remedy = "install a C++17 compiler, then pip install --force-reinstall --no-cache-dir"
        return None, f"the kernel was not built ({remedy} lstm-jax)"
    try:
        library = _opened(newest)
        if library is None:
            return None, f"{newest.name} was built of other sources (install lstm-jax again)"
        # With a backend there, XLA refuses a library of another version here and now; before, it
        # would put the functions off and refuse to start.
        jax.devices("cpu")
        _register(library)
        return library, None
    except (OSError, AttributeError, RuntimeError) as error:
        return None, f"{newest.name} does not load ({str(error).splitlines()[0]})"


def register_early() -> None:
    """Registers the functions before anything runs, where XLA is known to take them: a program that
    was compiled in another process finds them then. It starts no backend."""
    newest = _newest()
    if newest is None or os.environ.get("LSTM_JAX_NO_NATIVE", "0") not in ("", "0"):
        return
    try:
        library = _opened(newest)
        if library is not None and _is_taken(library):
            _register(library)
    except (OSError, AttributeError, ValueError):
        pass  # `why_not` says it to whoever asks.


def _newest() -> pathlib.Path | None:
    return max(FOLDER.glob(KERNEL), key=lambda path: path.stat().st_mtime, default=None)


@functools.cache
def _opened(path: pathlib.Path) -> ctypes.CDLL | None:
    """None where it was built of other sources."""
    library = ctypes.CDLL(str(path))
    return library if _told(library, "sources") == fingerprint(FOLDER) else None


def _is_taken(library: ctypes.CDLL) -> bool:
    """Whether XLA takes its version of their interface: XLA's own, or an older one."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    theirs = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header))
    major, minor = map(int, _told(library, "interface").split("."))
    return major == int(theirs.get("MAJOR", -1)) and minor <= int(theirs.get("MINOR", -1))


@functools.cache
def _register(library: ctypes.CDLL) -> None:
    for function in FUNCTIONS:
        for kind in TYPES.values():
            name = f"lstm_jax_{function}_{kind}"
            capsule = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")


def _there() -> ctypes.CDLL:
    library = load()
    assert library is not None, why_not()
    return library


def _told(library: ctypes.CDLL, what: str) -> str:
    function = getattr(library, f"lstm_jax_{what}")
    function.restype = ctypes.c_char_p
    return function().decode()
