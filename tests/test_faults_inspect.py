"""Nothing silent about who runs what: names, the kernel's presence, and XLA in its place."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import pytest
import registry

import lstm_jax as lj
from bench import __main__ as bench
from lstm_jax import cli
from lstm_jax._recurrence.engines.native import library

ROOT = pathlib.Path(lj.__file__).parents[1]


# ---- names ---------------------------------------------------------------------------------------
def test_fault_21_no_name_is_offered_that_does_not_exist():
    cell = lj.LSTM(2)
    params = cell.init(jax.random.key(0), 2)
    names = (
        "one of 'associative', 'native', 'pallas_tpu', 'cuda', 'fused', 'scan', 'newton'; "
        "pick one of these"
    )
    for name in ("cudnn", "deer", "pallas_gpu"):
        for choice in (name, [name, "scan"]):
            with pytest.raises(ValueError, match=f"implementation: got '{name}', wanted {names}$"):
                lj.unroll(cell, params, jnp.ones((1, 1, 2)), implementation=choice)
            with pytest.raises(ValueError, match=names):
                lj.which(cell, implementation=choice)


# ---- the kernel, asked for by name ---------------------------------------------------------------
CELLS = {"LSTM": lj.LSTM(3), "GRU": lj.GRU(3), "dropped": lj.recurrent_dropout(lj.LSTM(3), 0.5)}
STEPS, BATCH, INPUTS = 3, 8, 2


def problem(cell):
    """The types of (params, xs)."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), INPUTS))
    return params, jax.ShapeDtypeStruct((STEPS, BATCH, INPUTS), "float32")


def loss(name, asked, **options):
    def run(params, xs):
        final, ys = lj.unroll(CELLS[name], params, xs, implementation=asked, **options)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf) for leaf in final)

    return run


def lower(function, *types):
    jax.jit(function).lower(*types)


def export(function, *types):
    jax.export.export(jax.jit(function))(*types)


def export_of_any_size(function, params, xs):
    steps, batch = jax.export.symbolic_shape("T, B")
    export(function, params, jax.ShapeDtypeStruct((steps, batch, INPUTS), xs.dtype))


def split(function, params, xs):
    """Over eight devices, outside shard_map."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    lower(function, params, jax.ShapeDtypeStruct(xs.shape, xs.dtype, sharding=where))


def without_jit(function, *types):
    with jax.disable_jit():
        function(*jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), types))


def mapped(f):
    return jax.vmap(f, in_axes=(None, 1))


TWICE = "the derivative of a derivative is autodiff of its definition"
KEY = {"key": jax.random.key(0)}
BY_XLA = {
    "gradient of each sequence": ("GRU", lower, lambda f: mapped(jax.grad(f)), {}, "parameters"),
    "mask of each sequence": ("dropped", lower, lambda f: f, KEY, "its recur is not the same"),
    "export": ("LSTM", export, lambda f: f, {}, "an export may not name a kernel"),
    "export of a gradient": ("LSTM", export, jax.grad, {}, "an export may not name a kernel"),
    "export of any size": ("LSTM", export_of_any_size, jax.grad, {}, "an export"),
    "split": ("LSTM", split, lambda f: f, {}, "devices share its arrays, outside shard_map"),
    "split gradient": ("LSTM", split, jax.grad, {}, "devices share its arrays"),
    "forward over reverse": ("LSTM", lower, jax.hessian, {}, TWICE),
    "reverse over reverse": ("LSTM", lower, lambda f: jax.jacrev(jax.grad(f)), {}, TWICE),
    "reverse over forward": ("LSTM", lower, lambda f: jax.jacrev(jax.jacfwd(f)), {}, TWICE),
}


DEAR = {"export of a gradient", "split gradient", "forward over reverse", "reverse over forward"}
GRID = pytest.mark.grid


@registry.needs_kernel
@pytest.mark.parametrize("what", [pytest.param(w, marks=GRID if w in DEAR else ()) for w in BY_XLA])
def test_native_asked_for_by_name_is_native_or_an_error(what):
    """One that says why and what to ask for; who asks for "native" and then "fused" is served."""
    name, run, mode, options, why = BY_XLA[what]
    types = problem(CELLS[name])
    for asked in ("native", ("associative", "native")):
        with pytest.raises(
            NotImplementedError, match=f"^native: {why}.*; use implementation=.fused"
        ):
            run(mode(loss(name, asked, **options)), *types)
    for asked in (None, ("native", "fused")):
        run(mode(loss(name, asked, **options)), *types)


@registry.needs_kernel
@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_native_asked_for_by_name_computes_nothing_of_nothing(shape):
    """Not even twice."""
    params, _ = problem(CELLS["GRU"])
    xs = jax.ShapeDtypeStruct((*shape, INPUTS), "float32")
    for mode in (
        lambda f: f,
        jax.grad,
        lambda f: jax.grad(lambda *args: jax.grad(f)(*args)["b"][0]),
    ):
        lower(mode(loss("GRU", "native")), params, xs)


@registry.needs_kernel
def test_native_asked_for_by_name_is_an_error_without_jit(x64):
    """Of a cell whose projection is none of the kernel's."""
    cell = lj.LSTM(2, accumulation_dtype="float64")
    params, xs = cell.init(jax.random.key(0), INPUTS), jnp.ones((1, 1, INPUTS), "float32")
    with jax.disable_jit():
        with pytest.raises(NotImplementedError, match="native: jax.disable_jit leaves no program"):
            lj.unroll(cell, params, xs, implementation="native")
        lj.unroll(cell, params, xs)


@registry.needs_kernel
def test_native_asked_for_by_name_runs_wherever_it_can():
    for name in ("LSTM", "GRU"):
        params, xs = problem(CELLS[name])
        run = loss(name, "native")
        for mode in (run, jax.grad(run), mapped(run), jax.grad(jax.checkpoint(run))):
            found = lj.inspect(mode, params, xs)
            assert found and {each.implementation for each in found} == {"native"}


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
    native = installed / library.FOLDER.relative_to(library.PACKAGE.parent)
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
