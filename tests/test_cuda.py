"""The kernels for NVIDIA's GPUs, whose source an emulator runs here, a thread for each of the GPU.

Every cell of the registry is held to "fused". `test_cuda_compiled.py` compiles them for GPUs.
"""

import ctypes
import dataclasses
import functools
import math
import os
import pathlib
import shutil
import subprocess
import sys

import held
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from held import B, D, H, T
from native import record
from test_device import flags

import lstm_jax as lj
from lstm_jax._recurrence import inferred, trial
from lstm_jax._recurrence.elementwise import steps
from lstm_jax._recurrence.engines.cuda import device, emulation, launch, packed, plan, printed
from lstm_jax._recurrence.flat import flattened

NAME = "cuda"
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulator needs a C++ compiler")


@pytest.fixture
def emulated():
    """What LSTM_JAX_EMULATE_CUDA=1 does."""
    with registry.emulating():
        yield


check = functools.partial(held.check, NAME)


# ---- the registry --------------------------------------------------------------------------------
@registry.printed()
def test_values_gradients_and_tangents_with_gaps_and_restarts(case, emulated, rng):
    check(case.make(H), rng, **flags())


@pytest.mark.sampled
@pytest.mark.parametrize("name", [*registry.HARD, "layer_norm_lstm", "sru"])
def test_backwards(name, emulated, rng):
    check(registry.CASES[name].make(H), rng, reverse=True, **flags())


@pytest.mark.sampled
@pytest.mark.parametrize("name", [*registry.HARD, "layer_norm_gru", "zoneout", "rnn_tanh"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits(name, dtype, emulated, rng):
    """Of parameters and inputs; and of the carry too."""
    tol = {"bfloat16": 0.03, "float16": 4e-3}[dtype]
    cell = registry.CASES[name].make(H)
    check(cell, rng, dtype, tol, **flags())
    if name in ("lstm", "gru"):
        check(dataclasses.replace(cell, carry_dtype=dtype), rng, dtype, 2 * tol)


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["zoneout", "state_noise", "memory_dropout_gru", "ctrnn"])
def test_noise_of_training(name, emulated, rng, key):
    check(registry.CASES[name].make(H), rng, key=key)


# ---- shapes --------------------------------------------------------------------------------------
SIZES = [(5, 2, 3), (1, 1, 2), (3, None, 5), (4, 16, 37), (2, 9, 1), (7, 65, 7)]


@pytest.mark.sampled
@pytest.mark.parametrize(("length", "batch", "size"), SIZES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_sizes(length, batch, size, dtype, emulated, rng):
    tol = 2e-5 if dtype == jnp.float32 else 0.03
    check(lj.LSTM(size), rng, dtype, tol, length=length, batch=batch, scale=0.7)


@pytest.mark.grid
@pytest.mark.parametrize("axes", [(None, 0), (0, 0)], ids=["inputs", "both"])
@pytest.mark.parametrize("division", ["a cluster", "in turn"])
def test_several_batch_axes_and_vmap(division, axes, rng):
    """Over inputs, and over parameters: then each member has its groups of blocks."""
    gpu, size, *_ = DIVISIONS[division]
    with registry.emulating(gpu):
        held.check_vmap(NAME, lj.GRU(size), rng, axes)


def test_members_are_one_call(emulated, rng):
    cell = lj.LSTM(H)
    params = jax.vmap(lambda key: cell.init(key, D))(jax.random.split(jax.random.key(0), 3))
    xs = jnp.ones((T, B, D))

    def loss(params):
        return jnp.sum(lj.unroll(cell, params, xs, implementation=NAME)[1])

    text = jax.jit(jax.vmap(jax.grad(loss))).lower(params).as_text()
    assert text.count("@lstm_jax_cuda") == 2 and "stablehlo.while" not in text


@pytest.mark.grid
@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_shard_map(check_vma, emulated, rng):
    held.check_shard_map(NAME, rng, check_vma)


@pytest.mark.grid
def test_float32_where_float64_is_on(emulated, x64, rng):
    check(lj.LSTM(H), rng, **flags())


# ---- divisions among blocks ----------------------------------------------------------------------
TINY = 13 * 1024
DIVISIONS = {
    # name: (device, H in float32, in bfloat16, B, what one kernel or more has)
    "a block": (plan.Device(80, 108, 163 * 1024), 20, 20, 9, (1, plan.ALONE, plan.IN_REGISTERS)),
    "a cluster": (plan.H100, 40, 40, 9, (2, plan.CLUSTER, plan.IN_REGISTERS)),
    "four blocks": (plan.H100, 72, 72, 17, (4, plan.CLUSTER, plan.IN_REGISTERS)),
    "shared": (plan.Device(90, 1, 227 * 1024), 68, 100, 17, (1, plan.ALONE, plan.IN_SHARED)),
    "a grid": (plan.Device(80, 8, TINY), 96, 112, 20, (2, plan.GRID, plan.IN_REGISTERS)),
    "in turn": (plan.Device(80, 5, TINY), 96, 112, 20, (2, plan.GRID, plan.IN_REGISTERS)),
    "global": (plan.Device(80, 2, 5 * TINY), 200, 200, 3, (2, plan.GRID, plan.IN_GLOBAL)),
}


@pytest.mark.sampled
@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("name", ["gru", "layer_norm_gru", "lstm_peephole"])
@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_divisions(division, name, narrow, rng, monkeypatch):
    gpu, *sizes, batch, wanted = DIVISIONS[division]
    made, choose = [], launch.Launch._chosen

    def kept(self):
        plan, program = choose(self)
        made.append(plan)
        return plan, program

    monkeypatch.setattr(launch.Launch, "_chosen", kept)
    cell = registry.CASES[name].make(sizes[narrow])
    dtype, tol = (jnp.bfloat16, 0.03) if narrow else (jnp.float32, 3e-5)
    scale = 1 / math.sqrt(cell.hidden_size)
    with registry.emulating(gpu):
        check(cell, rng, dtype, tol, 4, batch, scale=scale, **flags(4, batch))
    if name == "gru":
        assert wanted in {(p.blocks, p.meeting, p.place) for p in made}
    if name == "gru" and division == "in turn":
        assert any(p.groups * p.rows < batch for p in made)
    assert all(p.layout["all"] <= gpu.shared for p in made)


@pytest.mark.parametrize("narrow", [True, False], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("units", [1, 4, 16, 100, 128, 200, 256, 512, 768, 1024, 2048])
@pytest.mark.parametrize("batch", [1, 8, 64, 128, 1000])
def test_plans_fit_and_their_groups_run_at_once(units, batch, narrow):
    for gpu in (plan.H100, plan.Device(80, 108, 163 * 1024)):
        for x, m in ((1, 4), (4, 1)):
            problem = plan.Problem(units, x, m, narrow, batch, 14, 0, False)
            for found in plan.plans(problem, gpu):
                assert found.layout["all"] <= gpu.shared
                assert found.threads % 32 == 0 and found.threads <= 512
                assert found.blocks * found.own >= units
                assert found.groups * found.rows >= batch or found.meeting == plan.GRID
                assert found.meeting != plan.GRID or found.groups * found.blocks <= gpu.blocks


@pytest.mark.parametrize("narrow", [True, False], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("transposed", [True, False])
def test_packed_weights_are_those_of_every_block(narrow, transposed, rng):
    """Each block's part times the packed x is its columns of the product."""
    units, x, m, blocks = 20, 2, 3, 2
    problem = plan.Problem(units, x, m, narrow, 8, 14, 0, False)
    of = plan.Plan(problem, blocks, 8, 1, plan.CLUSTER, plan.IN_SHARED)
    w = rng.integers(-8, 8, (x * units, m * units)).astype("float32")
    parts = np.asarray(packed.packed(of, jnp.asarray(w.T if transposed else w), transposed))
    if narrow:  # (block, tile, deep, g, q, r, c, e) -> rows (deep, r, q, e), columns (tile, c, g)
        parts = parts.astype("float32").transpose(0, 2, 5, 4, 7, 1, 6, 3)
    else:  # (block, tile, deep, column, row) -> rows (deep, row), columns (tile, column)
        parts = parts.transpose(0, 2, 4, 1, 3)
    parts = parts.reshape(blocks, of.depth, of.columns)
    rows = np.arange(x * units).reshape(x, units)
    for b in range(blocks):
        for q in range(m):
            own = np.arange(b * of.own, min((b + 1) * of.own, units))
            mine = parts[b][:, q * of.own : q * of.own + len(own)]
            for other in range(blocks):
                for p in range(x):
                    theirs = np.arange(other * of.own, min((other + 1) * of.own, units))
                    at = (other * x + p) * of.own
                    seen = mine[at : at + len(theirs)]
                    assert np.array_equal(seen, w[rows[p][theirs]][:, q * units + own])


OF_ARRAYS = """
extern "C" void rounded(const float* x, int n, uint16_t* half, uint16_t* bf) {
  for (int k = 0; k < n; k++) half[k] = to_half(x[k]), bf[k] = to_bits(x[k]);
}
extern "C" void widened(const uint16_t* bits, int n, float* half, float* bf) {
  for (int k = 0; k < n; k++) half[k] = from_half(bits[k]), bf[k] = from_bits(bits[k]);
}
"""


def test_numbers_of_16_bits_are_rounded_as_numpy_does(tmp_path):
    """To float16 and bfloat16, in the emulator; a device has instructions for them."""
    source = tmp_path / "numbers.cc"
    source.write_text(f'#include "{emulation.FOLDER / "emulated.h"}"\n{OF_ARRAYS}')
    library = ctypes.CDLL(str(built(tmp_path, "numbers.so", "-shared", "-fPIC", source)))
    bits = np.arange(2**16, dtype=np.uint16)
    wide = np.zeros((2, 2**16), np.float32)
    library.widened(*pointers(bits[None]), bits.size, *pointers(wide))
    for seen, dtype in zip(wide, (np.float16, jnp.bfloat16), strict=True):
        np.testing.assert_array_equal(seen, bits.view(dtype).astype(np.float32))
    x = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([x, wide[0], wide[0] * np.float32(1 + 2**-12)]).astype(np.float32)
    narrow = np.zeros((2, x.size), np.uint16)
    library.rounded(*pointers(x[None]), x.size, *pointers(narrow))
    with np.errstate(over="ignore", invalid="ignore"):
        for seen, dtype in zip(narrow, (np.float16, jnp.bfloat16), strict=True):
            wanted = x.astype(dtype).astype(np.float32)  # In which NaN is equal to NaN.
            np.testing.assert_array_equal(seen.view(dtype).astype(np.float32), wanted)


def pointers(rows):
    return [row.ctypes.data_as(ctypes.c_void_p) for row in rows]


# ---- what is printed -----------------------------------------------------------------------------
def program(cell):
    """The program of a cell's update."""
    params = jax.eval_shape(lambda key: cell.init(key, trial.INPUTS), jax.random.key(0))
    found = []

    def translate(params):
        ops = trial.operands(cell, params)
        flat, (ops,) = flattened(inferred.recurrence_of(cell, ops), (ops,), ("float32",))
        u = jax.ShapeDtypeStruct((2, 3, *flat.u.shape), flat.u.dtype)
        step = steps.step_of(ops.carry, (u,) if flat.additive else (ops.wx, u), ops)
        found.append(steps.run(flat, printed.OPERATIONS, step))
        return 0

    jax.eval_shape(translate, params)
    return found[0]


def test_the_update_of_an_lstm_in_c():
    """Of unit j: a holds h, c and the four sums; y gets h and c."""
    of = printed.printed(program(lj.LSTM(8)), 8)
    assert of.source.count("logistic") == 3 and of.source.count("tanhf") == 2
    assert "a[1]" in of.source and "y[1]" in of.source and "a[6]" not in of.source
    assert (of.units, of.kept, of.totals, of.complete) == (8, 0, (), (0,))
    assert (of.arguments, of.results, of.summed) == ((8, 8, 32), (8, 8), (False, False))


def test_a_sum_over_units_ends_a_phase():
    of = printed.printed(program(lj.LayerNormRNN(8)), 8)
    assert of.totals == ("sum", "sum") and of.complete == (1, 2, 2)
    assert of.source.count("PHASE(") == 3


def test_a_part_of_a_state_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Shifted(lj.RNN):
        def update(self, carry, wx, u):
            h = jnp.tanh(wx + u)
            return lj.State(jnp.concatenate([h[..., 1:], h[..., :1]], axis=-1))

    with registry.emulating(), pytest.raises(NotImplementedError, match="cuda: .* a state of 4"):
        lj.which(Shifted(H), implementation=NAME)


@dataclasses.dataclass(frozen=True)
class Divided(lj.Cell):
    """A sum of squares of a sequence divides it: of one unit a thread knows all of the sum."""

    gate_names = ("a", "b")

    def update(self, carry, wx, u):
        pre = wx + u
        a, b = jnp.split(pre, 2, axis=-1)
        return lj.State(jnp.tanh(a / (1 + jnp.sum(jnp.square(pre), -1, keepdims=True)) + b))


@dataclasses.dataclass(frozen=True)
class Scaled(lj.RNN):
    """A maximum of a sequence, times a parameter of `size` numbers, is summed over the units."""

    elementwise = ("r",)
    size: int = 1

    def init(self, key, input_size):
        return super().init(key, input_size) | {"r": jnp.full(self.size, 0.3)}

    def update(self, carry, wx, u, r):
        v = wx + u
        most = jnp.max(v, -1, keepdims=True) * jnp.sum(r)
        return lj.State(jnp.tanh(v - 0.1 * jnp.sum(v + most, -1, keepdims=True)))


@pytest.mark.parametrize("cell", [Divided(1), Divided(3), Scaled(8), Scaled(4, size=3)], ids=repr)
def test_a_sum_that_needs_no_other_thread(cell, emulated, rng):
    """Of one unit; of one number repeated, as a pullback has it; of arrays of no common planes."""
    check(cell, rng, **flags())


# ---- threads, launches ---------------------------------------------------------------------------
OPTIONS = ("-std=c++17", "-O1", "-g1", "-w")
NATIVE = pathlib.Path(__file__).parent / "native"


def built(folder, name, *given):
    """Compile C++ into `folder`, and return the path."""
    path = folder / name
    subprocess.run([COMPILER, *OPTIONS, *map(str, given), "-o", str(path), "-ldl"], check=True)
    return path


def recorded(folder, rng, monkeypatch):
    """A file of calls of kernels of four divisions, with their results."""
    calls = folder / "calls"
    with calls.open("wb") as file, monkeypatch.context() as patch:
        patch.setattr(jax.ffi, "ffi_call", jax.ffi.ffi_call)  # What `tap` replaces comes back.
        record.tap(file)
        for name, make in (("a cluster", lj.LayerNormGRU), ("shared", lj.GRU), ("in turn", lj.GRU)):
            gpu, size, _, batch, _ = DIVISIONS[name]
            with registry.emulating(gpu):
                check(make(size), rng, length=3, batch=batch, scale=0.2)
        with registry.emulating():
            check(lj.LSTM(40), rng, jnp.bfloat16, 0.03, length=3, scale=0.2, **flags(3))
        with registry.emulating(DIVISIONS["in turn"][0]):
            jax.block_until_ready(members(lj.GRU(96), rng))
    return calls


def members(cell, rng):
    """The gradients of two members with weights of their own."""
    params = [registry.cast(registry.random_params(cell, D, rng), jnp.float32) for _ in range(2)]
    xs = jnp.ones((3, 5, D), jnp.float32)

    def loss(params):
        return jnp.sum(lj.unroll(cell, params, xs, implementation=NAME)[1])

    return jax.jit(jax.vmap(jax.grad(loss)))(jax.tree.map(lambda *w: jnp.stack(w), *params))


def repeated(program, calls, **environment):
    """What replay.cc prints, or raise with its errors."""
    command, env = [str(program), str(calls), "once"], {**os.environ, **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def own_kernels(tmp_path, monkeypatch):
    """A folder of compiled kernels that other tests do not read."""
    (tmp_path / "kernels").mkdir()
    monkeypatch.setattr(emulation, "folder", lambda: tmp_path / "kernels")
    emulation.compiled.cache_clear()
    yield tmp_path / "kernels"
    emulation.compiled.cache_clear()


@pytest.mark.grid
def test_no_thread_reads_what_another_may_be_writing(own_kernels, tmp_path, rng, monkeypatch):
    """The thread sanitizer sees the kernels of each division, with barriers as their only order."""
    monkeypatch.setattr(sys.modules[__name__], "OPTIONS", (*OPTIONS, "-fsanitize=thread"))
    (tmp_path / "probe.cc").write_text("int main() {}")
    try:
        built(tmp_path, "probe", tmp_path / "probe.cc")
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no thread sanitizer")
    calls = recorded(tmp_path, rng, monkeypatch)
    for source in own_kernels.glob("*.cc"):  # Where the recorded calls look for them.
        built(source.parent, source.with_suffix(".so").name, "-shared", "-fPIC", source)
    sources = NATIVE / "replay.cc", emulation.FOLDER / "emulator.cc"
    headers = f"-I{jax.ffi.include_dir()}"
    program = built(tmp_path, "replay", "-rdynamic", headers, *sources, "-lpthread")
    assert "calls agree" in repeated(program, calls)


@pytest.mark.grid
def test_the_launcher_asks_the_driver_for_what_a_kernel_needs(tmp_path, rng, monkeypatch):
    """The calls of XLA through the launcher, on a driver whose kernels run on this CPU."""
    calls = recorded(tmp_path, rng, monkeypatch)
    built(tmp_path, "libcuda.so.1", "-shared", "-fPIC", NATIVE / "driver.cc", "-lpthread")
    sources = NATIVE / "replay.cc", emulation.FOLDER / "launcher.cc"
    headers = f"-I{jax.ffi.include_dir()}", '-DLSTM_JAX_SOURCES=""'
    program = built(tmp_path, "replay", "-rdynamic", *headers, *sources, "-lpthread")
    assert "calls agree" in repeated(program, calls, LD_LIBRARY_PATH=str(tmp_path))
    with pytest.raises(AssertionError, match="lstm_jax: libcuda.so.1: cannot open shared object"):
        repeated(program, calls, LD_LIBRARY_PATH="")


# ---- what it does not run ------------------------------------------------------------------------
def test_it_is_for_gpus_and_chosen_by_name_alone(monkeypatch):
    with pytest.raises(NotImplementedError, match="runs on an NVIDIA GPU, and the platform is cpu"):
        lj.which(lj.LSTM(H), implementation=NAME)
    for platform in ("cpu", "gpu"):
        found = lj.which(lj.LSTM(H), platform=platform)
        assert "not yet run on a device; ask for it by name" in found.rejected[NAME]
    monkeypatch.setattr(device.nvrtc, "why_not", lambda: None)
    assert lj.which(lj.LSTM(H), implementation=NAME, platform="gpu").implementation == NAME


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (lj.IndRNN(H), "its recur is not a matmul of h"),
        (lj.LSTM(H, projection_size=2), "update has dot_general"),
        (lj.LSTM(H, dtype="float64"), "its sums are in float64, the kernel's in float32"),
        (lj.ConvLSTM(H, (3,), (4,)), "its x_t has 2 axes"),
        (lj.GRU(H, reset_after=False), ".* does not factor"),
        (lj.LSTM(16384), "16384 numbers a sequence do not fit a block's shared memory"),
    ],
    ids=["indrnn", "projection", "float64", "conv", "gru_before", "large"],
)
def test_what_it_cannot_run_is_refused_by_name(cell, why, x64, emulated):
    with pytest.raises(NotImplementedError, match=f"cuda: {why}"):
        lj.which(cell, implementation=NAME)


A100 = plan.Device(80, 108, 163 * 1024)


def test_what_fits_in_one_dtype_is_not_refused():
    """Which one the parameters will have, `which` does not know: sums fit in float32 alone here."""
    with registry.emulating(A100):
        assert lj.which(lj.LayerNormLSTM(1000), implementation=NAME).implementation == NAME


def test_what_one_gpu_cannot_another_may():
    cell = lj.LSTM(2000)
    with registry.emulating(A100), pytest.raises(NotImplementedError, match="do not fit"):
        lj.which(cell, implementation=NAME)
    with registry.emulating(plan.H100):
        assert lj.which(cell, implementation=NAME).implementation == NAME


def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(device.nvrtc, "why_not", lambda: None)
    with (
        device.of(plan.Device(70, 80, 96 * 1024)),
        pytest.raises(NotImplementedError, match=r"compute capability 8\.0, .*, not 7\.0"),
    ):
        lj.which(lj.LSTM(H), implementation=NAME, platform="gpu")
