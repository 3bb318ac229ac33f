"""Exported programs: equal to the net, called where `lstm_jax` cannot be imported."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax import export

pytest.importorskip("flatbuffers", reason="jax.export writes bytes with it")

FOREIGN = """
import sys
from pathlib import Path

sys.modules["lstm_jax"] = None  # An import of it fails.
import jax
import numpy as np

folder = Path(sys.argv[1])
xs = np.load(folder / "xs.npy")
for name in sys.argv[2:]:
    exported = jax.export.deserialize((folder / f"{name}.jax").read_bytes())
    carry, ys = exported.call(xs)
    streamed = jax.export.deserialize((folder / f"{name}-carried.jax").read_bytes())
    carry, first = exported.call(xs[:3])
    carry, second = streamed.call(xs[3:], carry=carry)
    np.testing.assert_allclose(np.concatenate([first, second]), ys, atol=1e-6)
    np.save(folder / f"{name}.npy", ys)
"""
NETS = {
    "lstm": lj.LSTM(4),
    "net": lj.readout(lj.stack(lj.GRU(4), lj.learned_start(lj.LSTM(3))), 2),
    "functions": lj.stack(lj.dense(2), jax.nn.relu, lj.GRU(4), lambda x: x[1:], lj.dense(1)),
}


@pytest.fixture(scope="module")
def xs():
    return np.random.default_rng(0).standard_normal((7, 2, 3)).astype(np.float32)


def test_a_process_without_the_library_runs_it(tmp_path, xs):
    np.save(tmp_path / "xs.npy", xs)
    shape = jax.ShapeDtypeStruct((1, 1, 3), jnp.float32)
    params = {name: net.init(jax.random.key(0), 3) for name, net in NETS.items()}
    for name, net in NETS.items():
        for end, carried in (("", False), ("-carried", True)):
            exported = export.program(net, params[name], shape, carried=carried, platforms=("cpu",))
            export.save(tmp_path / f"{name}{end}.jax", exported)
    subprocess.run([sys.executable, "-c", FOREIGN, tmp_path, *NETS], check=True, text=True)
    for name, net in NETS.items():
        ys = lj.unroll(net, params[name], xs)[1]
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), ys, atol=1e-6)


def test_lengths_resets_and_a_carry(xs):
    net = lj.bidirectional(lj.LSTM(3))
    params = net.init(jax.random.key(0), 3)
    asked = {"carried": True, "seq_lengths": True, "resets": True}
    exported = export.program(net, params, xs, **asked)  # For every platform.
    carry = lj.unroll(net, params, xs)[0]
    flags = {"seq_lengths": jnp.array([7, 4], jnp.int32), "resets": jnp.zeros((7, 2), bool)}
    flags["resets"] = flags["resets"].at[2, 0].set(True)
    final, ys = exported.call(xs, carry=export.plain(carry), **flags)
    wanted, outs = lj.unroll(net, params, xs, carry, **flags)
    np.testing.assert_allclose(ys, outs, atol=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), final, export.plain(wanted)
    )
    assert set(final["forward"]) == {"h", "c"}


def test_a_program_can_be_trained(tmp_path, xs):
    cell = lj.GRU(4)
    params = cell.init(jax.random.key(0), 3)
    exported = export.program(cell, params, xs, trainable=True, platforms=("cpu",))
    export.save(tmp_path / "cell.jax", exported, vjp_order=1)
    restored = jax.export.deserialize((tmp_path / "cell.jax").read_bytes())

    def loss(run, params):
        return jnp.sum(jnp.square(run(params, xs)[1]))

    def ours(params, xs):
        return lj.unroll(cell, params, xs)

    found, wanted = (
        jax.grad(lambda p, run=run: loss(run, p))(params) for run in (restored.call, ours)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, wanted)


def test_parameters_are_kept_but_not_those_of_what_is_trained(xs):
    """A program with its parameters is larger by them."""
    cell = lj.LSTM(64)
    params = cell.init(jax.random.key(0), 3)
    sizes = [
        len(export.program(cell, params, xs, trainable=t, platforms=("cpu",)).serialize())
        for t in (False, True)
    ]
    count = sum(p.size for p in jax.tree.leaves(params))
    assert sizes[0] - sizes[1] > 3 * count


def test_mistakes(tmp_path, xs):
    cell = lj.LSTM(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"^xs: got .*\[T, B, \.\.\.\]"):
        export.program(cell, params, xs[0, 0])
    with pytest.raises(ValueError, match=r"^net: got .*program\(net, params, xs\)"):
        export.program(params, cell, xs)
    with pytest.raises(ValueError, match="^resets: got 1"):
        export.program(cell, params, xs, resets=1)
    with pytest.raises(ValueError, match="^exported: got .*what `program` returns"):
        export.save(tmp_path / "x", params)
