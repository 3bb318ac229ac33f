"""Wrong calls at every public door: the house's error, and never a number made of a mistake."""

import dataclasses
import importlib
import pkgutil
import re
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry
from flax import nnx

import lstm_jax as lj
from lstm_jax import diagnostics as dg
from lstm_jax import initializers as init
from lstm_jax import losses, optim, regularizers, train
from lstm_jax._numerics import norm

T, B, D, H = 3, 2, 3, 4
KEY = jax.random.key(0)
CELL = lj.LSTM(H)
# Numbers of NumPy: JAX would compile what draws them, while tests are collected.
RNG = np.random.default_rng(0)
PARAMS = registry.cast(registry.random_params(CELL, D, RNG), jnp.float32)
XS = jnp.asarray(np.ones((T, B, D), np.float32))
CARRY = CELL.initial_carry(PARAMS, (B,))
COMPLEX, COMPLEX_XS = registry.cast((PARAMS, XS), complex)
NET = lj.stack(lj.LSTM(H), lj.GRU(3))
BOTH = lj.bidirectional(CELL)
BOTH_PARAMS = registry.cast(registry.random_params(BOTH, D, RNG), jnp.float32)
HOUSE = re.compile(r"^[^:]+: got .+, wanted .+; .+", re.DOTALL)


def some(values, count):
    """The first `count` of them every day, the others in the grid."""
    values = list(values)
    return values[:count] + [pytest.param(x, marks=pytest.mark.grid) for x in values[count:]]


class Tensor:
    """Another library's array, as torch has it."""

    dtype, shape, ndim = "torch.float32", (T, B, D), 3

    def detach(self):
        return self


def refused(call, *parts):
    """`call` raises the house's error, and `parts` stand in it."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert HOUSE.match(message), message
    for part in parts:
        assert part in message, message


def unroll(xs=XS, cell=CELL, params=PARAMS, carry=None, **options):
    return lj.unroll(cell, params, xs, carry, **options)


def loss(ys):
    return jnp.sum(ys)


@dataclasses.dataclass(frozen=True)
class Own(lj.Cell):
    """A user's cell whose update is what the test says."""

    result: object = dataclasses.field(default=None, kw_only=True)

    def update(self, carry, wx, u):
        return self.result(carry, wx + u)


@dataclasses.dataclass(frozen=True)
class OwnStep(lj.Cell):
    """The same of a whole step."""

    result: object = dataclasses.field(default=None, kw_only=True)

    def step(self, params, carry, x):
        return self.result(carry, x)


def own(result, kind=Own):
    cell = kind(H, result=result)
    return lambda: lj.unroll(cell, cell.init(KEY, D), XS, implementation="scan")


@dataclasses.dataclass(frozen=True)
class Gain(lj.Cell):
    """A user's cell with a number of its own."""

    gain: Any = dataclasses.field(default=1.0, kw_only=True)

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(wx + u) * self.gain)


def activated(activation):
    cell = lj.RNN(H, activation)
    return lambda: lj.unroll(cell, cell.init(KEY, D), XS, implementation="scan")


def carry(h, c=CARRY.c):
    return lj.LSTMState(h, c)


# ---- 24: the calls that were obscure or silent ---------------------------------------------------
CALLS = {
    "a torch tensor": (lambda: unroll(Tensor()), "xs: got a", "Tensor", "xs.detach().cpu()"),
    "objects": (lambda: unroll(np.full((T, B, D), None)), "xs", "dtype object", "jnp.asarray"),
    "words in an array": (lambda: unroll(np.full((T, B, D), "a")), "xs", "dtype <U1"),
    "dates": (lambda: unroll(np.zeros((T, B, D), "datetime64[s]")), "xs", "datetime64"),
    "keys as inputs": (lambda: unroll(jax.random.split(KEY, (T, B, D))), "xs", "key<"),
    "no cell": (lambda: unroll(cell=None), "cell: got None", "LSTM(128)"),
    "a class": (lambda: unroll(cell=lj.LSTM), "cell: got the class LSTM", "LSTM(128)"),
    "which of a class": (lambda: lj.which(lj.LSTM), "cell: got the class LSTM", "LSTM(128)"),
    "which of a name": (lambda: lj.which("LSTM"), "cell: got 'LSTM'", "LSTM(128)"),
    "arguments in another order": (
        lambda: lj.unroll(PARAMS, CELL, XS),
        "cell: got a dict",
        "the order is unroll(cell, params, xs)",
    ),
    "inputs for parameters": (lambda: lj.unroll(CELL, XS, PARAMS), "xs: got a dict"),
    "a key of 0": (lambda: unroll(key=0), "key: got 0", "jax.random.key(0)"),
    "a key of True": (lambda: unroll(key=True), "key: got True"),
    "a float key": (lambda: unroll(key=jnp.zeros(2)), "key", "float32"),
    "several keys": (lambda: unroll(key=jax.random.split(KEY)), "key: got keys of shape (2,)"),
    "raw keys": (lambda: unroll(key=np.zeros((3, 2), np.uint32)), "key: got keys of shape (3, 2)"),
    "reverse in words": (lambda: unroll(reverse="yes"), "reverse: got 'yes', wanted True or False"),
    "time_major of None": (lambda: unroll(time_major=None), "time_major: got None"),
    "return_carries of 1": (lambda: unroll(return_carries=1), "return_carries: got 1"),
    "a batch of 2": (lambda: CELL.initial_carry(PARAMS, 2), "batch_shape: got 2", "pass (2,)"),
    "a batch for parameters": (lambda: CELL.initial_carry((2,)), "params: got (2,)", "batch_shape"),
    "a negative batch": (lambda: CELL.initial_carry(PARAMS, (-1,)), "batch_shape: got (-1,)"),
    "a net's batch of 2": (lambda: NET.initial_carry(NET_PARAMS, 2), "batch_shape: got 2"),
    "a net's batch first": (lambda: NET.initial_carry((2,)), "params: got (2,)"),
    "a net's other parameters": (lambda: NET.initial_carry(PARAMS), "params", "wanted 0 1"),
    "a wrapper's batch": (lambda: lj.zoneout(CELL).initial_carry((2,)), "params: got (2,)"),
    "a learned start's": (lambda: lj.learned_start(CELL).initial_carry((2,)), "params: got (2,)"),
    "a learned start without": (
        lambda: lj.learned_start(CELL).initial_carry(PARAMS),
        "params",
        "start_h start_c",
    ),
    "init of 0": (lambda: CELL.init(0, D), "key: got 0", "jax.random.key(0)"),
    "a net's init of 0": (lambda: NET.init(0, D), "key: got 0"),
    "a net's input size": (lambda: NET.init(KEY), "input_size: got None"),
    "names of one word": (lambda: lj.weight_drop(CELL, 0.5, "b"), "names: got 'b'", "('b',)"),
    "no names": (lambda: lj.weight_drop(CELL, 0.5, ()), "names: got ()"),
    "numbers for names": (lambda: lj.weight_drop(CELL, 0.5, (1,)), "names: got (1,)"),
    "a wrapper of a class": (lambda: lj.zoneout(lj.LSTM, 0.1), "net: got the class LSTM"),
    "a wrapper of nothing": (lambda: lj.learned_start(None), "net: got None"),
    "a negative noise": (lambda: lj.state_noise(CELL, h=-1), "h: got -1"),
    "a noise in words": (lambda: lj.state_noise(CELL, c="0.1"), "c: got '0.1'"),
    "a limit in words": (lambda: lj.clip_state(CELL, c="1"), "c: got '1'", "above 0"),
    "a limit of 0": (lambda: lj.clip_state(CELL, h=0), "h: got 0"),
    "a limit that is an array": (lambda: lj.clip_cotangents(CELL, jnp.ones(())), "limit", "array"),
    "a rate of True": (lambda: lj.zoneout(CELL, True), "h: got True"),
    "an activation to another shape": (activated(jnp.sum), "activation", "shape ()", "elementwise"),
    "one to a wider shape": (activated(lambda x: x[None]), "activation", "elementwise"),
    "an activation to integers": (activated(lambda x: jnp.round(x).astype(int)), "int32"),
    "one to complex numbers": (activated(lambda x: x.astype(complex)), "complex64"),
    "one to a pair": (activated(lambda x: (x, x)), "activation"),
    "an activation's class": (lambda: lj.RNN(H, Tensor), "activation: got the class Tensor"),
    "a complex carry": (
        lambda: unroll(carry=carry(CARRY.h.astype(complex))),
        "carry.h: got dtype complex64",
        "floating",
    ),
    "a carry of integers": (lambda: unroll(carry=carry(CARRY.h.astype(int))), "carry.h", "int32"),
    "a carry of tensors": (lambda: unroll(carry=carry(Tensor())), "carry.h: got a", "Tensor"),
    "parameters of integers": (
        lambda: unroll(params=jax.tree.map(lambda x: x.astype(int), PARAMS)),
        "params['b']: got dtype int32",
        "floating",
    ),
    "complex parameters": (
        lambda: unroll(params=PARAMS | {"b": PARAMS["b"].astype(complex)}),
        "complex64",
    ),
    "a tensor among parameters": (lambda: unroll(params=PARAMS | {"b": Tensor()}), "params['b']"),
    "eight bits without a dtype": (
        lambda: unroll(params={n: x.astype(jnp.float8_e4m3fn) for n, x in PARAMS.items()}),
        "float32, float8_e4m3fn",
        'dtype="float32"',
    ),
    "an initializer's class": (
        lambda: lj.LSTM(H, w_hh_init=init.orthogonal),
        "w_hh_init: got the class orthogonal",
        "orthogonal()",
    ),
    "an initializer's name": (lambda: lj.LSTM(H, b_init="zeros"), "b_init: got 'zeros'"),
    "heads of True": (lambda: lj.LSTM(H, heads=True), "heads: got True"),
    "a size of a bias": (lambda: lj.readout(CELL, True), "output_size: got True"),
    "a choice by an array": (lambda: lj.SLSTM(H, forget_gate=jnp.ones(2)), "forget_gate: got an"),
    "a choice by a number": (lambda: lj.bidirectional(CELL, merge=0), "merge: got 0"),
    "a share in words": (lambda: lj.stack(CELL, dropout="0.5"), "dropout: got '0.5'"),
    "a share above 1": (lambda: lj.stack(CELL, dropout=1.5), "dropout: got 1.5"),
    "a gamma of True": (lambda: lj.AntisymmetricRNN(H, gamma=True), "gamma: got True"),
    # 12g
    "an update to a bare array": (
        own(lambda carry, a: a),
        "update: got a result ..., wanted State(h=...)",
        "return State(h=...)",
    ),
    "an update to a tuple": (own(lambda carry, a: (a,)), "update: got a result (...,)"),
    "an update to nothing": (own(lambda carry, a: None), "update: got a result None"),
    "an update of one number": (own(lambda carry, a: lj.State(jnp.sum(a))), "update.h", "()"),
    "an update to integers": (own(lambda carry, a: lj.State(a.astype(int))), "update.h", "int32"),
    "a step to a carry alone": (own(lambda carry, x: carry, OwnStep), "step: got a result State"),
    "a step to a bare array": (own(lambda carry, x: (x, x), OwnStep), "step: got a result ..."),
    "a field that is an array": (
        lambda: lj.unroll(Gain(H, gain=jnp.ones(H)), PARAMS, XS),
        "Gain.gain: got a ArrayImpl",
        "an array is a parameter",
    ),
    "a NumPy array in a wrapped cell": (
        lambda: lj.which(lj.stack(lj.zoneout(Gain(H, gain=np.ones(H))))),
        "gain",
    ),
    "a list as a field": (lambda: lj.which(Gain(H, gain=[1.0])), "Gain.gain: got a list"),
    # 10
    "the Jacobian of two directions": (
        lambda: dg.step_jacobian(BOTH, BOTH_PARAMS, BOTH.initial_carry(BOTH_PARAMS), XS[0, 0]),
        "cell: got a net with bidirectional layers",
        "pass each layer by itself",
    ),
    "the exponents of two directions in a stack": (
        lambda: dg.lyapunov_spectrum(lj.stack(BOTH), {"0": BOTH_PARAMS}, XS[:, 0]),
        "cell: got a net with bidirectional layers",
    ),
    "the products of two directions in a stack": (
        lambda: dg.jacobian_product_singular_values(lj.stack(BOTH), {"0": BOTH_PARAMS}, XS[:, 0]),
        "cell: got a net with bidirectional layers",
    ),
    "the matrices of a net": (lambda: dg.gate_blocks(NET, PARAMS), "cell: got a"),
    "a loss that is none": (lambda: dg.gradients_by_lag(CELL, PARAMS, XS, 3), "loss: got 3"),
    "a loss of each step": (lambda: dg.gradients_by_lag(CELL, PARAMS, XS, lambda y: y), "loss"),
    "warm-up by halves": (
        lambda: dg.lyapunov_spectrum(CELL, PARAMS, XS[:, 0], warmup=0.5),
        "warmup: got 0.5",
    ),
    "a batch of exponents": (lambda: dg.entropy(jnp.ones((2, 2))), "exponents: got shape (2, 2)"),
    "a dimension of words": (lambda: dg.kaplan_yorke_dimension("a"), "exponents: got a str"),
    "no matrix": (lambda: dg.spectral_norm(jnp.ones(3)), "w: got shape (3,)"),
    "a matrix of integers": (lambda: dg.spectral_radius(jnp.eye(3, dtype=int)), "w: got dtype"),
    "a matrix in words": (lambda: dg.henrici("a"), "w: got a str"),
    "norms of none": (lambda: dg.slope_per_step("a"), "norms: got a str"),
    # Losses, penalties, initializers
    "predictions of none": (lambda: losses.mean_squared_error(None, XS), "predictions: got a None"),
    "targets of words": (lambda: losses.mean_squared_error(XS, "a"), "targets: got a str"),
    "complex targets": (
        lambda: losses.mean_squared_error(XS, XS.astype(complex)),
        "targets",
        "complex64",
    ),
    "logits of a tensor": (lambda: losses.softmax_cross_entropy(Tensor(), XS), "logits", "Tensor"),
    "labels of none": (lambda: losses.accuracy(XS, None), "labels: got a NoneType"),
    "a mask of words": (lambda: losses.mean_squared_error(XS, XS, "a"), "mask: got a str"),
    "outputs of integers": (lambda: regularizers.activation(XS.astype(int)), "ys: got dtype int32"),
    "outputs of none": (lambda: regularizers.norm_stabilizer(None), "ys: got a NoneType"),
    "weights of words": (lambda: regularizers.l2("a"), "w: got a str"),
    "a margin in words": (
        lambda: regularizers.singular_value_margin(jnp.eye(2), "a"),
        "margin: got 'a'",
    ),
    "bounds in words": (lambda: regularizers.keep_singular_values("0", 1), "low: got '0'"),
    "a name for names": (
        lambda: regularizers.keep_singular_values(0, 1, "w_hh"),
        "names: got 'w_hh'",
        "('w_hh',)",
    ),
    "a value of True": (lambda: init.constant(True), "value: got True"),
    "the class of an initializer": (lambda: init.whole(init.orthogonal), "init: got the class"),
    "a gate of 3": (lambda: init.forget_bias(1.0, 3), "gate: got 3"),
    "nonzeros of True": (lambda: init.spectral_radius(nonzeros=True), "nonzeros: got True"),
    "a preset of a number": (lambda: init.preset(3), "library: got 3"),
    # The optimiser and training
    "a rate in words": (lambda: lj.clipped_sgd("0.1"), "learning_rate: got '0.1'"),
    "no rate": (lambda: lj.clipped_sgd(None), "learning_rate: got None"),
    "a rate of True for training": (lambda: lj.clipped_sgd(True), "learning_rate: got True"),
    "a rate of NaN": (lambda: lj.clipped_sgd(float("nan")), "learning_rate: got nan"),
    "momentum in words": (lambda: lj.clipped_sgd(0.1, momentum="a"), "momentum: got 'a'"),
    "nesterov in words": (lambda: lj.clipped_sgd(0.1, nesterov="no"), "nesterov: got 'no'"),
    "a decay in words": (lambda: lj.clipped_sgd(0.1, weight_decay="a"), "weight_decay: got 'a'"),
    "a norm in words": (lambda: optim.clip_by_global_norm("a"), "max_norm: got 'a'"),
    "a norm of True": (lambda: optim.clip_by_global_norm(True), "max_norm: got True"),
    "training without an optimiser": (lambda: train.create(PARAMS, 0.1), "tx: got 0.1"),
    "a step without a loss": (lambda: train.make_step(1, lj.clipped_sgd(0.1)), "loss: got 1"),
    "a loop without batches": (
        lambda: train.make_loop(loss, lj.clipped_sgd(0.1), KEY, 1),
        "sample: got an array",
    ),
    "a loop over parameters": (
        lambda: train.make_loop(loss, lj.clipped_sgd(0.1), loss, 1)(PARAMS, KEY),
        "state: got a dict",
        "create",
    ),
    "a loop with a number for a key": (
        lambda: train.make_loop(loss, lj.clipped_sgd(0.1), loss, 1)(
            train.create(PARAMS, lj.clipped_sgd(0.1)), 0
        ),
        "key: got 0",
    ),
    "windows without a function": (
        lambda: train.make_tbptt(CELL, loss, lj.clipped_sgd(0.1), k1=2),
        "apply: got LSTM",
    ),
    "has_aux in words": (
        lambda: train.make_step(loss, lj.clipped_sgd(0.1), has_aux="no"),
        "has_aux: got 'no'",
    ),
    "no run to fit": (lambda: train.fit(None, None, KEY, 1), "run: got None"),
    "metrics that are a file's name": (
        lambda: train.fit(loss, None, KEY, 1, metrics="log"),
        "metrics: got 'log'",
    ),
    "a log of 3": (lambda: train.JsonLines(3), "path: got 3"),
    # Data
    "a task's key of 0": (lambda: lj.data.Adding(10).sample(0, 2), "key: got 0"),
    "a text that is a number": (lambda: lj.data.text.read(3), "path: got 3"),
    "an alphabet of numbers": (lambda: lj.data.text.Vocabulary(3), "chars: got 3"),
    "a number to encode": (lambda: lj.data.text.Vocabulary("ab").encode(3), "text: got 3"),
    "words to decode": (lambda: lj.data.text.Vocabulary("ab").decode("a"), "ids: got a str"),
    "a part in words": (lambda: lj.data.text.split(np.arange(9), "a"), "validation: got 'a'"),
    "dones of numbers": (lambda: lj.resets_from_dones(jnp.ones((T, B))), "dones: got dtype float"),
    "dones of one": (lambda: lj.resets_from_dones(True), "dones: got shape ()"),
    "a previous flag of another batch": (
        lambda: lj.resets_from_dones(jnp.ones((T, B), bool), jnp.ones(3, bool)),
        "previous: got shape (3,)",
    ),
    # Nets over integers
    "an embedding above a cell": (
        lambda: lj.stack(CELL, lj.embedding(CELL, 5, D)),
        "layers: got a net over integers",
        "embedding(net, ...)",
    ),
    "a residual over integers": (lambda: lj.residual(lj.embedding(CELL, 5, D)), "net: got a net"),
    "two directions over two kinds": (
        lambda: lj.bidirectional(lj.embedding(CELL, 5, D), CELL),
        "forward, backward: got 0 and 1 feature axes",
    ),
    "a pair below a readout": (
        lambda: lj.readout(lj.bidirectional(CELL, merge=None), 2),
        "merge=None below others",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_fault_24_a_wrong_call_gets_the_houses_error(name):
    call, *parts = CALLS[name]
    refused(call, *parts)


FLAGS = [
    (case, field.name)
    for case in registry.EVERY.values()
    for part in [case.make(4)]
    for field in dataclasses.fields(part)
    if field.type in (bool, "bool")
]
assert len(FLAGS) > 40


@pytest.mark.parametrize("wrong", ["false", 0, None])
def test_fault_24_a_flag_of_a_cell_is_true_or_false(wrong):
    for case, name in FLAGS:
        refused(
            lambda case=case, name=name: dataclasses.replace(case.make(4), **{name: wrong}),
            f"{name}: got {wrong!r}, wanted True or False",
        )


FLAX = {
    "nnx.Param": lambda x: nnx.Param(x),
    "nn.Partitioned": lambda x: nn.Partitioned(x, names=(None,) * x.ndim),
}


@pytest.mark.parametrize("box", FLAX)
def test_fault_24_parameters_of_flax_are_taken_out_of_their_boxes(box):
    boxed = jax.tree.map(FLAX[box], PARAMS)
    registry.assert_close(unroll(params=boxed), unroll(), 0)
    registry.assert_close(CELL.step(boxed, CARRY, XS[0]), CELL.step(PARAMS, CARRY, XS[0]), 0)
    grads = jax.grad(lambda p: jnp.sum(unroll(params=p)[1]))(boxed)
    wanted = jax.grad(lambda p: jnp.sum(unroll(params=p)[1]))(PARAMS)
    assert jax.tree.structure(grads) == jax.tree.structure(boxed)
    registry.assert_close(jax.tree.leaves(grads), jax.tree.leaves(wanted), 0)


def test_fault_24_an_nnx_state_is_a_dict_of_parameters():
    state = nnx.State(jax.tree.map(nnx.Param, PARAMS))
    registry.assert_close(unroll(params=state), unroll(), 0)


def test_fault_24_a_list_of_names_is_a_tuple_of_them():
    cell = lj.weight_drop(CELL, 0.5, names=["w_hh", "w_ih"])
    assert cell == lj.weight_drop(CELL, 0.5, names=("w_hh", "w_ih"))
    lj.unroll(cell, PARAMS, XS, key=KEY, implementation="scan")


def test_fault_24_torchs_dropout_of_one_leaves_nothing():
    net = lj.stack(lj.RNN(H), lj.RNN(H), dropout=1.0)
    params = net.init(KEY, D)

    def run(params, key):
        return jnp.sum(lj.unroll(net, params, XS, key=key)[1] ** 2)

    value, grads = jax.value_and_grad(run)(params, KEY)
    lower = jax.grad(lambda p: run(p, None))(params)["0"]["w_ih"]
    assert np.isfinite(value) and jnp.any(lower != 0)
    assert not jnp.any(grads["0"]["w_ih"]) and not jnp.any(grads["1"]["w_ih"])


def test_fault_24_torchs_module_with_dropout_one_and_its_bound_on_projections():
    tensors = {
        "weight_ih_l0": np.zeros((16, 3), np.float32),
        "weight_hh_l0": np.zeros((16, 4), np.float32),
        "weight_hr_l0": np.zeros((4, 4), np.float32),
    }
    refused(lambda: lj.interop.from_torch(tensors), "weight_hr_l0: got shape (4, 4)", "P < H = 4")
    two = {
        f"weight_{kind}_l{k}": np.zeros((16, 4), np.float32)
        for kind in ("ih", "hh")
        for k in (0, 1)
    }
    net, _ = lj.interop.from_torch(two, dropout=1.0)
    assert net.dropout == 1.0


# ---- 25: what a newcomer sees --------------------------------------------------------------------
def public_modules():
    """lstm_jax and every module that can be reached from it by public names."""
    found, left = {}, [lj]
    while left:
        module = left.pop()
        if module.__name__ in found:
            continue
        found[module.__name__] = module
        values = (getattr(module, name) for name in module.__all__)
        left += [value for value in values if isinstance(value, types.ModuleType)]
    return found


def test_fault_25_dir_shows_the_librarys_own_names():
    modules = public_modules()
    assert {"lstm_jax.losses", "lstm_jax.checkpoint", "lstm_jax.optim"} <= set(modules)
    for name, module in modules.items():
        seen = {n for n in dir(module) if not n.startswith("_")}
        assert seen == {n for n in module.__all__ if not n.startswith("_")}, name
        for public in module.__all__:
            value = getattr(module, public)
            owner = getattr(value, "__module__", None) or getattr(value, "__name__", "lstm_jax")
            assert owner.split(".")[0] not in ("jax", "numpy", "optax"), (name, public)


def test_fault_25_every_package_of_the_library_says_what_is_public():
    """A new public module enters lstm_jax.__all__, or is one of the command line's."""
    inner = {"charts", "cli", "comparison", "pages", "plots", "report", "studies"}
    for part in pkgutil.iter_modules(lj.__path__):
        if not part.name.startswith("_") and part.name not in inner:
            assert part.name in lj.__all__, part.name
            assert importlib.import_module(f"lstm_jax.{part.name}").__all__


def test_fault_25_help_and_checkpoint():
    import pydoc

    text = pydoc.plain(pydoc.render_doc(lj))
    assert "class LSTM(" in text and "unroll(cell" in text
    assert callable(lj.checkpoint.save) and "fail" not in dir(lj.losses)


# ---- 12g, 12e: the optimiser ---------------------------------------------------------------------
def test_fault_12g_multi_steps_is_spoken_of_where_people_read():
    assert "MultiSteps" in str(lj.clipped_sgd.__doc__)
    inner = lj.clipped_sgd(0.1)
    tx = optax.MultiSteps(inner, 2, should_skip_update_fn=optax.skip_not_finite)
    params = jnp.ones(2)
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for grads in (jnp.full(2, jnp.nan), jnp.ones(2), jnp.ones(2)):
            updates, state = tx.update(grads, state, params)
    assert jnp.all(jnp.asarray(updates) < 0) and optim.report(state)["skipped"] == 0


@pytest.mark.parametrize("field", ["dtype", "carry_dtype", "accumulation_dtype", "param_dtype"])
def test_fault_12g_a_dtype_that_no_arithmetic_has_is_refused_at_once(field):
    for dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn):
        refused(lambda dtype=dtype: lj.LSTM(H, **{field: dtype}), f"{field}: got float", "float32")
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        lj.LSTM(H, **{field: dtype})


def test_fault_12g_parameters_may_be_stored_in_eight_bits():
    cell = lj.GRU(H, dtype="float32", param_dtype="float8_e5m2")
    params = cell.init(KEY, D)
    seen = jax.jit(lambda p: lj.unroll(cell, p, XS, implementation="scan")[1])(params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    registry.assert_close(seen, lj.unroll(cell, wide, XS, implementation="scan")[1], 1e-6)


def test_fault_12g_no_input_size_above_an_embedding():
    readout = lj.readout(lj.embedding(lj.RNN(H), 5, D), 2)
    bidirectional = lj.bidirectional(lj.embedding(lj.RNN(H), 5, D))
    for net in (readout, lj.stack(readout, lj.RNN(2)), bidirectional):
        params = net.init(KEY)
        registry.assert_close(net.init(KEY, 7), params, 0)
        _, ys = lj.unroll(net, params, jnp.zeros((T, B), int), implementation="scan")
        assert ys.shape[:2] == (T, B)


GRADS = {"w": jnp.asarray(np.full(3, 2.0, np.float32))}


def test_fault_12e_injected_numbers_do_not_change_what_is_asked_for():
    tx = optax.inject_hyperparams(lj.clipped_sgd)(learning_rate=0.1)
    plain = lj.clipped_sgd(0.1)
    state = tx.init(GRADS)
    assert jax.tree.structure(state.inner_state) == jax.tree.structure(plain.init(GRADS))
    seen, _ = tx.update(GRADS, state, GRADS)
    registry.assert_close(seen, plain.update(GRADS, plain.init(GRADS))[0], 1e-6)
    inner = lj.clipped_sgd(**{k: v for k, v in state.hyperparams.items()})
    inner.update(GRADS, state.inner_state)  # No params: there is no weight decay.


def test_fault_12e_an_injected_decay_has_its_place_at_zero():
    tx = optax.inject_hyperparams(lj.clipped_sgd)(0.1, weight_decay=0.0, momentum=0.0)
    state = tx.init(GRADS)
    first, state = tx.update(GRADS, state, GRADS)
    state.hyperparams["weight_decay"] = jnp.asarray(0.5)
    second, state = tx.update(GRADS, state, GRADS)
    assert not jnp.array_equal(*(jax.tree.leaves(updates)[0] for updates in (first, second)))
    refused(lambda: lj.clipped_sgd(0.1, weight_decay=0.1).update(GRADS, tx.init(GRADS)), "params")


# ---- 11 ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [np.inf, jnp.inf, jnp.asarray(jnp.inf)])
def test_fault_11_a_limit_of_infinity_clips_nothing(limit):
    for make in (lambda c: lj.clipped_sgd(1.0, c), optim.clip_by_global_norm):
        seen, wanted = make(limit), make(None)
        state = seen.init(GRADS)
        registry.assert_close(
            seen.update(GRADS, state), wanted.update(GRADS, wanted.init(GRADS)), 0
        )


NET_PARAMS = registry.cast(registry.random_params(NET, D, RNG), jnp.float32)
NET_CARRY = NET.initial_carry(NET_PARAMS, (B,))


class Other(NamedTuple):
    h: jax.Array
    c: jax.Array


@pytest.mark.parametrize(
    "carry, parts",
    [
        (dict(CARRY._asdict()), ("{'h': ..., 'c': ...}", "LSTMState(**carry)")),
        (list(CARRY), ("[..., ...]", "LSTMState(*carry)")),
        (tuple(CARRY), ("(..., ...)", "pass LSTMState(h=..., c=...)")),
        (Other(*CARRY), ("Other(h=..., c=...)", "pass LSTMState(h=..., c=...)")),
    ],
    ids=["a dict", "a list", "a tuple", "another's"],
)
def test_fault_11_a_carry_of_dicts_and_lists_says_how_to_rebuild_it(carry, parts):
    for call in (lambda: unroll(carry=carry), lambda: CELL.step(PARAMS, carry, XS[0])):
        refused(call, "carry: got ", "wanted LSTMState(h=..., c=...)", *parts)


def test_fault_11_a_nets_carry_of_dicts_and_lists():
    params = NET.init(KEY, D)
    restored = [dict(part._asdict()) for part in NET_CARRY]
    wanted = "wanted (LSTMState(h=..., c=...), State(h=...))"
    refused(
        lambda: lj.unroll(NET, params, XS, restored),
        "carry: got [{'h': ..., 'c': ...}, {'h': ...}]",
        wanted,
        "restore it with cell.initial_carry(params, batch_shape) as the target",
    )
    refused(lambda: NET.step(params, restored, XS[0]), "carry: got [{'h'")


# ---- 10: wrappers, and dead units ----------------------------------------------------------------
WRAPPED = {
    "zoneout": lambda cell: lj.zoneout(cell, 0.1, 0.1),
    "learned_start": lj.learned_start,
    "clip_state": lambda cell: lj.clip_state(cell, c=10.0),
    "twice": lambda cell: lj.state_noise(lj.recurrent_dropout(cell, 0.1), 0.1),
    "clip_cotangents": lambda cell: lj.clip_cotangents(cell, 1.0),
    "memory_dropout": lambda cell: lj.memory_dropout(cell, 0.1),
    "weight_drop": lambda cell: lj.weight_drop(cell, 0.1),
    "input_dropout": lambda cell: lj.input_dropout(cell, 0.1),
}


@pytest.mark.parametrize("name", some(WRAPPED, 2))
def test_fault_10_the_gates_of_a_wrapped_cell(name):
    cell = WRAPPED[name](CELL)
    params, plain = jax.jit(lambda key: (cell.init(key, D), CELL.init(key, D)))(KEY)
    seen = jax.jit(lambda p: dg.gate_statistics(cell, p, XS[:1]))(params)
    wanted = dg.gate_statistics(CELL, plain, XS[:1])  # One step: the gates see the start alone.
    registry.assert_close(jax.tree.leaves(seen), jax.tree.leaves(wanted), 1e-6)


def test_fault_10_the_gates_of_zoneout_are_those_at_its_own_carries():
    cell = lj.zoneout(CELL, 0.5, 0.5)
    seen = dg.gate_statistics(cell, PARAMS, XS)["f"].mean
    assert not jnp.allclose(seen, dg.gate_statistics(CELL, PARAMS, XS)["f"].mean)


def test_fault_10_the_flossing_gradient_with_dead_units(x64):
    cell = lj.RNN(3, "relu")
    params = {
        "w_ih": jnp.asarray([[0.5, 0.2, 0.3]]),
        "w_hh": jnp.asarray([[0.3, 0.1, 0.2], [0.2, 0.4, 0.1], [0.1, 0.3, 0.5]]),
        "b": jnp.asarray([0.5, -100.0, 0.4]),  # The second unit is off for good.
    }
    xs = jnp.linspace(0.5, 1.0, 8)[:, None]

    def leading(w_hh):
        spectrum = dg.lyapunov_spectrum(cell, params | {"w_hh": w_hh}, xs)
        return jnp.sum(spectrum.exponents[:2] * jnp.asarray([1.0, 2.0]))

    direction = jnp.asarray([[0.3, 1.0, -0.2], [0.5, -0.4, 0.7], [-0.6, 0.2, 0.9]])
    grads, leading = jax.jit(jax.grad(leading))(params["w_hh"]), jax.jit(leading)
    step = 1e-5 * direction
    central = (leading(params["w_hh"] + step) - leading(params["w_hh"] - step)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(grads, direction), central, rtol=1e-6)


# ---- 5: one norm ---------------------------------------------------------------------------------
NORMS = {
    "large": ([[1e38] * 4], 2e38),
    "larger than the dtype": ([[3e38] * 4], np.inf),
    "small": ([[1e-37] * 4], 2e-37),
    "one is Inf": ([[np.inf, 1.0]], np.inf),
    "one is NaN": ([[np.nan, np.inf]], np.nan),
    "zero": ([[0.0, 0.0]], 0.0),
    "of several": ([[3.0, 0.0], [4.0]], 5.0),
    "of nothing": ([], 0.0),
}


@pytest.mark.parametrize("name", some(NORMS, 5))
def test_fault_5_a_norm_neither_overflows_nor_vanishes(name):
    arrays, wanted = NORMS[name]
    arrays = [jnp.asarray(x, jnp.float32) for x in arrays]
    np.testing.assert_allclose(norm(arrays), wanted, rtol=1e-6)
    np.testing.assert_allclose(optim.global_norm(arrays), wanted, rtol=1e-6)
    rows = [jnp.stack([x, jnp.ones_like(x)]) for x in arrays]
    if rows:
        np.testing.assert_allclose(norm(rows, 1)[0], wanted, rtol=1e-6)


def test_fault_5_its_derivative_is_the_direction():
    x = jnp.asarray([3e30, -4e30], jnp.float32)
    registry.assert_close(jax.grad(lambda x: norm([x]))(x), jnp.asarray([0.6, -0.8]), 1e-6)
    registry.assert_close(jax.grad(lambda x: norm([x]))(0 * x), jnp.zeros(2), 0)


def test_fault_5_norms_of_gradients_that_overflow():
    cell = lj.RNN(2, "identity", bias=False)
    params = {"w_ih": jnp.ones((1, 2)), "w_hh": 2 * jnp.eye(2)}
    norms = jax.jit(
        lambda p: dg.gradient_norms_by_lag(cell, p, jnp.zeros((140, 1)), lambda y: jnp.sum(y[-1]))
    )(params).h
    k = np.arange(139, -1, -1)  # float32 holds up to sqrt(2) 2^127.
    np.testing.assert_allclose(norms, np.log(np.sqrt(2) * 2.0**k), rtol=1e-6)


def test_fault_5_the_other_norms_of_the_library():
    hs = jnp.asarray([[1e25, 0.0], [0.0, 1.5e25]], jnp.float32)[:, None]
    stabilizer = regularizers.norm_stabilizer(hs * 1e-6)
    np.testing.assert_allclose(stabilizer, 2.5e37, rtol=1e-5)
    np.testing.assert_allclose(dg.henrici(jnp.asarray([[0.0, 1e30], [0.0, 0.0]])), 1.0)
    np.testing.assert_allclose(dg.henrici(jnp.asarray([[0.0, 1e-30], [0.0, 0.0]])), 1.0)


# ---- 6, 6b: flags across rollouts, indices outside -----------------------------------------------
def test_fault_6_a_done_at_the_end_of_the_chunk_before_is_not_lost():
    rng = np.random.default_rng(0)
    dones = jnp.asarray(rng.random((9, B)) < 0.4).at[2].set(True)
    whole = lj.resets_from_dones(dones)
    previous, parts = None, []
    for chunk in (dones[:3], dones[3:5], dones[5:5], dones[5:]):
        parts.append(lj.resets_from_dones(chunk, previous))
        previous = chunk[-1] if len(chunk) else previous
    assert jnp.array_equal(jnp.concatenate(parts), whole)
    assert not jnp.any(whole[0]) and jnp.all(parts[1][0])


def test_fault_6b_rollouts_replayed_one_by_one_are_the_whole():
    cell = lj.GRU(H)
    params, xs = cell.init(KEY, D), jax.random.normal(KEY, (6, B, D))
    dones = jnp.zeros((6, B), bool).at[2, 0].set(True).at[4].set(True)

    @jax.jit
    def run(xs, resets, carry):
        return lj.unroll(cell, params, xs, carry, resets=resets, implementation="scan")

    _, wanted = run(xs, lj.resets_from_dones(dones), cell.initial_carry(params, (B,)))
    carry, previous, ys = cell.initial_carry(params, (B,)), None, []
    for rollout in (slice(0, 3), slice(3, 6)):
        resets = lj.resets_from_dones(dones[rollout], previous)
        carry, seen = run(xs[rollout], resets, carry)
        previous = dones[rollout][-1]
        ys.append(seen)
    registry.assert_close(jnp.concatenate(ys), wanted, 1e-6)
    assert "resets_from_dones" in str(lj.unroll.__doc__)


@pytest.mark.parametrize("wrong", some([-1, 5, -5, 100], 2))
def test_fault_6b_an_index_outside_is_loud_everywhere(wrong):
    net = lj.embedding(lj.RNN(H), 5, D)
    params = net.init(KEY)
    _, ys = lj.unroll(net, params, jnp.asarray([[0, wrong]]), implementation="scan")
    _, y = net.step(params, net.initial_carry(params, (2,)), jnp.asarray([0, wrong]))
    for seen in (ys[0], y):
        assert jnp.isfinite(seen[0]).all() and jnp.isnan(seen[1]).all()
    logits, labels = jnp.zeros((2, 5)), jnp.asarray([0, wrong])
    for loss in (losses.softmax_cross_entropy, losses.bits_per_character, losses.accuracy):
        assert jnp.isnan(loss(logits, labels))
        assert jnp.isfinite(loss(logits, labels, labels == 0))


def test_fault_6b_negative_characters_are_refused():
    for call in (lj.data.text.order0_entropy, lambda ids: lj.data.text.streams(ids, 1, 2)):
        refused(lambda call=call: call(np.asarray([0, 1, -1, 2])), "ids: got -1")
