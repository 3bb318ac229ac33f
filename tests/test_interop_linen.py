"""Recurrent modules of flax.linen against ours with the same parameters, on ragged batches."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lstm_jax as lj
from lstm_jax.interop import from_linen, to_linen

pytestmark = pytest.mark.sampled

H = check.HIDDEN
CASES = {
    "lstm": lambda: nn.RNN(nn.LSTMCell(H)),
    "optimized": lambda: nn.RNN(nn.OptimizedLSTMCell(H)),
    "gru": lambda: nn.RNN(nn.GRUCell(H)),
    "simple": lambda: nn.RNN(nn.SimpleCell(H)),
    "mgu": lambda: nn.RNN(nn.MGUCell(H)),
    "mgu_no_reset": lambda: nn.RNN(nn.MGUCell(H, reset_gate=False)),
    "both": lambda: nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H))),
}


def variables_of(module, rng):
    xs = jnp.zeros((check.BATCH, check.STEPS, check.SIZE))
    with check.lenient():
        shapes = jax.eval_shape(module.init, jax.random.key(0), xs)
    return check.random_like(shapes, rng)


def run(module, variables, xs):
    """(ys [T, B, N], final h of each direction, final c)."""
    options = {"seq_lengths": jnp.asarray(check.LENGTHS), "return_carry": True}
    carries, ys = module.apply(variables, jnp.swapaxes(xs, 0, 1), **options)
    if not isinstance(module, nn.Bidirectional):
        carries = (carries,)
    lstm = "LSTM" in type(getattr(module, "cell", None)).__name__
    hs = [carry[1] if lstm else carry for carry in carries]
    return jnp.swapaxes(ys, 0, 1), hs, [carry[0] for carry in carries] if lstm else []


@pytest.mark.parametrize("name", check.cases(CASES, ("optimized", "mgu_no_reset")))
def test_outputs_carries_and_gradients_are_linens(name, rng):
    module = CASES[name]()
    variables = variables_of(module, rng)
    xs, mask, weights = check.inputs(rng)
    net, params = from_linen(variables)
    outs, (grads, xs_grad) = check.ours(net, params, xs, weights)

    def loss(variables, xs):
        ys, hs, cs = run(module, variables, xs)
        return jnp.sum(weights * ys) + sum(map(jnp.sum, hs)), (ys, hs, cs)

    with check.lenient():
        grad = check.jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (their_grads, their_xs_grad), theirs = grad(variables, jnp.asarray(xs))
    check.assert_outputs(outs, *theirs, mask)
    check.registry.assert_close(grads, from_linen(their_grads)[1], check.TOL)
    check.registry.assert_close(xs_grad, their_xs_grad, check.TOL)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(name, rng):
    variables = variables_of(CASES[name](), rng)
    check.assert_equal(to_linen(*from_linen(variables)), jax.tree.map(np.asarray, variables))


@pytest.mark.grid
def test_a_sequential_is_a_stack(rng):
    module = nn.Sequential([nn.RNN(nn.LSTMCell(H)), CASES["both"](), nn.RNN(nn.SimpleCell(5))])
    variables = variables_of(module, rng)
    net, params = from_linen(variables, dropout=0.1)
    assert net == lj.stack(lj.LSTM(H), lj.bidirectional(lj.GRU(H)), lj.RNN(5), dropout=0.1)
    check.assert_equal(to_linen(net, params), jax.tree.map(np.asarray, variables))
    xs, _, _ = check.inputs(rng, None)
    with check.lenient():
        wanted = module.apply(variables, jnp.swapaxes(jnp.asarray(xs), 0, 1))
    _, ys = lj.unroll(net, params, jnp.asarray(xs))
    check.registry.assert_close(jnp.swapaxes(ys, 0, 1), wanted, check.TOL)


def test_two_biases_are_merged_on_the_way_out():
    for net in (lj.LSTM(H, double_bias=True), lj.GRU(H, double_bias=True), lj.GRU(H, bias=False)):
        params = check.params_of(net)
        again = from_linen(to_linen(net, params))
        xs = jnp.ones((4, check.SIZE))
        seen, wanted = lj.unroll(*again, xs)[1], lj.unroll(net, params, xs)[1]
        check.registry.assert_close(seen, wanted, check.TOL)


def test_parts_of_a_tree(rng):
    inner = variables_of(CASES["lstm"](), rng)["params"]["cell"]
    for tree in (inner, {"cell": inner}, {"params": inner}):
        check.assert_equal(from_linen(tree)[1], from_linen({"params": {"cell": inner}})[1])
    assert (
        from_linen(variables_of(CASES["simple"](), rng), activation="relu")[0].activation == "relu"
    )


def tree_of(net):
    return to_linen(net, check.params_of(net))["params"]["cell"]


def changed(net, change):
    tree = tree_of(net)
    change(tree)
    return tree


def poisoned(tree):
    tree["hf"]["kernel"][0, 0] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("hf"), r"params: got keys \['hg', 'hi'"),
        (lambda t: t["hf"].pop("bias"), "^params/hf/bias: got only"),
        (lambda t: t["ig"].update(bias=t["hf"]["bias"]), "^params/ig/bias: got an unexpected"),
        (lambda t: t["hf"].update(kernel=t["hf"]["kernel"][:2]), r"hf/kernel: got shape \(2, 4\)"),
        (poisoned, "^params/hf/kernel: got NaN or Inf"),
    ],
)
def test_a_broken_tree_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_linen(changed(lj.LSTM(H), change))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "params: got a dict"),
        ({"params": {"Dense_0": {"kernel": np.ones((3, 4))}}}, r"params/Dense_0: got keys"),
        ({"LSTMCell_0": {}, "GRUCell_0": {}}, "layers of one name and a number"),
        ({"layers_0": tree_of(lj.LSTM(H)), "layers_1": tree_of(lj.LSTM(5))}, "layer 1: got D = 3"),
    ],
)
def test_another_tree_is_refused(tree, message):
    with pytest.raises(ValueError, match=message):
        from_linen(tree)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.GRU(H, reset_after=False), r"GRU\(reset_after=False\).*linen"),
        (lj.UGRNN(H), "got a UGRNN, wanted a cell that linen has: RNN, LSTM, GRU, MGU"),
        (lj.bidirectional(lj.LSTM(H), merge=None), r"bidirectional\(merge=None\)"),
    ],
)
def test_what_linen_has_not_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        to_linen(net, check.params_of(net))
