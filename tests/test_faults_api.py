"""The public interface: what a cell is called, who is refused at a door, what a module shows."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import pytest
import registry

import lstm_jax as lj

H, D, T, B = 4, 3, 3, 2
KEY = jax.random.key(0)
CELL = lj.LSTM(H)
PARAMS = CELL.init(KEY, D)
XS = jnp.ones((T, B, D))

WRAPPERS = {
    "zoneout": lambda net: lj.zoneout(net, 0.1),
    "recurrent_dropout": lambda net: lj.recurrent_dropout(net, 0.1),
    "memory_dropout": lambda net: lj.memory_dropout(net, 0.1),
    "input_dropout": lambda net: lj.input_dropout(net, 0.1),
    "weight_drop": lambda net: lj.weight_drop(net, 0.1),
    "state_noise": lambda net: lj.state_noise(net, 0.1),
    "clip_state": lambda net: lj.clip_state(net, 1.0),
    "clip_cotangents": lambda net: lj.clip_cotangents(net, 1.0),
    "learned_start": lj.learned_start,
}
NETS = {
    "stack": lambda net: lj.stack(net),
    "bidirectional": lambda net: lj.bidirectional(net),
    "bidirectional's second": lambda net: lj.bidirectional(CELL, net),
    "residual": lj.residual,
    "readout": lambda net: lj.readout(net, 2),
    "embedding": lambda net: lj.embedding(net, 5, D),
}


# ---- one type for what `unroll` scans ------------------------------------------------------------
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_cell_has_a_public_type(name):
    assert isinstance(WRAPPERS[name](CELL), lj.Recurrent)
    assert isinstance(WRAPPERS[name](lj.stack(CELL)), lj.Net)


def test_every_cell_and_every_net_has_a_public_type():
    for name, case in registry.EVERY.items():
        kinds = [isinstance(case.make(4), kind) for kind in (lj.Recurrent, lj.Net)]
        assert kinds == [name not in registry.NETS, name in registry.NETS], name


# ---- one wording of errors -----------------------------------------------------------------------
ROOT = pathlib.Path(lj.__file__).parent
REASONS = {"checkpoint.py", "_npz.py"}
"""Where an error is a reason that `checkpoint.load` puts into the house's error."""


def test_every_mistake_of_a_caller_is_told_in_one_wording():
    """No ValueError but by `_checks.fail`, and no other error that spells its wording out."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            text = ast.unparse(node.exc)
            if path.name not in REASONS:
                assert not text.startswith("ValueError("), (path, text)
            assert text.startswith("fail(") or ", wanted " not in text, (path, text)
