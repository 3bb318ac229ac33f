"""The compiled kernel: find, check, load and describe it, or say why there is none.

Two environment variables are read at the first use: LSTM_JAX_NO_NATIVE=1 disables the kernel, and
LSTM_JAX_INSTRUCTIONS names fewer instructions than the CPU has, from `INSTRUCTIONS`.
"""

import ctypes
import functools
import os
import pathlib
import sys

import jax

from ...._checks import check_choice
from ...._jax import accepts_interface
from ...._jax import why_not as why_not_with_jax
from ..built import newest, opened, told

FUNCTIONS = ("run", "linearized", "transposed", "product")
TYPES = {"float32": "float", "float64": "double"}
INSTRUCTIONS = ("amx", "avx512bf16", "avx512", "avx2", "portable")
"""From most to least: tiles and pairs of bfloat16, then vectors alone."""
FOLDER = pathlib.Path(__file__).parent
PACKAGE = FOLDER.parents[2]
"""The folder lstm_jax."""
KERNEL = "_kernel*.so"
DISABLED = "LSTM_JAX_NO_NATIVE is set"


def load() -> ctypes.CDLL | None:
    """Load the library and register its functions; None if there is none to load.

    Raises:
        ValueError: LSTM_JAX_INSTRUCTIONS is not one of `INSTRUCTIONS`.
    """
    return _loaded()[0]


def why_not() -> str | None:
    """Return None if the library is loaded, or one line that says why not. Raises as `load`."""
    return _loaded()[1]


def summary() -> str:
    """Describe in one line the kernel, its instruction set and its place, or why there is none."""
    why = why_not()
    if why is None:
        return f"with the CPU's kernel ({instructions()}), from {PACKAGE}"
    other = shadowed()
    beside = f"; {other} has one, and {PACKAGE.parent} comes before it on sys.path" if other else ""
    return f"WITHOUT the CPU's kernel, from {PACKAGE}: {why}{beside}"


def shadowed() -> pathlib.Path | None:
    """Find another lstm_jax on sys.path with a kernel, if the imported one has none that runs."""
    if why_not() in (None, DISABLED):
        return None
    inside = FOLDER.relative_to(PACKAGE)
    packages = [pathlib.Path(entry).resolve() / PACKAGE.name for entry in sys.path]
    others = [each for each in packages if each != PACKAGE and any((each / inside).glob(KERNEL))]
    return others[0] if others else None


@functools.cache
def operations() -> tuple[str, ...]:
    """List the names of the kernel's instructions; the position of a name is its code."""
    return tuple(told(_there(), "operations").split())


@functools.cache
def parameters() -> tuple[str, ...]:
    """List the names of the numbers that a call is given, in their order."""
    return tuple(told(_there(), "parameters").split())


def instructions() -> str:
    """Return the name, from `INSTRUCTIONS`, of the instruction set that the kernel uses here."""
    return told(_there(), "instructions")


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get("LSTM_JAX_NO_NATIVE", "0") not in ("", "0"):
        return None, DISABLED
    if missing := why_not_with_jax():
        return None, missing
    check_choice(
        "LSTM_JAX_INSTRUCTIONS", os.environ.get("LSTM_JAX_INSTRUCTIONS") or "amx", INSTRUCTIONS
    )
    path = newest(FOLDER, KERNEL)
    if path is None:
        # Without these options pip reuses its cached wheel, which has no kernel.
        remedy = "install a C++17 compiler, then pip install --force-reinstall --no-cache-dir"
        return None, f"the kernel was not built ({remedy} lstm-jax)"
    try:
        library = opened(path)
        if library is None:
            return None, f"{path.name} was built of other sources (install lstm-jax again)"
        # Start the backend first: XLA then refuses a library of another version right here. Before
        # that it would only queue the functions, and fail when the backend starts.
        jax.devices("cpu")
        _register(library)
        return library, None
    except (OSError, AttributeError, RuntimeError) as error:
        return None, f"{path.name} does not load ({str(error).splitlines()[0]})"


def register_early() -> None:
    """Register the kernel's functions at import, if XLA is known to accept them.

    A program compiled in another process can then find them. This starts no backend.
    """
    path = newest(FOLDER, KERNEL)
    if path is None or os.environ.get("LSTM_JAX_NO_NATIVE", "0") not in ("", "0"):
        return
    try:
        library = opened(path)
        if library is not None and accepts_interface(told(library, "interface")):
            _register(library)
    except (OSError, AttributeError, ValueError):
        pass  # `why_not` reports it when asked.


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
