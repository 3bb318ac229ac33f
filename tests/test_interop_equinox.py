"""Cells of equinox against ours with the same parameters."""

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.interop import from_equinox, to_equinox

eqx = pytest.importorskip("equinox")

pytestmark = pytest.mark.grid

CASES = {
    "lstm": (eqx.nn.LSTMCell, {}),
    "lstm_no_bias": (eqx.nn.LSTMCell, {"use_bias": False}),
    "gru": (eqx.nn.GRUCell, {}),
    "gru_no_bias": (eqx.nn.GRUCell, {"use_bias": False}),
}


def made(name, rng):
    cell, options = CASES[name]
    module = cell(check.SIZE, check.HIDDEN, key=jax.random.key(0), **options)
    arrays, static = eqx.partition(module, eqx.is_array)
    return eqx.combine(check.random_like(arrays, rng), static)


def scan(cell, xs):
    """(ys [T, B, H], final h, final c)."""
    zeros = jnp.zeros((check.BATCH, check.HIDDEN))
    lstm = isinstance(cell, eqx.nn.LSTMCell)

    def step(carry, x):
        carry = jax.vmap(cell)(x, carry)
        return carry, carry[0] if lstm else carry

    carry, ys = jax.lax.scan(step, (zeros, zeros) if lstm else zeros, xs)
    return (ys, [carry[0]], [carry[1]]) if lstm else (ys, [carry], [])


@pytest.mark.parametrize("name", check.cases(CASES, ("lstm_no_bias", "gru_no_bias")))
def test_outputs_carries_and_gradients_are_equinoxs(name, rng):
    module = made(name, rng)
    xs, mask, weights = check.inputs(rng, None)
    net, params = from_equinox(module)
    outs, (grads, xs_grad) = check.ours(net, params, xs, weights, None)

    def loss(module, xs):
        ys, hs, cs = scan(module, xs)
        return jnp.sum(weights * ys) + sum(map(jnp.sum, hs)), (ys, hs, cs)

    with check.lenient():
        arrays, static = eqx.partition(module, eqx.is_array)
        grad = jax.grad(lambda a, x: loss(eqx.combine(a, static), x), (0, 1), has_aux=True)
        (their_grads, their_xs_grad), theirs = check.jax.jit(grad)(arrays, jnp.asarray(xs))
    check.assert_outputs(outs, *theirs, mask)
    check.registry.assert_close(grads, from_equinox(their_grads)[1], check.TOL)
    check.registry.assert_close(xs_grad, their_xs_grad, check.TOL)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(name, rng):
    module = made(name, rng)
    back = to_equinox(*from_equinox(module))
    wanted = {key: getattr(module, key) for key in back}
    check.assert_equal(back, jax.tree.map(np.asarray, wanted))
    arrays = list(map(jnp.asarray, back.values()))
    filled = eqx.tree_at(lambda cell: [getattr(cell, key) for key in back], module, arrays)
    assert bool(eqx.tree_equal(filled, module))
    check.assert_equal(from_equinox(back)[1], from_equinox(module)[1])


def test_cells_one_on_top_of_the_other(rng):
    cells = [made("lstm", rng), eqx.nn.GRUCell(check.HIDDEN, 5, key=jax.random.key(1))]
    net, params = from_equinox(cells, dropout=0.5)
    assert net == lj.stack(lj.LSTM(4), lj.GRU(5), dropout=0.5)
    assert [list(cell) for cell in to_equinox(net, params)] == [
        ["weight_ih", "weight_hh", "bias"],
        ["weight_ih", "weight_hh", "bias", "bias_n"],
    ]
    with pytest.raises(ValueError, match="layer 1: got D = 3"):
        from_equinox([cells[0], cells[0]])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "source: got no cells"),
        ({"weight": np.ones(3)}, r"source\[0\]: got \['weight'\]"),
        ({"weight_hh": np.ones((4, 4), "f")}, r"weight_hh: got shape \(4, 4\)"),
        (
            {"weight_hh": np.ones((12, 4), "f"), "weight_ih": np.ones((11, 3), "f")},
            "weight_ih: got",
        ),
        ({"weight_hh": np.full((12, 4), np.nan, "f")}, "weight_hh: got NaN"),
    ],
)
def test_broken_sources_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        from_equinox(source)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lj.RNN(4), "got a RNN, wanted a cell that equinox has: LSTM, GRU"),
        (lj.GRU(4, reset_after=False), r"GRU\(reset_after=False\)"),
        (lj.bidirectional(lj.GRU(4)), "got two directions, wanted one, which is all that equinox"),
    ],
)
def test_what_equinox_has_not_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        to_equinox(net, check.params_of(net))
