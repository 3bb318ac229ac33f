"""The caller's mistakes: a message names the argument, what came, what was wanted, the remedy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

T, B, D, H = 5, 2, 3, 4


def ones(shape, dtype=np.float32):
    """By NumPy: JAX would compile a program for each shape, while tests are collected."""
    return jnp.asarray(np.ones(shape, dtype))


CELL = lj.LSTM(H)
PARAMS = registry.cast(registry.random_params(CELL, D, np.random.default_rng(0)), jnp.float32)
XS = ones((T, B, D))
ONES = ones((B, H))


def message(*parts):
    """A pattern: these parts, in this order."""
    return ".*".join(map(re.escape, parts))


def raises(*parts, error=ValueError):
    return pytest.raises(error, match=message(*parts))


# ---- unroll --------------------------------------------------------------------------------------
INPUTS = {
    "too few axes": (ones(D), {}, ("xs: got shape (3,)", "[T, *batch, D]", "add")),
    "too few axes, batch-major": (ones(D), {"time_major": False}, ("xs: got shape (3,)",)),
    "integers": (ones((T, B, D), int), {}, ("xs: got dtype int32", "floating", "pass")),
    "complex": (ones((T, B, D), complex), {}, ("xs: got dtype complex64", "floating", "pass")),
    "words": ([["a"]], {}, ("xs: got a list", "an array", "pass")),
    "ragged": ([[1.0], [1.0, 2.0]], {}, ("xs: got a list", "an array", "pass")),
    "nothing": (None, {}, ("xs: got a NoneType", "an array", "pass")),
    "another D": (XS[..., :2], {}, ("params['w_ih']", "(3, 16)", "(2, 16)", "D = 2")),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name):
    xs, options, parts = INPUTS[name]
    with raises(*parts):
        lj.unroll(CELL, PARAMS, xs, **options)


FLAGS = {
    "lengths beyond T": (
        {"seq_lengths": [6, 1]},
        ("seq_lengths", "1 to 6", "[0, T] = [0, 5]", "clip"),
    ),
    "negative lengths": (
        {"seq_lengths": [-1, 1]},
        ("seq_lengths", "-1 to 1", "[0, 5]", "clip or pad"),
    ),
    "lengths of another batch": (
        {"seq_lengths": [1, 2, 3]},
        ("seq_lengths", "(3,)", "(2,)", "one length"),
    ),
    "lengths that are not whole": (
        {"seq_lengths": [1.0, 2.0]},
        ("seq_lengths", "float", "integer", "whole"),
    ),
    "a mask of another T": (
        {"mask": np.ones((4, B), bool)},
        ("mask", "(4, 2)", "[T, *batch] = (5, 2)", "flag"),
    ),
    "a mask of numbers": (
        {"mask": np.ones((T, B))},
        ("mask", "float", "bool", "mask.astype(bool)"),
    ),
    "resets of numbers": (
        {"resets": np.ones((T, B), int)},
        ("resets", "int", "resets.astype(bool)"),
    ),
    "resets of another B": ({"resets": np.ones((T, 3), bool)}, ("resets", "(5, 3)", "(5, 2)")),
    "an unknown remat": ({"remat": "half"}, ("remat", "'half'", '"minimal", "sqrt"', "pass one")),
    "a chunk of none": ({"remat": 0}, ("remat", "0", "at least 1")),
    "a yes for remat": ({"remat": True}, ("remat", "True", "at least 1")),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name):
    options, parts = FLAGS[name]
    with raises(*parts):
        lj.unroll(CELL, PARAMS, XS, **options)


@pytest.mark.parametrize("flag", ["mask", "resets"])
@pytest.mark.parametrize("shape", [(), (T, B), (B, 4)])
def test_flags_batch_major_are_spoken_of_batch_major(flag, shape):
    with raises(flag, str(shape), "[*batch, T] = (2, 5)"):
        lj.unroll(CELL, PARAMS, XS.swapaxes(0, 1), time_major=False, **{flag: np.ones(shape, bool)})


def test_lengths_under_jit_are_not_known_and_are_clipped():
    """Nothing to raise about: more than T is all steps, less than 0 is none."""
    run = jax.jit(lambda lengths: lj.unroll(CELL, PARAMS, XS, seq_lengths=lengths))
    registry.assert_close(run(jnp.array([9, -3])), run(jnp.array([T, 0])), 0)


# ---- lists are arrays where that is plain --------------------------------------------------------
def test_nested_lists_are_arrays():
    xs, mask = np.ones((T, B, D)).tolist(), np.ones((T, B), bool).tolist()
    seen = lj.unroll(CELL, PARAMS, xs, seq_lengths=[3, 2], mask=mask, resets=mask)
    wanted = lj.unroll(CELL, PARAMS, XS, seq_lengths=jnp.array([3, 2]), resets=ones((T, B), bool))
    registry.assert_close(seen, wanted, 0)
    assert seen[1].dtype == jnp.float32


# ---- parameters and carries ----------------------------------------------------------------------
WRONG_PARAMS = {
    "missing": (
        {k: v for k, v in PARAMS.items() if k != "b"},
        ("params", "['w_hh']", "['b']", "cell.init"),
    ),
    "not a dict": (tuple(PARAMS.values()), ("params", "[0]", "['b']", "cell.init")),
    "none": (None, ("params", "['b']", "cell.init")),
    "one too many": (PARAMS | {"b_hn": ones(H)}, ("params", "['b_hn']", "cell.init")),
    "w_hh of another H": (
        PARAMS | {"w_hh": ones((5, 16))},
        ("params['w_hh']", "(5, 16)", "(4, 16)", "agree"),
    ),
    "gates of another cell": (
        PARAMS | {"b": ones(12)},
        ("params['b']", "(12,)", "(16,)", "H = 4"),
    ),
}


@pytest.mark.parametrize("name", WRONG_PARAMS)
def test_params(name):
    params, parts = WRONG_PARAMS[name]
    with raises(*parts):
        lj.unroll(CELL, params, XS)
    with raises(*parts):
        CELL.step(params, lj.LSTMState(ONES, ONES), XS[0])


def test_params_of_one_form_of_the_gru_are_not_taken_for_the_other():
    cell = lj.GRU(H)
    with raises("params", "b_hn"):
        lj.unroll(lj.GRU(H, reset_after=False), cell.init(jax.random.key(0), D), XS)


WRONG_CARRIES = {
    "bare tuple": ((ONES, ONES), ("carry", "wanted LSTMState", "pass LSTMState(h=..., c=...)")),
    "another cell's": (lj.GRUState(ONES), ("carry", "LSTMState(h=..., c=...)")),
    "another batch": (
        lj.LSTMState(ONES, ONES[:1]),
        ("carry.c", "(1, 4)", "[*batch, H] = (2, 4)", "match"),
    ),
    "another H": (lj.LSTMState(ONES[:, :3], ONES), ("carry.h", "(2, 3)", "(2, 4)")),
}


@pytest.mark.parametrize("name", WRONG_CARRIES)
def test_carry(name):
    carry, parts = WRONG_CARRIES[name]
    with raises(*parts):
        lj.unroll(CELL, PARAMS, XS, carry)
    with raises(*parts):
        CELL.step(PARAMS, carry, XS[0])


@pytest.mark.parametrize("cell", [CELL, lj.GRU(H), lj.GRU(H, reset_after=False), lj.RNN(H)])
def test_step_inputs(cell):
    params = cell.init(jax.random.key(0), D)
    carry = cell.initial_carry(params, (B,))
    with raises("params['w_ih']", "D = 2"):
        cell.step(params, carry, XS[0, :, :2])
    with raises("x: got dtype int32", "floating"):
        cell.step(params, carry, XS[0].astype(int))
    with raises("x: got shape ()", "[*batch, D]"):
        cell.step(params, carry, XS[0, 0, 0])


# ---- cells ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "4"])
@registry.cells()
def test_sizes(case, size):
    with raises("hidden_size", repr(size), "an integer of at least 1", "hidden_size=1 or more"):
        case.make(size)
    if size != 0:  # A network without inputs runs by itself.
        with raises("input_size", repr(size), "an integer of at least 0"):
            case.make(H).init(jax.random.key(0), size)


@pytest.mark.parametrize("field", ["dtype", "param_dtype", "carry_dtype", "accumulation_dtype"])
@pytest.mark.parametrize("dtype", ["int32", "complex64", "float7", bool])
def test_dtypes(field, dtype):
    with raises(f"{field}: got", "a floating-point dtype", "float32"):
        lj.LSTM(H, **{field: dtype})


@pytest.mark.parametrize("activation", ["swish", None, ["tanh"]])
def test_activation(activation):
    with raises("activation", repr(activation), "'tanh', 'relu', 'identity'", "pick"):
        lj.RNN(H, activation)


# ---- implementations -----------------------------------------------------------------------------
@pytest.mark.parametrize("choice", ["quick", ["scan", "quick"], 3, [], ["scan", ["fused"]]])
def test_unknown_implementation(choice):
    for ask in (lambda: lj.unroll(CELL, PARAMS, XS, implementation=choice), lambda: which(choice)):
        names = (
            "one of 'associative', 'native', 'pallas_tpu', 'cuda', 'fused', 'scan', 'newton'; pick"
        )
        with raises("implementation", names):
            ask()


def which(choice, cell=CELL, **options):
    return lj.which(cell, implementation=choice, **options)


def test_fused_says_why_it_cannot_and_what_can():
    why = ("fused: GRU(reset_after=False) does not factor", 'use implementation="scan"')
    cell = lj.GRU(H, reset_after=False)
    with raises(*why, error=NotImplementedError):
        lj.unroll(cell, cell.init(jax.random.key(0), D), XS, implementation="fused")


def test_all_reasons_of_a_sequence_of_names():
    with pytest.raises(ExceptionGroup, match="implementation: none of those") as caught:
        which(["associative", "fused", "native"], lj.GRU(H, reset_after=False))
    reasons = [str(error) for error in caught.value.exceptions]
    assert [reason.split(":")[0] for reason in reasons] == ["associative", "fused", "native"]
    assert all(isinstance(error, NotImplementedError) for error in caught.value.exceptions)


def test_a_sequence_of_names_is_tried_in_order():
    seen = which(["associative", "scan", "fused"])
    assert seen.implementation == "scan"
    why = "the state of LSTM does not enter its step as a h + b"
    assert seen.rejected == {"associative": why, "fused": "scan comes first"}
    assert str(seen).splitlines()[0] == f"scan on {jax.default_backend()}"


def test_unknown_platform():
    with raises("platform", "'abacus'", "'cpu', 'gpu', 'tpu'", "pick"):
        which(None, platform="abacus")
