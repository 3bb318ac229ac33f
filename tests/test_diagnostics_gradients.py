"""Gradients by lag: against a probe, against a chain of Jacobians, against the whole gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from registry import CASES

import lstm_jax as lj
from lstm_jax import diagnostics

pytestmark = pytest.mark.sampled

T, B, D, H = 5, 3, 2, 3
FLAGS = {
    "plain": {},
    "lengths": {"seq_lengths": np.array([3, 5, 0], np.int32)},
    "all": {
        "mask": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 0], [0, 1, 1]], bool),
        "resets": np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]], bool),
    },
}
# Compiling is what these tests cost, so XLA is asked for little.
FEW = ["lstm", "gru_reset_before"]


def by_lag(function, cell, params, xs, loss, carry=None, **flags):
    """One of the functions under test, under jit, in NumPy."""
    run = jax.jit(lambda p, x, s: function(cell, p, x, loss, s, **flags))
    return jax.device_get(run(params, xs, carry))


def problem(case, rng, dtype=np.float64, batch=(B,)):
    """A cell, its parameters, inputs, a start, and a loss that treats no two outputs alike."""
    cell = case.make(H)
    params = registry.random_params(cell, D, rng)
    carry = registry.random_carry(cell, params, batch, rng)
    xs = rng.standard_normal((T, *batch, D))
    targets = jnp.asarray(rng.standard_normal((T, *batch, H)), dtype)
    params, carry, xs = registry.cast((params, carry, xs), dtype)
    return cell, params, xs, lambda ys: 0.5 * jnp.sum((ys - targets) ** 2), carry


def probed(cell, params, xs, loss, carry, valid, resets):
    """dL/deps, eps_t added to the carry after step t, in a plain loop over `step`."""

    def value(probes):
        state, ys = carry, []
        for t in range(T):
            origin = cell.initial_carry(params, xs.shape[1:-1])
            state = choose(resets[t], origin, state)
            new, _ = cell.step(params, state, xs[t])
            state = choose(valid[t], new, state)
            state = jax.tree.map(lambda leaf, eps, t=t: leaf + eps[t], state, probes)
            y = cell.output(params, state)
            ys.append(jnp.where(valid[t][..., None], y, 0))
        return loss(jnp.stack(ys))

    zeros = jax.tree.map(lambda leaf: jnp.zeros((T, *leaf.shape), leaf.dtype), carry)
    return jax.jit(jax.grad(value))(zeros)


def choose(mask, on_true, on_false):
    return jax.tree.map(lambda a, b: jnp.where(mask[..., None], a, b), on_true, on_false)


def validity(flags):
    if "seq_lengths" in flags:
        return np.arange(T)[:, None] < flags["seq_lengths"]
    return flags.get("mask", np.ones((T, B), bool))


# ---- dL/ds_t ------------------------------------------------------------------------------------
@registry.cells(dear=True)
def test_gradients_are_those_of_a_probe_after_the_step(case, rng, x64):
    cell, params, xs, loss, carry = problem(case, rng)
    flags = FLAGS["all"]
    valid, resets = validity(flags), flags["resets"]
    wanted = probed(cell, params, xs, loss, carry, valid, resets)
    seen = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry, **flags)
    assert type(seen) is cell.state
    registry.assert_close(seen, wanted, 1e-12)


def test_lengths_are_a_mask(rng, x64):
    cell, params, xs, loss, carry = problem(CASES["lstm"], rng)
    mask = validity(FLAGS["lengths"])
    seen = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry, **FLAGS["lengths"])
    wanted = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry, mask=mask)
    registry.assert_close(seen, wanted, 0)
    np.testing.assert_array_equal(seen.h[:, 2], 0)  # Length 0: nothing is ever felt.
    assert np.all(np.asarray(seen.h[:3, 0]) != 0) and np.all(np.asarray(seen.h[3:, 0]) == 0)


def test_held_steps_hand_their_gradient_on_and_resets_cut_it(rng, x64):
    cell, params, xs, loss, carry = problem(CASES["gru"], rng)
    mask = np.ones((T, B), bool)
    mask[1:3, 0] = False
    held = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry, mask=mask).h
    np.testing.assert_allclose(held[1, 0], held[2, 0], rtol=1e-12)
    assert np.abs(held[2, 0] - held[3, 0]).max() > 1e-3
    resets = np.zeros((T, B), bool)
    resets[3, 1] = True
    resets = jnp.asarray(resets)
    ys = lj.unroll(cell, params, xs, carry, resets=resets)[1]
    cut = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry, resets=resets).h
    wanted = np.asarray(jax.jit(jax.grad(loss))(ys))
    np.testing.assert_allclose(cut[2, 1], wanted[2, 1], rtol=1e-12)


def test_nan_in_padding_is_not_felt(rng, x64):
    cell, params, xs, loss, carry = problem(CASES["gru_reset_before"], rng)
    mask = validity(FLAGS["all"])
    bad = jnp.where(mask[..., None], xs, jnp.nan)
    function = diagnostics.weight_gradient_by_lag
    seen = by_lag(function, cell, params, bad, loss, carry, mask=mask)
    wanted = by_lag(function, cell, params, xs, loss, carry, mask=mask)
    registry.assert_close(seen, wanted, 0)


@registry.cells(["rnn_tanh", "lstm", "gru", "gru_reset_before"])
def test_gradients_are_a_chain_of_step_jacobians(case, rng, x64):
    """L = <v, y_T>: dL/ds_t = J_{t+1}^T ... J_T^T (dy/ds)^T v, with s = h or (h, c)."""
    cell, params, xs, _, carry = problem(case, rng, batch=())
    v = jnp.asarray(rng.standard_normal(H))
    seen = by_lag(
        diagnostics.gradients_by_lag, cell, params, xs, lambda ys: jnp.vdot(v, ys[-1]), carry
    )
    _, carries = jax.device_get(lj.unroll(cell, params, xs, carry, return_carries=True))
    size = diagnostics.carry_to_vector(carry).size
    adjoint = np.concatenate([v, np.zeros(size - H)])
    xs, carry = jax.device_get((xs, carry))
    jacobian = jax.jit(functools.partial(diagnostics.step_jacobian, cell))
    for t in reversed(range(T)):
        at_t = jax.tree.map(lambda leaf, t=t: leaf[t], seen)
        np.testing.assert_allclose(diagnostics.carry_to_vector(at_t), adjoint, rtol=1e-10)
        before = carry if t == 0 else jax.tree.map(lambda leaf, t=t: leaf[t - 1], carries)
        adjoint = np.asarray(jacobian(params, before, xs[t])).T @ adjoint


def test_the_textbook_gradient_of_c_is_the_partial_ones_together(rng, x64):
    """Hochreiter's dL/dc_t lets c_t act through h_t = o_t tanh(c_t) as well."""
    cell, params, xs, loss, carry = problem(CASES["lstm"], rng)
    partial = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry)
    np.testing.assert_array_equal(partial.c[-1], 0)

    def from_c(c, t, state, o):
        ys_before = lj.unroll(cell, params, xs[:t], carry)[1]
        h = o * jnp.tanh(c)
        _, ys = lj.unroll(cell, params, xs[t + 1 :], state._replace(h=h, c=c))
        return loss(jnp.concatenate([ys_before, h[None], ys]))

    _, carries = jax.device_get(lj.unroll(cell, params, xs, carry, return_carries=True))
    for t in (1, T - 1):
        state = jax.tree.map(lambda leaf, t=t: leaf[t], carries)
        o = state.h / np.tanh(state.c)
        wanted = jax.jit(jax.grad(from_c), static_argnums=1)(state.c, t, state, o)
        seen = partial.c[t] + o * (1 - np.tanh(state.c) ** 2) * partial.h[t]
        np.testing.assert_allclose(seen, wanted, rtol=1e-10)


# ---- norms --------------------------------------------------------------------------------------
@registry.cells(["lstm"])
def test_norms_are_those_of_the_gradients_under_jit_and_vmap(case, rng, x64):
    cell, params, xs, _, carry = problem(case, rng)

    def loss(ys):
        return jnp.sum(jnp.sin(ys))

    gradients = by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry)
    with np.errstate(divide="ignore"):  # dL/dc of the last step is zero.
        wanted = jax.tree.map(lambda leaf: np.log(np.linalg.norm(leaf, axis=-1)), gradients)
    norms = functools.partial(diagnostics.gradient_norms_by_lag, cell, loss=loss)
    assert_same_norms(jax.jit(norms)(params, xs, carry=carry), wanted)
    alone = jax.jit(jax.vmap(lambda x, s: norms(params, x, carry=s), in_axes=(1, 0), out_axes=1))(
        xs, carry
    )
    assert_same_norms(alone, wanted)
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), params)
    both = jax.jit(jax.vmap(lambda p: norms(p, xs, carry=carry)))(many)
    assert_same_norms(jax.tree.map(lambda leaf: np.asarray(leaf)[1], both), wanted)


def assert_same_norms(seen, wanted):
    """Equal within 1e-12 of the norms themselves, -inf where wanted."""
    for a, b in zip(seen, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12, rtol=0)


def test_no_carry_is_the_initial_one(rng, x64):
    cell, params, xs, loss, _ = problem(CASES["user_update"], rng)
    function, initial = diagnostics.gradient_norms_by_lag, cell.initial_carry(params, (B,))
    wanted = by_lag(function, cell, params, xs, loss, initial)
    np.testing.assert_array_equal(by_lag(function, cell, params, xs, loss), wanted)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_norms_neither_under_nor_overflow(factor):
    """2^-10000 and 3^10000 are no float32, nor 3 ln(10) more nats of a loss of 1e30."""
    cell, steps = lj.RNN(4, "identity"), 10_000
    params = {"w_ih": np.zeros((2, 4)), "w_hh": factor * np.eye(4), "b": np.zeros(4)}
    params = registry.cast(params, np.float32)
    norms = by_lag(
        diagnostics.gradient_norms_by_lag,
        cell,
        params,
        np.zeros((steps, 2), np.float32),
        lambda ys: 1e-30 * ys[-1].sum(),
    )
    assert norms.h.dtype == np.float32
    wanted = np.log(2e-30) + np.log(factor) * np.arange(steps - 1, -1, -1)
    np.testing.assert_allclose(norms.h, wanted, rtol=1e-5)
    slope = jax.jit(diagnostics.slope_per_step)(norms)
    np.testing.assert_allclose(slope.h, np.log(factor), atol=1e-6)


def test_float32_follows_float64(rng):
    with jax.enable_x64(True):
        cell, params, xs, loss, carry = problem(CASES["lstm"], rng)
        wanted = by_lag(diagnostics.gradient_norms_by_lag, cell, params, xs, loss, carry)
        wanted = jax.tree.map(np.asarray, wanted)
        targets = np.asarray(jax.jit(jax.grad(loss))(np.zeros((T, B, H))))
    params, xs, carry = registry.cast((params, xs, carry), np.float32)
    targets = jnp.asarray(targets, jnp.float32)
    seen = by_lag(
        diagnostics.gradient_norms_by_lag,
        cell,
        params,
        xs,
        lambda ys: 0.5 * jnp.sum((ys + targets) ** 2),
        carry,
    )
    assert seen.c.dtype == np.float32
    registry.assert_close(jax.tree.map(np.exp, seen), jax.tree.map(np.exp, wanted), 1e-5)


# ---- summaries ----------------------------------------------------------------------------------
def test_slope_is_that_of_an_exponential_but_for_what_is_not_finite(x64):
    steps, rates = 400, np.array([-0.3, 0.01, -4.0])
    lag = np.arange(steps - 1, -1, -1.0)[:, None]
    norms = jnp.asarray(rates * lag + np.log([1.0, 7.0, 2.0]))
    norms = norms.at[-1, 0].set(-jnp.inf).at[5, 1].set(jnp.inf).at[7, 1].set(jnp.nan)
    np.testing.assert_allclose(diagnostics.slope_per_step(norms), rates, rtol=1e-9)
    state = lj.LSTMState(norms, 2 + norms)
    for slope in jax.jit(diagnostics.slope_per_step)(state):
        np.testing.assert_allclose(slope, rates, rtol=1e-9)


def test_slope_is_least_squares(rng, x64):
    norms = rng.standard_normal(50)
    wanted = np.polyfit(np.arange(49, -1, -1), norms, 1)[0]
    np.testing.assert_allclose(diagnostics.slope_per_step(jnp.asarray(norms)), wanted, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_slope_of_many_steps_in_few_bits(dtype):
    """The numbers are exact in each dtype; the lags and the sum of their squares are not."""
    halves = jnp.repeat(jnp.asarray([[-100.0], [-50.0]]), 300, axis=0)[:, 0]
    lag = np.arange(599, -1, -1) - 299.5
    wanted = (lag @ np.asarray(halves, np.float64)) / (lag @ lag)
    seen = diagnostics.slope_per_step(halves.astype(dtype))
    np.testing.assert_allclose(seen, wanted, rtol=1e-6)


def test_slope_does_not_depend_on_the_size_of_the_norms():
    """At -2^22 nats a float32 still knows halves."""
    norms = jnp.asarray([-0.5, 0.0, 0.5, 1.0, 1.5, 2.0]) - 2.0**22
    np.testing.assert_allclose(diagnostics.slope_per_step(norms), -0.5, rtol=1e-6)


def test_slope_of_fewer_than_two_steps_is_nan():
    norms = jnp.log(jnp.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    assert np.isnan(diagnostics.slope_per_step(norms)).all()
    with pytest.raises(ValueError, match=r"norms: got a scalar, wanted \[T, \*batch\]"):
        diagnostics.slope_per_step(jnp.float32(1))


def test_mean_log_norms_is_the_mean_over_the_batch():
    norms = jnp.array([[[0.0, 2.0]], [[-jnp.inf, 0.0]]])
    seen = diagnostics.mean_log_norms(lj.State(norms)).h
    np.testing.assert_array_equal(seen, [1.0, -np.inf])
    np.testing.assert_array_equal(diagnostics.mean_log_norms(norms[:1, 0, 1]), [2.0])


# ---- dL/dW_t ------------------------------------------------------------------------------------
@registry.cells(dear=True)
def test_weight_gradients_sum_to_the_gradient(case, rng):
    check_sum(case, "all", np.float64, 1e-10, rng)


@registry.cells(FEW)
def test_weight_gradients_sum_to_the_gradient_in_float32(case, rng):
    check_sum(case, "plain", np.float32, 1e-5, rng)


def check_sum(case, flags, dtype, tol, rng):
    with jax.enable_x64(dtype is np.float64):
        cell, params, xs, loss, carry = problem(case, rng, dtype)
        flags = FLAGS[flags]
        function = diagnostics.weight_gradient_by_lag
        seen = by_lag(function, cell, params, xs, loss, carry, **flags)
        whole = jax.jit(jax.grad(lambda p: loss(lj.unroll(cell, p, xs, carry, **flags)[1])))(params)
        wanted = {name: whole[name] for name in cell.recurrent}
        for name, leaf in seen.items():
            assert leaf.dtype == dtype and leaf.shape == (T, *params[name].shape)
        registry.assert_close(jax.tree.map(lambda leaf: leaf.sum(0), seen), wanted, tol)


@registry.cells(["lstm", "user_step"])
def test_weight_gradient_is_that_of_the_steps_own_copy(case, rng, x64):
    """Step 2 alone runs with W + delta: the gradient in delta, by a plain loop."""
    cell, params, xs, loss, carry = problem(case, rng)

    def value(w):
        state, ys = carry, []
        for t in range(T):
            own = params | {"w_hh": w} if t == 2 else params
            state, y = cell.step(own, state, xs[t])
            ys.append(y)
        return loss(jnp.stack(ys))

    seen = by_lag(diagnostics.weight_gradient_by_lag, cell, params, xs, loss, carry)["w_hh"]
    wanted = jax.jit(jax.grad(value))(params["w_hh"])
    np.testing.assert_allclose(seen[2], wanted, rtol=1e-10, atol=1e-13)
    norms = by_lag(diagnostics.weight_gradient_norms_by_lag, cell, params, xs, loss, carry)["w_hh"]
    assert norms.shape == (T,)
    np.testing.assert_allclose(np.exp(norms), np.linalg.norm(seen, axis=(1, 2)), rtol=1e-12)


def test_the_norm_of_one_example_factors(rng, x64):
    """|dL/dW_t|_F = |delta_t| |h_{t-1}| for one sequence, delta_t = f'(a_t) dL/dh_t."""
    cell, params, xs, loss, carry = problem(CASES["rnn_tanh"], rng, batch=())
    _, hs = lj.unroll(cell, params, xs, carry)
    h_tm1 = jnp.concatenate([carry.h[None], hs[:-1]])
    delta = (1 - hs**2) * by_lag(diagnostics.gradients_by_lag, cell, params, xs, loss, carry).h
    wanted = np.linalg.norm(delta, axis=1) * np.linalg.norm(h_tm1, axis=1)
    seen = by_lag(diagnostics.weight_gradient_norms_by_lag, cell, params, xs, loss, carry)["w_hh"]
    np.testing.assert_allclose(np.exp(seen), wanted, rtol=1e-12)


# ---- cells whose output is not a function of the carry ------------------------------------------
@dataclasses.dataclass(frozen=True)
class Skip(lj.Cell):
    """A cell with y_t = h_{t-1} + x_t w_ih, which is not a function of the carry after the step."""

    def step(self, params, carry, x):
        wx = x @ params["w_ih"]
        return lj.State(0.5 * carry.h @ params["w_hh"] + wx), carry.h + wx

    def output(self, params, carry):
        return jnp.zeros_like(carry.h)


@dataclasses.dataclass(frozen=True)
class Wide(lj.Cell):
    """A cell with y_t = (h_t, h_t), without an `output` of that shape."""

    def step(self, params, carry, x):
        h = jnp.tanh(x @ params["w_ih"] + carry.h)
        return lj.State(h), jnp.concatenate([h, h], axis=-1)


def test_an_output_apart_from_the_carry_counts_through_later_steps(rng, x64):
    cell = Skip(H)
    params = registry.cast(registry.random_params(cell, D, rng), np.float64)
    xs = jnp.asarray(rng.standard_normal((T, D)))
    seen = by_lag(diagnostics.gradients_by_lag, cell, params, xs, lambda ys: ys[-1].sum()).h
    np.testing.assert_array_equal(seen[-1], 0)
    np.testing.assert_allclose(seen[-2], 1, rtol=1e-12)
    np.testing.assert_allclose(seen[-3], 0.5 * params["w_hh"].sum(1), rtol=1e-12)


def test_errors_name_the_remedy(rng):
    xs = jnp.zeros((T, B, D))
    cell = Wide(H)
    params = cell.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match=r"cell.output: got shape \(3, 3\), wanted .*override"):
        by_lag(diagnostics.gradients_by_lag, cell, params, xs, jnp.sum)
    with pytest.raises(ValueError, match=r"mask: got shape \(5, 2\)"):
        by_lag(diagnostics.gradients_by_lag, cell, params, xs, jnp.sum, mask=np.ones((5, 2), bool))
    with pytest.raises(ValueError, match=r"seq_lengths: got values from 0 to 9"):
        by_lag(
            diagnostics.weight_gradient_by_lag,
            cell,
            params,
            xs,
            jnp.sum,
            seq_lengths=np.array([0, 9, 1]),
        )

    @dataclasses.dataclass(frozen=True)
    class Misnamed(lj.RNN):
        recurrent = ("w_rec",)

    with pytest.raises(ValueError, match=r"Misnamed.recurrent: got 'w_rec', wanted names of what"):
        diagnostics.weight_gradient_by_lag(Misnamed(H), params, xs, jnp.sum)
