"""Training: steps and loops against hand-written ones, truncation exact to the step, the log."""

import functools
import json
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import losses, optim, train
from lstm_jax.data import Adding, text

pytestmark = pytest.mark.sampled

T, B, D, H, K1 = 12, 2, 3, 4, 3


# ------------------------------------------------------------------------- two small problems


def line(rng):
    """Parameters of a linear model, for what does not depend on the model."""
    return {"w": jnp.asarray(rng.standard_normal((D, 1)), jnp.float32), "b": jnp.zeros((1,))}


def sample(key):
    """xs [B, D] and their sums [B, 1]."""
    xs = jax.random.uniform(key, (B, D), jnp.float32)
    return xs, jnp.sum(xs, axis=1, keepdims=True)


def line_loss(params, batch):
    xs, targets = batch
    return squared(xs @ params["w"] + params["b"][None], targets)


def loss_and_aux(params, batch):
    value = line_loss(params, batch)
    return value, {"small": value < 1}


def network(rng):
    """Float64 parameters of a tanh network and its readout."""
    shapes = {"w_ih": (D, H), "w_hh": (H, H), "b": (H,)}
    cell = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    return {"cell": cell, "readout": jnp.asarray(rng.standard_normal((H, 1)))}


def apply(params, carry, xs, mask):
    carry, ys = lj.unroll(lj.RNN(H), params["cell"], xs, carry, mask=mask)
    return carry, ys @ params["readout"]


def squared(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets))


def squared_and_outputs(outputs, targets):
    return squared(outputs, targets), outputs


TX = optim.clipped_sgd(0.1, momentum=0.9)
LOOP = train.make_loop(loss_and_aux, TX, sample, 6, has_aux=True)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-12, atol=1e-14):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, a, b)


def traces(function):
    """`function`, and the list that grows by one whenever it is traced."""
    seen = []

    @functools.wraps(function)
    def counted(*args):
        seen.append(1)
        return function(*args)

    return counted, seen


# ------------------------------------------------------------------------- one step


def test_a_step_is_the_optimisers(key, rng):
    params, batch = line(rng), sample(key)
    state, info = jax.jit(train.make_step(line_loss, TX))(train.create(params, TX), batch)
    value, grads = jax.value_and_grad(line_loss)(params, batch)
    updates, opt_state = jax.jit(TX.update)(grads, TX.init(params), params)
    assert_close(state.params, optax.apply_updates(params, updates), 1e-5, 1e-6)
    assert state.step.dtype == jnp.int32 and state.step == 1
    np.testing.assert_allclose(info["loss"], value, rtol=1e-6)
    wanted = optim.report(opt_state)
    assert set(info) == {"loss", *wanted}
    np.testing.assert_allclose(info["norm_before"], wanted["norm_before"], rtol=1e-5)


@pytest.mark.parametrize(
    ("tx", "reported"),
    [
        (optim.clipped_sgd(0.1), True),
        (optax.chain(optax.clip(1.0), optim.clipped_sgd(0.1)), True),
        (optax.apply_if_finite(optim.clipped_sgd(0.1), 3), True),
        (optax.sgd(0.1), False),
        (optax.chain(optim.clipped_sgd(1.0), optim.clipped_sgd(0.1)), False),
    ],
)
def test_the_report_comes_from_wherever_the_one_clipped_sgd_is(tx, reported):
    state = train.create({"w": jnp.ones(3)}, tx)
    step = jax.jit(train.make_step(lambda p: 100 * jnp.sum(jnp.square(p["w"])), tx))
    _, info = step(state)
    assert ("clip_rate" in info) == reported
    if reported:
        assert info["clip_rate"] == 1 and info["skipped"] == 0
        assert "aux" not in info


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_optimisers_that_mix_dtypes_run_under_strict_promotion(dtype):
    tx = optax.adam(0.5)
    step = train.make_step(lambda w: jnp.sum(jnp.square(w)), tx)
    state = train.create(jnp.full(2, 2.0, dtype), tx)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s), s, None, 2))(state)
    assert state.params.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(state.params.astype(jnp.float32), 1.0, rtol=0.02)


def test_a_step_passes_on_what_the_loss_returns_besides():
    state = train.create(jnp.array([2.0]), TX)
    step = train.make_step(lambda w, x, y: (jnp.sum(x * w), {"twice": 2 * y}), TX, has_aux=True)
    state, info = jax.jit(step)(state, jnp.ones(1), 3.0)
    assert info["loss"] == 2 and info["aux"] == {"twice": 6.0}
    assert state.step == 1


def test_a_skipped_update_counts_as_a_step_and_says_so():
    state = train.create(jnp.array([2.0]), TX)
    state, info = jax.jit(train.make_step(lambda w: jnp.sum(w) * jnp.nan, TX))(state)
    assert state.params == 2 and state.step == 1
    assert info["skipped"] == 1 and np.isnan(info["loss"])


def test_create_copies_and_types_what_it_is_given():
    mine = {"w": jnp.ones(2), "scale": 0.5, "n": np.ones(2, np.float16)}
    state = train.create(mine, optax.sgd(0.1))
    assert state.params["w"] is not mine["w"]
    assert state.params["scale"].dtype == jnp.float32
    assert not state.params["scale"].weak_type
    assert state.params["n"].dtype == jnp.float16


# ------------------------------------------------------------------------- a loop of steps


def test_a_loop_is_its_steps_one_by_one(key, rng):
    state = train.create(line(rng), TX)
    got, history = LOOP(state, key)
    step = jax.jit(train.make_step(loss_and_aux, TX, has_aux=True))
    infos = []
    for n in range(6):
        state, info = step(state, sample(jax.random.fold_in(key, n)))
        infos.append(info)
    assert_close(got, state, 1e-5, 1e-6)
    assert_close(history, jax.tree.map(lambda *values: np.stack(values), *infos), 1e-5, 1e-6)
    assert history["loss"].shape == (6,)
    assert len(set(history["loss"].tolist())) == 6  # another batch every step


@pytest.mark.parametrize("sizes", [(3, 3), (4, 2), (1, 4, 1)])
def test_a_loop_cut_anywhere_gives_the_same_bits(key, rng, sizes):
    state = train.create(line(rng), TX)
    whole, history = LOOP(state, key)
    parts = []
    for size in sizes:
        state, part = LOOP(state, key, size)
        parts.append(part)
    assert_same_bits(state, whole)
    assert_same_bits(jax.tree.map(lambda *p: np.concatenate(p), *parts), history)


def test_a_loop_is_traced_once(key, rng):
    loss, seen = traces(line_loss)
    run = train.make_loop(loss, TX, sample, 2)
    state, _ = run(train.create(line(rng), TX), key)
    first = len(seen)
    run(state, jax.random.fold_in(key, 1))
    run(train.create(line(rng), TX), key, steps=2)
    assert len(seen) == first


@pytest.mark.grid
def test_a_loop_over_seeds_is_each_alone(x64, key, rng):
    tx = optim.clipped_sgd(0.3, max_norm=0.5)
    keys = jax.random.split(key, 3)

    def loss(params, xs):
        outputs = apply(params, lj.RNNState(jnp.zeros((B, H))), xs, None)[1]
        return squared(outputs[-1], jnp.sum(xs, axis=(0, 2))[:, None])

    def draw(key):
        return jax.random.uniform(key, (5, B, D), jnp.float64)

    def one(params, key):
        return run(train.create(params, tx), key)

    run = train.make_loop(loss, tx, draw, 5)
    params = [network(rng) for _ in keys]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    states, histories = jax.jit(jax.vmap(one, out_axes=(0, 1)))(stacked, keys)
    assert histories["loss"].shape == (5, 3)
    for s, seed in enumerate(keys):
        state, history = one(params[s], seed)
        assert_close(jax.tree.map(lambda leaf, s=s: leaf[s], states), state, 1e-11)
        float32s = jax.tree.map(lambda leaf, s=s: leaf[:, s], histories)
        np.testing.assert_allclose(float32s.pop("loss"), history.pop("loss"), rtol=1e-11)
        assert_close(float32s, history, 1e-6)


def test_a_donated_state_is_used_up_and_yours_is_not(key, rng):
    params = line(rng)
    state = train.create(params, TX)
    keep, _ = LOOP(state, key)
    got, _ = train.make_loop(loss_and_aux, TX, sample, 6, has_aux=True, donate=True)(state, key)
    assert_same_bits(got, keep)
    assert state.params["w"].is_deleted()
    assert not params["w"].is_deleted()


@pytest.mark.grid
def test_a_loop_learns_the_adding_task(key):
    task = Adding(10)
    cell = lj.LSTM(16)
    params = {"cell": cell.init(key, task.input_size), "out": jnp.zeros((16, 1))}

    def loss(params, batch):
        return task.loss(lj.unroll(cell, params["cell"], batch.xs)[1] @ params["out"], batch)

    tx = optim.clipped_sgd(0.1, momentum=0.9)
    run = train.make_loop(loss, tx, lambda key: task.sample(key, 32), 800)
    _, history = run(train.create(params, tx), key)
    assert history["loss"][-50:].mean() < 0.3 * task.baseline


@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_a_loop_checks_its_steps(steps, key, rng):
    with pytest.raises(ValueError, match="steps: got .*, wanted an integer of at least 1; pass"):
        train.make_loop(line_loss, TX, sample, steps)
    with pytest.raises(ValueError, match="steps: got"):
        LOOP(train.create(line(rng), TX), key, steps)


# ------------------------------------------------------------------------- truncation


@pytest.fixture
def stream(x64, rng):
    """(params, carry, inputs [T, B, D], targets [T, B, 1]) in float64."""
    inputs, targets, h = (
        jnp.asarray(rng.standard_normal(shape)) for shape in ((T, B, D), (T, B, 1), (B, H))
    )
    return network(rng), lj.RNNState(h), inputs, targets


FROZEN = optax.set_to_zero()
SGD = optax.sgd(0.3)


def test_one_window_of_everything_is_full_bptt(stream):
    params, carry, inputs, targets = stream
    run = train.make_tbptt(apply, squared, optax.sgd(1.0), k1=T, k2=T)
    state, end, history = run(train.create(params, optax.sgd(1.0)), carry, inputs, targets)

    def full(params):
        last, outputs = apply(params, carry, inputs, None)
        return squared(outputs, targets), last

    (value, last), grads = jax.jit(jax.value_and_grad(full, has_aux=True))(params)
    moved = jax.tree.map(np.subtract, *jax.device_get((params, state.params)))
    assert_close(moved, grads, 1e-11)
    np.testing.assert_allclose(history["loss"], value[None], rtol=1e-13)
    assert_close(end, last)


@pytest.mark.parametrize("k2", [3, 4, 8, 20])
def test_outputs_and_carries_are_those_of_one_long_unroll(stream, k2):
    params, carry, inputs, targets = stream
    run = train.make_tbptt(apply, squared_and_outputs, FROZEN, k1=K1, k2=k2, has_aux=True)
    state, end, history = run(train.create(params, FROZEN), carry, inputs, targets)
    last, outputs = apply(params, carry, inputs, None)
    assert_close(history["aux"].reshape(outputs.shape), outputs)
    assert_close(end if k2 == K1 else end.carry, last)
    assert_same_bits(state.params, params)
    assert state.step == T // K1


@pytest.mark.parametrize("k2", [3, 5])
def test_the_gradient_stops_exactly_at_the_windows_start(stream, k2):
    params, carry, inputs, targets = stream
    run = train.make_tbptt(apply, squared, FROZEN, k1=K1, k2=k2)
    state = train.create(params, FROZEN)

    def by_window(inputs, carry):
        return run(state, carry, inputs, targets)[2]["loss"]

    by_inputs, by_carry = jax.jit(jax.jacrev(by_window, argnums=(0, 1)))(inputs, carry)
    assert not np.any(by_carry.h)
    by_inputs, inputs, targets = jax.device_get((by_inputs, inputs, targets))
    for n in range(T // K1):
        end = (n + 1) * K1
        start = max(end - k2, 0)
        held = apply(params, carry, inputs[:start], None)[0] if start else carry

        def window(xs, held=held, end=end):
            return squared(apply(params, held, xs, None)[1][-K1:], targets[end - K1 : end])

        assert not np.any(by_inputs[n, :start])
        assert not np.any(by_inputs[n, end:])
        wanted = jax.jit(jax.grad(window))(inputs[start:end])
        assert np.abs(wanted).min() > 0
        np.testing.assert_allclose(by_inputs[n, start:end], wanted, rtol=1e-10, atol=1e-15)


def by_hand(params, carry, inputs, targets, k2):
    """The windows in a Python loop over slices; the carries kept step by step in a list."""
    kept = {0: carry}
    losses = []
    for end in range(K1, T + 1, K1):
        start = max(end - k2, 0)

        def window(params, start=start, end=end, first=kept[start]):
            outputs, carries, carry = [], {}, first
            for t in range(start, end):
                carry, y = lj.RNN(H).step(params["cell"], carry, inputs[t])
                carries[t + 1] = carry
                outputs.append(y @ params["readout"])
            return squared(jnp.stack(outputs[-K1:]), targets[end - K1 : end]), carries

        (value, carries), grads = jax.value_and_grad(window, has_aux=True)(params)
        # Steps that were run again have newer carries, and later windows start from those.
        kept |= carries
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
        losses.append(value)
    return params, kept, jnp.stack(losses)


@pytest.mark.parametrize("k2", [3, 7])
def test_windows_are_those_of_a_loop_written_by_hand(stream, k2):
    run = train.make_tbptt(apply, squared, SGD, k1=K1, k2=k2)
    params, carry, inputs, targets = stream
    state, end, history = run(train.create(params, SGD), carry, inputs, targets)
    params, kept, losses = jax.jit(by_hand, static_argnums=4)(*stream, k2)
    assert_close(history["loss"], losses)
    assert_close(state.params, params)
    if k2 == K1:
        assert_close(end, kept[T])
    else:
        assert_close((end.carry, end.start), (kept[T], kept[T - (k2 - K1)]))
        np.testing.assert_array_equal(end.inputs, inputs[T - (k2 - K1) :])


@pytest.mark.parametrize("k2", [3, 5, 11])
def test_a_stream_in_two_calls_is_as_in_one(stream, k2):
    params, carry, inputs, targets = stream
    run = train.make_tbptt(apply, squared, SGD, k1=K1, k2=k2)
    start = train.create(params, SGD)
    whole = run(start, carry, inputs, targets)
    state, middle, head = run(start, carry, inputs[:6], targets[:6])
    state, end, tail = run(state, middle, inputs[6:], targets[6:])
    assert_close((state, end), whole[:2])
    assert_close(jnp.concatenate([head["loss"], tail["loss"]]), whole[2]["loss"])


def test_the_mask_marks_the_steps_before_the_stream(stream):
    params, carry, inputs, targets = stream
    masks = []

    def spying(params, carry, xs, mask):
        jax.debug.callback(lambda m: masks.append(np.asarray(m)[:, 0]), mask, ordered=True)
        return apply(params, carry, xs, mask)

    run = train.make_tbptt(spying, squared, FROZEN, k1=K1, k2=7)
    _, end, _ = run(train.create(params, FROZEN), carry, inputs[:6], targets[:6])
    jax.effects_barrier()
    windows = [
        np.concatenate(pair).astype(int).tolist()
        for pair in zip(masks[::2], masks[1::2], strict=True)
    ]
    assert windows == [[0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]
    assert end.mask.all() and end.mask.shape == (4, B)


def test_a_call_of_windows_is_traced_once(stream):
    params, carry, inputs, targets = stream
    loss, seen = traces(squared)
    run = train.make_tbptt(apply, loss, SGD, k1=K1, k2=5)
    state, carry, _ = run(train.create(params, SGD), carry, inputs, targets)
    first = len(seen)
    run(*run(state, carry, inputs, targets)[:2], inputs, targets)
    assert len(seen) == first


def test_streams_of_characters_go_on_from_call_to_call(key):
    vocabulary = text.Vocabulary.from_text("abcd ")
    streams = text.streams(vocabulary.encode("abcd abcd " * 60), batch_size=4, window=10)
    cell, size = lj.LSTM(16), vocabulary.size
    params = {"cell": cell.init(key, size), "out": jnp.zeros((16, size))}

    def apply(params, carry, characters, mask):
        xs = jax.nn.one_hot(characters, size, dtype=jnp.float32)
        carry, ys = lj.unroll(cell, params["cell"], xs, carry, mask=mask)
        return carry, ys @ params["out"]

    tx = optim.clipped_sgd(0.5, momentum=0.9)
    run = train.make_tbptt(apply, losses.bits_per_character, tx, k1=10, k2=15)
    state, carry = train.create(params, tx), cell.initial_carry(params["cell"], (4,))
    inputs, targets = (jnp.asarray(x).reshape(-1, 4) for x in streams)
    for _ in range(8):
        state, carry, history = run(state, carry, inputs, targets)
    assert history["loss"][-1] < 0.1
    assert state.step == 8 * len(streams.inputs)
    assert isinstance(carry, train.Stream) and isinstance(carry.carry, lj.LSTMState)


@pytest.mark.grid
def test_inputs_may_be_any_tree_and_hold_keys(stream, key):
    params, carry, inputs, targets = stream

    @jax.vmap
    def draw(key):
        return jax.random.uniform(key, (B, D))

    def noisy(params, carry, window, mask):
        xs, keys = window
        return apply(params, carry, xs + draw(keys), mask)

    keys = jax.random.split(key, T)
    runs = [train.make_tbptt(f, squared, SGD, k1=K1, k2=5) for f in (noisy, apply)]
    state = train.create(params, SGD)
    got = runs[0](state, carry, (inputs, keys), targets)
    wanted = runs[1](state, carry, inputs + draw(keys), targets)
    assert_close(got[0], wanted[0])


@pytest.mark.grid
def test_one_sequence_without_a_batch_axis_and_many_under_vmap(stream):
    params, carry, inputs, targets = stream
    run = train.make_tbptt(apply, squared, SGD, k1=K1, k2=5, batch_ndim=0)
    state = train.create(params, SGD)
    one = run(state, lj.RNNState(carry.h[0]), inputs[:, 0], targets[:, 0])
    many = jax.vmap(lambda h, x, y: run(state, lj.RNNState(h), x, y), in_axes=(0, 1, 1))
    states, _, _ = jax.jit(many)(carry.h, inputs, targets)
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], states)
    assert_close(first, one[0], 1e-11)


@pytest.mark.parametrize(
    ("windows", "match"),
    [
        (dict(k1=0), "k1: got 0, wanted an integer of at least 1"),
        (dict(k1=3, k2=2), "k2: got 2, wanted at least k1 = 3; pass a larger k2, or None"),
        (dict(k1=5), "inputs: got T = 12, wanted a multiple of k1 = 5; drop the last 2 steps"),
        (dict(k1=13), "inputs: got T = 12, wanted at least k1 = 13; pass a longer sequence or k1"),
    ],
)
def test_windows_that_do_not_fit_are_refused(windows, match):
    state = train.create({"w": jnp.ones(1)}, SGD)
    with pytest.raises(ValueError, match=match):
        run = train.make_tbptt(apply, squared, SGD, **windows)
        run(state, lj.RNNState(jnp.zeros((B, H))), jnp.zeros((T, B, D)), jnp.zeros((T, B, 1)))


def test_streams_that_do_not_fit_are_refused(stream):
    params, carry, inputs, targets = stream
    state = train.create(params, SGD)
    run = train.make_tbptt(apply, squared, SGD, k1=3, k2=5)
    with pytest.raises(ValueError, match="inputs, targets: got leading axes .*, wanted one T"):
        run(state, carry, inputs, targets[:9])
    _, stream, _ = run(state, carry, inputs, targets)
    other = train.make_tbptt(apply, squared, SGD, k1=3, k2=6)
    with pytest.raises(ValueError, match="carry: got a Stream of 2 past steps, wanted k2 - k1 = 3"):
        other(state, stream, inputs, targets)


# ------------------------------------------------------------------------- evaluation


def test_evaluate_is_the_mean_over_batches(key):
    params = {"w": jnp.array(2.0)}
    batches = {"x": jnp.arange(6.0).reshape(3, 2), "n": jnp.array([1, 2, 4])}

    def metrics(params, batch):
        mean = jnp.mean(params["w"] * batch["x"])
        return {"mean": mean, "large": mean > 4, "n": batch["n"], "half": mean.astype(jnp.bfloat16)}

    counted, seen = traces(metrics)
    got = train.evaluate(counted, params, batches)
    assert_close(got, {"mean": 5.0, "large": 2 / 3, "n": 7 / 3, "half": 5.0}, 1e-6)
    assert all(value.dtype == jnp.float32 for value in got.values())
    first = len(seen)
    train.evaluate(counted, params, batches)
    assert len(seen) == first


def test_evaluate_names_a_single_scalar_loss(key, rng):
    params, keys = line(rng), jax.random.split(key, 3)
    got = train.evaluate(line_loss, params, jax.vmap(sample)(keys))
    wanted = np.mean([line_loss(params, sample(key)) for key in keys])
    assert set(got) == {"loss"}
    np.testing.assert_allclose(got["loss"], wanted, rtol=1e-5)


@pytest.mark.parametrize("batches", [[], jnp.zeros((0, 2)), (jnp.zeros(2), jnp.zeros(3)), 1.0])
def test_evaluate_needs_batches(batches):
    with pytest.raises(ValueError, match="batches: got leading axes .* wanted one N >= 1"):
        train.evaluate(lambda params, batch: jnp.sum(batch), {}, batches)


# ------------------------------------------------------------------------- fit


def test_fit_is_one_call_with_reports_between(key, rng):
    start = train.create(line(rng), TX)
    lines, advances = [], []
    state, history = train.fit(
        LOOP,
        start,
        key,
        6,
        chunk=4,
        metrics=lines.append,
        progress=lambda n, **fields: advances.append((n, fields)),
        evaluate=lambda params: {"b": params["b"][0]},
    )
    wanted_state, wanted = LOOP(start, key)
    assert_same_bits(state, wanted_state)
    assert_same_bits(history, jax.device_get(wanted))
    assert [line["step"] for line in lines] == [4, 6]
    assert [n for n, _ in advances] == [4, 2]
    np.testing.assert_allclose(lines[1]["loss"], np.mean(history["loss"][4:]), rtol=1e-6)
    assert lines[0]["norm_before"] == float(history["norm_before"][3])
    assert lines[1]["clipped"] == int(history["clipped"][5])
    assert lines[1]["aux"] == {"small": bool(history["aux"]["small"][5])}
    assert lines[1]["eval_b"] == float(state.params["b"][0])
    assert advances[1][1] == {"loss": lines[1]["loss"]}
    json.dumps(lines)


def test_fit_of_many_seeds_reports_them_together(key, rng):
    tx = optax.sgd(0.1)
    one = train.make_loop(line_loss, tx, sample, 1)

    def run(states, keys, steps):
        return jax.vmap(lambda s, k: one(s, k, steps), out_axes=(0, 1))(states, keys)

    start = train.create(line(rng), tx)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), start)
    lines, advances = [], []
    _, history = train.fit(
        run,
        states,
        jax.random.split(key, 3),
        4,
        chunk=2,
        metrics=lines.append,
        progress=lambda n, loss: advances.append(loss),
    )
    assert history["loss"].shape == (4, 3)
    assert lines[1]["step"] == [4, 4, 4]
    np.testing.assert_allclose(lines[1]["loss"], history["loss"][2:].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(advances[1], np.mean(lines[1]["loss"]), rtol=1e-6)


def test_fit_reports_a_run_that_diverged(tmp_path):
    tx = optax.sgd(1.0)
    losses = jnp.array([1.0, jnp.inf, -jnp.inf, jnp.nan])
    run = train.make_loop(lambda w, n: losses[n] + 0 * w, tx, lambda key: jnp.array(1), 1)
    with train.JsonLines(tmp_path / "log.jsonl") as log:
        train.fit(run, train.create(jnp.array(0.0), tx), jax.random.key(0), 1, metrics=log.write)
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] == "Infinity"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(steps=0), "steps: got 0"),
        (dict(chunk=0), "chunk: got 0"),
        (dict(evaluate=lambda params: {}), "evaluate: got a function, without metrics, wanted"),
    ],
)
def test_fit_checks_its_arguments(key, rng, options, match):
    with pytest.raises(ValueError, match=match):
        train.fit(LOOP, train.create(line(rng), TX), key, **{"steps": 1, **options})


# ------------------------------------------------------------------------- the log


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_log_line_is_plain_json(tmp_path):
    path = tmp_path / "log.jsonl"
    with train.JsonLines(path) as log:
        log.write(
            {
                "step": jnp.array(3),
                "loss": np.float32(0.5),
                "half": jnp.array(0.25, jnp.bfloat16),
                "done": jnp.array(True),
                "flag": np.bool_(False),
                "name": "lstm \N{GREEK SMALL LETTER ALPHA}\n",
                "none": None,
                "each": jnp.array([1.0, jnp.nan, jnp.inf]),
                "aux": {"worst": -np.inf, 7: (1, 2.5)},
            }
        )
        wanted = {
            "step": 3,
            "loss": 0.5,
            "half": 0.25,
            "done": True,
            "flag": False,
            "name": "lstm \N{GREEK SMALL LETTER ALPHA}\n",
            "none": None,
            "each": [1.0, "NaN", "Infinity"],
            "aux": {"worst": "-Infinity", "7": [1, 2.5]},
        }
        assert read(path) == [wanted]  # before the file is closed
    assert float("-Infinity") == -np.inf and np.isnan(float("NaN"))


def test_a_log_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "log.jsonl"
    for n in range(3):
        with train.JsonLines(str(path)) as log:
            log.write({"n": n})
    assert read(path) == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"n": 0}\n{"n": 1, "lo', '{"n": 0}\n'),  # A kill in the middle of a line.
        ('{"n": 0', ""),
        ('{"n": 0}\n{"n": 1}', '{"n": 0}\n{"n": 1}\n'),
        ("my notes", "my notes\n"),
        ("", ""),
    ],
)
def test_a_log_that_was_cut_goes_on_in_a_line_of_its_own(tmp_path, before, kept):
    path = tmp_path / "log.jsonl"
    path.write_text(before)
    with train.JsonLines(path) as log:
        log.write({"n": 2})
    assert path.read_text() == kept + '{"n": 2}\n'


@pytest.mark.parametrize("value", [object(), 1j, jnp.array(1j), np.array(["a"]), b"a"])
def test_a_value_that_json_lacks_leaves_the_log_as_it_was(tmp_path, value):
    path = tmp_path / "log.jsonl"
    with train.JsonLines(path) as log:
        log.write({"n": 0})
        with pytest.raises(
            ValueError, match=r"record\['a'\]\[1\]: got .*, wanted a number"
        ) as error:
            log.write({"n": 1, "a": [1, value]})
        assert ";" in str(error.value)
        with pytest.raises(ValueError, match="record"):
            log.write({"key": jax.random.key(0)})
        log.write({"n": 2})
    assert read(path) == [{"n": 0}, {"n": 2}]


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    path = tmp_path / "log.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with train.JsonLines(path) as log:
        log.write({"n": 0})
        before = path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
            with pytest.raises(OSError, match="taken back"):
                log.write({"n": 1, "long": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        log.write({"n": 2})
    assert read(path) == [{"n": 0}, {"n": 2}]


def test_a_log_that_cannot_be_opened_says_which_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "log.jsonl", tmp_path, tmp_path / "file" / "log.jsonl"):
        with pytest.raises(ValueError, match="path: got .*wanted a file that can be .*; create"):
            with train.JsonLines(path):
                raise AssertionError("opened")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_log_is_written_inside_its_with_statement(tmp_path):
    log = train.JsonLines(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="record: got a closed file"):
        log.write({})
    assert not os.listdir(tmp_path)
