"""Building the CPU's kernel, and doing without it."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import jax
import pytest

from lstm_jax._recurrence.engines.native import library

ROOT = pathlib.Path(__file__).parents[1]
COMPILER = shutil.which("c++") or shutil.which("g++")


def python(*arguments, cwd=ROOT, **environment):
    """(standard output, standard error) of a process of its own."""
    # What this process was started with must not decide; its eight devices are not needed.
    ours = ("LSTM_JAX_", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# ---- with a kernel -------------------------------------------------------------------------------
def editable():
    """Whether `pip install -e` put this very folder where it is imported from."""
    # More than one: the egg-info that a build leaves in the folder says nothing of an install.
    found = importlib.metadata.distributions(name="lstm-jax")
    origins = [json.loads(each.read_text("direct_url.json") or "{}") for each in found]
    return {"url": ROOT.as_uri(), "dir_info": {"editable": True}} in origins


def test_an_editable_install_has_the_kernel():
    """So that no run of the tests goes without it unseen."""
    why = library.why_not()
    if why and (os.environ.get("LSTM_JAX_NO_NATIVE") or not COMPILER or not editable()):
        pytest.skip(f"native: {why}; `pip install -e .` builds it here")
    assert why is None, f"native: {why}; the output of `pip install -v -e .` tells more"


def test_instructions_are_those_asked_for():
    if why := library.why_not():
        pytest.skip(f"native: {why}")
    code = "from lstm_jax._recurrence.engines.native import library; print(library.instructions())"
    assert python("-c", code, LSTM_JAX_INSTRUCTIONS="portable")[0] == "portable\n"
    best = python("-c", code)[0]
    assert best.strip() in library.INSTRUCTIONS
    assert python("-c", code, LSTM_JAX_INSTRUCTIONS="")[0] == best


def test_unknown_instructions(monkeypatch):
    monkeypatch.delenv("LSTM_JAX_NO_NATIVE", raising=False)
    monkeypatch.setenv("LSTM_JAX_INSTRUCTIONS", "sse")
    message = "LSTM_JAX_INSTRUCTIONS: got 'sse', wanted one of 'amx'"
    with pytest.raises(ValueError, match=message):
        library._loaded.__wrapped__()


# ---- without one ---------------------------------------------------------------------------------
WITHOUT = """
import jax, jax.numpy as jnp, lstm_jax as lj
cell = lj.LSTM(3)
params = cell.init(jax.random.key(0), input_size=2)
carry, ys = lj.unroll(cell, params, jnp.ones((4, 1, 2)))
print(ys.shape, lj.which(cell, platform="cpu"))
try:
    lj.unroll(cell, params, jnp.ones((4, 1, 2)), implementation="native")
except NotImplementedError as error:
    print("refused", error)
"""


def test_disabled():
    out, _ = python("-c", WITHOUT, LSTM_JAX_NO_NATIVE="1", JAX_PLATFORMS="cpu")
    why = "native: LSTM_JAX_NO_NATIVE is set"
    assert "(4, 1, 3) fused on cpu" in out and f"not {why}" in out and f"refused {why}" in out


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_what_does_not_load_is_told(monkeypatch, tmp_path, content):
    """The newest is the one that counts."""
    monkeypatch.delenv("LSTM_JAX_NO_NATIVE", raising=False)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    for age, name in enumerate(["_kernel.so", "_kernel.abi.so"]):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (age, age))
    found, why = library._loaded.__wrapped__()
    assert found is None and why.startswith("_kernel.abi.so does not load (")
    (tmp_path / "_kernel.abi.so").unlink()
    assert library._loaded.__wrapped__()[1].startswith("_kernel.so does not load (")
    (tmp_path / "_kernel.so").unlink()
    assert "not built" in str(library._loaded.__wrapped__()[1])


FOREIGN = """
#include "xla/ffi/api/c_api.h"
static XLA_FFI_Error* answer(XLA_FFI_CallFrame* frame) {
  XLA_FFI_Metadata_Extension* asked = (XLA_FFI_Metadata_Extension*)frame->extension_start;
  asked->metadata->api_version.major_version = 77;
  return 0;
}
"""
OTHER_VERSION = """
import pathlib, sys
import lstm_jax as lj
from lstm_jax._recurrence.engines.native import library
library.FOLDER = pathlib.Path(sys.argv[1])
print(library.why_not())
print(lj.which(lj.LSTM(2), platform="cpu"))
"""


def test_another_version_of_xla_is_told(tmp_path):
    """XLA's own words, and JAX goes on: it would not start had the refusal come before it did."""
    if not COMPILER:
        pytest.skip("no compiler")
    names = [f"lstm_jax_{f}_{kind}" for f in library.FUNCTIONS for kind in library.TYPES.values()]
    defined = "XLA_FFI_Error* {}(XLA_FFI_CallFrame* frame) {{ return answer(frame); }}"
    (tmp_path / "source").mkdir()  # The folder of the kernel itself has no sources then.
    source = tmp_path / "source" / "foreign.cc"
    told = f'const char* lstm_jax_sources() {{ return "{hashlib.sha256().hexdigest()[:16]}"; }}'
    both = ['extern "C" {', FOREIGN, told, *[defined.format(name) for name in names], "}"]
    source.write_text("\n".join(both))
    target = ["-o", str(tmp_path / "_kernel.so"), f"-I{jax.ffi.include_dir()}"]
    subprocess.run([COMPILER, "-shared", "-fPIC", str(source), *target], check=True, timeout=100)
    out, _ = python("-c", OTHER_VERSION, str(tmp_path), JAX_PLATFORMS="cpu")
    why, chosen = out.split("\n", 1)
    assert "API version (77" in why and chosen.startswith("fused on cpu")


def test_a_kernel_of_other_sources_is_not_used(tmp_path):
    """A tree that has moved on after its install would hand over what the kernel does not know."""
    if why := library.why_not():
        pytest.skip(f"native: {why}")
    newest = max(library.FOLDER.glob("_kernel*.so"), key=lambda path: path.stat().st_mtime)
    shutil.copy(newest, tmp_path / "_kernel.so")
    out, _ = python("-c", OTHER_VERSION, str(tmp_path), JAX_PLATFORMS="cpu")
    why, chosen = out.split("\n", 1)
    assert "other sources" in why and chosen.startswith("fused on cpu")


# ---- installs, as pip makes them -----------------------------------------------------------------
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"


@pytest.fixture
def sources(tmp_path):
    """A copy of what a wheel is built from."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "lstm_jax", tmp_path / "lstm_jax", ignore=ignored)
    return tmp_path


def wheel(folder, **environment):
    """(path, standard error) of the wheel that the sources in `folder` give."""
    out, err = python("-c", BUILD, cwd=folder, **environment)
    return folder / "dist" / out.split()[-1], err


def test_install_without_a_compiler(sources):
    nowhere = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
    path, err = wheel(sources, **nowhere)
    told = [line for line in err.splitlines() if "kernel is not built" in line]
    assert len(told) == 1 and "fused" in told[0] and "/nonexistent/c++" in told[0]
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert path.name.endswith(f"-py3-none-{platform}.whl")  # The kernel is loaded by any Python.
    installed = sources / "installed"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(installed)
    assert not list(installed.rglob("*.so"))
    out, _ = python("-m", "lstm_jax", "info", cwd=installed, JAX_PLATFORMS="cpu")
    assert "WITHOUT the CPU's kernel" in out and "the kernel was not built" in out
    assert "LSTM: fused on cpu" in out


def test_install_that_leaves_it_out(sources):
    path, err = wheel(sources, LSTM_JAX_NO_EXTENSION="1")
    assert path.name.endswith("py3-none-any.whl") and "kernel is not built" not in err
    with zipfile.ZipFile(path) as archive:
        names = {pathlib.PurePath(name).name for name in archive.namelist()}
    assert {"kernel.cc", "vector.h"} <= names
