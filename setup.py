"""Build the CPU kernel if there is a C++17 compiler; without the kernel "fused" serves.

LSTM_JAX_NO_EXTENSION=1 skips the kernel; CXX names a compiler.
"""

import importlib.util
import os
import pathlib
import runpy
import shutil

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = pathlib.Path("lstm_jax", "_recurrence", "engines", "native")


class BuildKernel(build_ext):
    """A build step that may fail: the install goes on without the kernel, and one line says why."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception:  # The compiler has printed its error above.
            compiler = os.environ["CXX"]
            self.warn(
                f'the CPU kernel is not built, as {compiler} failed; implementation="fused" serves.'
                " For the kernel, install a C++17 compiler and then lstm-jax again."
            )

    def get_ext_filename(self, fullname):
        """Name the library without a Python: it is no module, and ctypes loads it in any."""
        return os.path.join(*fullname.split(".")) + ".so"


class KernelWheel(bdist_wheel):
    """A wheel for every Python on its platform; without an extension for any platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def kernel() -> Extension:
    """Describe the extension; no -march, as the kernel picks an instruction set at run time."""
    fingerprint = runpy.run_path(str(FOLDER / "sources.py"))["fingerprint"](FOLDER)
    jaxlib = importlib.util.find_spec("jaxlib")
    places = jaxlib and jaxlib.submodule_search_locations or ()
    return Extension(
        "lstm_jax._recurrence.engines.native._kernel",
        sources=[str(FOLDER / "kernel.cc")],
        depends=[str(path) for path in sorted(FOLDER.glob("*.h"))],
        define_macros=[("LSTM_JAX_SOURCES", f'"{fingerprint}"')],
        include_dirs=[str(pathlib.Path(place, "include")) for place in places],
        extra_compile_args=["-std=c++17", "-O2", "-g0", "-w", "-fvisibility-inlines-hidden"],
        language="c++",
        optional=True,
    )


# Python may name a compiler of the machine that it was built on.
os.environ.setdefault("CXX", next(filter(shutil.which, ("c++", "g++", "clang++")), "c++"))
without = os.environ.get("LSTM_JAX_NO_EXTENSION", "0") not in ("", "0")
setup(
    ext_modules=[] if without else [kernel()],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": KernelWheel},
)
