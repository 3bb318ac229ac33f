"""The kernels for NVIDIA's GPUs, compiled by NVRTC and by XLA for GPUs that are not there.

Needs the extra `aot`. `pytest -rP` shows the registers that the kernels take.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from bench.aot import devices
from lstm_jax._cells.contract import param_shapes
from lstm_jax._recurrence import trial
from lstm_jax._recurrence.engines.cuda import device, launch, launcher, nvrtc, plan, tried

pytestmark = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))
H, BATCH = 256, 64
GPUS = {
    "sm_80": plan.Device(80, 108, 163 * 1024),
    "sm_90a": plan.H100,
    "sm_100": plan.Device(100, 148, 227 * 1024),
}


def kernels(cell, dtype, architecture, monkeypatch):
    """The three kernels of a cell that are chosen, with masks and restarts."""
    made = []

    def program(text):
        made.append(nvrtc.compiled(device.whole(text), architecture))
        return np.zeros(1, np.uint8), made[-1].spilled > 0

    chosen = launch.Launch._chosen

    def kept(self):
        made.clear()
        plan, binary = chosen(self)
        found.append(made[-1] if not made[-1].spilled else made[0])
        return plan, binary

    found = []
    with monkeypatch.context() as patch, device.of(GPUS[architecture]):
        patch.setattr(trial, "BATCH", BATCH)
        patch.setattr(launch.Launch, "_chosen", kept)
        patch.setattr(device, "program", program)
        params = param_shapes(cell, trial.INPUTS)
        params = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, dtype), params)
        jax.eval_shape(functools.partial(tried._try, cell), params)
    assert len(found) == 3
    return found


@pytest.mark.grid
@pytest.mark.parametrize("architecture", GPUS)
@registry.printed()
def test_every_cell_without_spills(case, architecture, monkeypatch):
    """In float32 and bfloat16, at a size whose matrix several blocks share."""
    cell = case.make(H)
    found = [
        kernel
        for dtype in (jnp.float32, jnp.bfloat16)
        for kernel in kernels(cell, dtype, architecture, monkeypatch)
    ]
    print(f"{case.name} {architecture}: registers {[of.registers for of in found]}")
    assert [of.spilled for of in found] == [0] * 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("size", [64, 256, 768, 1024])
@pytest.mark.parametrize("architecture", GPUS)
def test_sizes_without_spills(architecture, size, dtype, monkeypatch):
    """Of one block, of clusters, of grids."""
    found = kernels(lj.LSTM(size), dtype, architecture, monkeypatch)
    assert all(of.registers and not of.spilled for of in found)


def test_a_kernel_is_kept_by_its_source_and_architecture(tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "kernels"))
    text = 'extern "C" __global__ void kernel(float* x) { *x = 1; }'
    first = nvrtc.kept(text, "sm_90")
    assert nvrtc.kept(text, "sm_80") != first
    monkeypatch.setattr(nvrtc, "compiled", None)
    assert nvrtc.kept(text, "sm_90") == first
    assert len(list((tmp_path / "kernels").iterdir())) == 2


def test_what_nvrtc_says_is_told(monkeypatch):
    with pytest.raises(Exception, match=r"NVRTC for sm_90: .*error: identifier"):
        nvrtc.compiled("__global__ void kernel() { nothing(); }", "sm_90")


# ---- programs ------------------------------------------------------------------------------------
needs_xla = pytest.mark.skipif(
    devices.why_not("h100") is not None or launcher.why_not() is not None,
    reason=str(devices.why_not("h100") or launcher.why_not()),
)


@needs_xla
@pytest.mark.parametrize("cell", [lj.LSTM(H), lj.GRU(H), lj.RNN(H)], ids=["lstm", "gru", "rnn"])
def test_a_gradient_is_one_call_forward_and_one_backward(cell):
    """Compiled by XLA for an H100: a recurrence has no loop."""
    params = jax.tree.map(
        lambda w: jax.ShapeDtypeStruct(w.shape, jnp.bfloat16), param_shapes(cell, H)
    )

    def loss(params, xs):
        ys = lj.unroll(cell, params, xs, implementation="cuda")[1]
        return jnp.sum(ys.astype(jnp.float32))

    xs = jax.ShapeDtypeStruct((512, BATCH, H), jnp.bfloat16)
    text = str(devices.compiled(jax.grad(loss), (params, xs), "h100").as_text())
    assert text.count('custom_call_target="lstm_jax_cuda"') == 2
    assert " while(" not in text
