"""A release, made by `.ci/wheel`: its wheel has the kernel where no compiler is, on any Python."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAKE = ROOT / ".ci" / "wheel"
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")

CHECK = """
import sys
import jax, jax.numpy as jnp, numpy as np
import lstm_jax as lj
from lstm_jax._recurrence.engines.native import library

assert sys.prefix in lj.__file__ and library.why_not() is None, (lj.__file__, library.why_not())
cell = lj.LSTM(8)
params = cell.init(jax.random.key(0), input_size=3)
xs = jax.random.normal(jax.random.key(1), (6, 4, 3))

def both(implementation):
    def loss(params, xs):
        _, ys = lj.unroll(cell, params, xs, implementation=implementation)
        return jnp.sum(jnp.sin(ys)), ys
    return jax.device_get(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs))

jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
             both("native"), both("scan"))
print(jax.__version__, str(lj.which(cell)).splitlines()[0])
"""


def run(*command, **environment):
    """Standard output of a process that has no more than a folder of programs and a home."""
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG") or k.startswith("PIP_")}
    done = subprocess.run(
        [str(word) for word in command],
        env=kept | environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout


def found(version):
    """The executable of a Python of this version; None if there is none."""
    code = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"
    for name in (sys.executable, f"python{version}", "python"):
        env = {**os.environ, "PYENV_VERSION": version}
        if shutil.which(name):
            told = subprocess.run([name, "-c", code], env=env, capture_output=True, text=True)
            if told.stdout.split()[1:] == [version]:
                return told.stdout.split()[0]
    return None


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The folder with an sdist and a wheel."""
    if not (ROOT / ".git").exists() or sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("a release needs a git checkout on Linux and GCC")
    folder = tmp_path_factory.mktemp("release")
    done = subprocess.run(["bash", MAKE, folder], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    return folder


def installed(folder, python, what, path):
    """A virtual environment of `python` with one file installed; PATH is `path`."""
    run(python, "-m", "venv", "--without-pip", folder, PATH=path)
    inside = folder / "bin" / "python"
    pip = ("-m", "pip", "--disable-pip-version-check", "--python", inside)
    run(python, *pip, "install", "--quiet", what, PATH=path)
    return inside


@pytest.mark.slow
@pytest.mark.xdist_group("wheel")
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_wheel_needs_no_compiler(release, tmp_path, version):
    if (python := found(version)) is None:
        pytest.skip(f"no Python {version}")
    (wheel,) = release.glob("*.whl")
    assert "-py3-none-manylinux_" in wheel.name
    nowhere = str(tmp_path)
    assert not any(shutil.which(compiler, path=nowhere) for compiler in COMPILERS)
    inside = installed(tmp_path / "env", python, wheel, nowhere)
    told = run(inside, "-c", CHECK, PATH=nowhere, JAX_PLATFORMS="cpu")
    assert "native on cpu" in told
    print(version, wheel.name, told)


@pytest.mark.slow
@pytest.mark.xdist_group("wheel")
def test_the_sdist_builds_the_kernel_where_it_is_installed(release, tmp_path):
    (sdist,) = release.glob("*.tar.gz")
    python = found(".".join(map(str, sys.version_info[:2])))
    inside = installed(tmp_path / "env", python, sdist, os.environ["PATH"])
    assert "native on cpu" in run(inside, "-c", CHECK, PATH="", JAX_PLATFORMS="cpu")
