"""Compilation of a kernel's source by NVRTC: NVIDIA's compiler as a library, part of `jax[cuda13]`.

A compiled kernel is kept in a folder, by its source and architecture: that of LSTM_JAX_CACHE, else
`lstm_jax` in XDG_CACHE_HOME or in ~/.cache. LSTM_JAX_CACHE=0 keeps none.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import hashlib
import importlib.util
import os
import pathlib
import re
import tempfile
from typing import NamedTuple

from ...jaxprs import Untranslatable

OPTIONS = ("--std=c++17", "--ptxas-options=-v", "-default-device")


class Compiled(NamedTuple):
    """A kernel for one architecture.

    Attributes:
        cubin: the binary.
        registers: registers of a thread.
        spilled: bytes of registers that a thread stores in local memory.
    """

    cubin: bytes
    registers: int
    spilled: int


def why_not() -> str | None:
    """Return None if NVRTC is there, or one line that says why not."""
    if _nvrtc() is None:
        return "NVRTC is not installed (pip install nvidia-cuda-nvrtc)"
    return None


def kept(source: str, architecture: str) -> Compiled:
    """Compile a source, or take it from the folder of compiled kernels; see `compiled`."""
    folder = _folder()
    if folder is None:
        return compiled(source, architecture)
    text = "\n".join([source, architecture, *OPTIONS, str(_version())])
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.cubin"
    with contextlib.suppress(OSError, ValueError):
        registers, spilled, cubin = path.read_bytes().split(b"\n", 2)
        return Compiled(cubin, int(registers), int(spilled))
    made = compiled(source, architecture)
    with contextlib.suppress(OSError):  # A folder that cannot be written keeps nothing.
        _write(path, b"%d\n%d\n" % (made.registers, made.spilled) + made.cubin)
    return made


def compiled(source: str, architecture: str) -> Compiled:
    """Compile a source for an architecture such as "sm_90".

    Raises:
        Untranslatable: NVRTC is missing, or refuses; the message has its first line of errors.
    """
    nvrtc = _nvrtc()
    if nvrtc is None:
        raise Untranslatable(str(why_not()))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"lstm_jax.cu", 0, None, None)
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
        given = (ctypes.c_char_p * len(options))(*options)
        failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
        log = _read(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed:
            errors = [line for line in log.splitlines() if "error" in line] or log.splitlines()
            raise Untranslatable(f"NVRTC for {architecture}: {(errors or ['no message'])[0]}")
        binary = _read(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(
        binary, _number(r"Used (\d+) registers", log), _number(r"(\d+) bytes spill", log)
    )


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw


def _number(pattern: str, log: str) -> int:
    found = re.search(pattern, log)
    return int(found[1]) if found else 0


def _folder() -> pathlib.Path | None:
    asked = os.environ.get("LSTM_JAX_CACHE")
    if asked == "0":
        return None
    if asked:
        return pathlib.Path(asked)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~", ".cache").expanduser()
    return pathlib.Path(cache, "lstm_jax")


def _write(path: pathlib.Path, content: bytes) -> None:
    """Write a file that others see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


@functools.cache
def _version() -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc = _nvrtc()
    assert nvrtc is not None
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


@functools.cache
def _nvrtc() -> ctypes.CDLL | None:
    """Load the library: that of a wheel, else the system's."""
    for name in [*map(str, _of_wheels()), ctypes.util.find_library("nvrtc")]:
        with contextlib.suppress(OSError, TypeError):
            return ctypes.CDLL(name) if name else None
    return None


def _of_wheels() -> list[pathlib.Path]:
    found = importlib.util.find_spec("nvidia")
    folders = (found and found.submodule_search_locations) or ()
    paths = [path for folder in folders for path in pathlib.Path(folder).rglob("libnvrtc.so*")]
    return sorted(paths, reverse=True)
