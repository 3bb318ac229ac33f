"""Nothing silent about who runs what: names, the kernel's presence, and XLA in its place."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import lstm_jax as lj
from bench import __main__ as bench
from lstm_jax import cli
from lstm_jax._recurrence.native import library

ROOT = pathlib.Path(lj.__file__).parents[1]


# ---- names ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cuda", "cudnn", "newton", "pallas_gpu", "pallas_tpu"])
def test_fault_21_no_name_is_offered_that_does_not_exist(name):
    cell = lj.LSTM(2)
    params = cell.init(jax.random.key(0), 2)
    names = "one of 'associative', 'native', 'fused', 'scan'; pick one of these"
    for choice in (name, [name, "scan"]):
        with pytest.raises(ValueError, match=f"implementation: got '{name}', wanted {names}$"):
            lj.unroll(cell, params, jnp.ones((1, 1, 2)), implementation=choice)
        with pytest.raises(ValueError, match=names):
            lj.which(cell, implementation=choice)


# ---- whether the kernel is there -----------------------------------------------------------------
def test_the_first_line_of_info_says_whose_kernel_runs(capsys):
    cli.main(["info"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"lstm_jax {lj.__version__} {library.summary()}"
    assert str(ROOT / "lstm_jax") in first
    assert library.why_not() is None or first.count(str(library.why_not()))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with the sources and no kernel, and one with a package that has one."""
    here, installed = (tmp_path_factory.mktemp(name) for name in ("clone", "installed"))
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for package in ("lstm_jax", "bench"):
        shutil.copytree(ROOT / package, here / package, ignore=ignored)
    native = installed / "lstm_jax" / "_recurrence" / "native"
    native.mkdir(parents=True)
    (native / "_kernel.so").touch()
    return here, installed


MEASURE = ["-m", "bench", "--case", "1,1,1,1", "--rivals", "none", "--modes", "fwd"]


def run(clone, *arguments, **variables):
    here, installed = clone
    env = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_JAX_")}
    env |= {"PYTHONPATH": str(installed)} | variables
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=300)


def test_a_clone_without_a_kernel_does_not_measure_in_the_place_of_a_package_with_one(clone):
    here, installed = clone
    done = run(clone, *MEASURE)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    start = (
        f"bench: {here / 'lstm_jax'} has no kernel and hides {installed / 'lstm_jax'}, which has"
    )
    assert line.startswith(start) and "--implementations" in line and "build_ext" in line
    first = run(clone, "-m", "lstm_jax", "info").stdout.splitlines()[0]
    assert "WITHOUT the CPU's kernel" in first and str(here / "lstm_jax") in first
    assert "the kernel was not built" in first and f"{installed / 'lstm_jax'} has one" in first


def test_who_asks_for_no_kernel_is_served(clone, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(clone[1]), *sys.path])
    monkeypatch.setattr(library, "why_not", lambda: "it was not built")
    bench.check_kernel(["fused"])
    with pytest.raises(ValueError, match="has no kernel and hides"):
        bench.check_kernel(None)
    monkeypatch.setattr(library, "why_not", lambda: library.DISABLED)
    bench.check_kernel(None)


def test_the_first_line_of_a_measurement_says_whose_kernel_runs(monkeypatch, capsys):
    def stop(*_, **__):
        raise ValueError("enough")

    monkeypatch.setattr(bench.ceilings, "measure", stop)
    with pytest.raises(SystemExit):
        bench.main(["--case", "1,1,1,1", "--rivals", "none", "--implementations", "fused"])
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"lstm_jax {lj.__version__} {library.summary()}"
