"""The TPU's kernel, compiled by libtpu for TPUs that are not there."""

import functools

import jax
import jax.numpy as jnp
import pytest
import registry

import lstm_jax as lj
from bench.aot import devices
from lstm_jax._cells.contract import param_shapes
from lstm_jax._recurrence import trial
from lstm_jax._recurrence.engines.pallas_tpu import tried

pytestmark = pytest.mark.skipif(
    devices.why_not("v5e") is not None, reason=str(devices.why_not("v5e"))
)
TARGETS = pytest.mark.parametrize("target", ["v5e", "v6e"])
H = 128


def compiled(function, target, *types):
    """The text of the compiled program."""
    return str(devices.compiled(function, types, target).as_text())


@TARGETS
@pytest.mark.parametrize("cell", [lj.LSTM(H), lj.GRU(H), lj.RNN(H)], ids=["lstm", "gru", "rnn"])
def test_forward_and_gradient(cell, target):
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), param_shapes(cell, H)
    )

    def loss(params, xs):
        ys = lj.unroll(cell, params, xs, implementation="pallas_tpu")[1]
        return jnp.sum(ys.astype(jnp.float32))

    text = compiled(jax.grad(loss), target, params, jax.ShapeDtypeStruct((16, 8, H), jnp.bfloat16))
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert " while(" not in text


@pytest.mark.grid
@pytest.mark.parametrize("target", ["v5e"])
@registry.interpreted()
def test_every_cell(case, target):
    """Run, linearised and transposed, with masks and restarts, at odd sizes."""
    for size in (4, 130) if case.name in registry.HARD else (4,):
        cell = case.make(size)
        text = compiled(
            functools.partial(tried._try, cell), target, param_shapes(cell, trial.INPUTS)
        )
        assert text.count('custom_call_target="tpu_custom_call"') == 3
