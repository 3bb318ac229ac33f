"""Importers: what is not the known equation is refused, and what is damaged named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax import interop


# ---- classes, hooks and options that change what runs --------------------------------------------
class Half(nnx.GRUCell):
    """Half of what a GRU gives."""

    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry / 2, y / 2


class Quiet(nnx.GRUCell):
    """A GRU with more to say and nothing else."""

    def describe(self):
        return "a GRU"


class Late(nnx.GRUCell):
    """A GRU that starts elsewhere."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return 1 + super().initialize_carry(input_shape, rngs, carry_init)


class Twice(nnx.RNN):
    """An RNN that runs twice."""

    def __call__(self, inputs, **options):
        return super().__call__(super().__call__(inputs, **options), **options)


class Linear(nnx.Linear):
    """A Dense layer of another equation."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


def GRUCell(in_features, hidden_features, rngs):
    """A cell with flax's name and arrays that is not flax's."""
    cell = nnx.GRUCell(in_features, hidden_features, rngs=rngs)
    body = {"dense_i": cell.dense_i, "dense_h": cell.dense_h, "gate_fn": cell.gate_fn}
    return type("GRUCell", (), body)()


def nnx_cell(kind=nnx.GRUCell, size=3, **options):
    return kind(size, 4, rngs=nnx.Rngs(0), **options)


def with_dense(**dense):
    cell = nnx_cell()
    for name, layer in dense.items():
        setattr(cell, name, layer)
    return cell


def tanh(x):
    return jnp.tanh(2 * x)


def both(merge):
    rnns = [nnx.RNN(nnx_cell(), rngs=nnx.Rngs(0)) for _ in range(2)]
    return nnx.Bidirectional(*rnns, merge_fn=merge, rngs=nnx.Rngs(0))


NNX = {
    "call": (lambda: nnx_cell(Half), "source: got a Half with its own __call__"),
    "inside": (lambda: nnx.RNN(nnx_cell(Half), rngs=nnx.Rngs(0)), r"source\.cell: got a Half"),
    "start": (lambda: nnx_cell(Late), "a Late with its own initialize_carry"),
    "rnn": (lambda: Twice(nnx_cell(size=4), rngs=nnx.Rngs(0)), "a Twice with its own __call__"),
    "name": (lambda: nnx_cell(GRUCell), "source: got a GRUCell, wanted"),
    "dense": (
        lambda: with_dense(dense_h=Linear(4, 12, use_bias=False, rngs=nnx.Rngs(0))),
        r"source\.dense_h: got a Linear with its own __call__",
    ),
    "activation": (lambda: nnx_cell(activation_fn=tanh), "activation_fn=<function tanh"),
    "promotion": (
        lambda: nnx_cell(promote_dtype=lambda arrays, **_: [2 * a for a in arrays]),
        "promote_dtype=<function",
    ),
    "merge": (lambda: both(lambda a, b: a + b), "source's merge_fn: got another"),
}


@pytest.mark.parametrize("name", NNX)
def test_fault_3_nnx_takes_only_the_known_equation(name):
    make, message = NNX[name]
    with pytest.raises(ValueError, match=message):
        interop.from_nnx(make())


def test_fault_3_a_subclass_that_runs_as_its_base_is_taken():
    net, params = interop.from_nnx(nnx_cell(Quiet))
    again, same = interop.from_nnx(nnx_cell())
    assert net == again
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert interop.from_nnx(both(lambda a, b: a + b), merge="sum")[0].merge == "sum"


def test_fault_3_a_simple_cells_function_of_a_known_name():
    """It is taken as the function that it is, not as the one whose name it has."""
    net, _ = interop.from_nnx(nnx_cell(nnx.SimpleCell, activation_fn=tanh))
    assert net.activation is tanh
    assert interop.from_nnx(nnx_cell(nnx.SimpleCell))[0].activation == "tanh"


@pytest.mark.grid
@pytest.mark.parametrize("name", ["call", "name"])
def test_fault_3_equinox_takes_only_the_known_equation(name):
    eqx = pytest.importorskip("equinox")

    class HalfGRU(eqx.nn.GRUCell):
        def __call__(self, input, hidden, *, key=None):
            return super().__call__(input, hidden, key=key) / 2

    class Named(eqx.Module):
        weight_ih: jax.Array
        weight_hh: jax.Array

    if name == "name":
        with pytest.raises(ValueError, match=r"source\[0\]: got a Named, wanted an LSTMCell or"):
            interop.from_equinox(Named(jnp.ones((12, 3)), jnp.ones((12, 4))))
    else:
        with pytest.raises(ValueError, match=r"source\[0\]: got a HalfGRU with its own __call__"):
            interop.from_equinox(HalfGRU(3, 4, key=jax.random.key(0)))


def torch_sources(torch):
    """{name: (module, message)}."""

    class HalfLSTM(torch.nn.LSTM):
        def forward(self, *inputs):
            ys, state = super().forward(*inputs)
            return ys / 2, state

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight_ih = torch.nn.Parameter(torch.ones(16, 3))
            self.weight_hh = torch.nn.Parameter(torch.ones(16, 4))

    hooked, before, patched = (torch.nn.LSTM(3, 4) for _ in range(3))
    hooked.register_forward_hook(lambda module, inputs, outputs: None)
    before.register_forward_pre_hook(lambda module, inputs: None)
    patched.forward = lambda *inputs: None
    normal = torch.nn.utils.parametrizations.spectral_norm(torch.nn.GRU(3, 4), "weight_hh_l0")
    return {
        "forward": (HalfLSTM(3, 4), "source: got a HalfLSTM with its own forward"),
        "own": (Own(), "source: got a Own, wanted"),
        "hook": (hooked, "its own forward_hooks"),
        "before": (before, "its own forward_pre_hooks"),
        "patched": (patched, "its own forward"),
        "parametrized": (normal, r"parametriz.*weight_hh_l0.*remove_parametrizations"),
    }


@pytest.mark.grid
@pytest.mark.parametrize("name", ["forward", "own", "hook", "before", "patched", "parametrized"])
def test_fault_3_torch_takes_only_the_known_equation(name):
    torch = pytest.importorskip("torch")
    module, message = torch_sources(torch)[name]
    with pytest.raises(ValueError, match=message):
        interop.from_torch(module)
    holder = torch.nn.ModuleDict({"rnn": module})
    with pytest.raises(ValueError, match=message.replace("source", "rnn")):
        interop.from_torch(holder, prefix="rnn")


@pytest.mark.grid
@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_fault_3_keras_takes_only_the_known_equation(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    base = getattr(keras.layers, name)

    def call(self, *inputs, **options):
        return base.call(self, *inputs, **options)

    layer = type(name, (base,), {"call": call})(4)
    layer = keras.layers.RNN(layer) if name == "LSTMCell" else layer
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        layer.build((None, None, 3))
    with pytest.raises(ValueError, match=f"a {name} with its own call"):
        interop.from_keras(layer)
    with pytest.raises(ValueError, match=f"a {name} with its own call"):
        interop.from_keras(keras.Sequential([layer]))
