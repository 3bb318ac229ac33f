"""Cores of dm-haiku against ours with the same parameters."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import from_haiku, to_haiku

hk = pytest.importorskip("haiku")

pytestmark = pytest.mark.grid

H = check.HIDDEN
CASES = {
    "lstm": lambda: hk.LSTM(H),
    "gru": lambda: hk.GRU(H),
    "vanilla": lambda: hk.VanillaRNN(H),
    "vanilla_one_bias": lambda: hk.VanillaRNN(H, double_bias=False),
    "deep": lambda: hk.DeepRNN([hk.LSTM(H), hk.LSTM(5)]),
    "mixed": lambda: hk.DeepRNN([hk.LSTM(H), hk.GRU(5), hk.LSTM(2, name="last")]),
}
NAMES = {"mixed": ["lstm", "gru", "last"]}


def network(make):
    """(the transformed unroll, xs -> (ys, final state))."""

    def unroll(xs):
        core = make()
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))

    return hk.without_apply_rng(hk.transform(unroll))


def params_of(make, rng):
    with check.lenient():
        xs = jnp.zeros((check.STEPS, check.BATCH, check.SIZE))
        shapes = jax.eval_shape(network(make).init, jax.random.key(0), xs)
    return check.random_like(shapes, rng)


def converter(name):
    return lambda tree: from_haiku(tree, names=NAMES.get(name), double_bias=True)


@pytest.mark.parametrize("name", check.cases(CASES, ("vanilla_one_bias", "deep")))
def test_outputs_carries_and_gradients_are_haikus(name, rng):
    params = params_of(CASES[name], rng)
    xs, mask, weights = check.inputs(rng, None)
    net, mine = converter(name)(params)
    outs, (grads, xs_grad) = check.ours(net, mine, xs, weights, None)

    def loss(params, xs):
        ys, state = network(CASES[name]).apply(params, xs)
        states = state if name in ("deep", "mixed") else (state,)
        hs = [getattr(s, "hidden", s) for s in states]
        cs = [s.cell for s in states if hasattr(s, "cell")]
        return jnp.sum(weights * ys) + sum(map(jnp.sum, hs)), (ys, hs, cs)

    with check.lenient():
        grad = check.jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (their_grads, their_xs_grad), theirs = grad(params, jnp.asarray(xs))
    check.assert_outputs(outs, *theirs, mask)
    wanted = check.linear(converter(name), their_grads)
    check.registry.assert_close(grads, wanted, check.TOL)
    check.registry.assert_close(xs_grad, their_xs_grad, check.TOL)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, rng):
    """Exact but for the forget bias, from which one is taken and to which it is added."""
    params = params_of(CASES[name], rng)
    back = to_haiku(*converter(name)(params), names=NAMES.get(name))
    assert set(back) == set(params)
    for module, arrays in params.items():
        for key, array in arrays.items():
            exact = not (key == "b" and "linear" in module and len(array) % 4 == 0)
            tol = 0 if exact or "vanilla" in module else 1e-7
            np.testing.assert_allclose(back[module][key], array, rtol=0, atol=tol)


def test_names(rng):
    inner = params_of(CASES["lstm"], rng)["lstm/linear"]
    whole = {"agent/~/lstm/linear": inner, "agent/~/head": {"w": np.ones((4, 2), "f")}}
    net, params = from_haiku(whole, names=["agent/~/lstm"])
    assert net == lj.LSTM(H)
    assert list(to_haiku(net, params, names=["agent/~/lstm"])) == ["agent/~/lstm/linear"]
    with pytest.raises(ValueError, match=r"modules \['agent/~/head', 'agent/~/lstm'\].*as names"):
        from_haiku(whole)
    with pytest.raises(ValueError, match=r"names: got \['core'\]"):
        from_haiku(whole, names=["core"])
    with pytest.raises(
        ValueError, match=r"names: got \['a', 'b'\], wanted 1 name; pass one a cell"
    ):
        to_haiku(net, params, names=["a", "b"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], r"params: got a list"),
        (
            {"lstm/linear": {"w": np.ones((7, 15), "f"), "b": np.ones(15, "f")}},
            "lstm/linear/w: got",
        ),
        ({"lstm/linear": {"w": np.ones((7, 16), "f")}}, "lstm/linear/b: got only"),
        ({"gru": {"w_h": np.ones((4, 8), "f")}}, r"gru/w_h: got shape \(4, 8\)"),
        ({"lstm/linear": {"w": np.full((7, 16), np.nan, "f")}}, "lstm/linear/w: got NaN"),
        ({"linear": {"w": np.ones((7, 16), "f")}}, "got"),
    ],
)
def test_broken_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        from_haiku(params)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.GRU(H), r"GRU\(reset_after=True\), wanted reset_after=False.*where the reset gate"),
        (lj.RNN(H), r"RNN\(activation='tanh'\), wanted activation='relu'"),
        (lj.bidirectional(lj.LSTM(H)), "got two directions, wanted one, which is all that haiku"),
        (lj.RNN(H, "relu", bias=False), r"RNN\(bias=False\)"),
    ],
)
def test_what_haiku_has_not_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        to_haiku(net, check.params_of(net))


def test_its_gru_goes_to_keras_and_not_to_torch(rng):
    """The reset gate before the matmul: Keras's reset_after=False, with z negated."""
    net, params = from_haiku(params_of(CASES["gru"], rng))
    kernel, recurrent, bias = lj.interop.to_keras(net, params)
    theirs = to_haiku(net, params)["gru"]
    for mine, key in ((kernel, "w_i"), (recurrent, "w_h"), (bias, "b")):
        sign = np.repeat([-1, 1, 1], H).astype(np.float32)
        np.testing.assert_array_equal(mine, theirs[key] * np.broadcast_to(sign, mine.shape))
    with pytest.raises(ValueError, match=r"GRU\(reset_after=False\).*torch"):
        lj.interop.to_torch(net, params)
