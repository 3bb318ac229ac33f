"""`decode` is a loop of steps, whose last output is the next input, forced, drawn and stopped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lstm_jax as lj

T, B, N = 5, 3, 4
SYMBOLS = lj.embedding(lj.readout(lj.GRU(3), N), N, 2)
NUMBERS = lj.stack(lj.dense(3), jnp.tanh, lj.LSTM(3), lj.dense(2))


def greedy(y, key):
    del key
    return jnp.argmax(y, axis=-1)


def sampled(y, key):
    return jax.random.categorical(key, y)


def problem(net, rng, batch=(B,)):
    """(params, carry, first, targets)"""
    params = registry.random_params(net, 2, rng)
    carry = registry.random_carry(net, params, batch, rng)
    if net.input_ndim:
        first, targets = rng.standard_normal((*batch, 2)), rng.standard_normal((T, *batch, 2))
    else:
        first, targets = rng.integers(0, N, batch), rng.integers(0, N, (T, *batch))
    return params, carry, first, targets


def by_hand(net, params, carry, x, feed=None, keys=None, forced=(), targets=()):
    """(carry, ys, fed), step by step."""
    ys, fed = [], []
    for t in range(T):
        carry, y = net.step(params, carry, x)
        x = y if feed is None else feed(y, None if keys is None else keys[t])
        if len(forced):
            x = jnp.where(jnp.reshape(forced[t], (-1,) + (1,) * (x.ndim - 1)), targets[t], x)
        ys.append(y)
        fed.append(x)
    return carry, jnp.stack(ys), jnp.stack(fed)


@functools.cache
def run(net, **options):
    """Compiled, with these static options."""
    return jax.jit(lambda params, carry, first, **more: lj.decode(
        net, params, carry, first, T, **options, **more))  # fmt: skip


# ---- the loop ------------------------------------------------------------------------------------
@pytest.mark.sampled
@pytest.mark.parametrize("batch", [(B,), (), (2, 1)], ids=str)
def test_symbols_drawn_from_the_last_output(batch, rng, x64):
    params, carry, first, _ = problem(SYMBOLS, rng, batch)
    key = jax.random.key(3)
    final, out = run(SYMBOLS, feed=sampled)(params, carry, first, key=key)
    wanted = by_hand(SYMBOLS, params, carry, first, sampled, jax.random.split(key, T))
    registry.assert_close((final, out.ys, out.fed), wanted, 1e-12)
    assert out.fed.shape == (T, *batch) and np.all(out.valid) and out.valid.shape == (T, *batch)
    final, out = run(SYMBOLS, feed=greedy)(params, carry, first)
    wanted = by_hand(SYMBOLS, params, carry, first, greedy)
    registry.assert_close((final, out.ys, out.fed), wanted, 1e-12)


def test_outputs_fed_back_and_their_gradient(rng, x64):
    """Of the parameters, the carry and the first input, through every output that came back."""
    params, carry, first, _ = problem(NUMBERS, rng)

    def loss(decoded):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(decoded))

    def seen(*point):
        final, out = lj.decode(NUMBERS, *point, T)
        return loss((final, out.ys, out.fed))

    def wanted(*point):
        return loss(by_hand(NUMBERS, *point))

    point, axes = (params, carry, first), (0, 1, 2)
    seen, wanted = (jax.jit(jax.value_and_grad(f, argnums=axes))(*point) for f in (seen, wanted))
    registry.assert_close(seen, wanted, 1e-10)


def test_a_cell_runs_on_its_own_state_from_its_own_start(rng, x64):
    cell = lj.learned_start(lj.LSTM(2))
    params, _, first, _ = problem(cell, rng)
    final, out = lj.decode(cell, params, None, first, T)
    wanted = by_hand(cell, params, cell.initial_carry(params, (B,)), first)
    registry.assert_close((final, out.ys, out.fed), wanted, 1e-12)
    final, out = lj.decode(cell, params, None, first, 0)
    registry.assert_close(final, cell.initial_carry(params, (B,)), 0)
    assert out.ys.shape == (0, B, 2)


# ---- teacher forcing -----------------------------------------------------------------------------
@pytest.mark.sampled
@pytest.mark.parametrize("net", [SYMBOLS, NUMBERS], ids=["symbols", "numbers"])
def test_forced_everywhere_it_is_unroll_over_the_shifted_targets(net, rng, x64):
    params, carry, first, targets = problem(net, rng)
    feed = None if net.input_ndim else greedy

    def value(params, decoded):
        return jnp.sum(jnp.sin(decoded(params)))

    def ys(params):
        return lj.decode(net, params, carry, first, T, feed=feed, targets=targets)[1].ys

    def unrolled(params):
        shifted = jnp.concatenate([jnp.asarray(first)[None], targets[:-1]])
        return lj.unroll(net, params, shifted, carry)[1]

    seen, wanted = (
        jax.jit(jax.value_and_grad(functools.partial(value, decoded=f)))(params)
        for f in (ys, unrolled)
    )
    registry.assert_close(seen, wanted, 1e-10)


def test_a_traced_probability_draws_for_each_sequence_and_step(rng, x64):
    params, carry, first, targets = problem(NUMBERS, rng, (200,))
    scheduled = functools.partial(run(NUMBERS), params, carry, first, targets=targets)
    key = jax.random.key(0)
    shares = {}
    for p in (0.0, 0.3, 1.0):
        final, out = scheduled(forcing=p, key=key)
        forced = np.all(np.asarray(out.fed) == targets, axis=-1)
        shares[p] = forced.mean()
        wanted = by_hand(NUMBERS, params, carry, first, forced=forced, targets=targets)
        registry.assert_close((final, out.ys, out.fed), wanted, 1e-12)
    assert shares == {0.0: 0.0, 0.3: pytest.approx(0.3, abs=0.05), 1.0: 1.0}
    assert forced.std(axis=1).max() == 0.0  # of the last, which forces all
    again = scheduled(forcing=0.3, key=key)[1].fed
    registry.assert_close(again, scheduled(forcing=jnp.full(T, 0.3), key=key)[1].fed, 0)


def test_bool_and_probabilities_of_zero_and_one_need_no_key(rng, x64):
    """Force the first steps, then go on alone; also as an argument of a compiled function."""
    params, carry, first, targets = problem(SYMBOLS, rng)
    where = np.arange(T) < 2
    wanted = by_hand(SYMBOLS, params, carry, first, greedy, None, where, targets)
    decode = run(SYMBOLS, feed=greedy)
    for forcing in (where, np.broadcast_to(where[:, None], (T, B))):
        final, out = decode(params, carry, first, targets=targets, forcing=forcing)
        registry.assert_close((final, out.ys, out.fed), wanted, 1e-12)
    options = {"feed": greedy, "targets": targets, "forcing": where.astype(float)}
    final, out = lj.decode(SYMBOLS, params, carry, first, T, **options)
    registry.assert_close((final, out.ys, out.fed), wanted, 1e-12)


# ---- the end of a sequence -----------------------------------------------------------------------
def test_a_sequence_stops_after_its_symbol(rng, x64):
    params, carry, first, _ = problem(SYMBOLS, rng, (40,))
    stop = lambda x: x == 1  # noqa: E731
    final, out = run(SYMBOLS, feed=greedy, stop=stop)(params, carry, first)
    _, whole = run(SYMBOLS, feed=greedy)(params, carry, first)
    ended = np.asarray(whole.fed) == 1
    before = np.cumsum(ended, axis=0) - ended
    assert np.array_equal(out.valid, before == 0) and 0 < np.mean(out.valid) < 1
    registry.assert_close(out.ys, np.where((before == 0)[..., None], whole.ys, 0), 1e-12)
    assert np.array_equal(out.fed, np.where(before == 0, whole.fed, 0))
    lengths = np.sum(out.valid, axis=0)
    for b in (int(lengths.argmin()), int(lengths.argmax())):
        one = jax.tree.map(lambda leaf, b=b: leaf[b], carry)
        wanted, _ = lj.decode(SYMBOLS, params, one, first[b], int(lengths[b]), feed=greedy)
        registry.assert_close(jax.tree.map(lambda leaf, b=b: leaf[b], final), wanted, 1e-12)


def test_what_comes_after_the_end_reaches_no_gradient(rng, x64):
    """Both end after the first step; what they would be fed later overflows to infinity."""
    net = lj.RNN(1, "identity")
    params = {"w_ih": np.full((1, 1), 1.0), "w_hh": np.zeros((1, 1)), "b": np.zeros(1)}
    feed = lambda y, key: jnp.exp(5 * jnp.exp(5 * y)) - 1  # noqa: E731
    stop = lambda x: x[..., 0] > 1.0  # noqa: E731
    first = np.array([[0.5], [0.6]])

    def loss(params):
        _, out = lj.decode(net, params, None, first, 50, feed=feed, stop=stop)
        return jnp.sum(out.ys), out

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert np.array_equal(np.sum(out.valid, axis=0), [1, 1])
    registry.assert_close(grads["w_ih"], first.sum(axis=0, keepdims=True), 1e-12)


# ---- transformations and dtypes ------------------------------------------------------------------
def test_vmap_over_networks_and_keys(rng, x64):
    points = [problem(SYMBOLS, rng) for _ in range(2)]
    keys = jax.random.split(jax.random.key(0), 2)
    params, carry, first, _ = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)

    def one(params, carry, first, key):
        return run(SYMBOLS, feed=sampled)(params, carry, first, key=key)

    seen = jax.jit(jax.vmap(one))(params, carry, first, keys)
    for n, (params, carry, first, _) in enumerate(points):
        wanted = one(params, carry, first, keys[n])
        registry.assert_close(jax.tree.map(lambda leaf, n=n: leaf[n], seen), wanted, 1e-12)


def test_functions_may_close_over_traced_values(rng, x64):
    params, carry, first, _ = problem(NUMBERS, rng)

    def loss(a):
        feed = lambda y, key: a * y  # noqa: E731
        return jnp.sum(lj.decode(NUMBERS, params, carry, first, T, feed=feed)[1].ys)

    def wanted(a):
        return jnp.sum(by_hand(NUMBERS, params, carry, first, lambda y, key: a * y)[1])

    for a in (0.5, 2.0):
        seen = jax.value_and_grad(loss)(a)
        registry.assert_close(seen, jax.value_and_grad(wanted)(a), 1e-10)


def test_it_compiles_once(rng):
    params, carry, first, targets = problem(SYMBOLS, rng)
    given = {"feed": sampled, "targets": targets}
    before = lj._decode._jitted._cache_size()
    for seed in range(3):
        key, forcing = jax.random.key(seed), 0.1 + 0.2 * seed
        lj.decode(SYMBOLS, params, carry, first, T, key=key, forcing=forcing, **given)
    assert lj._decode._jitted._cache_size() == before + 1


def test_sums_of_gradients_in_bfloat16_are_in_float32(rng):
    """The gradient of a bias is a sum over all steps, of which bfloat16 would lose the small."""
    net = lj.readout(lj.RNN(2), 2)
    params = jax.tree.map(np.zeros_like, net.init(jax.random.key(0), 2))

    def loss(params):
        _, out = lj.decode(net, params, None, jnp.zeros(2, params["b"].dtype), 2048)
        return jnp.sum(out.ys.astype("float32"))

    seen = jax.jit(jax.grad(loss))(registry.cast(params, "bfloat16"))
    assert seen["b"].dtype == "bfloat16" and np.all(np.asarray(seen["b"], float) == 2048)


CASES = {n: c for n, c in registry.EVERY.items() if n not in (*registry.SPATIAL, "bidirectional")}


@pytest.mark.grid
@pytest.mark.parametrize("name", [name for name in CASES if name != "deep"])
def test_every_cell_and_net_by_types(name, x64):
    """Parameters, inputs and carries of different widths keep their dtypes over the loop."""
    net = CASES[name].make(registry.GROUPS)
    check_types(net, "float32", "float64", None)
    check_types(net, "bfloat16", "float32", "float32")


def check_types(net, width, inputs, carried):
    def typed(tree, dtype):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)

    params = typed(jax.eval_shape(lambda key: net.init(key, 2), jax.random.key(0)), width)
    kept = jax.eval_shape(lambda p: net.initial_carry(p, (B,)), params)
    start = typed(kept, carried) if carried else kept
    feed = lambda y, key: y[..., :2] + y[..., -2:]  # noqa: E731
    stop = lambda x: x[..., 0] > 0  # noqa: E731
    decode = functools.partial(lj.decode, net, steps=T, feed=feed, stop=stop)
    first = jax.ShapeDtypeStruct((B, 2), inputs)
    final, out = jax.eval_shape(lambda *point: decode(*point), params, start, first)
    assert final == kept and out.fed.dtype == inputs and out.valid.dtype == bool


@pytest.mark.sampled
@pytest.mark.parametrize("kind", [AxisType.Explicit, None], ids=str)
def test_eight_devices_are_one(kind, rng):
    params, carry, first, targets = registry.cast(problem(NUMBERS, rng, (8,)), "float32")
    stop = lambda x: x[..., 0] > 1  # noqa: E731

    def decode(params, carry, first, targets):
        given = {"targets": targets, "forcing": 0.5, "key": jax.random.key(0), "stop": stop}
        return lj.decode(NUMBERS, params, carry, first, T, **given)

    if kind is None:  # Each device draws the same; so all is forced.
        over = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        forced = functools.partial(lj.decode, NUMBERS, steps=T, stop=stop)
        in_specs = P(), P("data"), P("data"), P(None, "data")
        out_specs = P("data"), lj.Decoded(*(P(None, "data"),) * 3)
        run = lambda p, c, x, t: forced(p, c, x, targets=t)  # noqa: E731
        sharded = jax.shard_map(run, mesh=over, in_specs=in_specs, out_specs=out_specs)
        seen = jax.jit(sharded)(params, carry, first, targets)
        registry.assert_close(seen, jax.jit(run)(params, carry, first, targets), 1e-5)
        return
    over = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(over):
        split = jax.device_put((carry, first), NamedSharding(over, P("data")))
        aims = jax.device_put(targets, NamedSharding(over, P(None, "data")))
        whole = jax.device_put(params, NamedSharding(over, P()))
        seen = jax.jit(decode)(whole, *split, aims)
    registry.assert_close(seen, jax.jit(decode)(params, carry, first, targets), 1e-5)


# ---- errors --------------------------------------------------------------------------------------
BOTH = lj.bidirectional(lj.GRU(2))
TWO_WAYS = {"net": BOTH, "params": registry.random_params(BOTH, 2, np.random.default_rng(0))}
TWO_WAYS |= {"first": np.zeros((B, 2)), "carry": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": "lstm"}, "net: got 'lstm', wanted a cell or a net"),
        (TWO_WAYS, "net: got Bidirectional, wanted one whose step needs no later input"),
        ({"steps": -1}, "steps: got -1"),
        ({"first": np.zeros(B, "float32")}, "first: got dtype float32, wanted an integer dtype"),
        ({"feed": None}, "feed: got dtype float32 and shape .*wanted the next input, of dtype int"),
        ({"feed": lambda y: y}, "feed: got a function that does not take 2 arguments"),
        ({"stop": lambda x: x}, "stop: got dtype int32, wanted|stop: got dtype int64, wanted"),
        ({"stop": lambda x: jnp.any(x == 1)}, "stop: got shape"),
        ({"targets": np.zeros((T - 1, B), int)}, "targets: got shape"),
        ({"targets": np.zeros((T, B), "float32")}, "targets: got dtype float32, wanted an integer"),
        ({"forcing": 0.5}, "forcing: got 0.5, wanted none without targets"),
        (
            {"targets": np.zeros((T, B), int), "forcing": 1.5},
            "forcing: got values from 1.5 to 1.5, wanted prob",
        ),
        ({"targets": np.zeros((T, B), int), "forcing": np.ones(B)}, "forcing: got shape"),
        ({"targets": np.zeros((T, B), int), "forcing": 0.5}, "key: got None, wanted a key, from"),
        ({"targets": np.zeros((T, B), int), "forcing": 1j}, "forcing: got dtype complex128"),
        ({"feed": sampled}, "feed: got TypeError .*key=None.*; pass key="),
        ({"key": 3}, "key: got 3"),
        ({"carry": lj.LSTMState(np.zeros(3), np.zeros(3))}, "carry: got"),
        ({"params": {}}, "params: got"),
    ],
)
def test_what_cannot_be_is_refused(change, message, rng):
    params, carry, first, _ = problem(SYMBOLS, rng)
    given = {"net": SYMBOLS, "params": params, "carry": carry, "first": first, "steps": T}
    with pytest.raises(ValueError, match=message):
        lj.decode(**given | {"feed": greedy} | change)
