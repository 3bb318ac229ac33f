"""LSTMs with and without a forget gate, trained on one stream of embedded Reber strings.

The training is that of a reproduction of Gers, Schmidhuber & Cummins (2000), whose numbers S7 has:
cybertronai/schmidhuber-problems, e7b8c89.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import diagnostics, train
from ..._cells.lstm import LSTM
from ..._layers import Readout
from ..._typing import Array, Key, Params
from ..._unroll import unroll
from ...data import Reber
from ...losses import softmax_cross_entropy

__all__ = [
    "AROUND",
    "HIDDEN",
    "NETS",
    "PARTS",
    "RATE",
    "STREAMS",
    "TESTED",
    "WINDOW",
    "around_ends",
    "learn",
    "starts",
]
__dir__ = __all__.copy

HIDDEN, WINDOW, PARTS, RATE = 12, 75, 10, 0.01
"""Units; symbols from update to update, some six strings; evaluations; learning rate."""
TESTED, STREAMS = 750, 8
"""Symbols of a test stream, some sixty strings; test streams."""
NETS = {"forget gate": (True, False), "no forget gate": (False, False)}
NETS |= {"no forget gate, reset": (False, True)}
"""Networks by name: whether it has a forget gate, whether each string starts from a new state."""
AROUND = np.arange(-5, 6)
"""Steps around the last symbol of a string at which the forget gate is looked at."""


def _cell(forget_gate: bool) -> LSTM:
    """The cell of 1997, whose g is in [-2, 2] and whose output squash is tanh(c / 2)."""
    return LSTM(
        HIDDEN,
        forget_gate=forget_gate,
        input_activation=_wide_tanh,
        output_activation=_half_tanh,
    )


def _wide_tanh(a: Array) -> Array:
    return 2 * jnp.tanh(a / 2)


def _half_tanh(c: Array) -> Array:
    return jnp.tanh(c / 2)


def _init(net: Readout, key: Key) -> Any:
    """Weights N(0, 0.04 / fan_in), input and output gates biased to -1, the forget gate to 1."""
    params: Any = net.init(key, 7)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        0.2 / np.sqrt(leaf.shape[0]) * jax.random.normal(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    params = tree.unflatten(drawn)
    biases = {"i": -1.0, "f": 1.0, "g": 0.0, "o": -1.0}
    b = jnp.repeat(jnp.array([biases[name] for name in net.inner.gate_names]), HIDDEN)
    return {**params, "inner": {**params["inner"], "b": b}, "b": jnp.zeros(7)}


def starts(task: Reber, xs: Array) -> Array:
    """Which steps of a stream are the first of a string, but for the very first: bool [T, B]."""
    recall = task.recall(xs)  # Then come the second s, the last E, and the next string.
    return jnp.concatenate([jnp.zeros_like(recall[:3]), recall[:-3]])


def learn(name: str, seeds: tuple[int, ...], windows: int) -> dict[str, Any]:
    """Train one network for each seed on a stream of its own, and measure it PARTS times."""
    forget_gate, reset = NETS[name]
    net = Readout(_cell(forget_gate), 7)
    task, test = Reber(windows * WINDOW), Reber(TESTED)
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(RATE))

    def apply(params: Params, carry: Any, inputs: Any, mask: Any) -> Any:
        return unroll(net, params, inputs["xs"], carry, resets=inputs.get("resets"))

    run = jax.jit(jax.vmap(train.make_tbptt(apply, softmax_cross_entropy, tx, k1=WINDOW)))
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(_keys(seeds))
    stream = jax.jit(jax.vmap(lambda key: task.sample(key, 1)))(keys[:, 1])
    inputs = {"xs": stream.xs}
    if reset:
        inputs["resets"] = jax.vmap(lambda xs: starts(task, xs))(stream.xs)
    state = jax.vmap(lambda key: train.create(_init(net, key), tx))(keys[:, 0])
    carry = jax.vmap(lambda params: net.initial_carry(params, (1,)))(state.params)
    measure = jax.jit(jax.vmap(lambda params, key: _measure(net, params, test, key, reset)))
    found = [measure(state.params, keys[:, 2])]
    step = windows // PARTS * WINDOW
    for n in range(PARTS):
        now = slice(n * step, (n + 1) * step)
        part = jax.tree.map(operator.itemgetter((slice(None), now)), (inputs, stream.targets))
        state, carry, _ = run(state, carry, *part)
        found.append(measure(state.params, keys[:, 2]))
    over_time = {key: np.stack([f[key] for f in found], axis=1) for key in ("outer", "legal")}
    return over_time | {
        key: np.asarray(found[-1][key]) for key in found[-1] if key not in over_time
    }


def _keys(seeds: tuple[int, ...]) -> Key:
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def _measure(net: Readout, params: Any, test: Reber, key: Key, reset: bool) -> dict[str, Array]:
    """What a network does on fresh streams: recall, legal predictions, the size of c, its gate."""
    xs = test.sample(key, STREAMS).xs
    resets = starts(test, xs) if reset else None
    carries = unroll(net, params, xs, resets=resets, return_carries=True)[1]
    ys = net.after(params, carries.h, carries.h)
    recall, correct = test.recall(xs), test.correct(ys, xs)
    found = {
        "outer": jnp.sum(correct & recall) / jnp.sum(recall),
        "legal": jnp.mean(correct),
        "c": jnp.mean(jnp.linalg.norm(carries.c, axis=-1), axis=-1),
    }
    if net.inner.forget_gate:
        f = diagnostics.gates(net.inner, params["inner"], xs)["f"]
        found["f"] = around_ends(f, recall)
    return found


def around_ends(f: Array, recall: Array) -> Array:
    """The mean forget gate of each unit at the steps AROUND the last symbol: [AROUND, H]."""
    last = jnp.roll(recall, 2, axis=0).at[: -AROUND[0]].set(False).at[-AROUND[-1] :].set(False)
    shifted = jnp.stack([jnp.roll(f, -int(n), axis=0) for n in AROUND])
    where = jnp.broadcast_to(last[None, ..., None], shifted.shape)
    return jnp.mean(shifted, axis=(1, 2), where=where)
