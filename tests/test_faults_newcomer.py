"""Mistakes of a first day, and what the library says of them."""

import jax
import jax.numpy as jnp
import pytest

import lstm_jax as lj

CELL = lj.LSTM(4)
PARAMS = CELL.init(jax.random.key(0), 3)
XS = jnp.ones((5, 2, 3))

MISTAKES = {
    "lengths by place": (
        lambda: lj.unroll(CELL, PARAMS, XS, jnp.array([5, 2])),
        r"carry: got an array of dtype int32 .*passed by name",
    ),
    "tokens": (
        lambda: lj.unroll(CELL, PARAMS, jnp.zeros((5, 2, 3), jnp.int32)),
        "wrap the net in lj.embedding",
    ),
    "a list of layers": (
        lambda: lj.stack([CELL, CELL]),
        r"layers: got a list of 2, .*stack\(\*layers\)",
    ),
    "logarithms of norms": (
        lambda: lj.diagnostics.slope_per_step(jnp.log(jnp.linspace(0.1, 0.9, 5))),
        r"norms: got values down to -2.3, .*not their logarithms",
    ),
    "a step without a carry": (
        lambda: CELL.step(PARAMS, None, XS[0]),
        r"carry: got None, .*initial_carry",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_error_says_what_to_do(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_answers_for_a_net_print_one_below_the_other():
    found = lj.which(lj.stack(CELL, lj.GRU(3)))
    assert isinstance(found, tuple) and len(found) == 2
    assert str(found) == "\n".join(str(each) for each in found) and "Which(" not in str(found)
