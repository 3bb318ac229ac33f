"""Diagnostics of nets and wrapped cells, layer by layer: probes, sums, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax import diagnostics
from lstm_jax._layers import Bidirectional, Embedding, Readout, Residual, Stack

T, B, D = 5, 2, 3
NETS = {
    "stack": lambda: lj.stack(lj.LSTM(3), lj.GRU(4)),
    "stack, dense": lambda: lj.stack(lj.RNN(3), lj.LSTM(2), skip="dense"),
    "readout": lambda: lj.readout(lj.stack(lj.RNN(4), lj.LSTM(2)), 2),
    "residual": lambda: lj.stack(lj.residual(lj.GRU(D)), lj.residual(lj.LSTM(D))),
    "bidirectional": lambda: lj.readout(lj.bidirectional(lj.LSTM(3)), 2),
    "bidirectional, mul": lambda: lj.bidirectional(lj.LSTM(3), lj.GRU(3), merge="mul"),
    "two bidirectional": lambda: lj.stack(
        lj.bidirectional(lj.LSTM(2)), lj.bidirectional(lj.GRU(3), merge="sum")
    ),
    "wrapped": lambda: lj.clip_state(lj.zoneout(lj.stack(lj.LSTM(3), lj.RNN(2)), 0.1, 0.2), h=0.5),
    "no factors": lambda: lj.stack(lj.GRU(3, reset_after=False), lj.IndRNN(3)),
}
FLAGS = {
    "mask": np.array([[0, 1], [1, 1], [1, 0], [1, 1], [1, 0]], bool),
    "resets": np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]], bool),
}


def problem(name, rng):
    net = NETS[name]()
    params = registry.cast(net.init(jax.random.key(rng.integers(1000)), D), np.float64)
    xs = jnp.asarray(rng.standard_normal((T, B, D)))
    outputs = net.sizes(D)[1]
    targets = jnp.asarray(rng.standard_normal((T, B, outputs)))
    return net, params, xs, lambda ys: 0.5 * jnp.sum((ys - targets) ** 2)


# ---- against a plain loop over time, layer by layer ----------------------------------------------
def plain(net, params, xs, probes, valid, resets, reverse=False):
    """Outputs of a net with probes [T, B, H] added to every carry after its step."""
    if isinstance(net, Stack):
        ys, outputs = xs, []
        for n, layer in enumerate(net.layers):
            given = jnp.concatenate([xs, ys], -1) if net.skip and n else ys
            ys = plain(layer, params[str(n)], given, probes[n], valid, resets, reverse)
            outputs.append(ys)
        return jnp.concatenate(outputs, -1) if net.skip else ys
    if isinstance(net, Bidirectional):
        given = [(net.forward, "forward", reverse), (net.backward, "backward", not reverse)]
        a, b = (
            plain(part, params[name], xs, getattr(probes, name), valid, resets, back)
            for part, name, back in given
        )
        merges = {"concat": lambda: jnp.concatenate([a, b], -1), "mul": lambda: a * b}
        return merges.get(net.merge, lambda: a + b)()
    if isinstance(net, (Readout, Residual, Embedding)):
        inner = plain(net.inner, params["inner"], xs, probes, valid, resets, reverse)
        ys = (
            xs + inner
            if isinstance(net, Residual)
            else inner @ params["w"] + params["b"][None, None]
        )
        return jnp.where(valid[..., None], ys, 0)
    return of_cell(net, params, xs, probes, valid, resets, reverse)


def of_cell(cell, params, xs, probes, valid, resets, reverse):
    origin = cell.initial_carry(params, (B,))
    carry, ys = origin, [None] * T
    restart = np.append(resets[1:], [[False] * B], axis=0) if reverse else resets
    for t in reversed(range(T)) if reverse else range(T):
        carry = registry_choose(restart[t], origin, carry)
        new, _ = cell.step(params, carry, jnp.where(valid[t][:, None], xs[t], 0))
        carry = registry_choose(valid[t], new, carry)
        carry = jax.tree.map(lambda s, eps, t=t: s + eps[t], carry, probes)
        y = cell.output(params, carry)
        ys[t] = jnp.where(valid[t][:, None], y, 0)
    return jnp.stack(ys)


def registry_choose(mask, on_true, on_false):
    return jax.tree.map(lambda a, b: jnp.where(mask[:, None], a, b), on_true, on_false)


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(NETS))
def test_gradients_are_those_of_probes_in_every_layer(name, rng, x64):
    net, params, xs, loss = problem(name, rng)
    carry = net.initial_carry(params, (B,))
    probes = jax.tree.map(lambda s: jnp.zeros((T, *s.shape), s.dtype), carry)
    valid, resets = FLAGS["mask"], FLAGS["resets"]

    def run(params, xs, probes):
        wanted = jax.grad(lambda e: loss(plain(net, params, xs, e, valid, resets)))(probes)
        seen = diagnostics.gradients_by_lag(net, params, xs, loss, **FLAGS)
        return wanted, seen, diagnostics.gradient_norms_by_lag(net, params, xs, loss, **FLAGS)

    wanted, seen, norms = jax.jit(run)(params, xs, probes)
    assert jax.tree.structure(seen) == jax.tree.structure(carry)
    registry.assert_close(seen, wanted, 1e-11)
    logs = jax.tree.map(lambda leaf: jnp.log(jnp.linalg.norm(leaf, axis=-1)), wanted)
    for a, b in zip(jax.tree.leaves(norms), jax.tree.leaves(logs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


# ---- contributions of the steps sum to the gradient, with the noise of training too --------------
NOISY = {
    "stack": lambda: lj.stack(lj.LSTM(3), lj.GRU(4), dropout=0.4),
    "wrapped": lambda: lj.bidirectional(
        lj.weight_drop(lj.zoneout(lj.LSTM(3), 0.2, 0.3), 0.5),
        lj.input_dropout(lj.recurrent_dropout(lj.GRU(3), 0.5, per_gate=True), 0.4),
    ),
    "start": lambda: lj.readout(lj.learned_start(lj.memory_dropout(lj.LSTM(3), 0.4)), 2),
    "clipped": lambda: lj.stack(lj.RNN(3), lj.clip_cotangents(lj.LSTM(3), 0.05)),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(NOISY))
def test_weight_gradients_sum_to_the_gradient(name, rng, x64):
    net = NOISY[name]()
    params = registry.cast(net.init(jax.random.key(1), D), np.float64)
    xs = jnp.asarray(rng.standard_normal((T, B, D)))
    given = {**FLAGS, "key": jax.random.key(3), "reverse": name == "stack"}

    def loss(ys):
        return jnp.sum(jnp.sin(3 * ys))

    def run(params, xs):
        whole = jax.grad(lambda p: loss(lj.unroll(net, p, xs, **given)[1]))(params)
        return whole, diagnostics.weight_gradient_by_lag(net, params, xs, loss, **given)

    whole, seen = jax.jit(run)(params, xs)
    wanted = _matrices(net, whole)
    leaves = jax.tree.leaves(seen)
    assert len(leaves) == len(wanted) == 2 - (name == "start")
    for leaf, want in zip(leaves, wanted, strict=True):
        np.testing.assert_allclose(leaf.sum(0), want, rtol=1e-9, atol=1e-12)


def _matrices(net, params):
    """Every w_hh, in the order in which the cells run."""
    if "w_hh" in params:
        return [params["w_hh"]]
    return [w for name, part in net.parts.items() for w in _matrices(part, params[name])]


# ---- closed forms --------------------------------------------------------------------------------
@pytest.mark.sampled
@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_two_layers_beyond_the_range_of_floats(rate):
    """Two linear layers of one eigenvalue a: dL/dh2_t = a^k and dL/dh1_t = (k + 1) a^k at lag k."""
    steps = 10_000
    net = lj.stack(lj.RNN(1, "identity", bias=False), lj.RNN(1, "identity", bias=False))
    layer = {"w_ih": jnp.ones((1, 1)), "w_hh": jnp.full((1, 1), rate)}
    xs = jnp.zeros((steps, 1))
    norms = diagnostics.gradient_norms_by_lag(
        net, {"0": layer, "1": layer}, xs, lambda ys: jnp.sum(ys[-1])
    )
    k = np.arange(steps - 1, -1, -1)
    np.testing.assert_allclose(norms[1].h, k * np.log(rate), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norms[0].h, np.log(k + 1) + k * np.log(rate), rtol=1e-5, atol=1e-4)


def total(ys):
    return jnp.sum(ys).astype(np.float32)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_step_of_every_dtype(dtype):
    net = lj.readout(lj.bidirectional(lj.LSTM(4)), 1)
    params = registry.cast(net.init(jax.random.key(0), D), dtype)
    xs = jnp.ones((1, B, D), dtype)
    seen = diagnostics.gradient_norms_by_lag(net, params, xs, total)
    want = jnp.linalg.norm(params["w"].astype(np.float32)[:4])
    np.testing.assert_allclose(seen.forward.h, jnp.broadcast_to(jnp.log(want), (1, B)), atol=0.01)
    assert np.all(np.isneginf(seen.backward.c))


@pytest.mark.grid
def test_under_jit_and_vmap_over_seeds(rng):
    net = lj.readout(lj.stack(lj.LSTM(3), lj.GRU(3)), 1)
    xs = jnp.asarray(rng.standard_normal((T, B, D)), jnp.float32)

    def of_seed(key):
        return diagnostics.gradient_norms_by_lag(net, net.init(key, D), xs, jnp.sum)

    keys = jax.random.split(jax.random.key(0), 3)
    seen = jax.jit(jax.vmap(of_seed))(keys)
    alone = of_seed(keys[1])
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5)


# ---- gates ---------------------------------------------------------------------------------------
def test_gates_of_every_layer(rng):
    net = lj.stack(lj.bidirectional(lj.LSTM(3)), lj.zoneout(lj.GRU(2), 0.1))
    params = net.init(jax.random.key(0), D)
    xs = jnp.asarray(rng.standard_normal((T, B, D)), jnp.float32)
    lengths = np.array([3, 5], np.int32)
    seen = diagnostics.gates(net, params, xs, seq_lengths=lengths)
    inner = diagnostics.gates(
        lj.LSTM(3), params["0"]["backward"], xs, seq_lengths=lengths, reverse=True
    )
    registry.assert_close(seen[0].backward, inner, 0)
    valid = np.arange(T)[:, None] < lengths
    forwards = diagnostics.gates(lj.LSTM(3), params["0"]["backward"], xs[::-1], mask=valid[::-1])
    registry.assert_close(inner, jax.tree.map(lambda gate: gate[::-1], forwards), 1e-6)
    assert sorted(seen[1]) == ["n", "r", "z"] and seen[1]["z"].shape == (T, B, 2)
    np.testing.assert_array_equal(seen[0].forward["f"][3:, 0], 0)
    statistics = diagnostics.gate_statistics(net, params, xs, seq_lengths=lengths)
    want = np.asarray(seen[0].forward["f"])[valid].mean(0)
    np.testing.assert_allclose(statistics[0].forward["f"].mean, want, rtol=1e-6)
    assert isinstance(statistics[1]["z"], diagnostics.GateStatistics)


# ---- nothing to run ------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(0, 2, D), (3, 0, D)], ids=["no steps", "no sequences"])
def test_nothing_to_run_is_no_error(shape):
    net = lj.readout(lj.LSTM(4), 1)
    params, xs = net.init(jax.random.key(0), D), jnp.zeros(shape)

    def all_of(params):
        given = (net, params, xs, jnp.sum)
        return (
            diagnostics.gradients_by_lag(*given),
            diagnostics.gradient_norms_by_lag(*given),
            diagnostics.weight_gradient_norms_by_lag(*given),
            diagnostics.gradient_norms_by_path(*given),
            diagnostics.gates(net, params, xs),
            lj.regularizers.omega(*given),
        )

    by_lag, norms, by_weight, paths, gates, omega = jax.jit(all_of)(params)
    assert by_lag.c.shape == gates["f"].shape == (*shape[:2], 4)
    assert norms.h.shape == paths["f"].h.shape == shape[:2]
    assert by_weight["w_hh"].shape == shape[:1] and omega == 0
