"""Restarts in loops of steps: `step(..., reset)` and `reset_carry`, against `unroll`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

T, B, D = 6, 2, 3
NETS = {
    "learned": lj.learned_start(lj.LSTM(4)),
    "stack": lj.readout(lj.stack(lj.LSTM(4), lj.residual(lj.GRU(4))), 2),
    "tokens": lj.embedding(lj.MGU(4), 5, 3),
    "images": lj.ConvLSTM(2, (3,), (4,)),
    "minlstm": lj.MinLSTM(4),
}


def problem(name, rng):
    """(net, params, first carry, xs, dones): the carry is not the start, as of a rollout before."""
    net = NETS[name]
    shape = {"images": (4, 1), "tokens": ()}.get(name, (D,))
    xs = jnp.asarray(rng.integers(0, 5, (T, B, *shape)))
    xs = xs if name == "tokens" else xs.astype("float32")
    params = net.init(jax.random.key(0), shape[-1] if shape else None)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    carry = jax.tree.map(lambda leaf: leaf + 0.5, net.initial_carry(params, (B,)))
    return net, params, carry, xs, jnp.asarray(rng.random((T, B)) < 0.3)


@pytest.mark.sampled
@pytest.mark.parametrize("name", NETS)
def test_steps_that_restart_are_one_unroll_with_resets(name, rng):
    """Values and gradients, the one of a learned start too; acting and learning agree."""
    net, params, carry, xs, dones = problem(name, rng)
    resets = lj.resets_from_dones(dones, jnp.array([True, False]))

    def stepped(params, carry):
        return jax.lax.scan(lambda c, at: net.step(params, c, at[0], at[1]), carry, (xs, resets))

    def unrolled(params, carry):
        return lj.unroll(net, params, xs, carry, resets=resets)

    def graded(run):
        def loss(params, carry):
            final, ys = run(params, carry)
            leaves = [*jax.tree.leaves(final), ys]
            return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in leaves), leaves

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, carry)

    registry.assert_close(graded(stepped), graded(unrolled), 1e-5)


def test_reset_carry_restarts_where_it_is_told():
    """A NaN and a gradient of the old carry end there."""
    net = lj.stack(lj.LSTM(4), lj.learned_start(lj.GRU(3)))
    params = net.init(jax.random.key(0), D)
    start = net.initial_carry(params, (B,))
    carry = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan).at[1].set(7.0), start)
    reset = jnp.array([True, False])

    def total(carry):
        leaves = jax.tree.leaves(lj.reset_carry(net, params, carry, reset))
        return sum(jnp.sum(leaf) for leaf in leaves)

    seen = lj.reset_carry(net, params, carry, reset)
    registry.assert_close(seen, jax.tree.map(lambda a, b: a.at[1].set(b[1]), start, carry), 0)
    grads = jax.jit(jax.grad(total))(carry)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, np.broadcast_to([[0.0], [1.0]], leaf.shape))


def test_chunks_with_a_stored_carry_are_one_rollout(rng):
    """The flag of the chunk before is not lost, whether the carry restarts at once or by resets."""
    net, params, carry, xs, dones = problem("stack", rng)
    dones = dones.at[2].set(jnp.array([True, False]))
    whole = lj.unroll(net, params, xs, carry, resets=lj.resets_from_dones(dones))
    middle, head = lj.unroll(net, params, xs[:3], carry, resets=lj.resets_from_dones(dones[:3]))
    stored = lj.reset_carry(net, params, middle, dones[2])
    for kept, previous in ((middle, dones[2]), (stored, None)):
        resets = lj.resets_from_dones(dones[3:], previous)
        final, tail = lj.unroll(net, params, xs[3:], kept, resets=resets)
        registry.assert_close((final, jnp.concatenate([head, tail])), whole, 1e-6)


def test_wrong_flags_are_named():
    cell = lj.GRU(4)
    params, x = cell.init(jax.random.key(0), D), jnp.ones((B, D))
    carry = cell.initial_carry(params, (B,))
    for call in (
        lambda reset: cell.step(params, carry, x, reset),
        lambda reset: lj.reset_carry(cell, params, carry, reset),
    ):
        with pytest.raises(ValueError, match=r"reset: got dtype int32, wanted dtype bool"):
            call(jnp.ones(B, int))
    with pytest.raises(ValueError, match=r"reset: got shape \(3,\), wanted \[\*batch\] = \(2,\)"):
        cell.step(params, carry, x, jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"carry\.h: got shape \(2, 4\), wanted \[\*batch, H\]"):
        lj.reset_carry(cell, params, carry, jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"cell: got .*the order is"):
        lj.reset_carry(params, cell, carry, jnp.ones(B, bool))
