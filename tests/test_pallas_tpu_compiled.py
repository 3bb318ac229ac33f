"""The TPU's kernel, compiled by libtpu for TPUs that are not there."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lstm_jax as lj
from lstm_jax._cells.contract import param_shapes
from lstm_jax._recurrence.engines.pallas_tpu import tried

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
TARGETS = pytest.mark.parametrize("target", ["v5e", "v6e"])
H = 128


@pytest.fixture
def place(target, monkeypatch):
    """A sharding onto one TPU."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=f"{target}:2x2").devices
    return NamedSharding(Mesh(np.array(devices)[:1], ("d",)), PartitionSpec())


ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""So that libtpu does not ask where it runs, nor takes itself for the only process."""


def compiled(function, place, *types):
    """The text of the compiled program."""
    types = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), types)
    return str(jax.jit(function).lower(*types).compile().as_text())


@TARGETS
@pytest.mark.parametrize("cell", [lj.LSTM(H), lj.GRU(H), lj.RNN(H)], ids=["lstm", "gru", "rnn"])
def test_forward_and_gradient(cell, place):
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), param_shapes(cell, H)
    )

    def loss(params, xs):
        ys = lj.unroll(cell, params, xs, implementation="pallas_tpu")[1]
        return jnp.sum(ys.astype(jnp.float32))

    text = compiled(jax.grad(loss), place, params, jax.ShapeDtypeStruct((16, 8, H), jnp.bfloat16))
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert " while(" not in text


@pytest.mark.grid
@pytest.mark.parametrize("target", ["v5e"])
@registry.interpreted()
def test_every_cell(case, place):
    """Run, linearised and transposed, with masks and restarts, at odd sizes."""
    for size in (4, 130) if case.name in registry.HARD else (4,):
        cell = case.make(size)
        text = compiled(
            functools.partial(tried._try, cell), place, param_shapes(cell, tried.INPUTS)
        )
        assert text.count('custom_call_target="tpu_custom_call"') == 3
