"""The kernel of the CPU against the definition: values and both derivatives; what it refuses.

What users see of it, the grid of the other files tests as it does every implementation. Here its
three functions stand beside `base`'s, on sizes and flags drawn at random; its elementary functions
beside NumPy's float64; and each line of `why_not` is reached.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import kernel
import numpy as np
import pytest
import registry
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from registry import CASES

import lstm_jax as lj
from lstm_jax._recurrence import equations, matrix
from lstm_jax._recurrence.elementwise import program
from lstm_jax._recurrence.engines.native import calls, library, tried
from lstm_jax._recurrence.inferred import recurrence_of

pytestmark = [registry.needs_kernel, pytest.mark.sampled]

NATIVE = [case.name for case in CASES.values() if "native" in case.implementations]
SHORT = ("rnn_tanh", "lstm", "gru", "layer_norm_lstm", "user_update")
"""The cells that are tried by default; the others where the slow tests run."""
TOLERANCES = {"float64": 1e-10, "float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3}
"""Of a few steps; halves are rounded at each of them, and the last digit decides to which side."""

cells = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.slow) for n in NATIVE]
)


@pytest.fixture(autouse=True)
def _x64(x64):
    """On for every dtype, so that a leak of float64 would show."""


# ---- the three functions -------------------------------------------------------------------------
def problem(cell, sizes, dtype, rng, flags=True):
    """Operands of `equations.run`; sizes: T, the batch's and D."""
    steps, *batch, inputs = sizes
    params = registry.cast(registry.random_params(cell, inputs, rng), dtype)
    carry = registry.random_carry(cell, params, tuple(batch), rng)
    xs = jnp.asarray(rng.standard_normal(sizes), dtype)
    valid, restart = (jnp.asarray(rng.random((steps, *batch)) < p) for p in (0.7, 0.3))

    @jax.jit
    def operands(params, xs, carry):
        params, xs, carry = cell.prepare(params, xs, carry)
        origin = jax.tree.map(lambda leaf: leaf / 2, carry)
        given = cell.weights(params), cell.extras(params), carry, origin, cell.project(params, xs)
        return equations.Operands(*given, None, None)

    made = operands(params, xs, carry)
    return made._replace(valid=valid, restart=restart) if flags else made._replace(origin=None)


def compare(name, cell, reverse, operands, tol):
    """One of the functions, by the kernel and by `base`. Returns the latter's results.

    The derivatives are compared with those in float64, at the same point: over many steps and rows
    `base` loses more to the rounding of halves than the kernel does. Of them only types and shapes
    are returned.
    """
    defined = jax.jit(functools.partial(getattr(equations, name), cell, reverse))
    types = jax.eval_shape(defined, *operands)
    run = jax.jit(lambda *o: kernel.evaluate(name, cell, reverse, o, jax.tree.leaves(types)))
    seen = jax.tree.structure(types).unflatten(run(*operands))
    assert jax.tree.map(lambda x: x.dtype, seen) == jax.tree.map(lambda x: x.dtype, types)
    wanted = defined(*(operands if name == "run" else in_float64(operands)))
    registry.assert_close(seen, wanted, tol)
    return wanted if name == "run" else types


def in_float64(tree):
    """`tree` with its floats, whatever their dtype, as float64."""
    return jax.tree.map(
        lambda x: np.asarray(x, "float64") if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def normal(tree, rng):
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), tree)


def check(cell, sizes, dtype, rng, reverse=False, flags=True):
    """All three, the derivatives at the point that the first one runs through."""
    ops, tol = problem(cell, sizes, dtype, rng, flags), TOLERANCES[dtype]
    cell = recurrence_of(cell, ops)
    ran = compare("run", cell, reverse, (ops,), tol)
    pre = (ran.u,) if cell.additive else (ops.wx, ran.u)
    given = (ops.weights, ops.extras, ops.carry, ops.origin, ran.carries)
    res = equations.Residuals(*given, pre, ops.valid, ops.restart)
    cts = normal(equations.Outputs(ran.final, ran.carries), rng)
    back = compare("transposed", cell, reverse, (res, cts), tol)
    compare("linearized", cell, reverse, (res, normal(back, rng)), tol)
    # Of a loss of the outputs alone, which are h: the cotangents of the other leaves are left out.
    first = type(ran.carries)(cts.carries[0], *[None] * (len(ran.carries) - 1))
    compare("transposed", cell, reverse, (res, cts._replace(carries=first)), tol)


@pytest.mark.parametrize("flags", [False, True], ids=["plain", "flags"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@cells
def test_values_and_derivatives(name, dtype, reverse, flags, rng):
    check(CASES[name].make(6), (5, 7, 3), dtype, rng, reverse, flags)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@cells
def test_halves(name, dtype, rng):
    """They are rounded where the definition rounds them: h before its matmul, a carry of halves."""
    check(CASES[name].make(6), (5, 7, 3), dtype, rng)
    narrow = CASES[name].make(6, carry_dtype=dtype)
    check(narrow, (5, 7, 3), dtype, rng)
    check(narrow, (5, 7, 3), dtype, rng, reverse=True, flags=False)


@pytest.mark.grid
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_team_and_many_rows_in_bfloat16(name, rng):
    narrow = CASES[name].make(160, carry_dtype="bfloat16")
    check(narrow, (3, 1, 3), "bfloat16", rng)
    check(CASES[name].make(40), (3, 50, 3), "bfloat16", rng, reverse=True)


SPECIAL = [0.0, -0.0, 1e-37, 1e38, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]


class Passing(lj.Cell):
    """A cell h_t = wx_t, including the sign of a zero (-0 + 0 would be 0)."""

    def update(self, carry, wx, u):
        return lj.State(wx)


def test_bfloat16_is_rounded_to_as_jax_does_it():
    """Ties to even, what overflows, and what is no number; XLA's threads flush what is denormal."""
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    ties = np.concatenate([bits & 0xFFFF0000 | low for low in (0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    numbers = np.concatenate([bits, ties.astype(np.uint32)]).view(np.float32)
    numbers = numbers[~(np.abs(numbers) < np.finfo(np.float32).tiny)]
    numbers = jnp.asarray(np.concatenate([numbers, np.float32(SPECIAL)]))
    cell, ones = Passing(1, carry_dtype="bfloat16"), (len(numbers), 1)
    start = lj.State(jnp.zeros(ones, "bfloat16"))
    w_hh = jnp.zeros((1, 1), "float32")
    ops = equations.Operands({"w_hh": w_hh}, {}, start, None, numbers.reshape(1, *ones), None, None)
    ran = jax.jit(functools.partial(calls.run, recurrence_of(cell, ops), False))(ops)
    assert ran.carries.h.dtype == jnp.bfloat16
    wanted = numbers.astype("bfloat16")
    seen, wanted = (np.asarray(x.astype("float32")) for x in (ran.carries.h[0, :, 0], wanted))
    np.testing.assert_array_equal(seen, wanted)
    there = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(seen)[there], np.signbit(wanted)[there])


@pytest.mark.grid
@pytest.mark.parametrize(("name", "narrow"), [("lstm", "5"), ("gru", "[58]")])
def test_bfloat16_is_never_copied_to_float32(name, narrow):
    """Neither the inputs nor h of all steps, forward and back; an LSTM's c is in float32."""
    cell = CASES[name].make(8, param_dtype="bfloat16", carry_dtype="bfloat16")
    params, xs = cell.init(jax.random.key(0), 5), jnp.zeros((11, 3, 5), "bfloat16")

    def run(params, xs):
        return lj.unroll(cell, params, xs, implementation="native")[1]

    def loss(params, xs):
        return jnp.sum(run(params, xs).astype("float32"))

    for function in (run, jax.grad(loss)):
        whole = jax.jit(function).lower(params, xs).compile().as_text()
        arrays = whole.split("ENTRY")[1]  # Above are the insides of XLA's loops.
        assert "lstm_jax_run_float" in arrays
        assert "bf16[11,3,5]" in arrays and not re.search(rf"f32\[11,3,{narrow}\]", arrays)


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_h_is_rounded_before_its_matmul(dtype, digits):
    """To the dtype of w_hh, halves to even; and the carry is not."""
    numbers = 1 + np.array([[1, 2, 3, 5, 6, 7]]) * 2.0 ** -(digits + 1)
    start = lj.State(
        jnp.asarray(np.concatenate([numbers, -numbers, numbers * 2.0**-20]), "float32")
    )
    w_hh, wx = jnp.eye(6, dtype=dtype), jnp.zeros((1, 3, 6), dtype)
    ops = equations.Operands({"w_hh": w_hh}, {}, start, None, wx, None, None)
    run = functools.partial(calls.run, recurrence_of(lj.RNN(6, "identity"), ops), False)
    ran = jax.jit(run)(ops)
    np.testing.assert_array_equal(ran.final.h, start.h.astype(dtype).astype("float32"))
    (sums,) = jax.tree.leaves(jax.jit(run)(
        ops._replace(wx=wx + 1, weights={"w_hh": w_hh * 2**-12})).final)  # fmt: skip
    np.testing.assert_array_equal(sums, 1 + start.h.astype(dtype).astype("float32") * 2**-12)
    held = jax.jit(run)(ops._replace(valid=jnp.zeros((1, 3), bool)))
    np.testing.assert_array_equal(held.final.h, start.h)


@pytest.mark.parametrize("name", ["lstm", "user_update"])
def test_sums_wider_than_what_is_summed(name, rng):
    """float64 inside, float32 outside: the carry is rounded at every step."""
    cell = CASES[name].make(6, accumulation_dtype="float64")
    ops = problem(cell, (5, 7, 3), "float32", rng)
    compare("run", recurrence_of(cell, ops), False, (ops,), 1e-7)
    ops = ops._replace(carry=jax.tree.map(lambda x: x * 1e-3, ops.carry))
    ran = jax.jit(functools.partial(calls.run, recurrence_of(cell, ops), False))(ops)
    for leaf in jax.tree.leaves(ran.carries):
        assert leaf.dtype == jnp.float64
        np.testing.assert_array_equal(leaf, leaf.astype(jnp.float32).astype(jnp.float64))


@pytest.mark.parametrize("batch", [(), (2, 3), (1, 1, 5)])
def test_any_batch_axes(batch, rng):
    for name in SHORT:
        check(CASES[name].make(4), (3, *batch, 2), "float64", rng)


sizes = st.tuples(*[st.integers(1, 40)] * 3)


@pytest.mark.parametrize("name", SHORT)
@given(
    sizes=sizes,
    hidden=st.integers(1, 40),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=6)
def test_odd_sizes(name, sizes, hidden, dtype, seed):
    """T, B, D and H from 1 to 40: every remainder of vectors, rows and panels."""
    rng = np.random.default_rng(seed)
    carry = "bfloat16" if dtype == "bfloat16" and seed % 4 > 1 else None
    cell = CASES[name].make(hidden, carry_dtype=carry)
    check(cell, sizes, dtype, rng, reverse=bool(seed % 2), flags=seed % 3 > 0)


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("batch", "hidden"), [(1, 160), (3, 230)])
def test_few_sequences_share_each_product(name, dtype, batch, hidden, rng):
    """H is large enough for a team: for one sequence, and for more than there are threads."""
    check(CASES[name].make(hidden), (4, batch, 3), dtype, rng)


@pytest.mark.parametrize("hidden", [6, 40, 70])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_sequence_does_not_feel_how_many_others_there_are(name, hidden, rng):
    """To the last bit: sums have one order, however the rows fall into tiles."""
    cell = CASES[name].make(hidden)
    params, xs = registry.random_params(cell, 3, rng), rng.standard_normal((9, 1, 3))
    run = jax.jit(functools.partial(lj.unroll, cell, implementation="native"))
    _, two = run(params, np.repeat(xs, 2, axis=1))
    for batch in (3, 5, 7, 13, 40):
        _, ys = run(params, np.repeat(xs, batch, axis=1))
        np.testing.assert_array_equal(ys, np.repeat(two[:, :1], batch, axis=1))


@pytest.mark.parametrize("instructions", ["avx2", "portable"])
def test_other_instructions(instructions):
    """What compilers do to each differs: dtypes that are rounded to, and a team."""
    tests = "wider or as_jax_does_it or halves and (lstm or gru) or few_sequences"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", tests, __file__]
    env = os.environ | {"LSTM_JAX_INSTRUCTIONS": instructions}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def projecting(ops, width, rng, inputs=3):
    """`ops` with inputs that are still to be projected to `width` numbers."""
    dtype, axes = ops.wx.dtype, ops.wx.shape[:-1]
    shapes = ((*axes, inputs), (inputs, width), width)
    x, w, b = (jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)
    return ops._replace(wx=x, projection=(w, b) if axes[0] % 2 else (w,))


def wanted_alone(cell, reverse, ops, kept, tol):
    """A run of which only some results are wanted, by the kernel and by `base`."""
    cell = recurrence_of(cell, ops)
    wanted = jax.jit(lambda ops: equations.run(cell, reverse, ops, kept))(ops)
    types = list(map(jax.typeof, jax.tree.leaves(wanted)))
    seen = jax.jit(lambda ops: kernel.evaluate("run", cell, reverse, (ops, kept), types))(ops)
    registry.assert_close(seen, jax.tree.leaves(wanted), tol)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru"])
@pytest.mark.parametrize(
    ("steps", "batch", "hidden"), [(1, 3, 4), (5, 7, 6), (70, 1, 5), (13, 30, 5), (11, 1, 160)]
)
def test_inputs_are_projected_as_they_come(name, steps, batch, hidden, reverse, rng):
    """Blocks of one step to many, the last short; few rows, many, and a team's; u kept or not."""
    cell = CASES[name].make(hidden)
    ops = problem(cell, (steps, batch, 3), "float64", rng)
    ops = projecting(ops, jax.tree.leaves(ops.wx)[0].shape[-1], rng)
    carry = ops.carry
    for final, first, others, u in [(1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 1)]:
        carries = type(carry)(bool(first), *[bool(others)] * (len(carry) - 1))
        kept = equations.Ran(jax.tree.map(lambda _, f=final: bool(f), carry), carries, bool(u))
        if any(jax.tree.leaves(kept)):
            wanted_alone(cell, reverse, ops, kept, 1e-10)


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru"])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [(1, 3, 4, 4), (5, 7, 3, 5), (70, 1, 2, 5), (13, 30, 8, 6), (11, 1, 6, 161), (6, 14, 70, 40)],
)
def test_inputs_are_projected_in_bfloat16(name, steps, batch, inputs, hidden, rng):
    """D and H even and odd: pairs of numbers that a machine may multiply at a time, and a rest."""
    cell = CASES[name].make(hidden)
    ops = problem(cell, (steps, batch, 3), "bfloat16", rng)
    ops = projecting(ops, ops.wx.shape[-1], rng, inputs)
    kept = equations.Ran(*jax.tree.map(lambda _: True, (ops.carry, ops.carry, 0)))
    wanted_alone(cell, batch % 2 == 0, ops, kept, TOLERANCES["bfloat16"])


# ---- the recurrent matrix ------------------------------------------------------------------------
@cells
def test_the_recurrence_is_the_matrix(name, rng):
    """recur(W, s) = h @ matrix; and a plain w_hh is not computed anew."""
    cell = CASES[name].make(4)
    ops = problem(cell, (1, 2, 3, 2), "float64", rng)
    of = matrix.form(cell, ops.weights, ops.carry)
    found = matrix.matrix(cell, of, ops.weights, ops.carry)
    if found is None:
        assert not cell.recur(ops.weights, ops.carry).size
        return
    h = jax.tree.leaves(ops.carry)[0]
    registry.assert_close(h @ found, cell.recur(ops.weights, ops.carry), 1e-14)
    own = {"lstm_heads", "gru_heads", "antisymmetric", "antisymmetric_gated", "leaky_dale"}
    assert (found is ops.weights.get("w_hh")) == (name not in own)


def recurrence(recur):
    """An RNN with a recurrence of its own, a function of (h, w_hh)."""

    @dataclasses.dataclass(frozen=True)
    class Own(lj.RNN):
        def recur(self, params, carry):
            return recur(carry.h, params["w_hh"])

    return Own(4)


def spread(h):
    """Each row's sum beside every row: rows that see each other."""
    return jnp.broadcast_to(jnp.sum(h, axis=0, keepdims=True), h.shape)


NO_MATMUL = "its recur is not a matmul of h"
NOT_MATRICES = {
    "elementwise": lambda h, w: h * jnp.broadcast_to(w[0], h.shape),
    "bent": lambda h, w: jnp.tanh(h @ w),
    "bent before": lambda h, w: jnp.tanh(h) @ w,
    "shifted": lambda h, w: h @ w + 1,
    "squared": lambda h, w: (h @ w) * h,
    "divided": lambda h, w: 1 / (h @ w),
    "without h": lambda h, w: jnp.zeros_like(h) @ w,
    "across the batch": lambda h, w: spread(h) @ w,
    "sorted": lambda h, w: jnp.sort(h, axis=-1) @ w,
    "chosen": lambda h, w: jnp.where(h > 0, h @ w, 0.0),
    "turned": lambda h, w: h.reshape(4, -1).T @ w,
    "numbered": lambda h, w: h @ w * jnp.arange(h.shape[0], dtype=h.dtype)[:, None],
    "in a loop": lambda h, w: lax.fori_loop(0, 2, lambda _, h: h @ w, h),
    "told": lambda h, w: (jax.debug.callback(lambda: None), h @ w)[1],
}
MATRICES = {
    "scaled": lambda h, w: 2 * (h @ w) / 3,
    "before": lambda h, w: (h / 2) @ w,
    "both": lambda h, w: h @ w - h @ w.T,
    "in parts": lambda h, w: jnp.concatenate([h[..., :2] @ w[:2], -h[..., 1:] @ w[1:]], axis=-1)[
        ..., :4
    ],
    "einsum": lambda h, w: jnp.einsum("...i,ji->...j", h, w),
    "jitted": lambda h, w: jax.jit(jnp.matmul)(h, w),
}


@pytest.mark.parametrize("form", NOT_MATRICES)
def test_what_is_no_matmul_of_h_is_refused(form):
    cell = recurrence(NOT_MATRICES[form])
    why = tried.why_not(cell, "cpu")
    assert why is not None
    assert why in (NO_MATMUL, "its recur is not the same for every sequence") or form == "turned"


@pytest.mark.parametrize("form", MATRICES)
def test_what_is_a_matmul_of_h_is_found(form, rng):
    cell = recurrence(MATRICES[form])
    assert tried.why_not(cell, "cpu") is None
    check(cell, (3, 2, 2), "float64", rng)


@pytest.mark.parametrize("of", [lambda h, c: c, lambda h, c: h * c], ids=["alone", "a product"])
def test_a_recurrence_of_another_leaf_is_refused(of):
    class OfTheMemory(lj.LSTM):
        def recur(self, params, carry):
            return self.matmul(of(*carry), params["w_hh"])

    assert tried.why_not(OfTheMemory(4), "cpu") == NO_MATMUL


def test_a_recurrence_that_rounds_on_the_way_is_refused():
    def rounds(h, w):
        return (h @ w).astype(jnp.bfloat16).astype(h.dtype)

    assert tried.why_not(recurrence(rounds), "cpu") == "its recur rounds to bfloat16 on the way"


def test_a_mask_of_the_batch_is_evaluated(rng):
    """In training, `recurrent_dropout`'s: no one matrix, so that XLA runs it."""
    cell = CASES["recurrent_dropout"].make(4)
    args = small(cell, rng)
    run = functools.partial(lj.unroll, cell)
    assert kernels(run, *args) == ["run"]
    assert kernels(functools.partial(run, key=jax.random.key(0)), *args) == []


# ---- what is refused -----------------------------------------------------------------------------
def updating(update, **parameters):
    """A cell with an update of its own, a function of (h, wx, u, **parameters)."""

    @dataclasses.dataclass(frozen=True)
    class Own(lj.Cell):
        elementwise = tuple(parameters)

        def init(self, key, input_size):
            return super().init(key, input_size) | {n: jnp.ones(p) for n, p in parameters.items()}

        def update(self, carry, wx, u, **given):
            return lj.State(update(carry.h, wx, u, **given))

    return Own(4)


def squares(x):
    return x.reshape(-1, 2, 2)


def flattened(x):
    """[B, 4], of whatever has two axes more or less."""
    first = x.reshape(x.shape[0], -1)[:, :1]
    return jnp.broadcast_to(first, (x.shape[0], 4))


LACKING = {
    "dot_general": lambda h, x, u: jnp.tanh(x + u) @ np.eye(4),
    "cumsum": lambda h, x, u: jnp.cumsum(x + u, axis=-1),
    "sort": lambda h, x, u: jnp.sort(x + u, axis=-1),
    "while": lambda h, x, u: lax.while_loop(lambda h: True, lambda h: h / 2, x + u),
    "scan": lambda h, x, u: lax.fori_loop(0, 3, lambda _, h: h / 2, x + u),
    "cond": lambda h, x, u: lax.cond(True, lambda h: h, lambda h: -h, x + u),
    "reduce_prod": lambda h, x, u: jnp.broadcast_to(
        jnp.prod(x + u, axis=-1, keepdims=True), h.shape
    ),
    "reduce": lambda h, x, u: jnp.broadcast_to(
        lax.reduce(x + u, np.asarray(0, x.dtype), lambda a, b: a + b * b, (1,))[:, None], h.shape
    ),
    "asinh": lambda h, x, u: jnp.arcsinh(x + u),
    "a side effect": lambda h, x, u: (jax.debug.callback(lambda: None), x + u)[1],
    "round of halves away from zero": lambda h, x, u: lax.round(x + u),
    "a choice of more than two": lambda h, x, u: lax.select_n(jnp.int32(1), h, x, u),
    "a conversion to int32": lambda h, x, u: (x + u).astype(jnp.int32).astype(x.dtype),
    "a conversion from float32 to float64": lambda h, x, u: (
        (x + u).astype("float64").astype("float32")
    ),
    "a conversion to float8_e5m2": lambda h, x, u: (x + u).astype(jnp.float8_e5m2).astype(x.dtype),
    "add in bfloat16": lambda h, x, u: (x.astype("bfloat16") + u.astype("bfloat16")).astype(
        x.dtype
    ),
    "slice of other than the last axis": lambda h, x, u: flattened(squares(x + u)[:, :1]),
    "concatenate of other than the last axis": lambda h, x, u: flattened(
        jnp.concatenate([squares(x), squares(u)], axis=1)
    ),
    "split of other than the last axis": lambda h, x, u: flattened(
        jnp.split(squares(x + u), 2, axis=1)[0]
    ),
    "pad of other than the last axis": lambda h, x, u: flattened(
        jnp.pad(squares(x + u), ((0, 0), (0, 1), (0, 0)))
    ),
    "transpose": lambda h, x, u: flattened(squares(x + u).swapaxes(1, 2)),
    "a sum or a maximum over some of the axes": lambda h, x, u: flattened(squares(x + u).sum(-1)),
    "broadcast_in_dim to": lambda h, x, u: jnp.repeat(x[..., :2] + u[..., :2], 2, axis=-1),
    "a constant that differs from sequence to sequence": lambda h, x, u: (
        x + u + np.arange(h.size, dtype=x.dtype).reshape(h.shape)
    ),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_the_kernel_lacks_is_named(what):
    dtype = "float32" if what.startswith("a conversion from float32") else "float64"
    cell = dataclasses.replace(updating(LACKING[what]), param_dtype=dtype)
    why = tried.why_not(cell, "cpu")
    assert why is not None and why.startswith(f"update has {what}"), why
    assert why.endswith("which the kernel has no instruction for")


SUMS = {
    "a product of them": lambda h, x, u, p, q: x + u * jnp.broadcast_to(jnp.exp(p) * q, u.shape),
    "halves of them": lambda h, x, u, p, q: x + u * jnp.broadcast_to(p / 2 - q, u.shape),
    "turned": lambda h, x, u, p, q: x + u * jnp.broadcast_to(p[::-1], u.shape),
    "one number": lambda h, x, u, p, q: x + u * jnp.broadcast_to(jnp.sum(p), u.shape),
    "parts": lambda h, x, u, p, q: x + u * jnp.broadcast_to(
        jnp.concatenate([p[2:], 3 * q[:2]]), u.shape),
    "not used": lambda h, x, u, p, q: x + u * jnp.broadcast_to(p, u.shape),
}  # fmt: skip


@pytest.mark.parametrize("what", SUMS)
def test_derivatives_by_parameters_are_sums_over_the_batch(what, rng):
    """And linear functions of these; anything else is refused by name."""
    cell = updating(SUMS[what], p=4, q=4)
    why = tried.why_not(cell, "cpu")
    if why is None:
        check(cell, (3, 5, 2), "float64", rng)
    else:
        assert why.startswith("update has "), why
    assert (why is None) == (what != "turned"), why


def translated(function):
    """The program of a function of x [B, 4] and p [4]."""
    arguments = [((4,), jnp.float64, False), ((4,), jnp.float64, True)]
    return program.translate(program.Elementwise(function, arguments, {}), library.operations())


def test_results_that_are_no_sums_over_the_batch_are_refused():
    """No update has such a derivative, but for one that its author made up."""
    translated(lambda x, p: [jnp.sum(x, axis=0), 2 * jnp.sum(x, axis=0), jnp.zeros(4)])
    with pytest.raises(NotImplementedError, match="the same for every sequence"):
        translated(lambda x, p: [2 * p])
    with pytest.raises(NotImplementedError, match="tanh of a sum over the batch"):
        translated(lambda x, p: [jnp.tanh(jnp.sum(x, axis=0))])
    with pytest.raises(NotImplementedError, match="broadcast_in_dim of a sum over the batch"):
        translated(lambda x, p: [x - jnp.broadcast_to(jnp.sum(x, axis=0), x.shape)])


class NoInit(lj.LSTM):
    """A cell whose `init` raises."""

    def init(self, key, input_size):
        raise RuntimeError("no start\nand more")


class OfImages(lj.LSTM):
    """A cell whose x_t has two feature axes."""

    input_ndim = 2


REASONS = {
    "GRU(reset_after=False) does not factor": lj.GRU(4, reset_after=False),
    "it could not be tried (RuntimeError: no start)": NoInit(4),
    "its x_t has 2 axes": OfImages(4),
    "its sums are in bfloat16, the kernel's in float32 or float64": lj.LSTM(
        4, accumulation_dtype="bfloat16"
    ),
    "it holds float64 beside sums in float32": lj.LSTM(
        4, carry_dtype="float64", accumulation_dtype="float32"
    ),
}


@pytest.mark.parametrize("why", REASONS)
def test_reasons(why):
    found = tried.why_not(REASONS[why], "cpu")
    assert found is not None and found.startswith(why) and "\n" not in found
    with pytest.raises(NotImplementedError, match="native: .*; use implementation="):
        lj.which(REASONS[why], implementation="native")


def test_another_platform_and_no_library(monkeypatch):
    assert (
        tried.why_not(lj.LSTM(4), "gpu") == "the kernel is one for a CPU, and the platform is gpu"
    )
    monkeypatch.setattr(library, "why_not", lambda: "it was not built")
    assert lj.which(lj.LSTM(4), platform="cpu").rejected["native"] == "it was not built"


def test_the_answer_is_kept():
    """A cell is tried once, and its equal not at all."""
    tries = []

    class Counted(lj.RNN):
        def init(self, key, input_size):
            tries.append(self)
            return super().init(key, input_size)

    for _ in range(3):
        assert tried.why_not(Counted(4), "cpu") is None
    assert len(tries) == 1


# ---- where the kernel runs -----------------------------------------------------------------------
def kernels(function, *args):
    """The calls of the kernel in what the compiler is given."""
    text = jax.jit(function).lower(*args).as_text()
    return [n for n in ("run", "linearized", "transposed") if f"@lstm_jax_{n}_" in text]


def loss(cell, params, xs):
    final, ys = lj.unroll(cell, params, xs)
    return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(final))


def small(cell, rng, batch=(2,)):
    return registry.random_params(cell, 2, rng), rng.standard_normal((3, *batch, 2))


def test_the_kernel_runs_forwards_and_backwards(rng):
    cell = lj.LSTM(4)
    run = functools.partial(loss, cell)
    args = small(cell, rng)
    assert kernels(run, *args) == ["run"]
    assert kernels(jax.grad(run), *args) == ["run", "transposed"]
    assert kernels(lambda *a: jax.jvp(run, a, a)[1], *args) == ["run", "linearized"]
    again = jax.jit(functools.partial(lj.unroll, cell, implementation="fused"))
    assert kernels(again, *args) == []


def many(params):
    return jax.tree.map(lambda x: jnp.stack([x, -x, 2 * x]), params)


def ran(function, *args):
    """The calls of the kernel, whether there is a loop, and whether XLA multiplies anything."""
    text = jax.jit(function).lower(*args).as_text()
    return kernels(function, *args), "stablehlo.while" in text, "dot_general" in text


@pytest.mark.parametrize("make", [lj.LSTM, lj.GRU])
def test_vmap_over_inputs_is_a_larger_batch(make, rng):
    cell = make(4)
    params, xs = small(cell, rng, (3,))
    run = jax.vmap(functools.partial(loss, cell), in_axes=(None, 1))
    assert ran(run, params, xs) == (["run"], False, False)
    total = jax.grad(lambda params, xs: jnp.sum(run(params, xs)))
    assert ran(total, params, xs) == (["run", "transposed"], False, False)
    nested = jax.vmap(run, (None, 1))
    params, xs = small(cell, rng, (2, 3))
    assert ran(nested, params, xs) == (["run"], False, False)


@pytest.mark.parametrize("make", [lj.LSTM, lj.GRU])
@pytest.mark.parametrize("over", [(0, None), (0, 1)])
def test_vmap_over_parameters_is_one_call(make, over, rng):
    cell = make(4)
    params, xs = small(cell, rng, (3,))
    run = functools.partial(loss, cell)
    assert ran(jax.vmap(run, over), many(params), xs) == (["run"], False, False)
    each = ran(jax.vmap(jax.grad(run), over), many(params), xs)
    assert each == (["run", "transposed"], False, False)
    slopes = jax.vmap(lambda *args: jax.jvp(run, args, args)[1], over)
    assert ran(slopes, many(params), xs) == (["run", "linearized"], False, False)
    # Seeds outside, sequences inside.
    inner = jax.vmap(run, (None, 1))
    assert ran(jax.vmap(inner, (0, None)), many(params), xs) == (["run"], False, False)
    # Seeds of seeds are a loop.
    twice = jax.vmap(jax.vmap(run, (0, None)), (0, None))
    assert ran(twice, many(many(params)), xs) == (["run"], True, False)
    # The other way round XLA has it.
    inner = jax.vmap(run, (0, None))
    assert kernels(jax.vmap(inner, (None, 1)), many(params), xs) == []


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(("make", "dtype"), [(lj.LSTM, "float32"), (lj.GRU, "bfloat16")])
def test_each_member_gets_its_own(make, dtype, batch, count, rng):
    """Weights, inputs, masks and restarts, in values and gradients; few members and many."""
    cell, shape = make(5), (count, 4, *batch)
    keys = jax.random.split(jax.random.key(0), count)
    params = jax.vmap(lambda key: cell.init(key, 3))(keys)
    xs = rng.standard_normal((*shape, 3))
    flags = rng.random(shape) < 0.7, rng.random(shape) < 0.2

    def run(params, xs, mask, resets, implementation):
        options = {"mask": mask, "resets": resets, "implementation": implementation}
        carry, ys = lj.unroll(cell, params, xs, **options)
        return sum(
            jnp.sum(jnp.sin(leaf.astype("float32"))) for leaf in jax.tree.leaves((carry, ys))
        )

    def members(implementation):
        each = jax.value_and_grad(functools.partial(run, implementation=implementation), (0, 1))
        return jax.jit(jax.vmap(each))(*registry.cast((params, xs), dtype), *flags)

    wanted = members("scan")
    registry.assert_close(members("native"), wanted, TOLERANCES[dtype])


def test_gradients_of_a_sequence_each(rng):
    """Where a parameter stands in `update`, its sums are apart: XLA has the walk back."""
    for cell, backwards in ((lj.LSTM(4), ["run", "transposed"]), (lj.GRU(4), ["run"])):
        params, xs = small(cell, rng, (3,))
        each = jax.vmap(jax.grad(functools.partial(loss, cell)), (None, 1))
        assert kernels(each, params, xs) == backwards


def test_an_export_names_no_kernel(rng):
    """It may run on another machine."""
    cell = lj.LSTM(4)
    exported = jax.export.export(jax.jit(jax.grad(functools.partial(loss, cell))))(
        *small(cell, rng)
    )
    assert "lstm_jax_" not in exported.mlir_module()


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)])
def test_no_step_or_no_sequence(shape, rng):
    cell = lj.LSTM(4)
    params, _ = small(cell, rng)
    args = params, np.zeros((*shape, 2))
    for function in (functools.partial(loss, cell), jax.grad(functools.partial(loss, cell))):
        assert kernels(function, *args) == []
        jax.jit(function)(*args)


def test_nan_in_a_padded_step_stays_there(rng):
    """Of one sequence beside another; and in a valid one it spreads, as it should."""
    cell = lj.GRU(4)
    params, xs = small(cell, rng)
    mask = np.array([[1, 1], [1, 0], [1, 1]], bool)
    spoiled = np.where(mask[..., None], xs, np.nan)
    run = jax.jit(functools.partial(lj.unroll, cell, mask=mask, implementation="native"))
    jax.tree.map(np.testing.assert_array_equal, run(params, spoiled), run(params, xs))
    xs[1, 0] = np.nan
    _, ys = run(params, xs)
    assert np.isnan(ys[1:, 0]).all() and np.isfinite(ys[:, 1]).all() and np.isfinite(ys[0]).all()


@pytest.mark.parametrize("batch", [2, 16], ids=["half", "a sixteenth"])
def test_padding_has_no_gradient_however_few_its_rows_are(batch, rng):
    """Of a sequence of no steps that stands at a NaN, be its rows gathered or passed by."""
    cell, lengths = lj.LSTM(4), np.array([0] + [3] * (batch - 1))
    params = registry.random_params(cell, 2, rng)
    xs = rng.standard_normal((3, batch, 2))
    start = jax.tree.map(lambda s: s.at[0].set(jnp.nan), cell.initial_carry(params, (batch,)))

    def loss(xs):
        options = {"seq_lengths": lengths, "implementation": "native"}
        return jnp.sum(lj.unroll(cell, params, xs, start, **options)[1])

    gradient = jax.jit(jax.grad(loss))(xs)
    assert np.array_equal(gradient[:, 0], np.zeros((3, 2))) and np.all(gradient[:, 1:] != 0)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("cell", [lj.LSTM(40), lj.GRU(33)], ids=["additive", "apart"])
def test_sums_of_padded_steps_that_are_not_multiplied_again(cell, gaps, rng):
    """A gradient keeps u of all steps; of a padded one it is the product of the step before."""
    length, batch = 23, 11
    params = registry.random_params(cell, 3, rng)
    xs = rng.standard_normal((length, batch, 3))
    lengths = rng.integers(0, length + 1, batch)
    mask = rng.random(xs.shape[:2]) < 0.5 if gaps else np.arange(length)[:, None] < lengths
    flags = {"mask": mask, "resets": rng.random(xs.shape[:2]) < 0.1}

    def twice(implementation):
        def loss(params, xs):
            return jnp.sum(
                jnp.sin(lj.unroll(cell, params, xs, implementation=implementation, **flags)[1])
            )

        gradient = jax.grad(loss, (0, 1))
        return jax.jit(lambda *at: jax.jvp(gradient, at, at))(params, xs)

    registry.assert_close(twice(None), twice("scan"), 1e-4)


# ---- elementary functions ------------------------------------------------------------------------
@pytest.mark.parametrize("instructions", ["avx512", "avx2", "portable"])
def test_elementary_functions_over_all_of_float32(instructions):
    """At most four units in the last place; zeros with their signs, infinities, NaN."""
    script = pathlib.Path(__file__).parent / "ulps.py"
    root = str(script.parents[1])
    env = os.environ | {"LSTM_JAX_INSTRUCTIONS": instructions, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {"tanh", "sigmoid", "exp"}
    assert all(error <= 4 for error in found.values()), found
