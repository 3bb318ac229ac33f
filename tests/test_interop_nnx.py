"""Recurrent modules of flax.nnx against ours with the same parameters, on ragged batches."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lstm_jax as lj
from lstm_jax.interop import from_nnx, to_nnx

pytestmark = pytest.mark.sampled

CELLS = {
    "lstm": nnx.LSTMCell,
    "optimized": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
    "simple": nnx.SimpleCell,
}
CASES = (*CELLS, "both")


def rnn(cell, size=check.SIZE, **options):
    rngs = nnx.Rngs(0)
    return nnx.RNN(cell(size, check.HIDDEN, rngs=rngs, **options), rngs=rngs)


def made(name, rng):
    with check.lenient():
        if name == "both":
            cells = rnn(nnx.GRUCell), rnn(nnx.GRUCell)
            module = nnx.Bidirectional(*cells, rngs=nnx.Rngs(0))
        else:
            module = rnn(CELLS[name])
    fill(module, check.random_like(pure(module), rng))
    return module


def pure(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def fill(module, tree):
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(module, state)


def start(module):
    """nnx draws a key for an initial carry, of zeros as it is."""
    if isinstance(module, nnx.Bidirectional):
        return tuple(map(start, (module.forward_rnn, module.backward_rnn)))
    return module.cell.initialize_carry((check.BATCH, check.SIZE), nnx.Rngs(0))


def without_b_hn(grads):
    """nnx's GRU has none; ours has a gradient there."""
    return {
        key: without_b_hn(inner) if isinstance(inner, dict) else inner
        for key, inner in grads.items()
        if key != "b_hn"
    }


def run(module, carry, xs):
    options = {"seq_lengths": jnp.asarray(check.LENGTHS), "return_carry": True}
    options["initial_carry"] = carry
    carries, ys = module(jnp.swapaxes(xs, 0, 1), **options)
    if not isinstance(module, nnx.Bidirectional):
        carries = (carries,)
    lstm = isinstance(carries[0], tuple)
    hs = [carry[1] if lstm else carry for carry in carries]
    return jnp.swapaxes(ys, 0, 1), hs, [carry[0] for carry in carries] if lstm else []


@pytest.mark.parametrize("name", CASES)
def test_outputs_carries_and_gradients_are_nnxs(name, rng):
    module = made(name, rng)
    xs, mask, weights = check.inputs(rng)
    net, params = from_nnx(module)
    outs, (grads, xs_grad) = check.ours(net, params, xs, weights)
    graph, state, rest = nnx.split(module, nnx.Param, ...)

    def loss(state, xs):
        ys, hs, cs = run(nnx.merge(graph, state, rest), carry, xs)
        return jnp.sum(weights * ys) + sum(map(jnp.sum, hs)), (ys, hs, cs)

    with check.lenient():
        carry = start(module)
        grad = check.jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (their_grads, their_xs_grad), theirs = grad(state, jnp.asarray(xs))
    check.assert_outputs(outs, *theirs, mask)
    wanted = from_nnx(nnx.to_pure_dict(their_grads))[1]
    check.registry.assert_close(without_b_hn(grads), without_b_hn(wanted), check.TOL)
    check.registry.assert_close(xs_grad, their_xs_grad, check.TOL)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(name, rng):
    module = made(name, rng)
    tree = pure(module)
    for source in (module, tree, nnx.state(module, nnx.Param)):
        back = to_nnx(*from_nnx(source), optimized=name != "lstm")
        check.assert_equal(back, jax.tree.map(np.asarray, tree))


@pytest.mark.grid
def test_a_sequential_is_a_stack(rng):
    with check.lenient():
        cells = [rnn(nnx.OptimizedLSTMCell), rnn(nnx.SimpleCell, check.HIDDEN)]
        module = nnx.Sequential(*cells)
    fill(module, check.random_like(pure(module), rng))
    net, params = from_nnx(module)
    assert net == lj.stack(lj.LSTM(4), lj.RNN(4))
    tree = to_nnx(net, params)
    check.assert_equal(tree, jax.tree.map(np.asarray, pure(module)))
    fill(module, tree)
    assert from_nnx(tree)[0] == net


def test_a_module_tells_its_activation():
    with check.lenient():
        module = rnn(nnx.SimpleCell, activation_fn=jax.nn.relu)
    assert from_nnx(module)[0] == lj.RNN(4, "relu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rnn(nnx.SimpleCell, residual=True), "cell: got residual=True"),
        (lambda: rnn(nnx.GRUCell, gate_fn=jax.nn.relu), "cell: got gate_fn="),
        (lambda: rnn(nnx.LSTMCell, activation_fn=jax.nn.relu), "cell: got activation_fn="),
        (lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "source: got a Linear"),
    ],
)
def test_another_module_is_refused(make, message):
    with check.lenient():
        module = make()
    with pytest.raises(ValueError, match=message):
        from_nnx(module)


def test_a_reversed_rnn_is_refused():
    with check.lenient():
        module = rnn(nnx.GRUCell)
    module.reverse = True
    with pytest.raises(ValueError, match=r"RNN\(reverse=True\).*unroll\(reverse=True\)"):
        from_nnx(module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["dense_h"].pop("kernel"), "dense_h/kernel: got only"),
        (lambda t: t.update(dense_h=np.ones(3)), "dense_h: got a ndarray"),
        (lambda t: t["dense_h"].update(bias=np.ones(12, "f")), "dense_h/bias: got an unexpected"),
        (lambda t: t["dense_i"].update(bias=np.ones(11, "f")), r"dense_i/bias: got shape \(11,\)"),
        (lambda t: t["dense_i"].update(bias=np.full(12, np.nan, "f")), "dense_i/bias: got NaN"),
    ],
)
def test_a_broken_tree_is_named(change, message):
    net = lj.GRU(4, bias=False)
    tree = to_nnx(net, check.params_of(net))
    change(tree["cell"])
    with pytest.raises(ValueError, match=message):
        from_nnx(tree)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.GRU(4), r"params\['b_hn'\]: got numbers other than zero.*no bias inside.*use linen"),
        (lj.GRU(4, double_bias=True), r"params\['b_hn'\]"),
        (lj.GRU(4, reset_after=False), r"GRU\(reset_after=False\)"),
        (lj.MGU(4), "got a MGU"),
    ],
)
def test_what_nnx_has_not_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        to_nnx(net, check.params_of(net))
