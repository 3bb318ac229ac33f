"""`lstm_jax.nn.nnx` in the place of flax.nnx: same call, parameters, values and gradients."""

import itertools
from typing import Any

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry
from flax import nnx

import lstm_jax as lj
from lstm_jax.interop import from_nnx

ours = lj.nn.nnx

pytestmark = pytest.mark.sampled

CELLS = {
    "lstm": (nnx.LSTMCell, {}),
    "gru": (nnx.GRUCell, {}),
    "optimized": (nnx.OptimizedLSTMCell, {"activation_fn": jax.nn.relu}),
}
OPTIONS = [
    {"reverse": True},
    {"time_major": True},
    {"reverse": True, "keep_order": True, "lengths": None},
    {"reverse": True, "time_major": True},
    {"lengths": None},
]


def cell_of(name):
    kind, options = CELLS[name]
    return kind(check.SIZE, check.HIDDEN, rngs=nnx.Rngs(0), **options)


def layer_of(library, name):
    """A layer of Flax or of ours: "both" has two directions."""
    if name == "both":
        return library.Bidirectional(*(library.RNN(cell_of(cell)) for cell in ("lstm", "gru")))
    return library.RNN(cell_of(name))


def randomized(module, rng):
    """The module with random parameters, biases too."""
    state = nnx.state(module, nnx.Param)
    filled = check.random_like(nnx.to_pure_dict(state), np.random.default_rng(0))
    nnx.replace_by_pure_dict(state, filled)
    nnx.update(module, state)
    return module


def start_of(name, rng):
    def carry(cell):
        h = jnp.asarray(check.normal(rng, check.BATCH, check.HIDDEN))
        return (h, -h) if "LSTM" in CELLS[cell][0].__name__ else h

    return (carry("lstm"), carry("gru")) if name == "both" else carry(name)


def value_and_gradients(module, carry, xs, options):
    """(loss, (carry, ys)), and its gradients by the parameters, the first carry and xs."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    lengths = options.get("lengths", jnp.asarray(check.LENGTHS))
    flags = {key: value for key, value in options.items() if key != "lengths"}

    def loss(params, carry, xs):
        run = nnx.merge(graph, params, rest)
        final, ys = run(xs, initial_carry=carry, seq_lengths=lengths, return_carry=True, **flags)
        axis = 0 if flags.get("time_major") else 1
        t = jnp.arange(check.STEPS) if lengths is not None else jnp.zeros(1, int)
        valid = jnp.expand_dims(t, axis=1 - axis) < jnp.expand_dims(
            jnp.full(check.BATCH, check.STEPS) if lengths is None else lengths, axis
        )
        ys = jnp.where(valid[..., None], ys, 0)
        loss = jnp.sum(jnp.sin(3 * ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(final))
        return loss, (final, ys)

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    outs, (grads, *others) = grad(params, carry, xs)
    return outs, nnx.to_pure_dict(grads), others


@pytest.mark.parametrize(
    ("name", "options"),
    [*zip(["lstm", "both", "optimized"], itertools.cycle(OPTIONS))],
)
def test_a_layer_computes_what_flaxs_does(name, options, rng):
    """The same seed gives the same parameters, and Flax's state goes into ours."""
    xs = jnp.asarray(check.inputs(rng)[0])
    xs = xs if options.get("time_major") else jnp.swapaxes(xs, 0, 1)
    carry = start_of(name, rng)
    with check.lenient():
        theirs, swapped = layer_of(nnx, name), layer_of(ours, name)
        check.assert_equal(*(nnx.to_pure_dict(nnx.state(m, nnx.Param)) for m in (swapped, theirs)))
        nnx.update(swapped, nnx.state(randomized(theirs, rng)))
        wanted = value_and_gradients(theirs, carry, xs, options)
        seen = value_and_gradients(swapped, carry, xs, options)
    registry.assert_close(seen, wanted, 5e-6)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "OptimizedLSTMCell", "SimpleCell"])
def test_a_cell_steps_as_flaxs_does_and_runs_in_either_layer(name, rng):
    xs = jnp.swapaxes(jnp.asarray(check.inputs(rng)[0]), 0, 1)
    with check.lenient():
        theirs, swapped = (
            getattr(library, name)(check.SIZE, check.HIDDEN, rngs=nnx.Rngs(0))
            for library in (nnx, ours)
        )
        carry = theirs.initialize_carry(xs[:, 0].shape, nnx.Rngs(0))
        registry.assert_close(swapped(carry, xs[:, 0]), theirs(carry, xs[:, 0]), check.TOL)
        wanted = nnx.RNN(swapped)(xs)
    registry.assert_close(ours.RNN(swapped)(xs), wanted, check.TOL)
    net, params = from_nnx(ours.RNN(swapped))
    registry.assert_close(lj.unroll(net, params, xs, time_major=False)[1], wanted, check.TOL)


@pytest.mark.grid
def test_the_carry_keeps_the_dtype_it_came_in():
    """As Flax's scan needs it, and a user's."""
    rngs = nnx.Rngs(0)
    cell = ours.LSTMCell(3, 4, param_dtype=jnp.bfloat16, rngs=rngs)
    carry = cell.initialize_carry((2, 3), rngs)
    xs = jnp.ones((2, 5, 3), jnp.bfloat16)
    (c, h), y = cell(carry, xs[:, 0])
    assert (c.dtype, h.dtype, y.dtype) == (jnp.bfloat16,) * 3
    (c, h), ys = ours.RNN(cell, return_carry=True)(xs)
    assert (c.dtype, h.dtype, ys.dtype) == (jnp.bfloat16,) * 3
    wide = ours.LSTMCell(3, 4, dtype=jnp.bfloat16, rngs=rngs)
    (c, h), ys = ours.RNN(wide, return_carry=True)(xs)
    assert (c.dtype, h.dtype, ys.dtype) == (jnp.float32, jnp.float32, jnp.bfloat16)


# ---- any cell or net -----------------------------------------------------------------------------
NETS = {
    "learned": lj.learned_start(lj.LSTM(4)),
    "stack": lj.stack(lj.LSTM(4), lj.bidirectional(lj.GRU(2))),
    "tokens": lj.embedding(lj.readout(lj.MGU(4), 2), 7, 3),
    "functions": lj.stack(lj.dense(2), jax.nn.relu, lj.MGU(4), jnp.tanh, lj.dense(1)),
    "images": lj.ConvLSTM(2, (3,), (4,)),
}


@pytest.mark.parametrize("name", NETS)
def test_any_net_is_a_module(name, rng):
    net = NETS[name]
    shape = {"images": (4, 1), "tokens": ()}.get(name, (3,))
    xs = jnp.asarray(rng.integers(0, 7, (2, 5, *shape)))
    xs = xs if name == "tokens" else xs.astype("float32")
    cell = ours.Cell(net, shape[-1] if shape else None, rngs=nnx.Rngs(0))
    rnn = ours.RNN(cell, return_carry=True)
    carry, ys = rnn(xs, seq_lengths=jnp.array([5, 0]), resets=xs.reshape(2, 5, -1)[..., 0] > 4)
    wanted = lj.unroll(
        net,
        cell.params,
        xs,
        time_major=False,
        seq_lengths=jnp.array([5, 0]),
        resets=xs.reshape(2, 5, -1)[..., 0] > 4,
    )
    registry.assert_close((carry, ys), wanted, 0)
    assert all(type(leaf) is nnx.Param for leaf in jax.tree.leaves(cell.params, is_leaf=_is_param))


def _is_param(value):
    return isinstance(value, nnx.Param)


@pytest.mark.grid
def test_a_cell_of_ours_runs_in_flaxs_layer():
    cell = ours.Cell(lj.stack(lj.LSTM(4), lj.GRU(2)), 3, rngs=nnx.Rngs(0))
    xs = jnp.ones((2, 5, 3))
    with check.lenient():
        wanted = nnx.RNN(cell, return_carry=True)(xs)
    registry.assert_close(ours.RNN(cell, return_carry=True)(xs), wanted, check.TOL)
    drawn = cell.initialize_carry((2, 3), nnx.Rngs(0), jax.nn.initializers.normal())
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.any(leaf != 0)), drawn))


# ---- training ------------------------------------------------------------------------------------
def test_noise_is_drawn_in_training_alone_and_anew_in_each_call():
    net = lj.stack(lj.GRU(4), lj.GRU(4), dropout=0.5)
    rnn = ours.RNN(ours.Cell(net, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(dropout=1))
    xs = jnp.ones((2, 5, 3))
    evaluated = lj.unroll(net, rnn.cell.params, xs, time_major=False)[1]
    key = nnx.Rngs(dropout=1).dropout.fork()()
    first = lj.unroll(net, rnn.cell.params, xs, time_major=False, key=key)[1]
    registry.assert_close(rnn(xs), first, 0)
    assert not np.allclose(rnn(xs), first)
    registry.assert_close(rnn(xs, rngs=nnx.Rngs(dropout=1)), rnn(xs, rngs=nnx.Rngs(1)), 0)
    for model in (rnn, nnx.view(rnn, deterministic=True)):
        model.eval()
        registry.assert_close(model(xs), evaluated, 0)
    registry.assert_close(rnn(xs, deterministic=True), evaluated, 0)
    rnn.train()
    assert not np.allclose(rnn(xs), evaluated)
    with pytest.raises(ValueError, match=r"rngs: got none, wanted a stream `dropout`.*model.eval"):
        ours.RNN(rnn.cell)(xs)
    quiet = ours.RNN(ours.Cell(lj.GRU(4), 3, rngs=nnx.Rngs(0)))
    assert quiet(xs).shape == (2, 5, 4)  # It draws nothing, and needs no stream.


def test_it_trains_splits_merges_and_goes_through_files(tmp_path):
    """nnx.jit, nnx.value_and_grad, nnx.Optimizer; its state by `lj.checkpoint`."""
    net = lj.stack(lj.LSTM(4), lj.LSTM(4), dropout=0.1)
    model = ours.RNN(ours.Cell(net, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(dropout=1))
    optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)
    xs = jnp.ones((2, 5, 3))

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda model: jnp.mean((model(xs) - 0.5) ** 2))(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0] / 1.5
    graph, state = nnx.split(model)
    file = tmp_path / "state.npz"
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    lj.checkpoint.save(file, params)
    registry.assert_close(lj.checkpoint.load(file)[0], params, 0)
    merged = nnx.merge(graph, state)
    registry.assert_close(merged(xs, deterministic=True), model(xs, deterministic=True), 0)


@pytest.mark.grid
def test_vmap_over_models_is_each_model_alone():
    xs = jnp.ones((2, 5, 3))

    @nnx.vmap(in_axes=0, out_axes=0)
    def create(key):
        return ours.RNN(ours.Cell(lj.LSTM(4), 3, rngs=nnx.Rngs(key)), rngs=False)

    keys = jax.random.split(jax.random.key(0), 3)
    run = nnx.vmap(lambda model, xs: model(xs), in_axes=(0, None))
    for n, key in enumerate(keys):
        alone = ours.RNN(ours.Cell(lj.LSTM(4), 3, rngs=nnx.Rngs(key)))
        registry.assert_close(run(create(keys), xs)[n], alone(xs), check.TOL)


def test_the_fastest_implementation_runs_it_and_another_may_be_named():
    xs = jnp.ones((2, 5, 3))
    for implementation, wanted in ((None, registry.FASTEST), ("scan", "scan")):
        cell = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
        rnn = ours.RNN(cell, implementation=implementation)
        graph, state = nnx.split(rnn)
        (seen,) = lj.inspect(lambda state, xs: nnx.merge(graph, state)(xs), state, xs)  # noqa: B023
        assert seen.implementation == wanted


# ---- shardings -----------------------------------------------------------------------------------
@pytest.mark.grid
def test_sharding_annotations_are_kept():
    """Those of Flax's initializers, and those of a `Cell`, by name or by path."""
    split = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        layer = ours.RNN(nnx.LSTMCell(3, 8, kernel_init=split, rngs=nnx.Rngs(0)))
    specs = nnx.get_partition_spec(nnx.state(layer, nnx.Param))
    assert specs["cell"]["if_"]["kernel"].get_value() == jax.P(None, "model")
    net = lj.stack(lj.LSTM(8), lj.GRU(8))
    sharding = {"w_ih": (None, "model"), "1/w_ih": ("model", None), "b": ("model",)}
    with jax.set_mesh(mesh):
        cell = ours.Cell(net, 3, rngs=nnx.Rngs(0), sharding=sharding)
        ys = nnx.jit(lambda rnn, xs: rnn(xs))(ours.RNN(cell), jnp.ones((2, 5, 3)))
    specs = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(cell)))["params"]
    assert specs["0"] == {"w_ih": jax.P(None, "model"), "w_hh": jax.P(), "b": jax.P("model")}
    assert specs["1"]["w_ih"] == jax.P("model", None) and specs["1"]["b_hn"] == jax.P()
    assert cell.params["0"]["w_ih"].get_value().sharding.spec == jax.P(None, "model")
    alone = ours.RNN(ours.Cell(net, 3, rngs=nnx.Rngs(0)))(jnp.ones((2, 5, 3)))
    registry.assert_close(ys, alone, check.TOL)


# ---- errors --------------------------------------------------------------------------------------
class Own(nnx.GRUCell):
    def __call__(self, carry, inputs):
        return carry, carry


def test_what_it_cannot_run_is_refused():
    rngs, xs = nnx.Rngs(0), jnp.ones((2, 5, 3))
    with pytest.raises(ValueError, match=r"cell: got a Own, wanted a Cell, or one of .*nnx.RNN"):
        ours.RNN(Own(3, 4, rngs=rngs))
    cell = nnx.LSTMCell(3, 4, rngs=rngs)
    layer = ours.RNN(cell)
    cell.ii = nnx.LoRALinear(3, 4, lora_rank=1, rngs=rngs)
    with pytest.raises(ValueError, match=r"cell.ii: got a LoRALinear, wanted Flax's Linear"):
        layer(xs)
    h = jnp.zeros((2, 4))
    layer = ours.RNN(nnx.LSTMCell(3, 4, rngs=rngs))
    with pytest.raises(ValueError, match=r"carry: got a LSTMState, wanted \(c, h\), as Flax"):
        layer(xs, initial_carry=lj.LSTMState(h, h))
    with pytest.warns(UserWarning, match="carry_init"):
        drawn = nnx.GRUCell(3, 4, carry_init=nnx.initializers.ones_init(), rngs=rngs)
    layer = ours.RNN(drawn, return_carry=True)
    registry.assert_close(layer(xs[:, :0])[0], jnp.ones((2, 4)), 0)
    with pytest.raises(ValueError, match=r"resets: got resets of a cell with a carry_init"):
        layer(xs, resets=jnp.zeros((2, 5), bool))
    with pytest.raises(ValueError, match=r"net: got the class LSTM.*make one: LSTM\(128\)"):
        ours.Cell(lj.LSTM, 3, rngs=rngs)
    with pytest.raises(ValueError, match=r"sharding: got 'kernel', wanted parameters: b, w_hh"):
        ours.Cell(lj.LSTM(4), 3, rngs=rngs, sharding={"kernel": (None, "model")})
    with pytest.raises(ValueError, match=r"sharding\['b'\]: got \(None, 'model'\), wanted 1 names"):
        ours.Cell(lj.LSTM(4), 3, rngs=rngs, sharding={"b": (None, "model")})


def test_regularizers_take_boxes_as_they_are():
    """Parameters of Flax, each in its own box: the names are those of the boxes."""
    cell = ours.Cell(lj.LSTM(4), 3, rngs=nnx.Rngs(0))
    orthogonal = lj.regularizers.Orthogonal()
    weights = orthogonal.weights(orthogonal.free(cell.params))["w_hh"]
    block = np.asarray(weights)[:, :4]
    np.testing.assert_allclose(block @ block.T, np.eye(4), atol=1e-5)
    still = jax.tree.map(jnp.zeros_like, cell.params)
    tx = lj.regularizers.keep_singular_values(2.0, 3.0)
    updates: Any = tx.update(still, (), cell.params)[0]
    assert np.abs(jax.tree.leaves(updates["w_hh"])[0]).max() > 0
    assert not np.abs(jax.tree.leaves(updates["w_ih"])[0]).any()
