"""Changes that a user may make to a cell; none is silently ignored."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax._numerics import sigmoid

pytestmark = pytest.mark.sampled

T, B, D, H = 4, 2, 3, 2
LIBRARY = [lj.RNN, lj.LSTM, lj.GRU, functools.partial(lj.GRU, reset_after=False)]


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


def problem(cell):
    """(params, xs, carry)."""
    rng = np.random.default_rng(0)
    params = registry.random_params(cell, D, rng)
    return params, rng.standard_normal((T, B, D)), registry.random_carry(cell, params, (B,), rng)


def check(cell, wanted):
    """Values, gradients and tangents of the default are those of plain "scan"."""
    assert lj.which(cell).implementation == wanted
    args = problem(cell)

    def loss(implementation, args):
        outs = lj.unroll(cell, *args, seq_lengths=[T, 2], implementation=implementation)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs))

    seen, reference = (
        jax.jit(jax.value_and_grad(functools.partial(loss, name)))(args) for name in (None, "scan")
    )
    registry.assert_close(seen, reference, 1e-12)
    along = jax.tree.map(np.cos, args)
    _, tangent = jax.jit(lambda a, v: jax.jvp(functools.partial(loss, None), (a,), (v,)))(
        args, along
    )
    assert float(tangent) == pytest.approx(registry.directional(reference[1], along), rel=1e-10)


# ---- subclasses of the library's cells -----------------------------------------------------------
@pytest.mark.parametrize("cell", LIBRARY, ids=["RNN", "LSTM", "GRU", "GRU-reset-before"])
def test_a_step_of_its_own_is_the_one_that_runs(cell):
    """The update that it inherited is not: the fast path stands aside."""
    plain = cell(H)

    class Doubled(type(plain)):
        def step(self, params, carry, x):
            carry, y = super().step(params, carry, x)
            return carry, 2 * y

    doubled = Doubled(**{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)})
    args = problem(plain)
    final, ys = lj.unroll(plain, *args)
    assert lj.which(doubled).implementation == "scan"
    registry.assert_close(lj.unroll(doubled, *args), (final, 2 * ys), 1e-12)


def test_an_update_of_its_own_is_not_taken_for_additive():
    """An LSTM whose gates see the product of wx and u: the sum alone does not tell it."""

    class Product(lj.LSTM):
        def update(self, carry, wx, u):
            i, f, g, o = jnp.split(wx * u + u, 4, axis=-1)
            c = sigmoid(f) * carry.c + sigmoid(i) * jnp.tanh(g)
            return lj.LSTMState(sigmoid(o) * jnp.tanh(c), c)

    assert not registry.additive(Product(H))
    check(Product(H), registry.FASTEST)


def test_gates_of_its_own_are_not_taken_for_additive():
    """The update that it inherited is made of them."""

    class Product(lj.LSTM):
        def gates(self, carry, wx, u):
            return super().gates(carry, wx * u, u)

    assert not registry.additive(Product(H))
    check(Product(H), registry.FASTEST)


def test_a_subclass_is_seen_to_be_additive():
    class Coupled(lj.LSTM):
        def gates(self, carry, wx, u):
            gates = super().gates(carry, wx, u)
            return gates | {"i": 1 - gates["f"]}

    assert registry.additive(Coupled(H))
    check(Coupled(H), registry.FASTEST)


# ---- cells from nothing --------------------------------------------------------------------------
def test_a_projection_of_two_arrays():
    """wx may be any tree of arrays with the axes of x in front."""

    class Highway(lj.Cell):
        def project(self, params, x):
            wx = super().project(params, x)
            return {"gate": sigmoid(wx), "value": wx}

        def update(self, carry, wx, u):
            kept = (1 - wx["gate"]) * carry.h
            return lj.State(wx["gate"] * jnp.tanh(wx["value"] + u) + kept)

    check(Highway(H), registry.FASTEST)


def test_a_recurrence_that_is_not_a_matmul():
    """Independent units, u = h * w: `recur` is the user's, and linear."""

    class Independent(lj.Cell):
        def init(self, key, input_size):
            params = super().init(key, input_size)
            return params | {"w_hh": jnp.diagonal(params["w_hh"])}

        def recur(self, params, carry):
            return carry.h * jnp.broadcast_to(params["w_hh"], carry.h.shape)

        def update(self, carry, wx, u):
            return lj.State(jnp.tanh(wx + u))

    check(Independent(H), "fused")


def test_the_simplest_step():
    """Nothing but the equation, as a user writes it first."""

    class Plain(lj.Cell):
        def step(self, params, carry, x):
            h = jnp.tanh(x @ params["w_ih"] + carry.h @ params["w_hh"])
            return lj.State(h), h

    check(Plain(H), "scan")
    args = problem(Plain(H))
    params = args[0] | {"b": np.zeros(H)}
    registry.assert_close(
        lj.unroll(Plain(H), *args), lj.unroll(lj.RNN(H), params, *args[1:]), 1e-12
    )


def test_a_cell_with_nothing_says_so():
    """Neither `update` nor `step`."""
    with pytest.raises(NotImplementedError, match="Nothing has no update"):

        class Nothing(lj.Cell):
            pass

        lj.unroll(Nothing(H), *problem(Nothing(H)))


@pytest.mark.parametrize("bend", [jnp.tanh, lambda u: u + 1], ids=["bent", "shifted"])
def test_a_recurrence_that_is_not_linear(bend):
    """It loses the one matmul after the loop, and no derivative: not by the weights either."""

    class Bent(lj.Cell):
        def recur(self, params, carry):
            w_hh = params["w_hh"] / jnp.linalg.norm(params["w_hh"])
            return bend(super().recur({"w_hh": w_hh}, carry))

        def update(self, carry, wx, u):
            return lj.State(jnp.tanh(wx + u))

    check(Bent(H), "fused")


def test_a_cell_is_shown_by_what_is_not_its_default():
    """A user's own options too; and what is shown makes the cell again."""

    @dataclasses.dataclass(frozen=True)
    class Scaled(lj.LSTM):
        scale: float = 1.0

    names = {"Scaled": Scaled, **vars(lj)}
    for cell, shown in (
        (lj.LSTM(3), "LSTM(hidden_size=3)"),
        (Scaled(3, scale=2.0, heads=3), "Scaled(hidden_size=3, heads=3, scale=2.0)"),
        (lj.RNN(2, "relu", dtype="bfloat16"), "RNN(hidden_size=2, dtype='bfloat16', activation="),
        (lj.zoneout(lj.GRU(2), h=0.5), "Zoneout(cell=GRU(hidden_size=2), h=0.5, "),
    ):
        assert repr(cell).startswith(shown)
        if isinstance(cell, lj.Cell):
            assert eval(repr(cell), names) == cell


@dataclasses.dataclass(frozen=True)
class Normed(lj.Cell):
    """A cell that divides u by its norm: not differentiable at u = 0."""

    gate_names = ("a",)

    def update(self, carry, wx, u):
        u = u / jnp.sqrt(jnp.sum(jnp.square(u), axis=-1, keepdims=True))
        return type(carry)(jnp.tanh(wx + u))


def test_padding_has_the_sums_that_a_derivative_is_taken_at(rng):
    """A kernel that leaves out padded rows keeps their u, since 0 times infinity is NaN."""
    cell, lengths = Normed(3), np.array([5, 3, 2, 1])
    params = registry.random_params(cell, 2, rng)
    xs = rng.standard_normal((5, 4, 2)).astype("float32")
    start = lj.State(np.ones((4, 3), "float32"))

    def loss(params, implementation):
        options = {"seq_lengths": lengths, "implementation": implementation}
        return jnp.sum(jnp.square(lj.unroll(cell, params, xs, start, **options)[1]))

    def twice(implementation):
        gradient = jax.grad(functools.partial(loss, implementation=implementation))
        return jax.jit(lambda p: jax.jvp(gradient, (p,), (p,)))(params)

    registry.assert_close(twice(None), twice("scan"), 1e-4)
