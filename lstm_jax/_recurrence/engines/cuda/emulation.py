"""Kernels on a CPU: LSTM_JAX_EMULATE_CUDA=1 compiles their source as C++, if there is a compiler.

That is slow, and meant for tests: each thread of the GPU is one of the CPU.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import jax

from .launcher import TARGET

EMULATED = os.environ.get("LSTM_JAX_EMULATE_CUDA", "0") not in ("", "0")
"""True if kernels run on a CPU; read at import."""

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def folder() -> pathlib.Path:
    """Make a folder for compiled kernels, which is removed when Python ends."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="lstm_jax-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.lru_cache(maxsize=4096)
def compiled(source: str) -> bytes:
    """Compile a kernel's source, and return the path of the library."""
    start()
    name = hashlib.sha256(source.encode()).hexdigest()[:20]
    path = folder() / f"{name}.cc"
    path.write_text(f'#include "{FOLDER / "emulated.h"}"\n{source}')
    return bytes(_library(path, "-O1", "-fvisibility=hidden"))


@functools.cache
def start() -> None:
    """Compile the emulator, and tell JAX of it."""
    library = ctypes.CDLL(str(_library(FOLDER / "emulator.cc", "-O1", "-I", jax.ffi.include_dir())))
    capsule = jax.ffi.pycapsule(getattr(library, TARGET))
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")


def _library(path: pathlib.Path, *options: str) -> pathlib.Path:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")
    library = folder() / f"{path.stem}.so"
    fixed = ("-std=c++17", "-w", "-shared", "-fPIC")
    command = [compiler, *fixed, *options, str(path), "-o", str(library), "-lpthread"]
    subprocess.run(command, check=True)
    return library
