"""The CPU's kernel in bfloat16: pairs of numbers, and tiles of them, which few machines have.

Tiles are emulated in C++ (`LSTM_JAX_EMULATED_TILES`): a kernel built so runs this file again.
"""

import functools
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax._recurrence.engines.native import library

ROOT = pathlib.Path(__file__).parents[1]
COMPILER = shutil.which("g++")
pytestmark = registry.needs_kernel


def apart(seen, wanted):
    """Largest relative error (of 2-norms) over the leaves of two trees."""

    def error(x, y):
        x, y = np.float64(x), np.float64(y)
        return np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-30)

    return max(jax.tree.leaves(jax.tree.map(error, seen, wanted)))


# ---- whole recurrences ---------------------------------------------------------------------------
SHAPES = [
    (5, 9, 7, 20),  # odd D; fewer rows than a tile
    (4, 70, 32, 33),  # odd H, and 4 H that is no whole tile; D as it lies; more rows than two tiles
    *(
        pytest.param(shape, marks=pytest.mark.grid)
        for shape in [
            (6, 1, 64, 300),  # one sequence, whose weights are multiplied as they lie
            (70, 2, 40, 16),  # steps as rows
            (1, 32, 8, 16),
            (3, 16, 1, 1),
            (9, 33, 130, 64),
            (2, 40, 24, 1040),  # sums in several parts
        ]
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "make", [lj.LSTM, pytest.param(lj.GRU, marks=pytest.mark.grid)], ids=["lstm", "gru"]
)
@pytest.mark.parametrize("flags", [False, pytest.param(True, marks=pytest.mark.grid)])
def test_values_and_gradients_in_bfloat16(make, shape, flags, rng):
    """Within 1 % of XLA's, a rounding of every number in some products: a lost lane costs more."""
    T, B, D, H = shape
    cell = make(H, param_dtype="bfloat16")
    params = registry.random_params(cell, D, rng)
    params = registry.cast(params, "bfloat16")
    xs = registry.cast(rng.standard_normal((T, B, D)), "bfloat16")
    ct = rng.standard_normal((T, B, H)).astype("float32")
    options = {}
    if flags:
        lengths, resets = rng.integers(0, T + 1, B), rng.random((T, B)) < 0.2
        options = {"reverse": True, "seq_lengths": lengths, "resets": resets}

    def run(implementation):
        def loss(params, xs):
            carry, ys = lj.unroll(cell, params, xs, implementation=implementation, **options)
            return jnp.sum(ct * ys.astype("float32")) + jnp.sum(jax.tree.leaves(carry)[-1]), ys

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)

    seen, wanted = map(jax.device_get, (run("native"), run("fused")))
    assert apart(seen, wanted) < 0.01


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (lj.LSTM(8, param_dtype="bfloat16"), "bf16"),
        (lj.GRU(8, dtype="bfloat16"), "bf16"),
        (lj.LSTM(8, dtype="bfloat16", heads=2), "f32"),  # The blocks are put into one matrix.
        (lj.LSTM(8, dtype="float32"), "f32"),
    ],
    ids=str,
)
def test_the_recurrent_matrix_stays_in_bfloat16(cell, kind):
    """Widened by XLA before the call, it would be multiplied as numbers in float32."""
    params = registry.random_params(cell, 4, np.random.default_rng(0))
    params = registry.cast(params, cell.param_dtype or "float32")
    xs = jnp.ones((3, 2, 4), cell.dtype or "bfloat16")
    text = jax.jit(functools.partial(lj.unroll, cell)).lower(params, xs).as_text()
    (call,) = [line for line in text.splitlines() if "lstm_jax_run_float" in line]
    matrix = call.rsplit(" : (", 1)[1].split(",")[0]
    assert matrix == f"tensor<8x{8 * len(cell.gate_names)}x{kind}>"


# ---- tiles ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def emulating(tmp_path_factory):
    """A copy of the package with a kernel that emulates tiles."""
    if library.instructions() == "amx":
        pytest.skip("this machine has tiles")
    if not COMPILER or library.instructions() == "portable":
        pytest.skip("tiles are emulated by what GCC makes for vectors of 32 bytes or more")
    folder = tmp_path_factory.mktemp("emulating")
    for name in ("lstm_jax", "tests"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    native = folder / "lstm_jax" / "_recurrence" / "engines" / "native"
    sources = runpy.run_path(str(native.parent / "built.py"))["fingerprint"](native)
    command = [COMPILER, "-std=c++17", "-O1", "-g0", "-w", "-shared", "-fPIC"]
    command += [f'-DLSTM_JAX_SOURCES="{sources}"', "-DLSTM_JAX_EMULATED_TILES=1"]
    command += [f"-I{jax.ffi.include_dir()}", str(native / "kernel.cc")]
    subprocess.run([*command, "-o", str(native / "_kernel.so")], check=True)
    return folder


@pytest.mark.grid
def test_products_by_tiles(emulating):
    """Products in bfloat16, and this file's recurrences, by a kernel that has tiles."""
    env = os.environ | {"PYTHONPATH": str(emulating), "LSTM_JAX_INSTRUCTIONS": "amx"}
    told = "from lstm_jax._recurrence.engines.native import library; print(library.summary())"
    run = functools.partial(
        subprocess.run, cwd=emulating, env=env, capture_output=True, text=True, timeout=900
    )
    assert "(amx)" in run([sys.executable, "-c", told]).stdout
    files = [f"tests/test_{name}.py" for name in ("narrow", "products")]
    options = ["-n", "0", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    done = run([sys.executable, "-m", "pytest", *options, "-k", "bfloat16", *files])
    assert done.returncode == 0, done.stdout[-3000:]
