"""`lstm_jax.nn.linen` in the place of flax.linen: same call, parameters, values and gradients."""

import itertools

import flax.linen as nn
import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax.interop import from_linen

ours = lj.nn.linen

pytestmark = pytest.mark.sampled

CELLS = {
    "lstm": nn.LSTMCell(check.HIDDEN),
    "gru": nn.GRUCell(check.HIDDEN),
    "optimized": nn.OptimizedLSTMCell(check.HIDDEN, activation_fn=jax.nn.relu),
    "simple": nn.SimpleCell(check.HIDDEN, residual=True),
    "mgu": nn.MGUCell(check.HIDDEN),
}
OPTIONS = [
    {"reverse": True},
    {"time_major": True},
    {"reverse": True, "keep_order": True, "lengths": None},
    {"reverse": True, "time_major": True},
    {"lengths": None},
]
KEY = jax.random.key(0)


def layer_of(library, name):
    """A layer of Flax or of ours: "both" has two directions."""
    if name == "both":
        return library.Bidirectional(*(library.RNN(CELLS[cell]) for cell in ("lstm", "gru")))
    return library.RNN(CELLS[name])


def start_of(name, rng):
    def carry(cell):
        h = jnp.asarray(check.normal(rng, check.BATCH, check.HIDDEN))
        return (h, -h) if "LSTM" in type(CELLS[cell]).__name__ else h

    return (carry("lstm"), carry("gru")) if name == "both" else carry(name)


def value_and_gradients(module, variables, carry, xs, options):
    """(loss, (carry, ys)), and its gradients by the parameters, the first carry and xs."""
    lengths = options.get("lengths", jnp.asarray(check.LENGTHS))
    flags = {key: value for key, value in options.items() if key != "lengths"}
    flags |= {"seq_lengths": lengths, "return_carry": True}
    _, valid, _ = check.inputs(np.random.default_rng(0), lengths)
    valid = jnp.asarray(valid if flags.get("time_major") else np.swapaxes(valid, 0, 1), bool)

    def loss(variables, carry, xs):
        final, ys = module.apply(variables, xs, initial_carry=carry, **flags)
        ys = jnp.where(jnp.broadcast_to(valid, ys.shape), ys, 0)
        loss = jnp.sum(jnp.sin(3 * ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(final))
        return loss, (final, ys)

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    return grad(variables, carry, xs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *zip(
            ["lstm", "both", "optimized", "simple", "mgu"],
            itertools.cycle(OPTIONS),
        )
    ],
)
def test_a_layer_computes_what_flaxs_does(name, options, rng):
    """`init` gives the same parameters, and Flax's variables go into ours."""
    xs = jnp.asarray(check.inputs(rng)[0])
    xs = xs if options.get("time_major") else jnp.swapaxes(xs, 0, 1)
    theirs, swapped = layer_of(nn, name), layer_of(ours, name)
    with check.lenient():
        drawn = jax.jit(swapped.init)(KEY, xs)
        if name == "lstm":  # Of the other cells their own test shows it.
            check.assert_equal(drawn, jax.jit(theirs.init)(KEY, xs))
    variables = check.random_like(drawn, rng)
    carry = start_of(name, rng)
    with check.lenient():
        wanted = value_and_gradients(theirs, variables, carry, xs, options)
        seen = value_and_gradients(swapped, variables, carry, xs, options)
    registry.assert_close(seen, wanted, 5e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTMCell", {}),
        ("GRUCell", {"gate_fn": nn.hard_sigmoid, "activation_fn": nn.silu}),
        ("OptimizedLSTMCell", {}),
        ("SimpleCell", {}),
        ("MGUCell", {}),
        ("MGUCell", {"reset_gate": False}),
    ],
)
def test_a_cell_steps_as_flaxs_does_and_runs_in_either_layer(name, options, rng):
    xs = jnp.swapaxes(jnp.asarray(check.inputs(rng)[0]), 0, 1)
    theirs, swapped = (getattr(library, name)(check.HIDDEN, **options) for library in (nn, ours))
    carry = swapped.initialize_carry(KEY, xs[:, 0].shape)
    with check.lenient():
        (wanted, variables) = theirs.init_with_output(KEY, carry, xs[:, 0])
        check.assert_equal(swapped.init(KEY, carry, xs[:, 0]), variables)
        registry.assert_close(swapped.apply(variables, carry, xs[:, 0]), wanted, check.TOL)
        variables = {"params": {"cell": variables["params"]}}
        wanted = nn.RNN(swapped).apply(variables, xs)
    registry.assert_close(ours.RNN(swapped).apply(variables, xs), wanted, check.TOL)
    if options:
        return  # A tree of parameters does not tell them.
    net, params = from_linen(variables)
    registry.assert_close(lj.unroll(net, params, xs, time_major=False)[1], wanted, check.TOL)


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
    rnn = ours.RNN(ours.Cell(net), return_carry=True)
    variables = rnn.init(KEY, xs)
    resets = xs.reshape(2, 5, -1)[..., 0] > 4
    options = {"seq_lengths": jnp.array([5, 0]), "resets": resets}
    params = variables["params"]["cell"]
    wanted = lj.unroll(net, params, xs, time_major=False, **options)
    registry.assert_close(rnn.apply(variables, xs, **options), wanted, 0)
    if name == "learned":
        with pytest.raises(ValueError, match="wanted one that starts with constants; leave init"):
            rnn.cell.initialize_carry(KEY, (2, 3))


@pytest.mark.grid
def test_a_cell_of_ours_runs_in_flaxs_layer():
    cell, xs = ours.Cell(lj.stack(lj.LSTM(4), lj.GRU(2))), jnp.ones((2, 5, 3))
    variables = ours.RNN(cell).init(KEY, xs)
    with check.lenient():
        wanted = nn.RNN(cell, return_carry=True).apply(variables, xs)
        tree = jax.eval_shape(nn.RNN(cell).init, KEY, xs)
    seen = ours.RNN(cell, return_carry=True).apply(variables, xs)
    registry.assert_close(seen, wanted, check.TOL)
    assert jax.tree.structure(tree) == jax.tree.structure(variables)


# ---- training, and transformations ---------------------------------------------------------------
def test_noise_is_drawn_from_the_stream_of_dropout():
    net = lj.stack(lj.GRU(4), lj.GRU(4), dropout=0.5)
    rnn, xs = ours.RNN(ours.Cell(net)), jnp.ones((2, 5, 3))
    variables = rnn.init(KEY, xs, deterministic=True)
    evaluated = lj.unroll(net, variables["params"]["cell"], xs, time_major=False)[1]
    registry.assert_close(rnn.apply(variables, xs, deterministic=True), evaluated, 0)
    noisy = [
        rnn.clone(deterministic=False).apply(variables, xs, rngs={"dropout": jax.random.key(n)})
        for n in (0, 0, 1)
    ]
    registry.assert_close(noisy[0], noisy[1], 0)
    assert not np.allclose(noisy[0], noisy[2]) and not np.allclose(noisy[0], evaluated)
    with pytest.raises(ValueError, match="deterministic"):
        rnn.apply(variables, xs)
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        rnn.apply(variables, xs, deterministic=False)


class Layers(nn.Module):
    """Two recurrent layers by `nn.scan`, which stacks their parameters, and `nn.remat`."""

    rnn: nn.Module
    layers: int = 2

    @nn.compact
    def __call__(self, xs):
        def layer(rnn, xs, _):
            return rnn(xs), None

        lifted = nn.scan(
            nn.remat(layer, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        return lifted(self.rnn, xs, None)[0]


@pytest.mark.grid
def test_it_goes_through_lifted_transformations():
    """nn.scan over layers with nn.remat, and vmap over an ensemble."""
    xs = jnp.ones((2, 5, 4))
    model = Layers(ours.RNN(nn.LSTMCell(4)))
    with check.lenient():
        variables = model.init(KEY, xs)
        stacked = {"params": variables["params"]["rnn"]}
        first, second = (jax.tree.map(lambda leaf: leaf[n], stacked) for n in range(2))  # noqa: B023
        alone = ours.RNN(nn.LSTMCell(4)).apply
        wanted = alone(second, alone(first, xs))
        registry.assert_close(model.apply(variables, xs), wanted, check.TOL)
        grads = jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(model.apply(v, xs)))))(variables)
        assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))
        many = jax.vmap(alone, in_axes=(0, None))(stacked, xs)
        registry.assert_close((many[0], many[1]), (alone(first, xs), alone(second, xs)), check.TOL)


def test_the_fastest_implementation_runs_it_and_another_may_be_named():
    xs = jnp.ones((2, 5, 3))
    for implementation, wanted in ((None, registry.FASTEST), ("scan", "scan")):
        rnn = ours.RNN(nn.LSTMCell(4), implementation=implementation)
        variables = jax.eval_shape(rnn.init, KEY, xs)
        (seen,) = lj.inspect(rnn.apply, variables, xs)
        assert seen.implementation == wanted


# ---- shardings -----------------------------------------------------------------------------------
@pytest.mark.grid
def test_sharding_annotations_are_kept():
    """Those of Flax's initializers, and those of a `Cell`, by name or by path."""
    split = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    xs = jnp.ones((2, 5, 3))
    layer = ours.RNN(nn.LSTMCell(8, kernel_init=split))
    with check.lenient():
        variables = layer.init(KEY, xs)
        wanted = nn.RNN(nn.LSTMCell(8, kernel_init=split)).apply(variables, xs)
    specs = nn.get_partition_spec(variables)["params"]["cell"]
    assert specs["if"]["kernel"] == jax.P(None, "model")
    registry.assert_close(layer.apply(variables, xs), wanted, check.TOL)
    net = lj.stack(lj.LSTM(8), lj.GRU(8))
    sharding = {"w_ih": (None, "model"), "1/w_ih": ("model", None), "b": ("model",)}
    model = ours.RNN(ours.Cell(net, sharding))
    variables = model.init(KEY, xs)
    specs = nn.get_partition_spec(variables)["params"]["cell"]
    assert specs["0"] == {"w_ih": jax.P(None, "model"), "w_hh": jax.P(), "b": jax.P("model")}
    assert specs["1"]["w_ih"] == jax.P("model", None) and specs["1"]["b_hn"] == jax.P()
    alone = ours.RNN(ours.Cell(net)).apply(nn.meta.unbox(variables), xs)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        registry.assert_close(jax.jit(model.apply)(variables, xs), alone, check.TOL)


# ---- errors --------------------------------------------------------------------------------------
class Own(nn.GRUCell):
    def __call__(self, carry, inputs):
        return carry, carry


def test_what_it_cannot_run_is_refused():
    xs = jnp.ones((2, 5, 3))
    with pytest.raises(ValueError, match=r"cell: got a Own, wanted a Cell, or one of .*nn.RNN"):
        ours.RNN(Own(4)).init(KEY, xs)
    h = jnp.zeros((2, 4))
    with pytest.raises(ValueError, match=r"carry: got a LSTMState, wanted \(c, h\), as Flax"):
        ours.RNN(ours.LSTMCell(4)).init(KEY, xs, initial_carry=lj.LSTMState(h, h))
    layer = ours.RNN(nn.GRUCell(4, carry_init=nn.initializers.ones_init()), return_carry=True)
    with check.lenient():
        (carry, _), variables = layer.init_with_output(KEY, xs[:, :0])
    registry.assert_close(carry, jnp.ones((2, 4)), 0)
    with pytest.raises(ValueError, match=r"resets: got resets of a cell with a carry_init"):
        layer.apply(variables, xs, resets=jnp.zeros((2, 5), bool))
    with pytest.raises(ValueError, match=r"net: got the class LSTM.*make one: LSTM\(128\)"):
        ours.RNN(ours.Cell(lj.LSTM)).init(KEY, xs)
    with pytest.raises(ValueError, match=r"sharding: got 'kernel', wanted parameters: b, w_hh"):
        ours.RNN(ours.Cell(lj.LSTM(4), {"kernel": (None, "model")})).init(KEY, xs)
    with pytest.raises(ValueError, match=r"an MGUCell with sigmoid and tanh"):
        ours.RNN(nn.MGUCell(4, activation_fn=jax.nn.relu)).init(KEY, xs)
