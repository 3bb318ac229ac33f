"""Translation of a user's `update`: no reads out of bounds, no unjustified assumptions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import updates
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify

import lstm_jax as lj
from lstm_jax._net import cells_of
from lstm_jax._recurrence.elementwise.instructions import (
    CONSTANTS,
    FIRST,
    SCRATCH,
    Instruction,
    View,
)
from lstm_jax._recurrence.engines.native import bounds

T, B, D, H = 3, 2, 2, 3
CHOICES = ("scan", "fused", None)


@pytest.fixture(autouse=True)
def _as_users_have_it(x64):
    """float64, and NumPy's broadcasting."""
    with jax.numpy_rank_promotion("allow"):
        yield


def cell_of(update, size=H, **parameters):
    """A cell with an update of its own, a function of (h, wx, u, **parameters)."""

    class Own(lj.Cell):
        elementwise = tuple(parameters)

        def init(self, key, input_size):
            params = super().init(key, input_size)
            return params | {n: jnp.full(shape, 0.5) for n, shape in parameters.items()}

        def update(self, carry, wx, u, **given):
            return lj.State(update(carry.h, wx, u, **given))

    return Own(size)


def results(cell, names, batch=B):
    """Values and gradients by parameters, inputs and carry, of each implementation."""
    rng = np.random.default_rng(0)
    args = registry.random_params(cell, D, rng), rng.standard_normal((T, batch, D))
    args = (*args, registry.random_carry(cell, args[0], (batch,), rng))

    def loss(args, name):
        outs = lj.unroll(cell, *args, implementation=name)
        return sum(jnp.sum(jnp.sin(leaf + 1)) for leaf in jax.tree.leaves(outs))

    of_each = [functools.partial(jax.value_and_grad(loss), name=name) for name in names]
    return jax.jit(lambda args: [of(args) for of in of_each])(args)


def check(cell, batch=B):
    """The default is "scan" in another order of additions."""
    default, scan = results(cell, (None, "scan"), batch)
    registry.assert_close(default, scan, 1e-11)


# ---- 1: nothing is read outside of what an operand holds -----------------------------------------
ONE_UNIT = {
    "the first": lambda h, wx, u: (wx + u) + (wx + u)[..., :1],
    "the last": lambda h, wx, u: wx + u + h[..., -1:],
    "of a split": lambda h, wx, u: wx * jnp.split(u, [1], axis=-1)[0] + h,
    "of a constant": lambda h, wx, u: wx + u + jnp.asarray([[0.5, 1, -2]], h.dtype)[:, 1:2] * h,
    "compared": lambda h, wx, u: jnp.where(h[..., 2:] < wx, u, h[..., 1:2]),
    "put together": lambda h, wx, u: wx * jnp.concatenate([h[..., :1], u[..., 1:]], axis=-1),
    "padded": lambda h, wx, u: wx + u + jnp.pad(h[..., :1], ((0, 0), (2, 0))),
    "summed": lambda h, wx, u: wx + u - jnp.mean(h, axis=-1, keepdims=True),
    "the largest": lambda h, wx, u: jnp.exp(wx + u - jnp.max(wx + u, axis=-1, keepdims=True)),
    "a power": lambda h, wx, u: wx + u + h[..., :1] ** 3 / (1 + h**2),
    "clipped": lambda h, wx, u: jnp.clip(wx + u, -jnp.ones_like(h[..., :1]), h[..., :1]),
}


EVERY = {"all of them": lambda *args: sum(update(*args) / 9 for update in ONE_UNIT.values())}
units = [*EVERY, *(pytest.param(what, marks=pytest.mark.grid) for what in ONE_UNIT)]


@registry.needs_kernel
@pytest.mark.parametrize("what", units)
def test_fault_1_one_unit_beside_all(what):
    cell = cell_of(lambda h, wx, u: jnp.tanh((ONE_UNIT | EVERY)[what](h, wx, u)))
    assert lj.which(cell).implementation == "native"
    check(cell)


ACROSS = {
    "the batch's mean": lambda h, wx, u: wx + u - jnp.mean(h, axis=0, keepdims=True),
    "the batch's largest": lambda h, wx, u: wx + u - jnp.max(h, axis=0, keepdims=True),
    "the first sequence": lambda h, wx, u: wx + u + h[:1],
    "the number of sequences": lambda h, wx, u: wx + u / h.shape[0],
    "its logarithm": lambda h, wx, u: wx + u + np.log(h.shape[0]),
    "each with each": lambda h, wx, u: wx + u + jnp.sum(h[:, None] * h[None], axis=(0, 2))[:, None],
    "turned": lambda h, wx, u: wx + u + jnp.flip(h, 0),
    "units turned": lambda h, wx, u: jnp.sum(h[..., None] * u[..., None, :], axis=-1) + wx,
    "a part of the sequences": lambda h, wx, u: wx + u + jnp.sum(h[:, 0][:2]),
    "sequences as units": lambda h, wx, u: wx + u + h.reshape(-1)[::-1].reshape(h.shape),
}


@pytest.mark.parametrize("what", ACROSS)
def test_fault_1_what_is_not_row_by_row_is_refused(what):
    cell = cell_of(lambda h, wx, u: jnp.tanh(ACROSS[what](h, wx, u)))
    assert lj.which(cell).implementation == "fused"


@pytest.mark.grid
@pytest.mark.parametrize("what", ACROSS)
def test_fault_1_what_is_not_row_by_row_is_right(what):
    check(cell_of(lambda h, wx, u: jnp.tanh(ACROSS[what](h, wx, u))))


def test_fault_1_one_unit_and_one_sequence():
    """Sizes of one that are no axis of size one."""
    update = ONE_UNIT["the last"]
    for size, batch in ((1, 2), (2, 1)):
        check(cell_of(lambda h, wx, u: jnp.tanh(update(h, wx, u)), size), batch)
    check(cell_of(lambda h, wx, u: jnp.tanh(wx + u) - jnp.max(h, 0, keepdims=True) / 9, 1))


def test_fault_1_a_recurrence_that_looks_at_the_number_of_sequences():
    class Mean(lj.RNN):
        def recur(self, params, carry):
            return super().recur(params, carry) / carry.h.shape[0]

    check(Mean(H))
    assert lj.which(Mean(H)).implementation == "fused"


@given(seed=st.integers(0, 2**20), size=st.integers(2, 5))
@settings(max_examples=3)
def test_fault_1_updates_drawn_at_random(seed, size):
    check(updates.Drawn(size, seed=seed))


@pytest.mark.grid
@given(seed=st.integers(0, 2**20), size=st.integers(1, 9), batch=st.integers(1, 5))
@settings(max_examples=40)
def test_fault_1_many_updates_drawn_at_random(seed, size, batch):
    check(updates.Drawn(size, seed=seed), batch)


ARGUMENT, RESULT = View(FIRST, 0, 4, 1, 4, True), View(FIRST + 1, 0, 4, 1, 4, True)
ARRAYS = {FIRST: ARGUMENT, FIRST + 1: RESULT, FIRST + 2: View(FIRST + 2, 0, 0, 1, 4, False)}
REGISTER = View(SCRATCH, 0, 4, 1, 4, True, root=0)
OUTSIDE = {
    "longer than the array": Instruction("copy", 5, RESULT, (ARGUMENT,)),
    "from beyond": Instruction("copy", 4, RESULT, (ARGUMENT._replace(offset=1),)),
    "from before": Instruction("copy", 4, RESULT, (ARGUMENT._replace(offset=-1),)),
    "a row for another": Instruction("copy", 4, RESULT, (ARGUMENT._replace(row=3),)),
    "rows of what has one": Instruction("copy", 4, RESULT, (ARRAYS[FIRST + 2]._replace(row=4),)),
    "of the constants": Instruction("copy", 4, RESULT, (View(CONSTANTS, 3, 0, 1, 4, False),)),
    "another register": Instruction("copy", 4, RESULT, (REGISTER._replace(root=7),)),
    "out of the register": Instruction("copy", 4, REGISTER._replace(offset=2), (ARGUMENT,)),
    "rows into one": Instruction("copy", 4, ARRAYS[FIRST + 2], (ARGUMENT,)),
    "into constants": Instruction("copy", 4, View(CONSTANTS, 0, 0, 1, 4, False), (ARGUMENT,)),
    "many into one": Instruction("copy", 4, RESULT._replace(elem=0), (ARGUMENT,)),
}


def test_fault_1_a_program_that_leaves_its_arrays_is_not_run():
    """Which the translator does not write; in every build."""
    given = ARRAYS, {0: (4, True)}, 5
    fine = [
        Instruction("add", 4, REGISTER, (ARGUMENT, ARGUMENT._replace(offset=3, elem=0))),
        Instruction("sum", 4, RESULT._replace(offset=3, n=1, elem=0), (REGISTER,)),
        Instruction("accumulate", 4, ARRAYS[FIRST + 2], (REGISTER,)),
        Instruction("copy", 4, RESULT, (View(CONSTANTS, 1, 0, 1, 4, False),)),
    ]
    bounds.check(fine, *given)
    for what, instruction in OUTSIDE.items():
        with pytest.raises(RuntimeError, match="outside of its arrays"):
            bounds.check([instruction], *given)
            pytest.fail(what)


# ---- 2: additive is inferred ---------------------------------------------------------------------
def test_fault_2_a_promise_is_not_believed():
    class Liar(lj.Cell):
        additive = True

        def update(self, carry, wx, u):
            return lj.State(jnp.tanh(wx * u + wx))

    cell = lj.zoneout(lj.learned_start(Liar(H)), h=0.2)
    fused, scan, default = results(cell, ("fused", "scan", None))
    registry.assert_close(fused, scan, 1e-11)
    registry.assert_close(default, scan, 1e-11)
    rng = np.random.default_rng(1)
    params, xs = registry.random_params(cell, D, rng), rng.standard_normal((2, T, B, D))
    each = [
        jax.vmap(lambda xs, n=n: lj.unroll(cell, params, xs, implementation=n)) for n in CHOICES
    ]
    scan, fused, default = jax.jit(lambda xs: [run(xs) for run in each])(xs)
    registry.assert_close(fused, scan, 1e-12)
    registry.assert_close(default, scan, 1e-12)


APART = {
    *("gru", "gru_activations", "gru_no_bias", "gru_double_bias", "gru_heads", "layer_norm_gru"),
    *("layer_norm_lstm", "layer_norm_lstm_normalized", "mgu", "minimal_rnn", "nas", "min_gru"),
    *("min_gru_signed", "min_lstm", "sru", "memory_dropout_gru", "wrapped_thrice", "user_update"),
}
"""The cells of the registry that need wx and u, and not their sum alone."""


def test_fault_2_what_is_inferred_of_every_cell():
    seen = {n: [registry.additive(c) for c in cells_of(case.make(4)) if c.factors]
            for n, case in registry.CASES.items()}  # fmt: skip
    wanted = {n: [n not in APART] * len(answers) for n, answers in seen.items()}
    assert seen == wanted


SAME_PARTS = {
    "split first": lambda h, wx, u: jnp.split(wx, 3, axis=-1)[1] + jnp.split(u, 3, axis=-1)[1] + h,
    "sliced first": lambda h, wx, u: wx[..., :1] + u[..., :1] + h,
    "twice": lambda h, wx, u: jax.jit(lambda a, b: jnp.sin(a + b))(wx, u) * (u + wx),
    "neither": lambda h, wx, u: jnp.sin(h),
}
NOT_THE_SAME = {
    "other parts": lambda h, wx, u: wx[..., :1] + u[..., 1:2] + h,
    "one alone too": lambda h, wx, u: wx + u + 0 * wx,
    "one alone": lambda h, wx, u: jnp.sin(u) + h,
    "their difference": lambda h, wx, u: wx - u,
    "in another order": lambda h, wx, u: wx + h + u,
    "narrower": lambda h, wx, u: (wx.astype("float16") + u.astype("float16")).astype(h.dtype),
    "one clipped": lambda h, wx, u: lj._clip.with_clipped_cotangent(u, 0.1) + wx,
    "a rule of its own": lambda h, wx, u: jax.nn.relu(wx) + u,
}


def test_fault_2_sums_of_parts():
    for what, update in SAME_PARTS.items():
        assert registry.additive(cell_of(update)), what
        if what != "neither":
            check(cell_of(update))
    for what, update in NOT_THE_SAME.items():
        assert not registry.additive(cell_of(update)), what


# ---- 14: parameters beside rows ------------------------------------------------------------------
PARAMETERS = {
    "[H]": ((H,), lambda h, a, s: a + s * h),
    "[1, H]": ((1, H), lambda h, a, s: a + s * h),
    "[1]": ((1,), lambda h, a, s: a + s * h),
    "[1, 1]": ((1, 1), lambda h, a, s: a + s * h),
    "a number": ((), lambda h, a, s: a + s * h),
    "of a function": ((H,), lambda h, a, s: a * jax.nn.sigmoid(s) + (1 - jax.nn.sigmoid(s)) * h),
    "kept dimensions": ((H,), lambda h, a, s: a + h * jnp.sum(s * h, axis=-1, keepdims=True)),
    "of its sum": ((H,), lambda h, a, s: a + h * jnp.sum(s)),
    "one unit's": ((H,), lambda h, a, s: a + h * s[1:2]),
    "put together": ((H,), lambda h, a, s: a + h * jnp.concatenate([s[1:], jnp.ones(1)])),
}


@registry.needs_kernel
@pytest.mark.grid
@pytest.mark.parametrize("what", PARAMETERS)
def test_fault_14_a_parameter_beside_rows(what):
    shape, update = PARAMETERS[what]
    cell = cell_of(lambda h, wx, u, s: jnp.tanh(update(h, wx + u, s)), s=shape)
    assert lj.which(cell).implementation == "native", lj.which(cell)
    check(cell)


@registry.needs_kernel
def test_fault_14_parameters_of_every_rank():
    def update(h, wx, u, **parameters):
        for (_, more), s in zip(PARAMETERS.values(), parameters.values(), strict=True):
            wx = jnp.tanh(more(h, wx + u, s))
        return wx

    cell = cell_of(update, **{f"s_{k}": shape for k, (shape, _) in enumerate(PARAMETERS.values())})
    assert lj.which(cell).implementation == "native", lj.which(cell)
    check(cell)


# ---- 12f: closing over values --------------------------------------------------------------------
def learned(a):
    return lj.RNN(H, activation=lambda x: jnp.tanh(a * x))


def run(cell, implementation=None):
    rng = np.random.default_rng(0)
    params, xs = registry.random_params(cell, D, rng), rng.standard_normal((T, B, D))
    return jnp.sum(lj.unroll(cell, params, xs, implementation=implementation)[1])


@pytest.mark.filterwarnings("ignore:plain scan")
def test_fault_12f_an_activation_that_is_learned():
    a, e = 0.7, 1e-5

    def loss(a):
        return run(learned(a))

    slope, each = jax.jit(lambda a: (jax.grad(loss)(a), jax.vmap(loss)(a + e * np.arange(2))))(a)
    assert float(slope) == pytest.approx(float(each[1] - each[0]) / e, rel=1e-4)
    assert float(slope) == pytest.approx(float(jax.grad(loss)(a)), rel=1e-12)
    assert float(each[0]) == pytest.approx(float(run(learned(np.asarray(a)))), rel=1e-12)


def test_fault_12f_who_closes_over_a_traced_value_is_told():
    def loss(a, implementation=None):
        cell = learned(a)
        found = lj.which(cell)
        assert found.implementation == "scan" and "make it one" in found.rejected["fused"]
        return run(cell, implementation)

    with pytest.warns(UserWarning, match="plain scan, the slowest, runs RNN.*elementwise"):
        jax.grad(loss)(0.5)
    for name in ("fused", "native"):
        with pytest.raises(NotImplementedError, match=f"{name}: .*(traced.*elementwise|built)"):
            jax.grad(functools.partial(loss, implementation=name))(0.5)


@pytest.mark.filterwarnings("ignore:plain scan")
def test_fault_12f_the_same_cell_with_another_traced_value():
    """Nothing is kept of an earlier trace, whatever holds the value."""
    box = {}

    class Boxed(lj.Cell):
        def update(self, carry, wx, u):
            return lj.State(jnp.tanh(box["a"] * (wx + u)))

    cell = Boxed(H)
    for a in (0.5, 0.7):

        def loss(a):
            box["a"] = a
            value = run(cell)
            box["a"] = 0.0
            return value

        with jax.checking_leaks():
            slope = jax.grad(loss)(a)
        assert float(slope) == pytest.approx(float(jax.grad(lambda a: run(learned(a)))(a)))


def test_fault_12f_a_traced_value_out_of_sight_is_refused():
    class Far:
        """Holds a value where nobody looks."""

    far = Far()
    cell = cell_of(lambda h, wx, u: jnp.tanh(far.a * (wx + u)))

    def loss(a):
        far.a = a
        return run(cell, "fused")

    for _ in range(2):
        with pytest.raises(NotImplementedError, match="is being traced"):
            jax.grad(loss)(0.5)


@registry.needs_kernel
def test_fault_12f_what_is_no_tracer_is_a_constant():
    for a in (jnp.arange(1.0, 1.0 + H), np.full((1, H), 0.5)):
        cell = cell_of(lambda h, wx, u, a=a: jnp.tanh(a.astype(h.dtype) * (wx + u)) - h)
        assert lj.which(cell).implementation == "native"
        check(cell)


# ---- 12d: checks ---------------------------------------------------------------------------------
def errors(cell, implementation, slope=False):
    def loss(xs):
        params = registry.random_params(cell, D, np.random.default_rng(0))
        return jnp.sum(lj.unroll(cell, params, xs, implementation=implementation)[1])

    function = jax.grad(loss) if slope else loss
    checked = checkify.checkify(function, errors=checkify.all_checks)
    return [jax.jit(checked)(scale * jnp.ones((T, B, D)))[0].get() for scale in (1.0, 90.0)]


@pytest.mark.parametrize("implementation", CHOICES)
def test_fault_12d_nan_inside_is_seen(implementation):
    cell = cell_of(lambda h, wx, u: jnp.sqrt(40 - jnp.abs(wx)) * h + wx + u)
    for slope in (False, True):
        good, bad = errors(cell, implementation, slope)
        assert good is None and "nan generated by primitive: sqrt" in bad


@pytest.mark.parametrize("implementation", CHOICES)
def test_fault_12d_a_check_in_an_update(implementation):
    def update(h, wx, u):
        checkify.check(jnp.all(jnp.abs(wx) < 40), "too large")
        return jnp.tanh(wx + u)

    good, bad = errors(cell_of(update), implementation)
    assert good is None and "too large" in bad


def test_fault_12d_a_print_in_an_update(capfd):
    def update(h, wx, u):
        jax.debug.print("seen")
        return jnp.tanh(wx + u)

    jax.block_until_ready(run(cell_of(update)))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen") == T


@pytest.mark.parametrize("precisions", [("highest", None), (None, "highest")], ids=str)
def test_the_kernel_runs_whatever_precision_came_before(precisions):
    """What was translated at one precision of matmuls holds at another: the kernel has but one."""
    cell = lj.LSTM(5 + len(str(precisions[0])))  # One that nothing else has translated.
    params = cell.init(jax.random.key(0), 2)
    for batch, precision in enumerate(precisions, start=4):  # The proof is for the call's batch.
        xs = jnp.ones((3, batch, 2))
        with jax.default_matmul_precision(precision):
            (call,) = lj.inspect(lambda p, xs=xs: lj.unroll(cell, p, xs)[1], params)
        assert (call.implementation, call.why) == ("native", None)
