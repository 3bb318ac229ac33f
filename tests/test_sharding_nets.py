"""`lj.sharding`: nets split by batch, units, time and layers equal one device; collectives counted.

A forward and a backward pass are compiled, and what the devices tell each other is read off the
program; `docs/sharding.md` has these counts in its tables.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from collectives import collectives, counted
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lstm_jax as lj
from lstm_jax import sharding

T, B, D, H = 6, 4, 3, 8
"""Sizes; B is split over 2 devices, H over 4, T over 2."""

HAND_ON = "collective-permute each step"

FLAGS = {
    "seq_lengths": np.array([T, 3, 0, 5], np.int32),
    "resets": np.arange(T * B).reshape(T, B) % 7 == 3,
}


def mesh(shape=(2, 4), names=("data", "model"), kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def problem(net):
    rng = np.random.default_rng(0)
    params = registry.random_params(net, D, rng)
    return params, rng.standard_normal((T, B, D)).astype(np.float32)


def loss(net, params, xs, **options):
    """A loss of everything that a net returns, and what it returns."""
    outs = lj.unroll(net, params, xs, **options)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs)), outs


def gradient(net, **options):
    return jax.jit(
        jax.value_and_grad(functools.partial(loss, net, **options), argnums=(0, 1), has_aux=True)
    )


def placed(over, net, params, xs, axis="data"):
    """Parameters as the net stores them, and inputs, on the devices of a mesh."""
    params = sharding.split_params(net, params)
    params = jax.device_put(params, sharding.state(over, net, params))
    return params, jax.device_put(xs, sharding.batch(over, xs, axis))


def check_equal(over, net, split, axis="data", **options):
    """Values and gradients of a net that is split equal those of the net."""
    params, xs = problem(net)
    wanted = gradient(net, **options)(params, xs)
    with jax.set_mesh(over):
        (value, outs), (dparams, dxs) = gradient(split, **options)(
            *placed(over, split, params, xs, axis)
        )
    seen = (value, outs), (sharding.join_params(split, jax.device_get(dparams)), dxs)
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-5)


def deep(size):
    """A net with everything around its cells."""
    inner = lj.stack(lj.LSTM(size), lj.bidirectional(lj.GRU(size)), skip="dense")
    return lj.readout(lj.residual(lj.readout(inner, D)), 2)


# ---- placing -------------------------------------------------------------------------------------
def test_shardings_of_batches():
    over = mesh()
    tree = {"xs": np.zeros((T, B, D)), "seq_lengths": np.zeros(B), "key": np.zeros(2)}
    found = sharding.batch(over, tree, at={"xs": 1, "seq_lengths": 0, "key": None})
    wanted = {"xs": P(None, "data", None), "seq_lengths": P("data"), "key": P()}
    assert found == {name: NamedSharding(over, at) for name, at in wanted.items()}


@pytest.mark.grid
def test_shardings_of_a_training_state():
    """What an optimiser keeps for a parameter is split as that is, whatever is around it."""
    import optax

    over, cell = mesh(), lj.stack(lj.LSTM(H), lj.GRU(H))
    net = lj.readout(sharding.by_units(cell, over), 2)
    state = jax.eval_shape(
        lambda key: lj.train.create(net.init(key, D), optax.adam(0.1)), jax.random.key(0)
    )
    found = sharding.state(over, net, state)
    split, whole = NamedSharding(over, P(None, None, "model")), NamedSharding(over, P())
    for params in (found.params, found.opt_state[0].mu, found.opt_state[0].nu):
        assert params["inner"]["0"]["w_hh"] == params["inner"]["1"]["w_ih"] == split
        assert params["inner"]["1"]["b_hn"] == NamedSharding(over, P("model"))
        assert params["w"] == whole
    assert found.step == found.opt_state[0].count == whole


def test_plain_nets_are_on_all_devices():
    over, net = mesh(), deep(H)
    params = jax.eval_shape(lambda key: net.init(key, D), jax.random.key(0))
    found = sharding.state(over, net, params)
    assert set(jax.tree.leaves(found)) == {NamedSharding(over, P())}


def test_parameters_are_laid_out_and_back():
    net = sharding.by_units(lj.stack(lj.LSTM(H), lj.SLSTM(2 * H)), mesh())
    params, _ = problem(lj.stack(lj.LSTM(H), lj.SLSTM(2 * H)))
    split = sharding.split_params(net, params)
    shapes = {name: leaf.shape for name, leaf in split["0"].items()}
    assert shapes == {"w_ih": (D, 4, H), "w_hh": (H, 4, H), "b": (4, H)}
    jax.tree.map(np.testing.assert_array_equal, sharding.join_params(net, split), params)


# ---- by batch ------------------------------------------------------------------------------------
def data_parallel(over, net, **options):
    """Compiled collectives of the forward pass, and of the gradient of the parameters."""
    params, xs = problem(net)

    def mean(params, xs):
        return jnp.mean(lj.unroll(net, params, xs, **options)[1] ** 2)

    with jax.set_mesh(over):
        args = placed(over, net, params, xs)
        forward = collectives(lambda p, x: lj.unroll(net, p, x, **options), *args)
        return forward, collectives(jax.grad(mean), *args)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_jax_splits_a_batch_with_one_sum(kind):
    """No cotangent is gathered on all devices, with explicit axes neither."""
    over = mesh((4,), ("data",), kind)
    assert data_parallel(over, lj.stack(lj.LSTM(H), lj.RNN(H))) == ({}, {"all-reduce": 1})


@pytest.mark.grid
def test_by_batch_sums_once():
    """The parameter inside the update of a GRU too, which JAX by itself sums in each step."""
    over = mesh((4,), ("data",))
    assert data_parallel(over, lj.GRU(H)) == ({}, {"all-reduce": 1, "all-reduce each step": 1})
    split = sharding.by_batch(lj.GRU(H), over)
    assert data_parallel(over, split) == ({}, {"all-reduce": 1})
    assert data_parallel(over, split, implementation="scan") == ({}, {"all-reduce": 1})


@pytest.mark.grid
def test_by_batch_runs_the_kernel():
    """JAX by itself would have XLA run what is split over devices."""
    over, net = mesh(), lj.LSTM(H)
    args = placed(over, net, *problem(net))
    split = sharding.by_batch(net, over)
    assert lj.which(split).implementation == registry.FASTEST
    (record,) = lj.inspect(lambda p, x: lj.unroll(split, p, x), *args)
    assert (record.implementation, record.batch) == (registry.FASTEST, (B // 2,))


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lstm", AxisType.Auto),
        ("wrapped_thrice", AxisType.Explicit),
        ("gru_reset_before", AxisType.Auto),
    ],
    ids=str,
)
def test_by_batch_equals_one_device(name, kind):
    over, net = mesh(kind=kind), registry.CASES[name].make(H)
    key = jax.random.key(1) if registry.CASES[name].noisy else None
    check_equal(over, net, sharding.by_batch(net, over), key=key, **FLAGS)


# ---- by units ------------------------------------------------------------------------------------
MEETING = {
    "gru_reset_before", "layer_norm_lstm_normalized", "lstm_projection", "lstm_heads", "gru_heads",
    "layer_norm_lstm", "layer_norm_gru", "layer_norm_rnn", "minimal_rnn", "antisymmetric",
    "antisymmetric_gated", "leaky_dale", "zoneout_gru_before", "memory_dropout_gru", "user_step",
}  # fmt: skip
"""Cells whose units meet elsewhere than in h @ w_hh; with two heads for four devices, too few."""

MEETING_IN_GRID = {"lstm_projection", "antisymmetric", "leaky_dale", "user_step"}

GRID = ["wrapped_thrice"]


def split_by_units(name, kind=AxisType.Auto):
    over, case = mesh(kind=kind), registry.EVERY[name]
    net = case.make(H)
    options = {**FLAGS, "key": jax.random.key(1) if case.noisy else None}
    return over, net, sharding.by_units(net, over, batch="data"), options


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lstm", AxisType.Explicit),
        *(pytest.param(n, AxisType.Auto, marks=pytest.mark.grid) for n in GRID),
        *(
            pytest.param(n, AxisType.Auto, marks=pytest.mark.slow)
            for n in registry.CASES
            if n not in MEETING and n not in GRID
        ),
    ],
    ids=str,
)
def test_by_units_equals_one_device(name, kind):
    check_equal(*split_by_units(name, kind)[:3], **split_by_units(name, kind)[3])


@pytest.mark.grid
@pytest.mark.parametrize("options", [{"reverse": True, "remat": "sqrt"}], ids=str)
def test_by_units_with_other_options(options):
    over, net, split, flags = split_by_units("lstm")
    check_equal(over, net, split, **flags, **options)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(AxisType.Explicit, marks=pytest.mark.grid),
        pytest.param(AxisType.Auto, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_deep_net_by_units(kind):
    over, net = mesh(kind=kind), deep(H)
    check_equal(over, net, sharding.by_units(net, over, batch="data"), **FLAGS)


def test_by_units_tells_h_once_a_step():
    """Forwards one gather a step; backwards one scatter, and one gather of all h for w_hh."""
    over = mesh()
    net = sharding.by_units(lj.LSTM(H), over, batch="data")
    params, xs = problem(lj.LSTM(H))
    args = placed(over, net, params, xs)
    assert collectives(lambda p, x: lj.unroll(net, p, x), *args) == {"all-gather each step": 1}

    def total(params, xs):
        return jax.lax.with_sharding_constraint(
            lj.unroll(net, params, xs)[1], NamedSharding(over, P(None, "data", "model"))
        )

    def pulled(params, xs):
        ys, pull = jax.vjp(total, params, xs)
        return pull(ys)[0]

    wanted = {"all-gather each step": 1, "reduce-scatter each step": 1}
    assert collectives(pulled, *args) == wanted | {"all-gather": 1, "all-reduce": 1}


@pytest.mark.grid
@pytest.mark.parametrize("name", ["indrnn", "min_gru"])
def test_units_that_never_meet_tell_nothing(name):
    over, net, split, _ = split_by_units(name)
    params, xs = problem(net)
    args = placed(over, split, params, xs)
    assert collectives(lambda p, x: lj.unroll(split, p, x), *args) == {}


@pytest.mark.grid
def test_a_step_by_units():
    over, net, split, _ = split_by_units("lstm")
    params, xs = problem(net)
    wanted = net.step(params, net.initial_carry(params, (B,)), xs[0])
    params = sharding.split_params(split, params)
    seen = split.step(params, split.initial_carry(params, (B,)), xs[0])
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-5)
    assert seen[0].c.sharding.spec == P("data", "model")


@pytest.mark.grid
def test_training_by_units():
    """One update of clipped SGD: the norm is that of the whole gradient."""
    over, net, split, _ = split_by_units("lstm")
    params, xs = problem(net)
    tx = lj.clipped_sgd(0.1, max_norm=0.1, momentum=0.9)

    def update(net, state):
        step = lj.train.make_step(lambda p, xs: loss(net, p, xs)[0], tx)
        return jax.jit(step)(state, xs)

    wanted, wanted_info = update(net, lj.train.create(params, tx))
    state = lj.train.create(sharding.split_params(split, params), tx)
    state, info = update(split, jax.device_put(state, sharding.state(over, split, state)))
    registry.assert_close(info["norm_before"], wanted_info["norm_before"], 1e-5)
    seen = sharding.join_params(split, jax.device_get(state.params))
    registry.assert_close(seen, jax.device_get(wanted.params), 1e-5)
    assert state.params["w_hh"].sharding.spec == P(None, None, "model")


@pytest.mark.parametrize(
    "name",
    [
        "layer_norm_rnn",
        *(pytest.param(n, marks=pytest.mark.grid) for n in sorted(MEETING_IN_GRID)),
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in sorted(MEETING - MEETING_IN_GRID - {"layer_norm_rnn"})
        ),
    ],
)
def test_units_that_meet_elsewhere_are_refused(name):
    with pytest.raises(
        ValueError, match=r"^(net|cell): got .*(RNN|LSTM|GRU|Multiplicative)"
    ) as seen:
        sharding.by_units(registry.CASES[name].make(H), mesh())
    assert str(seen.value).count("wanted") == 1


@pytest.mark.sampled
@pytest.mark.parametrize("size", [H // 4, H], ids=["piece", "cell"])
def test_a_cell_with_another_equation_for_this_input_is_refused(size):
    """An SRU has no skip weights where D = H, be it the H of the cell or of one device."""
    net = sharding.by_units(lj.SRU(H), mesh())
    params = net.split_params(lj.SRU(H).init(jax.random.key(0), size))
    refused = pytest.raises(ValueError, match=f"the parameters are others for D = {size}")
    with refused:
        net.init(jax.random.key(0), size)
    with refused:
        lj.unroll(net, params, np.ones((T, B, size), np.float32))


@pytest.mark.grid
def test_narrow_dtypes_by_units():
    """The trial of a cell is in float32; what is rounded to 16 bits differs in its last one."""
    over, net = mesh(), lj.LSTM(H, dtype="bfloat16")
    split = sharding.by_units(net, over, batch="data")
    params, xs = problem(net)
    _, seen = lj.unroll(split, *placed(over, split, params, xs))
    _, wanted = lj.unroll(net, params, xs, implementation="fused")
    assert seen.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.float32(x) for x in (seen, wanted)), atol=0.02)


@pytest.mark.grid
def test_heads_are_split_by_heads():
    over, net = mesh((2,), ("model",)), lj.LSTM(16, heads=4)
    split = sharding.by_units(net, over)
    check_equal(over, net, split, axis=None)
    assert sharding.state(over, split, split.init(jax.random.key(0), D))["w_hh"].spec[0] == "model"


# ---- by time -------------------------------------------------------------------------------------
def split_by_time(name, pieces=1, kind=AxisType.Auto):
    over, net = mesh((2, 3), ("data", "time"), kind), registry.EVERY[name].make(H)
    return over, net, sharding.by_time(net, over, batch="data", pieces=pieces)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "pieces", "options"),
    [
        ("min_gru", 1, {}),
        ("lstm", 1, {}),
        ("gru", 2, {"reverse": True}),
        ("min_gru_signed", 1, {"reverse": True}),
        pytest.param("zoneout", 2, {"key": 1, "remat": 1}, marks=pytest.mark.slow),
        ("recurrent_dropout", 1, {"key": 1}),
        ("gru_reset_before", 1, {"return_carries": True}),
    ],
)
def test_by_time_equals_one_device(name, pieces, options):
    key = jax.random.key(1) if options.get("key") else None
    check_equal(*split_by_time(name, pieces), **FLAGS, **{**options, "key": key})


@pytest.mark.grid
@pytest.mark.parametrize("name", ["min_gru", "lstm"])
def test_by_time_with_explicit_axes(name):
    check_equal(*split_by_time(name, kind=AxisType.Explicit), **FLAGS)


@pytest.mark.slow
def test_a_deep_net_by_time():
    over, net = mesh((2, 3), ("data", "time")), deep(H)
    check_equal(over, net, sharding.by_time(net, over, batch="data"), **FLAGS)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("min_gru", {"all-gather": 1}, {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 1}),
        ("rnn_tanh", {HAND_ON: 1}, {HAND_ON: 2, "all-reduce": 1}),
    ],
)
def test_by_time_tells_the_carry(name, forward, backward):
    """A map of all steps, or the carry in each tick; there is one array of it in these cells."""
    over, net, split = split_by_time(name)
    params, xs = problem(net)
    args = placed(over, split, params, xs)
    assert collectives(lambda p, x: lj.unroll(split, p, x)[1], *args) == forward

    def mean(params, xs):
        return jnp.mean(lj.unroll(split, params, xs)[1] ** 2)

    assert collectives(jax.grad(mean), *args) == backward


def test_what_cannot_be_split_by_time():
    _, net, split = split_by_time("lstm", pieces=3)
    params, xs = problem(net)
    with pytest.raises(
        ValueError, match=r"xs: got shape \(5, 4, 3\), of which T = 5, wanted a mul"
    ):
        lj.unroll(split, params, xs[:5])
    with pytest.raises(ValueError, match=r"xs: got of a device B = 2, wanted a multiple of 3"):
        lj.unroll(split, params, xs)


# ---- by layers -----------------------------------------------------------------------------------
def split_by_layers(name, depth, kind=AxisType.Auto):
    """Layers whose inputs have the size of their outputs, D."""
    over = mesh((2, 2), ("data", "stage"), kind)
    net = lj.stack(*[registry.EVERY[name].make(D)] * depth)
    return over, net, sharding.by_layers(net, over, chunks=3, batch="data")


def as_one_carry(carry):
    """The carries of layers as the carry of one cell, leaves [B, L, H]."""
    if hasattr(carry, "_fields"):
        return carry
    return jax.tree.map(lambda *layers: jnp.stack(layers, -2), *carry)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "depth", "kind", "reverse"),
    [
        ("lstm", 4, AxisType.Auto, False),
        ("gru", 2, AxisType.Explicit, True),
        pytest.param("user_update", 2, AxisType.Auto, True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_by_layers_equals_one_device(name, depth, kind, reverse):
    over, net, split = split_by_layers(name, depth, kind)
    params, xs = problem(net)

    def run(net):
        def total(params, xs):
            carry, ys = lj.unroll(net, params, xs, reverse=reverse, **FLAGS)
            outs = as_one_carry(carry), ys
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs)), outs

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))

    wanted = run(net)(params, xs)
    with jax.set_mesh(over):
        value, (dparams, dxs) = run(split)(*placed(over, split, params, xs))
    seen = value, (sharding.join_params(split, jax.device_get(dparams)), dxs)
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-5)


@pytest.mark.grid
def test_by_layers_tells_the_outputs_of_a_chunk():
    """In each tick to the next device; at the end those of the last one to all."""
    over, net, split = split_by_layers("rnn_tanh", 2)
    params, xs = problem(net)
    args = placed(over, split, params, xs)
    forward = collectives(lambda p, x: lj.unroll(split, p, x)[1], *args)
    assert forward == {HAND_ON: 1, "all-reduce": 1}

    def mean(params, xs):
        return jnp.mean(lj.unroll(split, params, xs)[1] ** 2)

    assert collectives(jax.grad(mean), *args) == {HAND_ON: 2, "all-reduce": 2}


@pytest.mark.grid
def test_a_step_and_parameters_by_layers():
    over, net, split = split_by_layers("lstm", 2)
    params, xs = problem(net)
    params = registry.cast(params, jnp.float32)
    stacked = sharding.split_params(split, params)
    jax.tree.map(np.testing.assert_array_equal, sharding.join_params(split, stacked), params)
    shapes = jax.eval_shape(lambda key: split.init(key, D), jax.random.key(0))
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)
    assert sharding.state(over, split, stacked)["w_hh"].spec == P("stage", None, None)
    wanted = net.step(params, net.initial_carry(params, (B,)), xs[0])
    carry, y = split.step(stacked, split.initial_carry(stacked, (B,)), xs[0])
    seen = jax.device_get((carry, y))
    registry.assert_close(seen, jax.device_get((as_one_carry(wanted[0]), wanted[1])), 1e-6)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.LSTM(H), "wanted a stack without dropout and skip connections"),
        (lj.stack(lj.LSTM(H), lj.LSTM(H), dropout=0.1), "wanted a stack without dropout"),
        (lj.stack(lj.LSTM(H), lj.GRU(H)), "wanted a stack of equal cells"),
        (lj.stack(*[lj.LSTM(H)] * 3), "net: got layers, L = 3, wanted a multiple of 2"),
        (lj.stack(*[lj.zoneout(lj.LSTM(H), 0.1)] * 2), "and draw no noise"),
        (lj.stack(*[lj.LSTM(H, projection_size=3)] * 2), "layers whose outputs have size H"),
    ],
    ids=str,
)
def test_what_cannot_be_split_by_layers(net, message):
    with pytest.raises(ValueError, match=message):
        sharding.by_layers(net, mesh((2, 2), ("data", "stage")), chunks=2)


# ---- losses --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("loss", "at"),
    [
        (lj.losses.mean_squared_error, P("data", None, "model")),
        (lj.losses.softmax_cross_entropy, P(None, "data", "model")),
    ],
)
def test_a_loss_of_outputs_that_are_split_and_targets_that_are_not(loss, at):
    """Of explicit axes `where` and an index take only what is split alike."""
    over, rng = mesh((2, 2), kind=AxisType.Explicit), np.random.default_rng(0)
    ys = rng.standard_normal((T, B, 2)).astype(np.float32)
    targets = ys[::-1] if loss is lj.losses.mean_squared_error else (ys[..., 0] > 0).astype("int32")
    taken = jax.jit(lambda ys: jax.value_and_grad(loss)(ys, targets, FLAGS["resets"]))
    wanted = taken(ys)
    with jax.set_mesh(over):
        seen = taken(jax.device_put(ys, NamedSharding(over, at)))
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-6)


# ---- errors --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: sharding.by_units(lj.LSTM(6), m), "cell: got LSTM with H = 6, wanted a multi"),
        (lambda m: sharding.by_units(lj.LSTM(8), m, "x"), "axis: got 'x', wanted an axis of the m"),
        (lambda m: sharding.by_units(lj.LSTM(8), 8), "mesh: got 8, wanted a jax.sharding.Mesh"),
        (lambda m: sharding.by_batch("x", m), "net: got 'x', wanted a cell or a net"),
        (lambda m: lj.zoneout(sharding.by_units(lj.LSTM(8), m)), "wrap the cell first, then split"),
        (lambda m: sharding.batch(m, np.ones((2, 3))), "tree: got B = 3, wanted a multiple of 2"),
        (lambda m: sharding.batch(m, np.ones(2)), r"at: got 1 for shape \(2,\), wanted an axis"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(mesh())


def test_a_batch_that_is_no_multiple():
    net = sharding.by_batch(lj.LSTM(H), mesh())
    params, xs = problem(lj.LSTM(H))
    with pytest.raises(ValueError, match=r"xs: got shape \(6, 3, 3\), of which B = 3, wanted a mu"):
        lj.unroll(net, params, xs[:, :3])
    with pytest.raises(ValueError, match=r"xs: got shape \(6, 3\), wanted \[T, B, D\], B split"):
        lj.unroll(net, params, xs[:, 0])


def test_what_is_counted():
    text = """
%body (p: f32[]) -> f32[] {
  %g = f32[8] all-gather(%p), dimensions={0}
}
ENTRY %main (x: f32[]) -> f32[] {
  %w = f32[] while(%x), condition=%cond, body=%body
  %r = (f32[], f32[3]{0}) all-reduce-start(%w), to_apply=%add
}
"""
    assert counted(text) == {"all-gather each step": 1, "all-reduce": 1}


# ---- what stands around it -----------------------------------------------------------------------
AROUND = {
    "zoneout": lj.zoneout(lj.LSTM(H), h=0.3),
    "input_dropout": lj.input_dropout(lj.LSTM(H), 0.5),
    "stack": lj.stack(lj.LSTM(H), lj.GRU(H), dropout=0.5, skip="dense"),
}


@pytest.mark.grid
@pytest.mark.parametrize("how", ["batch", "units", "jax"])
@pytest.mark.parametrize("name", sorted(AROUND))
def test_noise_with_explicit_axes(name, how):
    over, net = mesh(kind=AxisType.Explicit), AROUND[name]
    split = net
    if how == "batch":
        split = sharding.by_batch(net, over)
    elif how == "units":
        split = sharding.by_units(net, over, batch="data")
    check_equal(over, net, split, key=jax.random.key(1))
    check_equal(over, net, split, **FLAGS)


@pytest.mark.grid
@pytest.mark.parametrize("split", [False, True])
def test_embeddings_with_explicit_axes(split):
    over, net = mesh(kind=AxisType.Explicit), lj.embedding(lj.LSTM(H), 5, D)
    rng = np.random.default_rng(0)
    params, ids = registry.random_params(net, None, rng), rng.integers(0, 5, (T, B))
    wanted = jax.jit(functools.partial(lj.unroll, net))(params, ids)
    own = sharding.by_units(net, over, batch="data") if split else net
    with jax.set_mesh(over):
        seen = jax.jit(functools.partial(lj.unroll, own))(*placed(over, own, params, ids))
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-5)


@pytest.mark.grid
@pytest.mark.parametrize("how", ["units", "batch", "layers"])
def test_a_carry_goes_on_with_explicit_axes(how):
    """The start of a loop over steps, or over pieces, is split as what a step returns."""
    over = mesh((2, 2), kind=AxisType.Explicit)
    net = lj.stack(*[lj.GRU(H)] * 2) if how == "layers" else lj.LSTM(H)
    params, first = registry.random_params(net, H, np.random.default_rng(0)), np.ones((B, H), "f")
    split = {
        "units": lambda: sharding.by_units(net, over, batch="data"),
        "batch": lambda: sharding.by_batch(net, over),
        "layers": lambda: sharding.by_layers(net, over, "model", chunks=1, batch="data"),
    }[how]()
    _, wanted = jax.jit(lambda p, x: lj.decode(net, p, None, x, 3))(params, first)
    with jax.set_mesh(over):
        params, first = placed(over, split, params, first[None])
        _, seen = jax.jit(lambda p, x: lj.decode(split, p, None, x, 3))(params, first[0])

        def pieces(params, xs):
            start = split.initial_carry(params, (B,))
            return jax.lax.scan(lambda c, x: lj.unroll(split, params, x[None], c), start, xs)

        jax.jit(pieces)(params, first)
    registry.assert_close(jax.device_get(seen), jax.device_get(wanted), 1e-5)


# ---- refusals, and what is left as it is ---------------------------------------------------------
def test_a_net_is_split_once_and_by_two_axes():
    over, cell = mesh(), lj.LSTM(H)
    units = sharding.by_units(cell, over)
    for split in (sharding.by_batch, sharding.by_units, sharding.by_time):
        with pytest.raises(ValueError, match="net: got .*not split over devices yet"):
            split(units, over, "data")
    for split in (sharding.by_units, sharding.by_time):
        with pytest.raises(ValueError, match="axis: got 'data', wanted an axis of the mesh, not"):
            split(cell, over, "data", batch="data")
        with pytest.raises(ValueError, match="axis: got None"):
            split(cell, over, None)


def test_a_split_cell_is_what_it_was():
    over = mesh()
    assert not sharding.by_units(lj.LSTM(H), over).stochastic
    assert sharding.by_batch(lj.zoneout(lj.LSTM(H), h=0.3), over).stochastic
    split = sharding.by_batch(lj.MinGRU(H), over)
    assert lj.which(split, implementation="associative").implementation == "associative"
    with pytest.raises(ValueError, match="cell: got .*wanted a cell that is not split"):
        lj.unroll_newton(split, split.init(jax.random.key(0), D), np.ones((T, B, D), "f"))


def test_no_steps_over_time():
    over, net = mesh((4,), ("time",)), lj.MinGRU(H)
    params, xs = problem(net)
    carry, ys = lj.unroll(sharding.by_time(net, over, "time"), params, xs[:0])
    assert ys.shape == (0, B, H) and carry.h.shape == (B, H)


def test_a_step_by_units_wants_a_batch_that_can_be_split():
    over = mesh()
    split = sharding.by_units(lj.LSTM(H), over, batch="data")
    params = split.init(jax.random.key(0), D)
    for shape in ((3, D), (D,)):
        with pytest.raises(ValueError, match=r"x: got shape"):
            split.step(params, split.initial_carry(params, shape[:-1]), np.ones(shape, "f"))


def test_parameters_of_something_else_are_refused():
    """And those that are laid out already stay."""
    over = mesh()
    units = sharding.by_units(lj.LSTM(H), over)
    layers = sharding.by_layers(lj.stack(*[lj.GRU(H)] * 4), over, "model", chunks=2)
    for split in (units, layers):
        params = split.init(jax.random.key(0), H)
        for way in (sharding.split_params, sharding.join_params):
            once = way(split, params)
            jax.tree.map(np.testing.assert_array_equal, way(split, once), once)
    with pytest.raises(ValueError, match=r"params.*got shape \(32,\).*lay them out .*split_params"):
        lj.unroll(units, lj.LSTM(H).init(jax.random.key(0), D), np.ones((T, B, D), "f"))
    seeds = jax.tree.map(lambda x: np.stack([x] * 3), lj.LSTM(H).init(jax.random.key(0), D))
    with pytest.raises(ValueError, match=r"params\['b'\]: got shape \(3, 32\), .* call vmap"):
        sharding.split_params(units, seeds)
    with pytest.raises(ValueError, match="params: got .*those of 4 layers"):
        sharding.split_params(layers, lj.GRU(H).init(jax.random.key(0), D))


@pytest.mark.grid
@pytest.mark.parametrize("how", ["units", "layers"])
def test_factored_moments_go_where_they_can(how):
    """Adafactor keeps an array [1] in the place of what it does not factor."""
    import optax

    over = mesh()
    net = lj.stack(*[lj.RNN(H)] * 4)
    split = (
        sharding.by_units(net, over)
        if how == "units"
        else sharding.by_layers(net, over, "model", chunks=1)
    )
    state = lj.train.create(split.init(jax.random.key(0), H), optax.adafactor(0.1))
    state = jax.device_put(state, sharding.state(over, split, state))
    assert "model" in jax.tree.leaves(state.params)[-1].sharding.spec
