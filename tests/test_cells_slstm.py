"""The sLSTM: against sums of exponentials that nothing stabilises, at extremes, over long times."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

pytestmark = pytest.mark.sampled

T, B, D, H = 7, 3, 2, 4
FORGET = pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
IMPLEMENTATION = pytest.mark.parametrize("implementation", ["fused", "scan"])


# ---- the equations -------------------------------------------------------------------------------
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def preactivations(p, h, x):
    """i, f, g, o, each [B, H]. w_hh may be in blocks: one a head."""
    if p["w_hh"].ndim == 2:
        return np.split(x @ p["w_ih"] + p["b"] + h @ p["w_hh"], 4, axis=-1)
    parts = []
    for part, w in zip(np.split(h, len(p["w_hh"]), axis=-1), p["w_hh"], strict=True):
        parts.append(np.split(part @ w, 4, axis=-1))
    u = [np.concatenate(gate, axis=-1) for gate in zip(*parts, strict=True)]
    wx = np.split(x @ p["w_ih"] + p["b"], 4, axis=-1)
    return [a + b for a, b in zip(wx, u, strict=True)]


def unstable(forget_gate, p, carry, x):
    """c = f c + e^i tanh(g), n = f n + e^i, h = sigmoid(o) c / n: there is no m."""
    h, c, n = carry
    i, f, g, o = preactivations(p, h, x)
    f = sigmoid(f) if forget_gate == "sigmoid" else np.exp(f)
    c, n = f * c + np.exp(i) * np.tanh(g), f * n + np.exp(i)
    return sigmoid(o) * c / n, c, n


def stabilised(forget_gate, p, carry, x):
    """With m, as the paper's appendix writes it and its first step starts it."""
    h, c, n, m = carry
    i, f, g, o = preactivations(p, h, x)
    a = m + (-np.log1p(np.exp(-f)) if forget_gate == "sigmoid" else f)
    m = i if np.all(n == 0) else np.maximum(a, i)
    i, f = np.exp(i - m), np.exp(a - m)
    c, n = f * c + i * np.tanh(g), f * n + i
    return sigmoid(o) * c / n, c, n, m


def numpy_unroll(step, params, xs, carry):
    carry, ys = tuple(carry), []
    for x in xs:
        carry = step(params, carry, x)
        ys.append(carry[0])
    return carry, np.stack(ys)


def problem(cell, started=True):
    """(params, xs, carry): that of zeros, or one as the cell makes them."""
    rng = np.random.default_rng(0)
    params = registry.random_params(cell, D, rng)
    shapes = jax.eval_shape(lambda: cell.initial_carry(params, (B,)))
    h, c, n, m = registry.normal(shapes, rng) if started else jax.tree.map(zeros, shapes)
    carry = lj.SLSTMState(h, c, 1 + np.abs(n) if started else n, m)
    return params, rng.standard_normal((T, B, D)), carry


def zeros(leaf):
    return np.zeros(leaf.shape)


@functools.lru_cache
def compiled(cell, implementation):
    """Jitted: (params, xs, carry) -> ((final carry, ys), gradients of `total`)."""

    def run(args):
        outs = lj.unroll(cell, *args, implementation=implementation)
        return total((tuple(outs[0]), outs[1]), jnp), outs

    return jax.jit(lambda args: jax.grad(run, has_aux=True)(args)[::-1])


def total(outs, np=np):
    """A sum with weights that differ everywhere."""
    leaves = enumerate(jax.tree.leaves(outs))
    return sum(np.sum(np.cos(np.arange(x.size) + n).reshape(x.shape) * x) for n, x in leaves)


@IMPLEMENTATION
@pytest.mark.parametrize("started", [False, True], ids=["from_zeros", "continued"])
@pytest.mark.parametrize("heads", [1, 2])
@FORGET
def test_numpy(forget_gate, heads, started, implementation, rng, x64):
    """Values and gradients of the loop; ys of the loop without a stabiliser too."""
    cell = lj.SLSTM(H, forget_gate=forget_gate, heads=heads)
    args = problem(cell, started)
    (final, ys), grads = compiled(cell, implementation)(args)
    step = functools.partial(stabilised, forget_gate)
    registry.assert_close((tuple(final), ys), numpy_unroll(step, *args), 1e-12)

    h, c, n, m = args[2]
    plain = (h, c * np.exp(m), n * np.exp(m))
    (_, c, n), wanted = numpy_unroll(functools.partial(unstable, forget_gate), *args[:2], plain)
    registry.assert_close(ys, wanted, 1e-12)
    scale = np.exp(final.m)
    registry.assert_close((final.c * scale, final.n * scale), (c, n), 1e-12)

    # The carry of zeros is a point of its own: nothing is differentiated by it.
    moves = jax.tree.map(np.multiply, args, registry.normal(args, rng))
    ends = [
        float(total(numpy_unroll(step, *jax.tree.map(lambda a, v, e=e: a + e * v, args, moves))))
        for e in (1e-6, -1e-6)
    ]
    slope = (ends[0] - ends[1]) / 2e-6
    assert registry.directional(grads, moves) == pytest.approx(slope, rel=1e-6, abs=1e-6)


@FORGET
def test_the_stabiliser_is_a_choice_of_scale(forget_gate, x64):
    """(c e^-s, n e^-s, m + s) is the same memory, so h and every later c e^m are the same."""
    cell = lj.SLSTM(H, forget_gate=forget_gate)
    params, xs, (h, c, n, m) = problem(cell)
    run = compiled(cell, "fused")
    n = n + 2  # So that it is still above one when it is scaled.
    (final, ys), _ = run((params, xs, lj.SLSTMState(h, c, n, m)))
    scaled = lj.SLSTMState(h, c / 2, n / 2, m + np.log(2))
    (other, same), _ = run((params, xs, scaled))
    registry.assert_close(same, ys, 1e-12)
    registry.assert_close(other.c * np.exp(other.m), final.c * np.exp(final.m), 1e-12)


@FORGET
def test_pieces_and_steps_are_one_unroll(forget_gate, x64):
    """From zeros: the first step is the first of the sequence, not of each piece."""
    cell = lj.SLSTM(H, forget_gate=forget_gate, heads=2)
    params, xs, start = problem(cell, started=False)
    run, step = jax.jit(functools.partial(lj.unroll, cell)), jax.jit(cell.step)
    registry.assert_close(run(params, xs), run(params, xs, start), 1e-12)
    registry.check_pieces_and_steps(run, step, params, xs, start)


# ---- extremes ------------------------------------------------------------------------------------
EXTREMES = np.array(list(itertools.product((-100.0, 0.0, 100.0), repeat=4)), np.float32)
"""[81, 4]: i, f, g, o of one unit."""


@IMPLEMENTATION
@FORGET
def test_large_gates_stay_finite(forget_gate, implementation):
    """In float32, from zeros, held for six steps, then the opposite: values and derivatives."""
    cell = lj.SLSTM(1, forget_gate=forget_gate)
    params = {"w_ih": jnp.eye(4), "w_hh": jnp.ones((1, 4)), "b": jnp.zeros(4)}
    xs = jnp.stack([EXTREMES] * 6 + [-EXTREMES] * 6)
    carry = cell.initial_carry(params, (len(EXTREMES),))

    def value(args):
        final, ys = lj.unroll(cell, *args, implementation=implementation)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf) for leaf in final), (final, ys)

    @jax.jit
    def everything(args):
        _, tangent = jax.jvp(lambda a: value(a)[0], (args,), (jax.tree.map(jnp.ones_like, args),))
        return jax.grad(value, has_aux=True)(args), tangent

    out = everything((params, xs, carry))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))
    (_, (final, ys)), _ = out
    assert np.all(np.abs(ys) <= 1 + 1e-6) and np.all(final.n >= 1)
    _, _, g, o = EXTREMES.T.astype(float)  # One step is its own mean, however small its weight.
    np.testing.assert_allclose(ys[0, :, 0], sigmoid(o) * np.tanh(g), atol=1e-6)


@pytest.mark.grid
def test_second_derivatives_from_zeros_are_finite():
    """The logarithm of the empty memory is -inf, and no derivative of any order sees it."""
    cell = lj.SLSTM(2)
    params = registry.cast(registry.random_params(cell, D, np.random.default_rng(0)), jnp.float32)
    xs = jnp.ones((3, 1, D))
    carry = cell.initial_carry(params, (1,))

    def slope(args):
        run = jax.grad(lambda a: jnp.sum(lj.unroll(cell, *a)[1] ** 2))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(run(args)))

    grads = jax.jit(jax.grad(slope))((params, xs, carry))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@FORGET
def test_long_sequences_are_stable(forget_gate, rng):
    """Five thousand steps in float32, where the sums without a stabiliser overflow."""
    cell = lj.SLSTM(H, forget_gate=forget_gate)
    params = registry.random_params(cell, D, rng)
    params["b"][: 2 * H] = 1  # e^i and e^f of e: e^5000 with both.
    xs = rng.standard_normal((5000, 2, D))
    args = registry.cast((params, xs), jnp.float32)
    value = jax.jit(jax.value_and_grad(lambda a: jnp.mean(lj.unroll(cell, *a)[1] ** 2)))
    out, grads = value(args)
    assert 0 < out <= 1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    with jax.enable_x64(True):
        wanted, _ = value(registry.cast((params, xs), jnp.float64))
    assert float(out) == pytest.approx(float(wanted), rel=1e-3)


# ---- starts --------------------------------------------------------------------------------------
@pytest.mark.parametrize("heads", [1, 2])
def test_the_start_is_that_of_the_authors(heads):
    """Zero recurrent weights; a forget bias of 5 - 12 (k/(H-1))^0.3 within each head."""
    params = lj.SLSTM(8, heads=heads).init(jax.random.key(0), D)
    size = 8 // heads
    b_f = 5 - 12 * (np.arange(size) / (size - 1)) ** 0.3
    nothing = np.zeros(8)
    wanted = np.concatenate([nothing, np.tile(b_f, heads), nothing, nothing])
    np.testing.assert_allclose(params["b"], wanted, rtol=1e-6, atol=1e-6)
    assert params["w_hh"].shape == ((8, 32) if heads == 1 else (2, 4, 16))
    assert not np.any(params["w_hh"])


@pytest.mark.grid
def test_a_power_law_of_ones_own():
    law = lj.initializers.power_law(exponent=1.6, longest=4.0, shortest=-2.0)
    b = lj.LSTM(3, b_init=law).init(jax.random.key(0), D)["b"]
    np.testing.assert_allclose(b[3:6], [4, 4 - 6 * 0.5**1.6, -2], rtol=1e-6)
    alone = lj.SLSTM(1, b_init=law).init(jax.random.key(0), D)["b"]
    np.testing.assert_allclose(alone, [0, 4, 0, 0])
    with pytest.raises(ValueError, match="exponent: got -1"):
        lj.initializers.power_law(exponent=-1)


def test_errors():
    with pytest.raises(ValueError, match="forget_gate: got 'tanh', wanted one of 'sigmoid', 'exp'"):
        lj.SLSTM(3, forget_gate="tanh")
    with pytest.raises(ValueError, match="heads: got 2, wanted a divisor of hidden_size = 3"):
        lj.SLSTM(3, heads=2)
