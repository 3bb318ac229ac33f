"""Training that goes on: accumulated gradients, what stops a run and what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import optim, train

SGD = optax.sgd(0.5)


def inner(params, batch):
    """A loss whose gradient is the batch."""
    return jnp.vdot(params["w"], batch)


def start(tx, w=(0.0, 0.0)):
    return train.create({"w": jnp.asarray(w, jnp.float32)}, tx)


def draw(key):
    return jax.random.normal(key, (2,))


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# ------------------------------------------------------------------------- accumulated gradients


def test_the_mean_over_micro_batches_is_clipped_not_each_of_them():
    tx = optim.clipped_sgd(1.0, max_norm=1.0)
    step = jax.jit(train.make_step(inner, tx, accumulate=2))
    opposite = jnp.array([[100.0, 0.5], [-100.0, 0.1]])  # Each is clipped alone; their mean is not.
    state, info = step(start(tx), opposite)
    np.testing.assert_allclose(state.params["w"], [0.0, -0.3], rtol=1e-6)
    assert info["clipped"] == 0 and state.step == 1
    state, info = step(start(tx), jnp.array([[3.0, 0.0], [5.0, 6.0]]))
    np.testing.assert_allclose(info["norm_before"], 5.0)
    np.testing.assert_allclose(state.params["w"], [-0.8, -0.6], rtol=1e-6)


def test_accumulated_is_the_gradient_of_all_at_once_through_a_network(key):
    task = lj.data.Adding(6)
    net = lj.readout(lj.GRU(4), task.output_size)
    batch = task.sample(key, 12)

    def loss(params, batch):
        return task.loss(lj.unroll(net, params, batch.xs)[1], batch), {"n": batch.xs.shape[1]}

    def cut(leaf):  # [T, B, ...] -> [3, T, 4, ...], or [B, ...] -> [3, 4, ...]
        axis = leaf.shape.index(12)
        return jnp.stack(jnp.split(leaf, 3, axis))

    tx = optim.clipped_sgd(0.1)
    state = train.create(net.init(key, task.input_size), tx)
    whole, seen = train.make_step(loss, tx, has_aux=True)(state, batch)
    parts = jax.jit(train.make_step(loss, tx, has_aux=True, accumulate=3))
    state, info = parts(state, jax.tree.map(cut, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-7), state, whole)
    np.testing.assert_allclose(info["loss"], seen["loss"], rtol=1e-5)
    assert info["aux"]["n"].tolist() == [4, 4, 4]


def test_small_gradients_add_up_in_bfloat16():
    step = jax.jit(train.make_step(lambda w, x: jnp.sum(w * x), optax.sgd(1.0), accumulate=512))
    batch = jnp.ones((512, 1), jnp.bfloat16)  # 256 + 1 is 256 in bfloat16.
    state, _ = step(train.create(jnp.zeros(1, jnp.bfloat16), optax.sgd(1.0)), batch)
    assert state.params.dtype == jnp.bfloat16 and state.params == -1


def test_a_micro_batch_of_nan_costs_one_update():
    tx = optim.clipped_sgd(1.0)
    step = jax.jit(train.make_step(inner, tx, accumulate=2))
    state, info = step(start(tx), jnp.array([[1.0, 0.0], [jnp.nan, 0.0]]))
    assert info["skipped"] == 1 and not state.params["w"].any()
    state, _ = step(state, jnp.array([[0.5, 0.0], [0.5, 0.0]]))
    np.testing.assert_allclose(state.params["w"], [-0.5, 0.0])


def test_a_loop_draws_a_batch_for_every_micro_batch(key):
    run = train.make_loop(inner, SGD, draw, 3, accumulate=4)
    state, history = run(start(SGD), key)
    draws = [draw(k) for n in range(3) for k in jax.random.split(jax.random.fold_in(key, n), 4)]
    wanted = -0.5 * jnp.mean(jnp.stack(draws).reshape(3, 4, 2), 1).sum(0)
    np.testing.assert_allclose(state.params["w"], wanted, rtol=1e-5)
    assert state.step == 3 and history["loss"].shape == (3,)


def test_an_optimiser_that_wants_the_loss_gets_it():
    tx = optax.chain(SGD, optax.contrib.reduce_on_plateau(patience=1, factor=0.5, cooldown=0))
    step = jax.jit(train.make_step(lambda p: jnp.sum(p["w"]) * 0 + 1, tx))
    state = start(tx)
    for _ in range(4):
        state, _ = step(state)
    assert float(optax.tree.get(state.opt_state, "scale")) < 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: train.make_step(inner, SGD, accumulate=0), "accumulate: got 0, wanted an integer"),
        (lambda: train.make_loop(inner, SGD, draw, 1, accumulate=2.0), "accumulate: got 2.0"),
        (
            lambda: train.make_step(inner, SGD, accumulate=3)(start(SGD), jnp.ones((2, 2))),
            r"args: got a leaf \[0\] of shape \(2, 2\), wanted a leading axis of accumulate = 3;",
        ),
    ],
)
def test_micro_batches_that_do_not_fit_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.grid
def test_the_memory_is_that_of_one_micro_batch(key):
    net = lj.readout(lj.LSTM(16), 1)

    def temporary(accumulate, shape):
        step = train.make_step(
            lambda p, xs: jnp.mean(lj.unroll(net, p, xs, implementation="fused")[1]),
            SGD,
            accumulate=accumulate,
        )
        state = train.create(net.init(key, 4), SGD)
        compiled = jax.jit(step).lower(state, jnp.zeros(shape)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8, (8, 50, 8, 4)) < 0.25 * temporary(None, (50, 64, 4))
