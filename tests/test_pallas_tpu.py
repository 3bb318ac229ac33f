"""The TPU's kernel, which Pallas interprets here; every cell of the registry is held to "fused"."""

import dataclasses
import functools

import held
import jax
import jax.numpy as jnp
import pytest
import registry
from held import B, D, H, T, two_devices
from jax.sharding import PartitionSpec as P
from test_device import flags

import lstm_jax as lj
from lstm_jax._recurrence.engines.pallas_tpu import blocks, contacts

NAME = "pallas_tpu"


@pytest.fixture
def interpreted():
    """What LSTM_JAX_INTERPRET=1 does."""
    with registry.interpreting():
        yield


@pytest.fixture
def small_blocks(monkeypatch, interpreted):
    """Blocks of two steps and eight sequences: T and B are no multiples."""
    monkeypatch.setattr(blocks, "STEPS", 2)
    monkeypatch.setattr(blocks, "ROUND", 1)  # That compiles faster; `test_sizes` has rounds.
    monkeypatch.setattr(blocks, "_sizes", lambda batch: [min(batch, 8)])


check = functools.partial(held.check, NAME)


# ---- the registry --------------------------------------------------------------------------------
@registry.interpreted()
def test_values_gradients_and_tangents_with_gaps_and_restarts(case, small_blocks, rng):
    check(case.make(H), rng, **flags())


@pytest.mark.sampled
@pytest.mark.parametrize("name", registry.HARD)
def test_backwards(name, small_blocks, rng):
    """And the edges of blocks are on the other side."""
    check(registry.CASES[name].make(H), rng, reverse=True, **flags())


@pytest.mark.sampled
@pytest.mark.parametrize("name", registry.HARD)
def test_bfloat16(name, small_blocks, rng):
    check(registry.CASES[name].make(H), rng, jnp.bfloat16, 0.03, **flags())


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["zoneout", "state_noise", "memory_dropout_gru", "ctrnn"])
def test_noise_of_training(name, small_blocks, rng, key):
    check(registry.CASES[name].make(H), rng, key=key)


# ---- shapes --------------------------------------------------------------------------------------
@pytest.mark.sampled
@pytest.mark.parametrize(
    ("length", "batch", "size"), [(5, 2, 3), (1, 1, 2), (3, None, 5), (4, 16, 130), (37, 9, 7)]
)
def test_sizes(length, batch, size, interpreted, rng):
    check(lj.LSTM(size), rng, length=length, batch=batch)


@pytest.mark.grid
def test_several_batch_axes_and_vmap(interpreted, rng):
    held.check_vmap(NAME, lj.GRU(H), rng)


@pytest.mark.sampled
@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_shard_map(check_vma, small_blocks, rng):
    held.check_shard_map(NAME, rng, check_vma)


@pytest.mark.grid
def test_float32_where_float64_is_on(small_blocks, x64, rng):
    check(lj.LSTM(H), rng, **flags())


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 512, 1000, 997])
def test_blocks_of_steps_divide_t_if_a_large_one_does(length):
    found = blocks.plan(length, 32, 0, [], [(1024, jnp.float32)], 256)
    assert found.rows == 32
    assert found.steps == {31: 31, 33: 32, 1000: 25, 997: 32}.get(length, min(length, 32))


@pytest.mark.parametrize(("batch", "rows"), [(5, 5), (128, 128), (100_000, 784), (9999, 1264)])
def test_blocks_of_sequences_fit(batch, rows):
    found = blocks.plan(64, batch, 2**20, [(256, jnp.float32)] * 4, [(1024, jnp.float32)] * 3, 256)
    assert found.rows == batch or found.rows % 8 == 0
    assert found.memory <= blocks.MEMORY


# ---- what it does not run ------------------------------------------------------------------------
def test_it_is_for_tpus_and_chosen_by_name_alone():
    with pytest.raises(NotImplementedError, match="runs on a TPU, and the platform is cpu"):
        lj.which(lj.LSTM(H), implementation=NAME)
    for platform in ("cpu", "tpu"):
        found = lj.which(lj.LSTM(H), platform=platform)
        assert "not yet run on a device; ask for it by name" in found.rejected[NAME]
    assert lj.which(lj.LSTM(H), implementation=NAME, platform="tpu").implementation == NAME


@dataclasses.dataclass(frozen=True)
class Sorting(lj.RNN):
    """A cell with an operation that Pallas has no lowering for."""

    def update(self, carry, wx, u):
        return lj.State(jnp.sort(jnp.tanh(wx + u)))


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (Sorting(H), "Pallas cannot lower it .*sort"),
        (lj.IndRNN(H), "its recur is not a matmul of h"),
        (lj.LSTM(H, dtype="float64"), "its sums are in float64, the kernel's in float32"),
        (lj.ConvLSTM(H, (3,), (4,)), "its x_t has 2 axes"),
        (lj.GRU(H, reset_after=False), ".* does not factor"),
        (lj.LSTM(4096), "H = 4096 takes .* MiB of VMEM .* a hidden size of .* fits"),
    ],
    ids=["sort", "indrnn", "float64", "conv", "gru_before", "large"],
)
def test_what_it_cannot_run_is_refused_by_name(cell, why, x64):
    with pytest.raises(NotImplementedError, match=f"pallas_tpu: {why}"):
        lj.which(cell, implementation=NAME, platform="tpu")


def kernel_call(length=T):
    """(operands, results) of the call in the program of an LSTM for a TPU, as text."""
    cell = lj.LSTM(H)
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((length, B, D), jnp.float32)
    run = jax.jit(lambda p, x: lj.unroll(cell, p, x, implementation=NAME)[1])
    with contacts.for_a_device():
        text = run.trace(params, xs).lower(lowering_platforms=("tpu",)).as_text()
    (call,) = [line for line in text.splitlines() if "tpu_custom_call" in line]
    return call.rsplit(" : ", 1)[1].split("->")


@pytest.mark.parametrize(
    ("precision", "matrix"), [(None, f"{H // 2}x{4 * H}xui32"), ("highest", f"{H}x{4 * H}xf32")]
)
def test_the_matrix_is_as_narrow_as_the_precision_allows(precision, matrix, interpreted):
    """In bfloat16, two rows in one of 32-bit words, where the TPU would round it anyway."""
    with jax.default_matmul_precision(precision):
        given, _ = kernel_call()
    assert f"tensor<{matrix}>" in given


def test_results_that_nobody_reads_are_not_written(interpreted):
    """In inference the kernel writes h of all steps, and the last carry."""
    _, written = kernel_call()
    assert written.count(f"tensor<{T}x{B}x{H}xf32>") == 1 and f"x{4 * H}x" not in written


def test_shard_map_is_lowered_for_a_device(interpreted):
    """What results vary over is checked by default; Pallas would ask the kernel for it."""
    cell, split = lj.LSTM(H), P(None, "data")
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((T, 4, D), jnp.float32)

    def run(params, xs):
        return lj.unroll(cell, params, xs, implementation=NAME)[1]

    specs = {"mesh": two_devices(), "in_specs": (P(), split), "out_specs": split}
    with contacts.for_a_device():
        traced = jax.jit(jax.shard_map(run, **specs)).trace(params, xs)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" in text and f"tensor<{T}x2x{H}xf32>" in text


def test_a_last_block_of_fewer_steps_is_lowered_without_a_device(interpreted):
    """Pallas would ask the device at hand how it computes the sign of a number."""
    assert blocks.plan(37, B, 0, [], [(4 * H, jnp.float32)], H).steps == 32
    assert f"tensor<37x{B}x{H}xf32>" in kernel_call(37)[1]
