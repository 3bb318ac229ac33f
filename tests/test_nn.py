"""What the modules of `lstm_jax.nn` share: lazy imports, the order of outputs, what draws noise."""

import importlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax.nn._running import flipped


@pytest.mark.parametrize(
    ("module", "library"), [("nnx", "flax"), ("linen", "flax"), ("equinox", "equinox")]
)
def test_a_missing_library_is_named_with_its_extra(module, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    for name in (module, f"_{module}_cells"):
        monkeypatch.delitem(sys.modules, f"lstm_jax.nn.{name}", raising=False)
    monkeypatch.delitem(vars(lj.nn), module, raising=False)
    message = rf"^{library}: .*; it comes with: pip install 'lstm-jax\[{library}\]'$"
    with pytest.raises(ImportError, match=message):
        getattr(lj.nn, module)
    with pytest.raises(ImportError, match=message):
        importlib.import_module(f"lstm_jax.nn.{module}")


def test_another_name_is_no_module():
    with pytest.raises(AttributeError, match="'lstm_jax.nn' has no attribute 'torch'"):
        print(lj.nn.torch)
    assert dir(lj.nn) == ["equinox", "linen", "nnx"]


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("lengths", [None, [[4, 0], [1, 3], [2, 4]]])
def test_flipped_reverses_the_valid_steps(axis, lengths, rng):
    """Of batch axes [3, 2], before or after which 4 steps stand; against a loop."""
    ys = rng.normal(size=(3, 2, 4, 5)).astype("float32")
    wanted = np.zeros_like(ys)
    for b in np.ndindex(3, 2):
        length = 4 if lengths is None else lengths[b[0]][b[1]]
        ys[b][length:] = 0
        wanted[b][:length] = ys[b][:length][::-1]
    given = None if lengths is None else jnp.asarray(lengths)
    seen = flipped(jnp.moveaxis(jnp.asarray(ys), 2, axis), given, axis)
    np.testing.assert_array_equal(np.moveaxis(seen, axis, 2), wanted)


@pytest.mark.parametrize(
    ("net", "wanted"),
    [
        (lj.LSTM(4), False),
        (lj.learned_start(lj.clip_state(lj.GRU(4), h=1.0)), False),
        (lj.zoneout(lj.LSTM(4), h=0.1), True),
        (lj.clip_state(lj.zoneout(lj.LSTM(4), h=0.1), h=1.0), True),
        (lj.memory_dropout(lj.GRU(4), 0.1), True),
        (lj.weight_drop(lj.GRU(4), 0.1), True),
        (lj.LeakyRNN(4), False),
        (lj.CTRNN(4, sigma=0.1), True),
        (lj.stack(lj.LSTM(4), lj.LSTM(4)), False),
        (lj.stack(lj.LSTM(4), lj.LSTM(4), dropout=0.1), True),
        (lj.readout(lj.bidirectional(lj.LSTM(4), lj.zoneout(lj.LSTM(4), c=0.1)), 2), True),
    ],
)
def test_stochastic_says_whether_training_draws_noise(net, wanted):
    assert net.stochastic is wanted
