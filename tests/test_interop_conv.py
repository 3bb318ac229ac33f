"""ConvLSTM against linen's and haiku's with the same parameters, on one, two and three axes."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lstm_jax as lj
from lstm_jax.interop import from_haiku, from_linen, to_haiku, to_linen

hk = pytest.importorskip("haiku")

pytestmark = pytest.mark.grid

H = check.HIDDEN
SPACE = {"1d": (5,), "2d": (4, 3), "3d": (2, 3, 2), "no_bias": (5,)}
KERNELS = {"1d": (2,), "2d": (3, 2), "3d": (1, 2, 2), "no_bias": (3,)}


# ---- the two libraries ---------------------------------------------------------------------------
class Linen:
    """Linen's nn.RNN, on ragged batches."""

    lengths = check.LENGTHS
    write = staticmethod(lambda net, params: to_linen(net, params))

    @staticmethod
    def module(name):
        return nn.RNN(nn.ConvLSTMCell(H, KERNELS[name], use_bias=name != "no_bias"))

    @classmethod
    def init(cls, name, xs):
        return cls.module(name).init(jax.random.key(0), jnp.swapaxes(xs, 0, 1))

    @classmethod
    def run(cls, name, tree, xs, carry):
        """(ys [T, B, *space, H], h, c)."""
        options = {"seq_lengths": jnp.asarray(cls.lengths), "return_carry": True}
        options["initial_carry"] = (carry.c, carry.h)
        (c, h), ys = cls.module(name).apply(tree, jnp.swapaxes(xs, 0, 1), **options)
        return jnp.swapaxes(ys, 0, 1), h, c

    @staticmethod
    def read(name, tree, **options):
        return from_linen(tree, input_shape=SPACE[name], **options)


class Haiku:
    """Haiku's hk.dynamic_unroll, on whole batches."""

    lengths = None
    write = staticmethod(lambda net, params: to_haiku(net, params))

    @staticmethod
    def transformed(name):
        def unroll(xs, carry):
            cores = (hk.Conv1DLSTM, hk.Conv2DLSTM, hk.Conv3DLSTM)
            core = cores[len(SPACE[name]) - 1](SPACE[name], H, KERNELS[name])
            return hk.dynamic_unroll(core, xs, hk.LSTMState(carry.h, carry.c))

        return hk.without_apply_rng(hk.transform(unroll))

    @classmethod
    def init(cls, name, xs):
        zeros = jnp.zeros((*xs.shape[1:-1], H))
        return cls.transformed(name).init(jax.random.key(0), xs, lj.LSTMState(zeros, zeros))

    @classmethod
    def run(cls, name, tree, xs, carry):
        ys, state = cls.transformed(name).apply(tree, xs, carry)
        return ys, state.hidden, state.cell

    @staticmethod
    def read(name, tree, **options):
        return from_haiku(tree, input_shape=SPACE[name], **options)


LIBRARIES = {"linen": Linen, "haiku": Haiku}
CASES = ["linen-1d", "linen-2d", "linen-no_bias", "haiku-1d", "haiku-2d", "haiku-3d"]


def made(case, rng):
    """(library, name, its tree of random parameters)."""
    library, name = case.split("-")
    xs = jnp.zeros((check.STEPS, check.BATCH, *SPACE[name], check.SIZE))
    with check.lenient():
        shapes = jax.eval_shape(lambda: LIBRARIES[library].init(name, xs))
    return LIBRARIES[library], name, check.random_like(shapes, rng)


def problem(library, name, rng):
    """(xs [T, B, *space, D], mask, weights of the loss, a first carry)."""
    space = SPACE[name]
    _, mask, weights = check.inputs(rng, library.lengths)
    mask, weights = (np.expand_dims(a, (*range(2, 2 + len(space)),)) for a in (mask, weights))
    xs = check.normal(rng, check.STEPS, check.BATCH, *space, check.SIZE)
    states = [jnp.asarray(check.normal(rng, check.BATCH, *space, H)) for _ in "hc"]
    return xs, mask, weights, lj.LSTMState(*states)


# ---- agreement -----------------------------------------------------------------------------------
@pytest.mark.parametrize("case", check.cases(CASES, ("haiku-1d", "haiku-3d", "linen-no_bias")))
def test_outputs_carries_and_gradients_are_theirs(case, rng):
    library, name, tree = made(case, rng)
    xs, mask, weights, carry = problem(library, name, rng)
    net, params = library.read(name, tree, double_bias=True)
    assert net.double_bias is (name != "no_bias")
    outs, grads = check.ours(net, params, xs, weights, library.lengths, carry)

    def loss(tree, xs, carry):
        ys, h, c = library.run(name, tree, xs, carry)
        return jnp.sum(weights * ys) + jnp.sum(h), (ys, [h], [c])

    with check.lenient():
        grad = check.jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
        their_grads, theirs = grad(tree, jnp.asarray(xs), carry)
    check.assert_outputs(outs, *theirs, mask)
    wanted = check.linear(lambda tree: library.read(name, tree, double_bias=True), their_grads[0])
    ours = {key: leaf for key, leaf in grads[0].items() if (key, name) != ("b", "no_bias")}
    check.registry.assert_close(ours, {key: wanted[key] for key in ours}, check.TOL)
    check.registry.assert_close(grads[1:], their_grads[1:], check.TOL)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, rng):
    """Exact but for the forget bias, to which one is added and from which it is taken."""
    library, name, tree = made(case, rng)
    for double_bias in (True, False):
        net, params = library.read(name, tree, double_bias=double_bias)
        back = library.write(net, params)
        again, seen = library.read(name, back, double_bias=net.double_bias)
        assert again == net
        check.registry.assert_close(seen, params, 1e-7)
        check.assert_equal(
            {key: leaf for key, leaf in seen.items() if key != "b"},
            {key: leaf for key, leaf in params.items() if key != "b"},
        )
        if double_bias and name != "no_bias":
            assert jax.tree.structure(back) == jax.tree.structure(jax.tree.map(np.asarray, tree))
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7), back, tree
            )


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_bias_and_none_give_the_same_outputs(library, rng):
    library = LIBRARIES[library]
    xs, mask, _, carry = problem(library, "1d", rng)
    for options in ({}, {"double_bias": True}, {"bias": False}):
        net = lj.ConvLSTM(H, KERNELS["1d"], SPACE["1d"], **options)
        params = check.params_of(net)
        state, ys = lj.unroll(net, params, jnp.asarray(xs), carry, seq_lengths=library.lengths)
        with check.lenient():
            tree = jax.tree.map(jnp.asarray, library.write(net, params))
            theirs, h, c = library.run("1d", tree, jnp.asarray(xs), carry)
        check.assert_outputs((ys, [state]), theirs, [h], [c], mask)


def test_layers_and_directions(rng):
    """Bidirectional and Sequential of linen, DeepRNN of haiku."""
    cell = lambda size: nn.RNN(nn.ConvLSTMCell(size, (2,)))  # noqa: E731
    module = nn.Sequential([nn.Bidirectional(cell(H), cell(H)), cell(2)])
    xs = check.normal(rng, check.BATCH, check.STEPS, 5, check.SIZE)
    with check.lenient():
        variables = check.random_like(
            jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(xs)), rng
        )
        wanted = module.apply(variables, jnp.asarray(xs))
    net, params = from_linen(variables, input_shape=[5])
    sizes = {"kernel_shape": (2,), "input_shape": (5,)}
    assert net == lj.stack(lj.bidirectional(lj.ConvLSTM(H, **sizes)), lj.ConvLSTM(2, **sizes))
    _, ys = lj.unroll(net, params, jnp.asarray(xs), time_major=False)
    check.registry.assert_close(ys, wanted, check.TOL)

    net = lj.stack(lj.ConvLSTM(H, **sizes), lj.ConvLSTM(2, **sizes))
    params = check.params_of(net)
    tree = to_haiku(net, params)
    inner = ("input_to_hidden", "hidden_to_hidden")
    assert list(tree) == [f"{name}/{i}" for name in ("conv1_dlstm", "conv1_dlstm_1") for i in inner]
    again, seen = from_haiku(tree, input_shape=(5,))
    assert again == net
    check.registry.assert_close(seen, params, 1e-7)


# ---- mistakes ------------------------------------------------------------------------------------
def tree_of(library, change):
    net = lj.ConvLSTM(H, (2,), (5,))
    written = LIBRARIES[library].write(net, check.params_of(net))
    inner = written["params"]["cell"] if library == "linen" else written
    change(list(inner.values()))
    return written


def put(side, leaf, array):
    """Another array in place of a kernel (0) or a bias (1) of one convolution."""
    return lambda sides: sides[side].update({list(sides[side])[leaf]: array})


def drop(side, leaf):
    return lambda sides: sides[side].pop(list(sides[side])[leaf])


@pytest.mark.parametrize(
    ("change", "linen", "haiku"),
    [
        (drop(0, 0), "cell/ih/kernel: got only", "input_to_hidden/w: got only"),
        (drop(1, 0), "cell/hh/kernel: got only", "hidden_to_hidden/w: got only"),
        (drop(1, 1), "cell/hh/bias: got only", "hidden_to_hidden/b: got only"),
        (put(0, 0, np.ones((3, 16), "f")), r"ih/kernel: got shape \(3, 16\)", r"w: got shape \(3,"),
        (put(0, 0, np.ones((2, 3, 15), "f")), "ih/kernel: got .*4H", "input_to_hidden/w: got .*4H"),
        (put(1, 0, np.ones((3, 4, 16), "f")), r"wanted .* = \(2, 4, 16\)", r"= \(2, 4, 16\)"),
        (put(1, 1, np.ones(15, "f")), "hh/bias: got shape", "hidden_to_hidden/b: got shape"),
        (put(0, 1, np.full(16, np.nan, "f")), "ih/bias: got NaN", "input_to_hidden/b: got NaN"),
        (
            lambda sides: sides[0].update(more=np.ones(3, "f")),
            "cell/ih/more: got an unexpected",
            "input_to_hidden/more: got an unexpected",
        ),
    ],
)
def test_a_broken_tree_is_named(change, linen, haiku):
    for library, message in (("linen", linen), ("haiku", haiku)):
        with pytest.raises(ValueError, match=message):
            LIBRARIES[library].read("1d", tree_of(library, change))


@pytest.mark.parametrize(("library", "read"), [("linen", from_linen), ("haiku", from_haiku)])
def test_the_sizes_of_space_must_be_given(library, read):
    tree = tree_of(library, lambda sides: None)
    with pytest.raises(ValueError, match=r"input_shape: got None, wanted the 1 sizes.*\(28,\)"):
        read(tree)
    with pytest.raises(ValueError, match=r"input_shape: got \(4, 4\), wanted 1 sizes"):
        read(tree, input_shape=(4, 4))
    with pytest.raises(ValueError, match="input_shape: got 0"):
        read(tree, input_shape=(0,))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 2}, r"ConvLSTM\(strides=\(2,\)\), wanted strides=\(1,\).*use keras"),
        ({"padding": "valid"}, r"ConvLSTM\(padding='valid'\), wanted padding='same'.*use keras"),
        ({"dilation": 2}, r"ConvLSTM\(dilation=\(2,\)\).*use keras"),
        ({"output_activation": "relu"}, r"ConvLSTM\(output_activation='relu'\)"),
    ],
)
def test_what_they_have_not_is_refused(library, options, message):
    net = lj.ConvLSTM(H, (2,), (5,), **options)
    with pytest.raises(ValueError, match=f"{message}"):
        LIBRARIES[library].write(net, check.params_of(net))
