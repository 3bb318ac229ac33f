"""The four choices of dtype, for every cell and implementation: types, and nearness to float64."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

pytestmark = pytest.mark.sampled

T, B, D, H = 5, 2, 3, 4
F64, F32, BF16, F16 = NAMES = ("float64", "float32", "bfloat16", "float16")
dtypes = pytest.mark.parametrize("dtype", NAMES)
at_least_float32 = {"float16": "float32", "bfloat16": "float32"}


@pytest.fixture(autouse=True)
def _x64(x64):
    """On for every dtype, so that a leak of float64 would show."""


def arguments(cell, steps, seed=0):
    """(params, xs, carry) in float64."""
    rng = np.random.default_rng(seed)
    params = registry.random_params(cell, D, rng)
    xs = rng.standard_normal((steps, B, D))
    return params, xs, registry.random_carry(cell, params, (B,), rng)


def unrolled(cell, implementation, args):
    """(final carry, ys), with lengths and resets."""
    steps = args[1].shape[0]
    flags = {"seq_lengths": [steps, steps - 1], "resets": np.eye(steps, B, -2, bool)}
    return lj.unroll(cell, *args, **flags, implementation=implementation)


@functools.lru_cache
def compiled(cell, implementation):
    """Jitted args -> ((final carry, ys), gradients of their mean squares)."""

    def loss(args):
        outs = unrolled(cell, implementation, args)
        # In float64, so that the loss adds no rounding of its own.
        squares = [jnp.mean(jnp.square(leaf.astype(F64))) for leaf in jax.tree.leaves(outs)]
        return sum(squares), outs

    def run(args):
        grads, outs = jax.grad(loss, has_aux=True)(args)
        return outs, grads

    return jax.jit(run)


def types(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


@functools.lru_cache
def truth(case, dtype, steps=T):
    """The arguments rounded to `dtype`, and plain "scan" of them in float64."""
    args = jax.tree.map(
        lambda x: np.asarray(jnp.asarray(x, dtype), np.float64), arguments(case.make(H), steps)
    )
    return args, compiled(case.make(H), "scan")(args)


# ---- all of one dtype ----------------------------------------------------------------------------
@dtypes
@registry.grid(dear=True)
def test_one_dtype(case, implementation, dtype):
    """Parameters and inputs of one dtype: everything is of it, but a carry of at least float32."""
    cell = case.make(H, param_dtype=dtype)
    assert types(cell.init(jax.random.key(0), D)) == {dtype}
    args, wanted = truth(case, dtype)
    outs, grads = compiled(cell, implementation)(registry.cast(args, dtype))
    assert types(outs[0]) == {at_least_float32.get(dtype, dtype)}
    assert types(outs[1]) == types(grads) == {dtype}
    # A few roundings a step, T steps; the loss and its gradient are of the order of one.
    tol = 16 * float(jnp.finfo(dtype).eps)
    registry.assert_close((outs, grads), wanted, tol)


@registry.grid()
def test_no_float64_appears_by_itself(case, implementation):
    """Not even inside: the compiler is never shown one."""
    args = registry.cast(arguments(case.make(H), T), "float32")

    def loss(args):
        outs = lj.unroll(case.make(H), *args, seq_lengths=[T, 0], implementation=implementation)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outs))

    text = jax.jit(jax.value_and_grad(loss)).lower(args).as_text()
    assert "xf32>" in text and "f64" not in text


@registry.cells()
def test_initial_carry_and_step(case):
    """In the types that `unroll` has."""
    for dtype in NAMES:
        cell = case.make(H, param_dtype=dtype)
        params = cell.init(jax.random.key(0), D)
        carry = cell.initial_carry(params, (B,))
        assert types(carry) == {at_least_float32.get(dtype, dtype)}
        shapes = jax.eval_shape(cell.step, params, carry, jnp.ones((B, D), dtype))
        assert types(shapes[0]) == types(carry) and types(shapes[1]) == {dtype}


# ---- choices -------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice of dtypes and their consequences, for inputs and parameters of dtype `given`."""

    given: tuple[str, str]  # params, xs
    options: dict
    ys: str
    carry: tuple[str, str]  # h, the others
    eps: str  # the coarsest in the way of the numbers


CHOICES = {
    "mixed precision": Choice((F32, F32), {"dtype": BF16}, BF16, (F32, F32), BF16),
    "half parameters": Choice((BF16, F32), {}, F32, (F32, F32), BF16),
    "half inputs": Choice((F32, F16), {}, F32, (F32, F32), F16),
    "both halves": Choice((BF16, F16), {}, F32, (F32, F32), BF16),
    "half carry": Choice((F32, F32), {"carry_dtype": BF16}, F32, (BF16, F32), BF16),
    "wide carry": Choice((F32, F32), {"carry_dtype": F64}, F32, (F64, F64), F32),
    "half sums": Choice((BF16, BF16), {"accumulation_dtype": BF16}, BF16, (F32, F32), BF16),
    "wide sums": Choice((F32, F32), {"accumulation_dtype": F64}, F32, (F32, F32), F32),
    "all four": Choice(
        (F64, F32),
        {"dtype": F16, "carry_dtype": F16, "accumulation_dtype": F32, "param_dtype": F64},
        F16,
        (F16, F32),
        F16,
    ),
}


def chosen(case, choice):
    """The cell, and its arguments in the dtypes that are given."""
    (params, xs, carry), _ = truth(case, BF16)
    dtypes = (*choice.given, F32)
    cell = case.make(H, **choice.options)
    return cell, tuple(
        registry.cast(a, d) for a, d in zip((params, xs, carry), dtypes, strict=True)
    )


REFUSED = {
    "wide carry": "it holds float64 beside sums in float32",
    "half sums": "its sums are in bfloat16, the kernel's in float32 or float64",
}
"""The choices that "native" does not take, and why."""

WITHOUT_SUMS = ("min_gru", "min_gru_signed", "min_lstm", "sru")
"""Cells whose recurrence has no matmul: the kernel runs in the dtype of their carry."""


def refusal(case, implementation, name):
    """Why not, or None for what runs."""
    if implementation != "native" or (name == "wide carry" and case.name in WITHOUT_SUMS):
        return None
    return REFUSED.get(name)


def choices(names=registry.CASES, dear=False):
    """`registry.grid` by the names of the choices, without what is refused."""
    params = [
        pytest.param(*pair.values, name, id=f"{pair.id}-{name}", marks=pair.marks)
        for pair in registry.pairs(names, dear)
        for name in CHOICES
        if refusal(*pair.values, name) is None
    ]
    return pytest.mark.parametrize(("case", "implementation", "name"), params)


@registry.needs_kernel
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_left_out_is_refused(name):
    """By name and with the reason, for every cell; so that no pair leaves the grid unseen."""
    left_out = [pair for pair in registry.GRID if refusal(*pair, name)]
    assert left_out
    for case, implementation in left_out:
        why = re.escape(f"{implementation}: {refusal(case, implementation, name)}; use")
        with pytest.raises(NotImplementedError, match=why):
            lj.which(case.make(H, **CHOICES[name].options), implementation=implementation)


@choices(dear=True)
def test_types_of_a_choice(case, implementation, name):
    choice = CHOICES[name]
    cell, given = chosen(case, choice)
    (final, ys), grads = jax.eval_shape(compiled(cell, implementation), given)
    assert types(ys) == {choice.ys}
    assert types(final[0]) == {choice.carry[0]}
    assert types(final[1:]) <= {choice.carry[1]}
    assert jax.tree.map(lambda g: g.dtype, grads) == jax.tree.map(lambda a: a.dtype, given)


@choices(["lstm", "user_update", "gru_reset_before"])
def test_numbers_of_a_choice(case, implementation, name):
    cell, given = chosen(case, CHOICES[name])
    seen = jax.jit(functools.partial(unrolled, cell, implementation))(given)
    tol = 16 * float(jnp.finfo(CHOICES[name].eps).eps)
    registry.assert_close(seen, truth(case, BF16)[1][0], tol)


@pytest.mark.parametrize("implementation", ["fused", "scan"])
@pytest.mark.parametrize(("options", "inside"), [({}, F32), ({"accumulation_dtype": F64}, F64)])
def test_the_update_runs_in_the_accumulation_dtype(implementation, options, inside):
    seen = set()

    class Spy(lj.LSTM):
        def update(self, carry, wx, u):
            seen.update(types((carry, wx, u)))
            return super().update(carry, wx, u)

    cell = Spy(H, dtype=BF16, **options)
    given = registry.cast(arguments(cell, T), F32)
    jax.eval_shape(compiled(cell, implementation), given)
    assert seen == {inside}


@pytest.mark.parametrize("implementation", ["fused", "scan"])
def test_a_long_sum_in_bfloat16_keeps_its_small_terms(implementation):
    """c sums in float32: 256 + 1 + 1 + ..., of which bfloat16 would hold only 256."""
    open_gates = {
        "w_ih": jnp.zeros((1, 4), BF16),
        "w_hh": jnp.zeros((1, 4), BF16),
        "b": jnp.full(4, 40, BF16),
    }
    start = lj.LSTMState(jnp.zeros((1, 1)), jnp.full((1, 1), 256.0))
    xs = jnp.zeros((64, 1, 1), BF16)
    final, _ = lj.unroll(lj.LSTM(1), open_gates, xs, start, implementation=implementation)
    assert float(final.c[0, 0]) == 256 + 64


# ---- bfloat16 over long sequences ----------------------------------------------------------------
@functools.lru_cache
def slopes(case, implementation, dtype, remat=None):
    """Gradients of a mean that all steps push the same way, of arguments rounded to bfloat16."""
    cell, steps = case.make(H), 1024
    params, xs, carry = registry.cast(registry.cast(arguments(cell, steps), BF16), dtype)
    resets = np.arange(steps * B).reshape(steps, B) % 9 == 0

    def loss(params):
        carried = registry.cast(carry, at_least_float32.get(dtype, dtype))
        given = {"resets": resets, "remat": remat, "implementation": implementation}
        _, ys = lj.unroll(cell, params, xs, carried, **given)
        return jnp.mean(jnp.square(1 + ys.astype(F64)))

    return jax.jit(jax.grad(loss))(params)


def check_slopes(case, implementation, remat=None):
    """They are summed in float32: bfloat16 loses a term below 1/512 of the sum so far."""
    wanted = slopes(case, "scan", F64)
    for name, seen in slopes(case, implementation, BF16, remat).items():
        error = np.linalg.norm(np.asarray(seen, np.float64) - wanted[name])
        assert error <= 0.05 * np.linalg.norm(wanted[name]), name


@registry.grid(dear=True)
def test_gradients_of_many_steps_in_bfloat16(case, implementation):
    check_slopes(case, implementation)


@registry.grid(["lstm", "user_update"])
def test_gradients_of_many_chunks_in_bfloat16(case, implementation):
    check_slopes(case, implementation, remat=3)


# ---- float32 over long sequences -----------------------------------------------------------------
BOUND = 4
"""|float32 - float64| <= BOUND * eps * sqrt(T), of the largest number of each array."""


@registry.grid(dear=True)
def test_float32_stays_near_float64(case, implementation):
    """Over every prefix of the outputs; and the gradient over the whole."""
    steps, eps = 400, float(jnp.finfo(F32).eps)
    args, ((_, wanted_ys), wanted_grads) = truth(case, F32, steps)
    (_, ys), grads = compiled(case.make(H), implementation)(registry.cast(args, F32))
    # What is never forgotten is summed over all steps, in the gradient too.
    times = 4 if case.name == "lstm_no_forget_gate" else 1
    error = np.abs(np.asarray(ys, np.float64) - wanted_ys).max(axis=(1, 2))
    bound = BOUND * eps * np.sqrt(1 + np.arange(steps)) * np.abs(wanted_ys).max()
    assert np.all(error <= bound)
    registry.assert_close(grads, wanted_grads, times * BOUND * eps * np.sqrt(steps))
