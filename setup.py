"""Build the CPU kernel and the launcher of GPUs' if there is a C++17 compiler; else "fused" serves.

LSTM_JAX_NO_EXTENSION=1 skips both; CXX names a compiler.
"""

import importlib.util
import os
import pathlib
import runpy
import shutil

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ENGINES = pathlib.Path("lstm_jax", "_recurrence", "engines")
WHAT = {"_kernel": "the CPU kernel", "_launcher": "the launcher of kernels for GPUs"}
"""The extensions by the names of their libraries."""


class BuildKernel(build_ext):
    """A build step that may fail: the install goes on without the kernel, and one line says why."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception:  # The compiler has printed its error above.
            compiler = os.environ["CXX"]
            self.warn(
                f"{WHAT[ext.name.rpartition('.')[2]]} is not built, as {compiler} failed;"
                ' implementation="fused" serves. For it, install a C++17 compiler and then lstm-jax'
                " again."
            )

    def get_ext_filename(self, fullname):
        """Name the library without a Python: it is no module, and ctypes loads it in any."""
        return os.path.join(*fullname.split(".")) + ".so"


class KernelWheel(bdist_wheel):
    """A wheel for every Python on its platform; without an extension for any platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def extension(folder: str, name: str, **options) -> Extension:
    """Describe a library for XLA to call, of one source and headers: native/_kernel, say."""
    jaxlib = importlib.util.find_spec("jaxlib")
    places = jaxlib and jaxlib.submodule_search_locations or ()
    sources = ENGINES / folder
    fingerprint = runpy.run_path(str(ENGINES / "built.py"))["fingerprint"](sources)
    return Extension(
        f"lstm_jax._recurrence.engines.{folder}._{name}",
        sources=[str(sources / f"{name}.cc")],
        depends=[str(path) for path in sorted(sources.glob("*.h"))],
        define_macros=[("LSTM_JAX_SOURCES", f'"{fingerprint}"')],
        include_dirs=[str(pathlib.Path(place, "include")) for place in places],
        # No -march, as the kernel picks an instruction set at run time.
        extra_compile_args=["-std=c++17", "-O2", "-g0", "-w", "-fvisibility-inlines-hidden"],
        language="c++",
        optional=True,
        **options,
    )


# Python may name a compiler of the machine that it was built on.
os.environ.setdefault("CXX", next(filter(shutil.which, ("c++", "g++", "clang++")), "c++"))
# The launcher opens CUDA's library at run time.
extensions = [extension("native", "kernel"), extension("cuda", "launcher", libraries=["dl"])]
without = os.environ.get("LSTM_JAX_NO_EXTENSION", "0") not in ("", "0")
setup(
    ext_modules=[] if without else extensions,
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": KernelWheel},
)
