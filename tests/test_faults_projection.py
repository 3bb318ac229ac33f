"""What an engine makes of a cell's `project`, and of an `update` that sees the batch's size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax._recurrence.matmuls import projected
from lstm_jax._recurrence.matrix import form

T, B, D = 4, 2, 3
KEY = jax.random.key(0)


def doubled(cell, params, x):
    return 2 * lj.Cell.project(cell, params, x)


def set_on_the_class():
    class Late(lj.RNN):
        pass

    made = dataclasses.dataclass(frozen=True)(Late)
    made.project = doubled
    return made(5)


def set_on_the_instance():
    @dataclasses.dataclass(frozen=True)
    class Own(lj.RNN):
        def __post_init__(self):
            super().__post_init__()
            object.__setattr__(self, "project", lambda p, x: doubled(self, p, x))

    return Own(5)


def by_mixin():
    class Mixin:
        def project(self, params, x):
            return 2 * super().project(params, x)

    @dataclasses.dataclass(frozen=True)
    class Mixed(Mixin, lj.RNN):
        pass

    return Mixed(5)


def with_another_matmul():
    @dataclasses.dataclass(frozen=True)
    class Own(lj.RNN):
        def matmul(self, x, w, biases=(), result=None):
            return 2 * super().matmul(x, w, biases, result)

    return Own(5)


def in_a_dictionary():
    @dataclasses.dataclass(frozen=True)
    class Own(lj.Cell):
        def project(self, params, x):
            return {"a": super().project(params, x)}

        def update(self, carry, wx, u):
            return lj.State(jnp.tanh(wx["a"] + u))

    return Own(5)


def with_a_bias_of_one_number():
    @dataclasses.dataclass(frozen=True)
    class Own(lj.RNN):
        def init(self, key, input_size):
            return super().init(key, input_size) | {"b": jnp.full(1, 0.5)}

    return Own(40)


MAKES = [
    set_on_the_class,
    set_on_the_instance,
    by_mixin,
    with_another_matmul,
    in_a_dictionary,
    with_a_bias_of_one_number,
]


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize("make", MAKES)
def test_the_projection_is_what_project_computes(make, wrapped, rng):
    cell = lj.clip_state(make(), h=10.0) if wrapped else make()
    params = jax.tree.map(jnp.asarray, cell.init(jax.random.key(0), D))
    xs = jnp.asarray(rng.standard_normal((T, B, D)), jnp.float32)

    def loss(params, implementation):
        return jnp.sum(jnp.sin(lj.unroll(cell, params, xs, implementation=implementation)[1]))

    seen = jax.value_and_grad(loss)(params, ("native", "fused"))
    registry.assert_close(seen, jax.value_and_grad(loss)(params, "scan"), 1e-5)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        (lj.LSTM(5), 2),
        (lj.LSTM(5, bias=False), 1),
        (lj.GRU(5, double_bias=True), 2),
        (lj.zoneout(lj.RNN(5), h=0.1), 2),
        (lj.SRU(3), 0),
        (lj.MinimalRNN(5), 0),
    ],
)
def test_one_matmul_is_data(cell, parts, dtype):
    """(w, b), (w,), or wx itself where `project` is another function."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype or leaf.dtype), cell.init(KEY, D))
    xs = jnp.ones((T, B, D), dtype or jnp.float32)
    x, projection = projected(cell.project, params, xs)
    assert (x is xs, len(projection or ())) == (parts > 0, parts)


def test_a_matmul_inside_jit_is_a_product():
    def project(params, xs):
        return jnp.tanh(jax.jit(lambda x: x @ params["w_ih"])(xs))

    params, xs = lj.RNN(5).init(KEY, D), jnp.ones((T, B, D))
    found = str(jax.make_jaxpr(lambda p, x: projected(project, p, x)[0])(params, xs))
    assert "product[" in found and "dot_general" not in found


def in_another_program(x):
    factors = jax.jit(lambda: jnp.asarray(np.array([1.0, 2.0, len(x)], np.float32)))()
    return x * jnp.broadcast_to(factors, x.shape)


def in_other_shapes(x):
    """x beside 2 x, in two blocks for two sequences and else in one."""
    blocks = jnp.tile(x, 2).reshape(len(x), 2 if len(x) == 2 else 1, -1)
    return jnp.concatenate([blocks, 2 * blocks], -1).reshape(len(x), -1)[:, 3:6]


SEES = {
    "a power": lambda x: x ** len(x),
    "an axis as long": lambda x: x + jnp.broadcast_to(x[:, 0], (len(x),) * 2).max(1)[:, None],
    "a constant of another program": in_another_program,
    "few sequences": lambda x: 2 * x if len(x) < 9 else x,
    "one sequence": lambda x: 2 * x if len(x) == 1 else x,
    "an even number": lambda x: 2 * x if len(x) % 2 == 0 else x,
    "an axis of the features": in_other_shapes,
    "a number of parts": lambda x: jnp.concatenate([x] * (2 + len(x) % 3 % 2), axis=-1)[:, -3:],
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("what", SEES)
def test_an_update_that_sees_the_number_of_sequences_is_right(what, batch, rng):
    class Seeing(lj.Cell):
        def update(self, carry, wx, u):
            return lj.State(jnp.tanh(SEES[what](wx + u)))

    cell = dataclasses.dataclass(frozen=True)(Seeing)(3)
    params = cell.init(jax.random.key(0), D)
    xs = jnp.asarray(rng.standard_normal((T, batch, D)), jnp.float32)
    seen, wanted = (lj.unroll(cell, params, xs, implementation=name)[1] for name in (None, "scan"))
    registry.assert_close(seen, wanted, 1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_what_an_update_prints_for_some_numbers_of_sequences_alone(batch, capfd):
    @dataclasses.dataclass(frozen=True)
    class Printing(lj.Cell):
        def update(self, carry, wx, u):
            if len(wx) == batch:
                jax.debug.print("seen")
            return lj.State(jnp.tanh(wx + u))

    cell = Printing(3)
    jax.block_until_ready(lj.unroll(cell, cell.init(KEY, D), jnp.ones((T, batch, D))))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen") == T


class Permuting(lj.Cell):
    """A cell with a function that permutes axes and reshapes, in one primitive."""

    def permuted(self, h):
        parts = (*h.shape[:-1], 2, 2)
        axes = (*range(h.ndim - 1), h.ndim, h.ndim - 1)
        return jax.lax.reshape(h.reshape(parts), h.shape, dimensions=axes)

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(wx + u + self.permuted(carry.h)))


class PermutingBefore(Permuting):
    """Its matmul is of h with sequences and units in another order."""

    def recur(self, params, carry):
        h = carry.h
        swapped = jax.lax.reshape(h, h.shape, dimensions=tuple(range(h.ndim))[::-1])
        return super().recur(params, carry._replace(h=swapped))


@pytest.mark.parametrize("kind", [Permuting, PermutingBefore])
def test_a_reshape_that_permutes_axes_is_no_reshape(kind, rng):
    cell = dataclasses.dataclass(frozen=True)(kind)(4)
    params = cell.init(KEY, D)
    xs = jnp.asarray(rng.standard_normal((T, B, D)), jnp.float32)
    seen, wanted = (lj.unroll(cell, params, xs, implementation=name)[1] for name in (None, "scan"))
    registry.assert_close(seen, wanted, 1e-5)


@pytest.mark.parametrize("batch", [(), (1,), (2,), (2, 2)])
def test_heads_are_one_matmul_for_every_number_of_sequences(batch):
    """Their products have the batch axis behind the one of the heads."""
    cell = lj.LSTM(4, heads=2)
    params = cell.init(KEY, D)
    assert form(cell, cell.weights(params), cell.initial_carry(params, batch)).u.shape == (16,)


SLOPES = {
    "repeated": lambda h, q: h + jnp.broadcast_to(h[..., :1], h.shape),
    "of a parameter": lambda h, q: h * jnp.sum(q, axis=-1, keepdims=True),
    "the error function": lambda h, q: jax.lax.erf(h),
}


@registry.needs_kernel
@pytest.mark.parametrize("what", SLOPES)
def test_a_gradient_is_the_kernels_for_any_number_of_sequences(what):
    """JAX sums that of one unit over the batch axis too, if it has size one; erf's is a program."""

    class Own(lj.Cell):
        elementwise = ("q",)

        def init(self, key, input_size):
            return super().init(key, input_size) | {"q": jnp.full((1, 3), 0.5)}

        def update(self, carry, wx, u, q):
            return lj.State(jnp.tanh(wx + u + SLOPES[what](carry.h, q)))

    cell = dataclasses.dataclass(frozen=True)(Own)(3)
    slope = jax.grad(lambda params, xs: jnp.sum(lj.unroll(cell, params, xs)[1]))
    for batch in (1, 2):
        seen = lj.inspect(slope, cell.init(KEY, D), jnp.ones((T, batch, D)))
        assert [each.implementation for each in seen] == ["native", "native"], seen
