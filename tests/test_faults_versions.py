"""Versions of JAX: the kernel is in the compiled program on each of them."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.interpreters import mlir, partial_eval
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lstm_jax as lj
from lstm_jax import _jax
from lstm_jax._recurrence.engines.native import library

ROOT = pathlib.Path(lj.__file__).parents[1]
STEPS, BATCH, INPUTS, UNITS = 4, 2, 3, 5


def compiled(function, *args):
    """The text of the program that runs."""
    return str(jax.jit(function).lower(*args).compile().as_text())


@registry.needs_kernel
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_kernel_is_in_the_compiled_program(kind):
    cell = getattr(lj, kind)(UNITS)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jnp.ones((STEPS, BATCH, INPUTS))

    def loss(params, xs):
        return jnp.sum(lj.unroll(cell, params, xs)[1] ** 2)

    forward, gradient = compiled(loss, params, xs), compiled(jax.grad(loss, (0, 1)), params, xs)
    run, transposed = (f'custom_call_target="lstm_jax_{name}_' for name in ("run", "transposed"))
    assert forward.count(run) == 1 and transposed not in forward
    assert gradient.count(run) == 1 and gradient.count(transposed) == 1


def mixed(x):
    """Functions whose derivatives JAX 0.11 and 0.12 write otherwise, each of them the kernel's."""
    bent = jnp.maximum(x, 0.1) + jnp.minimum(x, -0.5 * x) + x * jnp.sign(x)
    smooth = jnp.tanh(x) + jax.nn.gelu(x) + jax.lax.erf(x) + jnp.sinc(x)
    return 0.2 * (bent + smooth + jnp.log2(1 + x * x) + jax.nn.log_softmax(x))


@registry.needs_kernel
def test_fault_14_erf_and_others_are_the_kernels_with_their_derivatives():
    """erf's takes bits apart from JAX 0.12 on, within a function of JAX's own."""
    cell = lj.RNN(UNITS, activation=mixed)
    assert lj.which(cell, platform="cpu").implementation == "native"
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (STEPS, BATCH, INPUTS))

    def loss(params, implementation=None):
        return jnp.sum(lj.unroll(cell, params, xs, implementation=implementation)[1] ** 2)

    text = compiled(jax.grad(loss), params)
    assert "lstm_jax_run_" in text and "lstm_jax_transposed_" in text
    seen, wanted = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, name)
        for name in ("native", "scan")
    )
    registry.assert_close(seen, wanted, 1e-5)


def test_a_function_that_looks_like_erfs_is_not_taken_for_it():
    """It is told by its whole text."""

    @jax.custom_jvp
    def exp_neg_sq(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
        return jnp.exp(-(jax.lax.bitcast_convert_type(bits, jnp.float32) ** 2)) + 1

    exp_neg_sq.defjvp(lambda primals, tangents: (exp_neg_sq(*primals), tangents[0]))
    found = lj.which(lj.RNN(UNITS, activation=exp_neg_sq), platform="cpu")
    assert found.implementation == "fused"


# ---- an attribute of JAX's insides that is not there ---------------------------------------------
@pytest.mark.parametrize("where", [*_jax.NEEDED, *_jax.FIELDS], ids=lambda where: where[1])
def test_without_what_says_where_the_kernel_may_run_there_is_none(monkeypatch, where):
    """And whoever asks is told."""
    owner, name = where
    owner = getattr(mlir, owner) if isinstance(owner, str) else owner
    kept = {each: getattr(owner, each) for each in dir(owner) if each != name}
    if where in _jax.FIELDS:
        monkeypatch.setattr(mlir, owner.__name__, types.SimpleNamespace(**kept))
    else:
        monkeypatch.delattr(owner, name)
    monkeypatch.delenv("LSTM_JAX_NO_NATIVE", raising=False)
    found, why = library._loaded.__wrapped__()
    assert found is None and f"JAX {jax.__version__} has no " in str(why) and name in str(why)


class Elsewhere:
    """Axes of a kind that was not known here."""

    num_devices = 1


@pytest.mark.parametrize("field", ["module_context", "lowering_parameters", "axis_context"])
def test_a_context_that_does_not_say_is_a_no(field):
    axes = Elsewhere() if field == "axis_context" else mlir.ShardingContext(1)
    module = types.SimpleNamespace(
        axis_context=axes, lowering_parameters=types.SimpleNamespace(for_export=False)
    )
    if field == "lowering_parameters":
        del module.lowering_parameters
    ctx = types.SimpleNamespace(**({} if field == "module_context" else {"module_context": module}))
    with pytest.warns(
        RuntimeWarning, match="does not say where the kernel may run .*(Elsew|attrib)"
    ):
        assert "does not say" in str(_jax.why_not_here(ctx))


@registry.needs_kernel
@pytest.mark.parametrize("split", [False, True], ids=["one device", "split"])
def test_the_kernel_does_not_run_on_what_devices_share(split):
    """The same program, of arrays that lie on one device or on two."""
    cell = lj.LSTM(UNITS)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jnp.ones((STEPS, BATCH, INPUTS))
    if split:
        mesh = Mesh(jax.devices("cpu")[:2], ("data",))
        xs = jax.device_put(xs, NamedSharding(mesh, PartitionSpec(None, "data")))
    text = compiled(lambda xs: lj.unroll(cell, params, xs)[1], xs)
    assert ("lstm_jax_run_" in text) != split


def test_without_dce_rules_everything_else_works(monkeypatch):
    """What nobody uses is computed then."""
    monkeypatch.delattr(partial_eval, "dce_rules")
    primitive = _jax.Primitive("of_this_test")
    _jax.set_rules(primitive, dead=lambda used, eqn: (used, eqn))


# ---- programs that leave the process -------------------------------------------------------------
ELSEWHERE = """
import pickle, sys
import jax, lstm_jax as lj, numpy as np
from jax.experimental import serialize_executable
if sys.argv[1] == "write":
    cell = lj.LSTM(3)
    params = jax.jit(cell.init, static_argnums=1)(jax.random.key(0), 2)
    run = jax.jit(jax.grad(lambda params, xs: lj.unroll(cell, params, xs)[1].sum()))
    compiled = run.lower(params, np.ones((4, 1, 2), "float32")).compile()
    assert "lstm_jax_transposed_float" in compiled.as_text()
    with open(sys.argv[2], "wb") as file:
        pickle.dump((params, *serialize_executable.serialize(compiled)), file)
else:
    with open(sys.argv[2], "rb") as file:
        params, *compiled = pickle.load(file)
    run = serialize_executable.deserialize_and_load(*compiled)
print(np.sum(run(params, np.ones((4, 1, 2), "float32"))["b"]))
"""


def python(*arguments, **environment):
    """What a process of its own prints."""
    ours = ("LSTM_JAX_", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env = kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@registry.needs_kernel
def test_fault_12c_a_compiled_program_finds_the_kernel_in_another_process(tmp_path):
    path = str(tmp_path / "program")
    hasty = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    flags = {"XLA_FLAGS": " ".join(hasty)}  # One device, as the program is for one.
    written = python("-c", ELSEWHERE, "write", path, **flags)
    assert written == python("-c", ELSEWHERE, "read", path, **flags)


@registry.needs_kernel
def test_fault_12c_the_import_starts_no_backend():
    code = "import lstm_jax; from jax._src import xla_bridge; print(xla_bridge._backends)"
    assert python("-c", code) == "{}\n"


def test_fault_12c_what_functions_take_and_return_can_be_exported():
    """Every public structure of arrays, and with it whatever holds one."""
    pytest.importorskip("flatbuffers", reason="jax.export writes bytes with it")
    modules = [lj, lj.data, lj.diagnostics, lj.optim, lj.train]
    named = {each for module in modules for each in vars(module).values() if is_structure(each)}
    assert {lj.Directions, lj.optim.ClippedSGDState, lj.train.TrainState} <= named
    for structure in named:
        value = structure(*[np.float32(k) for k in range(len(structure._fields))])
        exported = jax.export.export(jax.jit(lambda tree: tree))(value)
        seen = jax.export.deserialize(exported.serialize()).call(value)
        assert type(seen) is structure and seen == value


def is_structure(value):
    return (
        isinstance(value, type)
        and issubclass(value, tuple)
        and hasattr(value, "_fields")
        and not value.__name__.startswith("_")
    )


# ---- what is installed ---------------------------------------------------------------------------
def test_fault_26_isolated_builds_take_the_oldest_headers():
    """XLA refuses a kernel that was built with newer headers than its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lowest = {"jax>=0.10.2,<0.13", "jaxlib>=0.10.2,<0.13"}
    assert lowest <= set(project["project"]["dependencies"])
    assert "jaxlib==0.10.2" in project["build-system"]["requires"]


@registry.needs_kernel
@pytest.mark.parametrize("interface", ["0.0", "0.9999", "1.0", "", "2"])
def test_fault_26_what_xla_would_refuse_is_not_registered_early(interface, monkeypatch):
    told = library.told
    monkeypatch.setattr(
        library, "told", lambda of, what: interface if what == "interface" else told(of, what)
    )
    registered = []
    monkeypatch.setattr(library, "_register", registered.append)
    monkeypatch.delenv("LSTM_JAX_NO_NATIVE", raising=False)
    library.register_early()
    assert len(registered) == (interface == "0.0")


def test_fault_26_a_source_distribution_can_run_its_tests(tmp_path):
    """It holds whatever the tests read: every file of its folders and those beside them."""
    code = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (".ci", "bench", "docs", "examples", "lstm_jax", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in",
                 "pyproject.toml", "setup.py"):  # fmt: skip
        shutil.copy(ROOT / name, copy)
    files = {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()}
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    (path,) = (copy / "dist").iterdir()
    with tarfile.open(path) as archive:
        inside = {pathlib.Path(*pathlib.Path(name).parts[1:]) for name in archive.getnames()}
    assert files - inside == set()
    assert not [name for name in inside if name.suffix in (".so", ".pyc")]
