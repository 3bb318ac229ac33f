"""Gradients by path: sums, closed forms, and cells in which a path does not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax import diagnostics

T, B, D, H = 6, 2, 2, 3
MASK = np.array([[0, 1], [1, 1], [1, 0], [1, 1], [1, 0], [1, 1]], bool)
RESETS = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0]], bool)


def by_hand(cell, params, xs, loss, cut, valid, resets):
    """dL/ds_t without the columns `cut` of u, by a loop whose u is cut on the way back."""

    def value(probes):
        carry, ys = cell.initial_carry(params, (B,)), []
        origin = carry
        for t in range(T):
            carry = choose(resets[t], origin, carry)
            u = cell.recur(params, carry)
            u = jnp.where(cut[None], jax.lax.stop_gradient(u), u)
            new = cell.advance(carry, cell.project(params, xs[t]), u, cell.extras(params))
            carry = choose(valid[t], new, carry)
            carry = jax.tree.map(lambda s, e, t=t: s + e[t], carry, probes)
            ys.append(jnp.where(valid[t][:, None], cell.output(params, carry), 0))
        return loss(jnp.stack(ys))

    shapes = cell.initial_carry(params, (B,))
    return jax.grad(value)(jax.tree.map(lambda s: jnp.zeros((T, *s.shape), s.dtype), shapes))


def choose(mask, on_true, on_false):
    return jax.tree.map(lambda a, b: jnp.where(mask[:, None], a, b), on_true, on_false)


def log_norms(tree):
    return jax.tree.map(lambda leaf: jnp.log(jnp.linalg.norm(leaf, axis=-1)), tree)


def loss(ys):
    return jnp.sum(jnp.sin(3 * ys))


@pytest.mark.sampled
@pytest.mark.parametrize("cell", [lj.LSTM(H), lj.GRU(H), lj.RNN(H)], ids=str)
def test_paths_are_those_of_a_loop_whose_u_is_cut(cell, rng, x64):
    params = registry.cast(registry.random_params(cell, D, rng), np.float64)
    xs = jnp.asarray(rng.standard_normal((T, B, D)))
    given = {"mask": MASK, "resets": RESETS}
    run = jax.jit(lambda p: diagnostics.gradient_norms_by_path(cell, p, xs, loss, **given))
    seen = run(params)
    hand = jax.jit(lambda p, cut: by_hand(cell, p, xs, loss, cut, MASK, RESETS))
    columns = params["w_hh"].shape[1]
    everything = hand(params, jnp.zeros(columns, bool))
    carry = hand(params, jnp.ones(columns, bool))
    gates = {"recurrent": jnp.ones(columns, bool)}
    if len(cell.gate_names) > 1:
        for n, name in enumerate(cell.gate_names):
            gates[name] = jnp.arange(columns) // H == n
    assert set(seen) == {"all", "carry", *gates}
    same(seen["all"], log_norms(everything))
    same(seen["carry"], log_norms(carry))
    for name, cut in gates.items():
        without = hand(params, cut)
        same(seen[name], log_norms(jax.tree.map(jnp.subtract, everything, without)))


def same(seen, wanted):
    for a, b in zip(seen, wanted, strict=True):
        np.testing.assert_allclose(np.exp(a), np.exp(b), rtol=1e-9, atol=1e-13)


def test_the_path_of_an_lstms_carry_is_its_forget_gates(rng):
    """dL/dc_t along c alone falls by f a step, for 2,000 steps, whatever w_hh is."""
    steps, cell = 2_000, lj.LSTM(1)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    params["w_hh"] = jnp.asarray([[0.3, 0.0, 0.2, 0.1]])  # The forget gate stays constant.
    params["b"] = jnp.asarray([0.0, -1.0, 0.5, 0.0])
    norms = diagnostics.gradient_norms_by_path(
        cell, params, jnp.zeros((steps, 1)), lambda ys: jnp.sum(ys[-1])
    )
    f = 1 / (1 + np.exp(1.0))
    falls = np.diff(norms["carry"].c[:-2])
    np.testing.assert_allclose(falls, -np.log(f), rtol=2e-3)
    assert norms["carry"].c[0] < -2600  # No float32 holds e^-2600.
    assert np.all(norms["recurrent"].c[:-5] > norms["carry"].c[:-5])
    assert np.all(np.isneginf(norms["f"].c))


@pytest.mark.grid
def test_nets_have_the_paths_of_each_cell():
    net = lj.readout(lj.stack(lj.RNN(3), lj.zoneout(lj.LSTM(2), 0.1)), 1)
    params = net.init(jax.random.key(0), D)
    xs = jnp.ones((T, B, D))
    seen = diagnostics.gradient_norms_by_path(net, params, xs, jnp.sum)
    assert sorted(seen[0]) == ["all", "carry", "recurrent"]
    rnn, own = net.inner.layers[0], params["inner"]["0"]
    last = diagnostics.gradient_norms_by_path(rnn, own, xs, lambda ys: jnp.sum(ys[-1]))
    assert np.all(np.isneginf(last["carry"].h[:-1]))  # Nothing of h lives on in a tanh RNN.

    assert sorted(seen[1]) == ["all", "carry", "f", "g", "i", "o", "recurrent"]
    assert seen[1]["f"].c.shape == (T, B)
    with pytest.raises(ValueError, match=r"cell: got GRU, wanted cells that factor"):
        diagnostics.gradient_norms_by_path(lj.GRU(3, reset_after=False), {}, jnp.ones(3), jnp.sum)
