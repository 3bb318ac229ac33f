"""Semantics of sequences: padding, masks, restarts, directions, layouts, for every implementation.

The oracle walks each sequence alone, one `cell.step` at a time, in Python: a step that is not
valid is skipped, a restart begins anew. Its gradient is backpropagation by hand through the same
steps. Whatever masks, resets and directions hypothesis draws, values and gradients agree with it.
Shapes are fixed, so that each unroll is compiled once.
"""

import functools
from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from hypothesis import given
from hypothesis import strategies as st

import lstm_jax as lj
from lstm_jax import _sequence

pytestmark = pytest.mark.sampled

T, B, D, H = 6, 3, 2, 3
directions = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


class Problem(NamedTuple):
    """A batch and a loss: the sum of weights times outputs."""

    params: Any
    xs: Any  # [T, B, D]
    carry: Any
    valid: Any  # [T, B]
    resets: Any  # [T, B]
    weights: Any  # of (final carry, ys)


def problem(case, seed, valid=True, resets=False):
    rng, cell = np.random.default_rng(seed), case.make(H)
    params = registry.random_params(cell, D, rng)
    carry = registry.random_carry(cell, params, (B,), rng)
    weights = (registry.normal(carry, rng), rng.standard_normal((T, B, H)))
    flags = (np.broadcast_to(flag, (T, B)).copy() for flag in (valid, resets))
    return Problem(params, rng.standard_normal((T, B, D)), carry, *flags, weights)


masks = st.one_of(
    hnp.arrays(bool, (T, B)),  # with gaps
    st.lists(st.integers(0, T), min_size=B, max_size=B).map(lambda n: np.arange(T)[:, None] < n),
    st.lists(st.integers(0, T), min_size=B, max_size=B).map(lambda n: np.arange(T)[:, None] >= n),
)
resets = st.one_of(st.just(np.zeros((T, B), bool)), hnp.arrays(bool, (T, B)))
seeds = st.integers(0, 9)


# ---- what is tested, compiled once ---------------------------------------------------------------
@functools.lru_cache
def compiled(case, implementation, reverse):
    """Problem -> ((final carry, ys), gradients of (params, xs, carry))."""
    cell = case.make(H)

    def loss(args, p):
        options = {"mask": p.valid, "resets": p.resets, "reverse": reverse}
        outs = lj.unroll(cell, *args, **options, implementation=implementation)
        products = jax.tree.map(lambda w, out: jnp.sum(w * out), p.weights, outs)
        return sum(jax.tree.leaves(products)), outs

    @jax.jit
    def run(p):
        grads, outs = jax.grad(loss, has_aux=True)((p.params, p.xs, p.carry), p)
        return outs, grads

    return in_numpy(run)


def in_numpy(run):
    """`run` with results of NumPy, of which JAX need not compile every slice."""
    return lambda *args, **options: jax.device_get(run(*args, **options))


@functools.lru_cache
def forward(case, implementation, reverse=False, **options):
    """(params, xs, carry, flags) -> (final carry, ys), for any shapes."""

    def run(params, xs, carry, **flags):
        choice = {"implementation": implementation, "reverse": reverse, **options}
        return lj.unroll(case.make(H), params, xs, carry, **flags, **choice)

    return in_numpy(jax.jit(run))


# ---- the oracle ----------------------------------------------------------------------------------
@functools.lru_cache
def steps(case):
    """Jitted: one step, its pullback, the start, its pullback; of one sequence."""
    step, start = case.make(H).step, case.make(H).initial_carry
    pull = jax.jit(lambda params, carry, x, cts: jax.vjp(step, params, carry, x)[1](cts))
    pull_start = jax.jit(lambda params, ct: jax.vjp(lambda p: start(p, ()), params)[1](ct)[0])
    return jax.jit(step), pull, jax.jit(lambda params: start(params, ())), pull_start


def alone(case, p, b, reverse):
    """Sequence b by itself: (final carry, ys), gradients of (params, xs, carry)."""
    step, pull, start, pull_start = steps(case)
    order = range(T)[::-1] if reverse else range(T)
    carry = jax.tree.map(lambda leaf: leaf[b], p.carry)
    weights, ys, tape = jax.tree.map(lambda leaf: leaf[b], p.weights[0]), np.zeros((T, H)), []
    for t in order:
        # Backwards, the episode that starts at t + 1 has been left when t is reached.
        restart = (t + 1 < T and p.resets[t + 1, b]) if reverse else p.resets[t, b]
        carry = start(p.params) if restart else carry
        tape.append((t, restart, carry))
        if p.valid[t, b]:
            carry, ys[t] = step(p.params, carry, p.xs[t, b])
    final, ct = carry, weights
    dparams, dxs = jax.tree.map(np.zeros_like, p.params), np.zeros((T, D))
    for t, restart, carry in reversed(tape):
        if p.valid[t, b]:
            cts = (ct, p.weights[1][t, b])
            more, ct, dxs[t] = pull(p.params, carry, p.xs[t, b], cts)
            dparams = jax.tree.map(np.add, dparams, more)
        if restart:
            dparams = jax.tree.map(np.add, dparams, pull_start(p.params, ct))
            ct = jax.tree.map(np.zeros_like, ct)
    return (final, ys), (dparams, dxs, ct)


def oracle(case, p, reverse):
    """The batch: each sequence alone; the gradients of the parameters add up."""
    (finals, ys), (dparams, dxs, dcarries) = (
        zip(*parts, strict=True)
        for parts in zip(*(alone(case, p, b, reverse) for b in range(B)), strict=True)
    )
    stack = functools.partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    outs = (stack(*finals), np.stack(ys, axis=1))
    total = jax.tree.map(lambda *leaves: sum(leaves), *dparams)
    return outs, (total, np.stack(dxs, axis=1), stack(*dcarries))


# ---- against the oracle --------------------------------------------------------------------------
@directions
@registry.grid()
@given(valid=masks, resets=resets, seed=seeds, padding=st.sampled_from([0, 1e300, np.inf, np.nan]))
def test_a_batch_is_each_sequence_alone(
    case, implementation, reverse, valid, resets, seed, padding
):
    """Whatever the padding holds: what is not valid is not read."""
    p = problem(case, seed, valid, resets)
    padded = p._replace(xs=np.where(valid[..., None], p.xs, padding))
    (final, ys), grads = compiled(case, implementation, reverse)(padded)
    registry.assert_close(((final, ys), grads), oracle(case, p, reverse), 1e-10)
    # Exactly, not nearly:
    assert not np.any(np.asarray(ys)[~valid])
    assert not np.any(np.asarray(grads[1])[~valid])
    never = ~valid.any(0) & ~resets[1 if reverse else 0 :].any(0)
    for leaf, start in zip(jax.tree.leaves(final), jax.tree.leaves(p.carry), strict=True):
        np.testing.assert_array_equal(leaf[never], start[never])


@pytest.mark.parametrize("padding", [np.nan, np.inf, -np.inf])
@directions
@registry.grid()
def test_padding_changes_no_bit(case, implementation, reverse, padding):
    valid = np.random.default_rng(1).random((T, B)) < 0.5
    p = problem(case, 0, valid)
    run = compiled(case, implementation, reverse)
    wanted = run(p)
    seen = run(p._replace(xs=np.where(valid[..., None], p.xs, padding)))
    jax.tree.map(np.testing.assert_array_equal, seen, wanted)


# ---- restarts ------------------------------------------------------------------------------------
@directions
@registry.grid()
def test_a_reset_cuts_the_gradient_exactly(case, implementation, reverse):
    """The episode that is walked last depends on nothing in the one walked first."""
    cut = 3
    resets = np.arange(T)[:, None] == cut
    last, first = (slice(0, cut), slice(cut, T)) if reverse else (slice(cut, T), slice(0, cut))
    p = problem(case, 0, resets=resets)
    p.weights[1][first] = 0
    _, (_, dxs, dcarry) = compiled(case, implementation, reverse)(p)
    assert np.all(np.any(dxs, axis=(1, 2))[last])
    assert not np.any(np.any(dxs, axis=(1, 2))[first])
    assert not any(np.any(np.asarray(leaf)) for leaf in dcarry)


@directions
@registry.grid()
def test_a_reset_clears_nan(case, implementation, reverse):
    """Of the carry that came in, before the first step that is walked, in values and gradients."""
    resets = np.arange(T)[:, None] == (T - 1 if reverse else 0)
    p = problem(case, 0, resets=resets)
    if reverse:  # Nothing is left to restart before step T - 1; its NaN goes no further.
        p.xs[T - 1] = np.nan
    (final, ys), _ = compiled(case, implementation, reverse)(p._replace(carry=nan_like(p.carry)))
    steps_after = slice(0, T - 1) if reverse else slice(0, T)
    assert np.all(np.isfinite(np.asarray(ys)[steps_after]))
    assert all(np.all(np.isfinite(leaf)) for leaf in final)


@registry.grid()
def test_a_reset_before_the_first_step_keeps_nan_out_of_the_gradient(case, implementation):
    p = problem(case, 0, resets=np.arange(T)[:, None] == 0)
    seen = compiled(case, implementation, False)(p._replace(carry=nan_like(p.carry)))
    registry.assert_close(seen, compiled(case, implementation, False)(p), 1e-15)


def nan_like(tree):
    return jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), tree)


@directions
@registry.grid()
def test_a_reset_at_a_masked_step_applies(case, implementation, reverse):
    """With every step masked, what is left is the start of the last episode."""
    resets = np.arange(T)[:, None] == 2
    p = problem(case, 0, valid=False, resets=resets)
    (final, ys), _ = compiled(case, implementation, reverse)(p)
    registry.assert_close(final, case.make(H).initial_carry(p.params, (B,)), 1e-15)
    assert not np.any(np.asarray(ys))


def test_resets_from_dones():
    dones = np.array([[0, 1], [1, 0], [1, 1]], bool)
    wanted = np.array([[0, 0], [0, 1], [1, 0]], bool)
    np.testing.assert_array_equal(lj.resets_from_dones(dones), wanted)
    assert lj.resets_from_dones(np.zeros((0, 2), bool)).shape == (0, 2)


# ---- lengths -------------------------------------------------------------------------------------
@given(lengths=hnp.arrays(np.int32, (2, B), elements=st.integers(0, T)))
def test_lengths_are_masks(lengths):
    seen = np.asarray(_sequence.lengths_to_mask(lengths, T))
    np.testing.assert_array_equal(
        seen, [[[t < n for n in row] for row in lengths] for t in range(T)]
    )


@registry.grid()
def test_lengths_and_a_mask_are_both_obeyed(case, implementation):
    p = problem(case, 0, valid=np.random.default_rng(0).random((T, B)) < 0.6)
    lengths = np.array([0, 4, T])
    run, within = forward(case, implementation), np.arange(T)[:, None] < lengths
    seen = run(*p[:3], seq_lengths=lengths, mask=p.valid)
    registry.assert_close(seen, run(*p[:3], mask=p.valid & within), 1e-15)
    registry.assert_close(run(*p[:3], seq_lengths=lengths), run(*p[:3], mask=within), 1e-15)


# ---- chunks, carries, layouts --------------------------------------------------------------------
@directions
@registry.grid()
def test_chunks_are_one_unroll(case, implementation, reverse):
    """Forwards with resets anywhere; backwards with none at the border, whose flag is not seen."""
    rng = np.random.default_rng(0)
    p = problem(case, 0, rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.4)
    p.resets[T // 2] &= not reverse
    run = forward(case, implementation, reverse)
    pieces = [slice(0, T // 2), slice(T // 2, T)][:: -1 if reverse else 1]
    carry, parts = p.carry, {}
    for piece in pieces:
        flags = {"mask": p.valid[piece], "resets": p.resets[piece]}
        carry, parts[piece.start] = run(p.params, p.xs[piece], carry, **flags)
    ys = np.concatenate([parts[0], parts[T // 2]])
    (final, whole), _ = compiled(case, implementation, reverse)(p)
    registry.assert_close((carry, ys), (final, whole), 1e-12)


@directions
@registry.grid()
def test_carries_of_all_steps(case, implementation, reverse):
    """They hold where a step is masked, and outputs are made of them."""
    rng, cell = np.random.default_rng(0), case.make(H)
    p = problem(case, 0, rng.random((T, B)) < 0.6, rng.random((T, B)) < 0.2)
    run = forward(case, implementation, reverse, return_carries=True)
    final, carries = run(*p[:3], mask=p.valid, resets=p.resets)
    (wanted, ys), _ = compiled(case, implementation, reverse)(p)
    registry.assert_close(final, wanted, 1e-12)
    last = 0 if reverse else -1
    registry.assert_close(jax.tree.map(lambda leaf: leaf[last], carries), wanted, 1e-12)
    seen = np.where(p.valid[..., None], cell.output(p.params, carries), 0)
    registry.assert_close(seen, ys, 1e-12)


@directions
@registry.grid()
def test_layouts(case, implementation, reverse):
    """Batch-major, several batch axes and none are the time-major batch, with every flag."""
    rng = np.random.default_rng(0)
    flags = {"mask": rng.random((T, B)) < 0.6, "resets": rng.random((T, B)) < 0.3}
    lengths = np.array([0, 4, T])
    p, run = problem(case, 0), forward(case, implementation, reverse)
    final, ys = run(*p[:3], **flags, seq_lengths=lengths)

    by_batch = forward(case, implementation, reverse, time_major=False)
    swapped = {name: flag.swapaxes(0, 1) for name, flag in flags.items()}
    seen = by_batch(p.params, p.xs.swapaxes(0, 1), p.carry, **swapped, seq_lengths=lengths)
    registry.assert_close(seen, (final, ys.swapaxes(0, 1)), 1e-12)

    one = {name: flag[:, 1] for name, flag in flags.items()}
    carry = jax.tree.map(lambda leaf: leaf[1], p.carry)
    seen = run(p.params, p.xs[:, 1], carry, **one, seq_lengths=lengths[1])
    registry.assert_close(seen, (jax.tree.map(lambda leaf: leaf[1], final), ys[:, 1]), 1e-12)

    many = {name: flag.reshape(T, 1, B, 1) for name, flag in flags.items()}
    carry = jax.tree.map(lambda leaf: leaf.reshape(1, B, 1, H), p.carry)
    seen = run(
        p.params, p.xs.reshape(T, 1, B, 1, D), carry, **many, seq_lengths=lengths.reshape(1, B, 1)
    )
    wanted = jax.tree.map(lambda leaf: leaf.reshape(1, B, 1, H), final)
    registry.assert_close(seen, (wanted, ys.reshape(T, 1, B, 1, H)), 1e-12)


@directions
@registry.grid()
def test_no_steps(case, implementation, reverse):
    """T = 0: the carry that came in, no outputs, no gradient of the parameters."""
    p = problem(case, 0)
    given = (p.params, p.xs[:0], p.carry)
    flags = {"mask": p.valid[:0], "resets": p.resets[:0], "implementation": implementation}
    (final, ys), pull = jax.vjp(
        lambda *a: lj.unroll(case.make(H), *a, reverse=reverse, **flags), *given
    )
    registry.assert_close(final, p.carry, 0)
    assert ys.shape == (0, B, H)
    dparams, dxs, dcarry = pull((p.weights[0], ys))
    registry.assert_close(
        (dparams, dcarry), (jax.tree.map(np.zeros_like, p.params), p.weights[0]), 0
    )
    assert dxs.shape == (0, B, D)


@registry.grid()
def test_everything_of_size_one(case, implementation):
    cell, rng = case.make(1), np.random.default_rng(0)
    params = registry.random_params(cell, 1, rng)
    xs = rng.standard_normal((1, 1, 1))
    seen = lj.unroll(cell, params, xs, implementation=implementation)
    carry, y = jax.jit(cell.step)(params, cell.initial_carry(params, (1,)), xs[0])
    registry.assert_close(seen, (carry, np.asarray(y)[None]), 1e-12)


@registry.grid()
def test_steps_are_one_unroll(case, implementation):
    """Streaming, with batches: the same numbers."""
    p, step = problem(case, 0), jax.jit(case.make(H).step)
    carry, ys = p.carry, []
    for x in p.xs:
        carry, y = step(p.params, carry, x)
        ys.append(y)
    (final, whole), _ = compiled(case, implementation, False)(p)
    registry.assert_close((carry, np.stack(ys)), (final, whole), 1e-12)
