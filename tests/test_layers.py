"""Nets are what their equations say: layers by hand, merges, skips, dropout between layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

pytestmark = pytest.mark.sampled

T, B, D = 5, 3, 2
LENGTHS = np.array([5, 3, 0])
A, Z = lj.LSTM(4), lj.GRU(3)


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


def setup(net, rng, size=D):
    params = registry.random_params(net, size, rng)
    return params, rng.standard_normal((T, B, size))


@functools.lru_cache
def run(net, **options):
    return jax.jit(lambda params, xs, **more: lj.unroll(net, params, xs, **options, **more))


def assert_same(seen, wanted):
    registry.assert_close(seen, wanted, 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_stack_is_one_layer_after_another(rng, reverse):
    net = lj.stack(A, Z)
    params, xs = setup(net, rng)
    carry, ys = run(net, reverse=reverse)(params, xs, seq_lengths=LENGTHS)
    first, between = run(A, reverse=reverse)(params["0"], xs, seq_lengths=LENGTHS)
    second, wanted = run(Z, reverse=reverse)(params["1"], between, seq_lengths=LENGTHS)
    assert_same((carry, ys), ((first, second), wanted))


@pytest.mark.parametrize(
    ("merge", "join"),
    [
        ("concat", lambda a, b: np.concatenate([a, b], axis=-1)),
        ("sum", np.add),
        ("mul", np.multiply),
        ("mean", lambda a, b: (a + b) / 2),
        (None, lambda a, b: (a, b)),
    ],
)
def test_both_directions_stay_aligned_to_time(rng, merge, join):
    """The backward outputs at t are those of a net that has seen t and what comes after it."""
    net = lj.bidirectional(Z, merge=merge)
    params, xs = setup(net, rng)
    carry, ys = run(net)(params, xs, seq_lengths=LENGTHS)
    ahead = run(Z)(params["forward"], xs, seq_lengths=LENGTHS)
    back = run(Z, reverse=True)(params["backward"], xs, seq_lengths=LENGTHS)
    wanted = join(np.asarray(ahead[1]), np.asarray(back[1]))
    assert_same((carry, ys), (lj.Directions(ahead[0], back[0]), wanted))
    alone = run(Z)(params["backward"], xs[:3, 1:2][::-1])[1][::-1]
    assert_same(back[1][:3, 1:2], alone)


def test_a_reversed_bidirectional_net_swaps_its_walks(rng):
    net = lj.bidirectional(Z)
    params, xs = setup(net, rng)
    swapped = {"forward": params["backward"], "backward": params["forward"]}
    _, seen = run(net, reverse=True)(params, xs)
    _, wanted = run(net)(swapped, xs)
    assert_same(seen, np.concatenate([wanted[..., 3:], wanted[..., :3]], axis=-1))


def test_dense_skips_see_the_inputs_and_show_every_layer(rng):
    net = lj.stack(A, Z, skip="dense")
    params, xs = setup(net, rng)
    _, ys = run(net)(params, xs)
    _, first = run(A)(params["0"], xs)
    _, second = run(Z)(params["1"], np.concatenate([xs, first], axis=-1))
    assert_same(ys, np.concatenate([first, second], axis=-1))


def test_a_residual_net_is_zero_at_padding(rng):
    net = lj.residual(Z)
    params, xs = setup(net, rng, 3)
    _, ys = run(net)(params, xs, seq_lengths=LENGTHS)
    _, inner = run(Z)(params["inner"], xs, seq_lengths=LENGTHS)
    valid = (np.arange(T)[:, None] < LENGTHS)[..., None]
    assert_same(ys, np.where(valid, xs + inner, 0))


def test_a_readout_of_an_embedding(rng):
    net = lj.readout(lj.embedding(A, 7, 5), 6)
    params = registry.random_params(net, None, rng)
    ids = rng.integers(0, 7, (T, B))
    _, ys = run(net)(params, ids, seq_lengths=LENGTHS)
    rows = params["inner"]["e"][ids]
    _, inner = run(A)(params["inner"]["inner"], rows, seq_lengths=LENGTHS)
    valid = (np.arange(T)[:, None] < LENGTHS)[..., None]
    assert_same(ys, np.where(valid, np.asarray(inner) @ params["w"] + params["b"], 0))
    assert np.all(np.isnan(run(net)(params, np.full((T, B), 9))[1]))
    with pytest.raises(ValueError, match="xs: got dtype float64, wanted an integer dtype"):
        lj.unroll(net, params, ids.astype(float))


NETS = [
    lj.stack(lj.bidirectional(A, Z), lj.residual(lj.RNN(7)), dropout=0.2),
    lj.readout(lj.stack(A, Z, skip="dense"), 2),
]


@pytest.mark.parametrize("remat", [None, 64])
def test_gradients_of_many_steps_in_bfloat16(rng, remat):
    """A table's rows and a bias are summed over time in float32: bfloat16 would stand still."""
    net = lj.readout(lj.embedding(Z, 4, D), 2)
    xs = jnp.asarray(rng.integers(0, 4, (2048, B)))
    params = registry.cast(registry.random_params(net, D, rng), "bfloat16")

    def loss(params):
        _, ys = lj.unroll(net, params, xs, remat=remat)
        return jnp.mean(jnp.square(2 + ys.astype("float64")))

    seen, wanted = (
        jax.tree.map(lambda g: np.asarray(g, np.float64), jax.jit(jax.grad(loss))(given))
        for given in (params, registry.cast(params, "float64"))
    )
    for a, b in zip(*map(jax.tree.leaves, (seen, wanted)), strict=True):
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b)


@pytest.mark.parametrize("net", NETS, ids=["deep", "readout"])
def test_carries_of_all_layers_and_steps(net, rng):
    """The last ones are the final carry; the net goes on from them where it left."""
    params, xs = setup(net, rng)
    final, ys = run(net)(params, xs)
    again, carries = run(net, return_carries=True)(params, xs)
    assert_same(again, final)
    last = jax.tree.map(lambda leaf: leaf[-1], carries)
    first = jax.tree.map(lambda leaf: leaf[0], carries)
    if net is NETS[1]:
        assert_same(last, final)
        step, y = jax.jit(net.step)(params, first, xs[1])
        assert_same(y, ys[1])
        assert_same(step, jax.tree.map(lambda leaf: leaf[1], carries))
    else:
        assert_same(last[0].forward, final[0].forward)
        assert_same(first[0].backward, final[0].backward)


@pytest.mark.parametrize("net", NETS, ids=["deep", "readout"])
def test_layouts_and_rematerialisation_change_nothing(net, rng):
    params, xs = setup(net, rng)
    wanted = run(net)(params, xs, seq_lengths=LENGTHS)
    for remat in ("minimal", 2):
        assert_same(run(net, remat=remat)(params, xs, seq_lengths=LENGTHS), wanted)
    carry, ys = run(net, time_major=False)(params, np.swapaxes(xs, 0, 1), seq_lengths=LENGTHS)
    assert_same((carry, jnp.swapaxes(ys, 0, 1)), wanted)


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_between_layers(rng, variational):
    """Through a second layer that shows its inputs: none after the last layer, none without key."""
    shown = lj.RNN(200, "identity")
    net = lj.stack(lj.RNN(200, "identity"), shown, dropout=0.25, variational=variational)
    params, xs = setup(net, rng)
    zero, eye = np.zeros((200, 200)), np.eye(200)
    params["1"] = {"w_ih": eye, "w_hh": zero, "b": np.zeros(200)}
    _, plain = run(net)(params, xs)
    _, dropped = run(net)(params, xs, key=jax.random.key(3))
    kept = np.asarray(dropped) != 0
    assert_same(dropped, np.where(kept, np.asarray(plain) / 0.75, 0))
    assert 0.7 < kept.mean() < 0.8
    assert np.all(kept == kept[:1]) == variational
    _, same = run(net)(params, xs, key=jax.random.key(3))
    assert_same(same, dropped)


def test_which_answers_for_every_cell():
    found = lj.which(lj.stack(A, lj.bidirectional(lj.GRU(3, reset_after=False), Z)))
    assert [w.implementation for w in found] == [registry.FASTEST, "scan", registry.FASTEST]
    with pytest.raises(NotImplementedError, match="fused: GRU"):
        lj.which(lj.stack(A, lj.GRU(3, reset_after=False)), implementation="fused")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lj.stack(), "layers: got none"),
        (lambda: lj.stack("lstm"), "layers: got 'lstm', wanted a cell or a net"),
        (lambda: lj.stack(A, dropout=1.1), r"dropout: got 1.1, wanted a Python number in \[0, 1\]"),
        (lambda: lj.stack(A, skip="all"), "skip: got 'all'"),
        (lambda: lj.stack(lj.bidirectional(A, merge=None), A), "layers: got merge=None"),
        (lambda: lj.bidirectional(A, merge="max"), "merge: got 'max'"),
        (lambda: lj.bidirectional(A, Z, "sum").init(jax.random.key(0), D), "sizes 4 and 3"),
        (lambda: lj.residual(A).init(jax.random.key(0), D), "outputs have size 4; make it 2"),
        (lambda: lj.readout(A, 0), "output_size: got 0"),
        (lambda: lj.embedding(A, 5, -1), "size: got -1"),
        (lambda: lj.zoneout(A, h=1.5), "h: got 1.5"),
        (
            lambda: lj.zoneout(registry.Multiplicative(3), h=0.5),
            "Multiplicative, which defines only step",
        ),
        (lambda: lj.memory_dropout(lj.RNN(3), 0.1), "cell: got RNN, wanted a plain cell that has"),
        (lambda: lj.clip_state(A, c=0.0), "c: got 0.0"),
        (lambda: lj.clip_cotangents(A, -1.0), "limit: got -1.0"),
        (lambda: lj.recurrent_dropout(lj.GRU(3, reset_after=False), 0.1), "does not factor"),
        (lambda: lj.recurrent_dropout(lj.LSTM(4, heads=2), 0.1, True), "per_gate: got True"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_and_carries_of_another_net_are_refused(rng):
    net = lj.stack(A, Z)
    params, xs = setup(net, rng)
    with pytest.raises(ValueError, match="params: got leaves"):
        lj.unroll(net, {"0": params["0"]}, xs)
    with pytest.raises(ValueError, match="carry: got"):
        lj.unroll(net, params, xs, A.initial_carry(params["0"], (B,)))
    with pytest.raises(ValueError, match="params: got"):
        net.step(params["0"], net.initial_carry(params, (B,)), xs[0])


# ---- wrappers ------------------------------------------------------------------------------------
def test_zoneout_keeps_units_and_expects_their_mean(rng):
    """One step, against the cell's own: p * old + (1 - p) * new, or with a key old or new."""
    net = lj.zoneout(A, h=0.3, c=0.6)
    params, xs = setup(net, rng)
    carry = registry.random_carry(net, params, (B,), rng)
    (new, _), (seen, _) = (run(n)(params, xs[:1], carry=carry) for n in (A, net))
    for leaf, rate in (("h", 0.3), ("c", 0.6)):
        old, cells = getattr(carry, leaf), getattr(new, leaf)
        assert_same(getattr(seen, leaf), rate * old + (1 - rate) * cells)
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.jit(jax.vmap(lambda key: lj.unroll(net, params, xs[:1], carry, key=key)[0]))
    drawn = draw(keys)
    for leaf, rate in (("h", 0.3), ("c", 0.6)):
        kept = np.isclose(np.asarray(getattr(drawn, leaf)), getattr(carry, leaf), atol=1e-12)
        assert kept.mean() == pytest.approx(rate, abs=0.02)


def test_recurrent_dropout_draws_one_mask_a_sequence(rng):
    """u_t / h_{t-1} is the same at every step, and differs between sequences."""
    cell = lj.RNN(50, "identity", bias=False)
    params = {"w_ih": np.zeros((D, 50)), "w_hh": np.eye(50)}
    carry = lj.State(np.ones((B, 50)))
    net, key = lj.recurrent_dropout(cell, 0.5), jax.random.key(1)
    _, ys = lj.unroll(net, params, np.zeros((T, B, D)), carry, key=key)
    kept = np.asarray(ys[0]) != 0
    assert_same(ys, np.where(kept, 2.0 ** np.arange(1, T + 1)[:, None, None], 0))
    assert 0.3 < kept.mean() < 0.7 and not np.array_equal(kept[0], kept[1])


def test_weight_drop_and_input_dropout_scale_what_is_left(rng):
    cell = lj.RNN(30, "identity", bias=False)
    params = {"w_ih": np.eye(30), "w_hh": np.ones((30, 30))}
    xs = np.ones((T, B, 30))
    _, ys = lj.unroll(
        lj.input_dropout(cell, 0.2),
        {**params, "w_hh": np.zeros((30, 30))},
        xs,
        key=jax.random.key(0),
    )
    kept = np.asarray(ys) != 0
    assert_same(ys, np.where(kept, 1.25, 0))
    assert np.array_equal(kept, np.broadcast_to(kept[:1], kept.shape))
    carry = lj.State(np.eye(30)[:3])
    _, ys = lj.unroll(lj.weight_drop(cell, 0.2), params, 0 * xs, carry, key=jax.random.key(0))
    assert set(np.unique(np.asarray(ys[0]))) <= {0.0, 1.25}


@pytest.mark.grid
def test_memory_dropout_leaves_what_is_remembered(rng):
    """c_t = f c_{t-1} + i g m: with f, i known, c without the mask and m give the one with it."""
    cell = lj.LSTM(60, forget_gate=False, input_gate=False)
    params, xs = setup(cell, rng)
    params["w_hh"] = np.zeros_like(params["w_hh"])
    plain = np.diff(run(cell, return_carries=True)(params, xs)[1].c, axis=0, prepend=0)
    for variational in (False, True):
        net = lj.memory_dropout(cell, 0.25, variational)
        _, carries = lj.unroll(net, params, xs, key=jax.random.key(0), return_carries=True)
        written = np.diff(carries.c, axis=0, prepend=0)
        kept = np.abs(written) > 1e-12
        np.testing.assert_allclose(written, np.where(kept, plain / 0.75, 0), atol=1e-12)
        assert 0.65 < kept.mean() < 0.85  # 180 draws or more: 3 standard deviations
        assert np.all(kept == kept[:1]) == variational


def test_clipped_state_and_cotangents(rng):
    cell = lj.RNN(3, "identity", bias=False)
    params = {"w_ih": np.eye(3), "w_hh": 2 * np.eye(3)}
    xs, carry = np.ones((T, B, 3)), lj.State(np.zeros((B, 3)))
    _, ys = lj.unroll(lj.clip_state(cell, h=4.0), params, xs, carry)
    assert_same(ys[:, 0, 0], np.array([1, 3, 4, 4, 4.0]))
    net = lj.clip_cotangents(cell, 3.0)
    pull = jax.jit(jax.grad(lambda xs: jnp.sum(lj.unroll(net, params, xs, carry)[0].h)))
    assert_same(pull(xs)[:, 0, 0], np.array([3, 3, 3, 2, 1.0]))


def test_a_learned_start_is_where_sequences_and_episodes_begin(rng):
    net = lj.learned_start(A)
    params, xs = setup(net, rng)
    resets = np.zeros((T, B), bool)
    resets[2] = True
    _, ys = run(net)(params, xs, resets=resets)
    _, wanted = run(net)(params, xs[2:])
    assert_same(ys[2:], wanted)
    zeros = {name: leaf for name, leaf in params.items() if not name.startswith("start")}
    assert np.abs(np.asarray(run(A)(zeros, xs)[1]) - ys).max() > 1e-3
    gradient = jax.jit(jax.grad(lambda p: lj.unroll(net, p, xs)[1].sum()))(params)
    assert np.all(np.asarray(gradient["start_c"]))
