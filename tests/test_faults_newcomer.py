"""Mistakes of a first day, and what the library says of them."""

import copy
import dataclasses
import inspect
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax._arguments import HERE

CELL = lj.LSTM(4)
PARAMS = registry.cast(registry.random_params(CELL, 3, np.random.default_rng(0)), jnp.float32)
XS = jnp.asarray(np.ones((5, 2, 3), np.float32))

MISTAKES = {
    "lengths by place": (
        lambda: lj.unroll(CELL, PARAMS, XS, jnp.array([5, 2])),
        r"carry: got an array of dtype int32 .*passed by name",
    ),
    "inputs before parameters": (
        lambda: lj.unroll(CELL, XS, PARAMS),
        "xs: got a dict, wanted an array of numbers; check the order of the arguments",
    ),
    "tokens": (
        lambda: lj.unroll(CELL, PARAMS, jnp.zeros((5, 2, 3), jnp.int32)),
        "wrap the net in lj.embedding",
    ),
    "a list of layers": (
        lambda: lj.stack([CELL, CELL]),
        r"layers: got a list of 2, .*stack\(\*layers\)",
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


# ---- arguments that there are not ----------------------------------------------------------------
HABITS = {
    "sizes by place": (
        lambda: lj.LSTM(3, 8),
        "LSTM: got 2 arguments by place, wanted hidden_size alone; .*init(key, input_size)",
    ),
    "the input size": (lambda: lj.LSTM(input_size=3, hidden_size=8), "input_size: got 3, .*init("),
    "layers": (lambda: lj.GRU(8, num_layers=2), "num_layers: got 2, .*that is stack(LSTM(128), "),
    "directions": (lambda: lj.GRU(8, bidirectional=True), "that is bidirectional(cell)"),
    "batch first": (
        lambda: lj.unroll(CELL, PARAMS, XS, batch_first=True),
        "batch_first: got True, wanted an argument of unroll; .*time_major=False",
    ),
    "flags by place": (
        lambda: lj.unroll(CELL, PARAMS, XS, None, jnp.array([5, 2])),
        "unroll: got 5 arguments by place, wanted cell, params, xs, carry alone; pass the others",
    ),
    "a merge": (lambda: lj.bidirectional(CELL, merge_mode="sum"), "here that is merge"),
    "a slip of the pen": (lambda: lj.LSTM(8, peephole=True), "did you mean peepholes?"),
    "another's name for another thing": (
        lambda: lj.readout(CELL, features=3),
        "features: got 3, wanted an argument of readout; it takes net, output_size, bias",
    ),
    "a copy": (
        lambda: dataclasses.replace(CELL, size=3),
        "size: got 3, wanted an argument of LSTM",
    ),
    "an initializer": (
        lambda: lj.initializers.zeros(1),
        "zeros: got 1 argument by place, wanted none; write zeros()",
    ),
}


@pytest.mark.parametrize("habit", HABITS)
def test_an_argument_that_is_not_taken_is_named_beside_what_there_is_instead(habit):
    call, message = HABITS[habit]
    with pytest.raises(TypeError, match=re.sub(r"([()?])", r"\\\1", message)):
        call()


def test_the_check_of_arguments_hides_no_signature_and_stands_in_nobodys_way():
    assert list(inspect.signature(lj.unroll).parameters)[:4] == ["cell", "params", "xs", "carry"]
    assert "peepholes" in inspect.signature(lj.LSTM).parameters
    cell = lj.LSTM(8, peepholes=True)
    assert pickle.loads(pickle.dumps(cell)) == cell == copy.deepcopy(cell)
    assert pickle.loads(pickle.dumps(lj.unroll)) is lj.unroll

    class Sum(lj.GRU):
        def __init__(self, first, second, **options):
            super().__init__(first + second, **options)

    assert Sum(3, second=4, bias=False).hidden_size == 7


def test_each_spelling_of_another_library_stands_on_the_page_about_them():
    page = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]*`", page))))
    assert HERE.keys() - words == set()


# ---- a cell of one's own -------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Leaky(lj.Cell):
    """A cell whose parameter is not in `elementwise`."""

    def init(self, key, input_size):
        return super().init(key, input_size) | {"leak": jnp.zeros(self.hidden_size)}

    def update(self, carry, wx, u, leak):
        return lj.State(jnp.tanh(wx + u) * leak)


@dataclasses.dataclass(frozen=True)
class Undrawn(lj.Cell):
    """A cell whose parameter is not in `init`."""

    elementwise = ("leak",)

    def update(self, carry, wx, u, leak):
        return lj.State(jnp.tanh(wx + u) * leak)


@dataclasses.dataclass(frozen=True)
class Noisy(lj.Cell):
    """A cell whose noise `update` does not take."""

    def training(self, key, params, xs):
        return params, xs, jnp.ones((*xs.shape[:-1], self.hidden_size))

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(wx + u))


@dataclasses.dataclass(frozen=True)
class Broken(lj.Cell):
    """A cell with a mistake in its equations."""

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(wx, u))


@dataclasses.dataclass(frozen=True)
class Doubled(lj.Cell):
    """A cell whose `output` does not take the parameters."""

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(wx + u))

    def output(self, carry):
        return 2 * carry.h


OWN = {
    "an output of the carry alone": (
        Doubled(4),
        ValueError,
        r"Doubled.output: got .*, wanted output\(params, carry\); take these two",
    ),
    "a parameter that is not in elementwise": (
        Leaky(4),
        ValueError,
        r"Leaky.update: got .*'leak', wanted update\(carry, wx, u\); Leaky.elementwise names",
    ),
    "of a cell in a wrapper": (
        lj.clip_state(Leaky(4), h=1.0),
        ValueError,
        "Leaky.elementwise names",
    ),
    "a parameter that init does not draw": (
        Undrawn(4),
        ValueError,
        "Undrawn.elementwise: got 'leak', wanted names of what init draws: b, w_hh, w_ih; return",
    ),
    "noise": (Noisy(4), ValueError, r"'noise', wanted update\(carry, wx, u, noise\)"),
    "another TypeError stays as it is": (Broken(4), TypeError, r"^tanh\(\) takes"),
}


@pytest.mark.parametrize("case", OWN)
def test_an_update_that_does_not_fit_says_where_its_parameters_are_named(case):
    cell, kind, message = OWN[case]
    with pytest.raises(kind, match=message):
        lj.unroll(cell, cell.init(jax.random.key(0), 3), XS, key=jax.random.key(1))
