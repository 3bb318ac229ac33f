"""S9, chrono initialisation: long forgetting times at the start, and the path that carries.

An LSTM's cell state keeps a gradient by the product of its forget gates, f^T without inputs. A
forget bias drawn so that the timescales 1/(1-f) are uniform up to T_max (chrono) makes the share
that is kept over T_max steps the same for every T_max. `gradient_norms_by_path` then splits what
comes back into what stays on the cell state alone and what goes through recurrent weights.

Source: Tallec & Ollivier (2018), arXiv 1804.11188. The adding problem is of their form.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, initializers, train
from .._cells.lstm import LSTM
from .._layers import Readout
from .._numerics import sigmoid
from .._unroll import unroll
from ..charts import Chart, counted, line
from ..data import Adding
from .means import running_means, updates_until
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY"]
__dir__ = __all__.copy

KEPT = {50: 0.1508, 100: 0.1496, 200: 0.1491, 784: 0.1486, 1000: 0.1486}
"""The mean of f^T over the units of a chrono start with T_max = T, by T (G5)."""
UNITS = 500_000
BIASES = (0.0, 1.0, 2.0, 5.0)
STARTS = ("chrono", 0.0, 1.0)
"""Starts that learn: chrono, or all forget biases at that number."""
RATE, DECAY, BATCH = 1e-3, 0.9, 32
LEARNED, WIDTH = 0.05, 50
"""A start has learned when the mean loss over WIDTH updates is below LEARNED."""
PROBED = 16
"""Sequences on which the paths are measured."""


class Sizes(NamedTuple):
    """Sizes of the training: length of the task, hidden size, updates."""

    length: int
    hidden_size: int
    updates: int


SIZES = {"ci": Sizes(50, 16, 3000), "cpu": Sizes(100, 32, 3000), "gpu": Sizes(750, 128, 20_000)}


# ---- closed forms --------------------------------------------------------------------------------
def _kept(seed: int, length: int) -> float:
    """The mean of f^T over the units of a chrono start with T_max = T."""
    names = LSTM(1).gate_names
    b = initializers.bias(
        initializers.chrono(length), jax.random.key(seed), names, UNITS, np.dtype(np.float32)
    )
    f = sigmoid(jnp.split(b, len(names))[names.index("f")])
    return float(jnp.mean(f**length))


def _slope(bias: float) -> float:
    """Slope of ln |dL/dc| along the path "carry", without recurrent weights or inputs."""
    cell = LSTM(4, b_init=initializers.forget_bias(bias))
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    params["b"] = cell.init(jax.random.key(0), 1)["b"]
    norms = diagnostics.gradient_norms_by_path(
        cell, params, jnp.zeros((60, 1)), lambda ys: jnp.sum(ys[-1])
    )
    return float(diagnostics.slope_per_step(norms["carry"].c[:-2]))


# ---- training ------------------------------------------------------------------------------------
def _sweep(setting: Setting, sizes: Sizes) -> Any:
    task = Adding(sizes.length, "chrono")
    cell = LSTM(sizes.hidden_size)
    net = Readout(cell, task.output_size)

    def init(key: Any, config: Any) -> Any:
        params: Any = net.init(key, task.input_size)
        start = config["start"]
        if start == "chrono":
            drawn = initializers.chrono(sizes.length)
        else:
            drawn = initializers.forget_bias(float(start))
        key_b = jax.random.fold_in(key, 1)
        b = initializers.bias(
            drawn, key_b, cell.gate_names, sizes.hidden_size, np.dtype(np.float32)
        )
        return {**params, "inner": {**params["inner"], "b": b}}

    def loss(params: Any, batch: Any, config: Any) -> Any:
        return task.loss(unroll(net, params, batch.xs)[1], batch)

    def probe(params: Any, key: Any, config: Any) -> Any:
        xs, inner = task.sample(key, PROBED).xs, params["inner"]

        def last(ys: Any) -> Any:
            return jnp.sum(net.after(params, ys[-1], ys[-1]))

        norms = diagnostics.gradient_norms_by_path(cell, inner, xs, last)
        gates = diagnostics.gate_statistics(cell, inner, xs)
        by_path = {path: diagnostics.mean_log_norms(norms[path].c) for path in _PATHS}
        return by_path | {"forgetting time": jnp.median(gates["f"].forgetting_time)}

    return train.sweep(
        loss,
        lambda config: optax.rmsprop(RATE, decay=DECAY),
        init,
        lambda key: task.sample(key, BATCH),
        [{"start": str(start)} for start in STARTS],
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 10, 1),
        probe=probe,
        path=setting.path("adding"),
    )


_PATHS = ("all", "carry", "recurrent")


def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    measured: dict[str, Any] = {
        f"kept {length}": [_kept(seed, length) for seed in setting.seeds] for length in KEPT
    }
    for bias in BIASES:
        measured[f"slope {bias:g}"] = [_slope(bias)] * len(setting.seeds)
    runs = _sweep(setting, sizes)
    losses = running_means(runs.history["loss"], WIDTH)
    learned = updates_until(losses < LEARNED, WIDTH)
    with np.errstate(invalid="ignore"):
        ratio = learned[2] / learned[0]
    if not np.isnan(ratio).any():  # NaN where neither has learned: then nobody can tell.
        measured["speed"] = ratio
    every = max(losses.shape[-1] // 150, 1)
    data: dict[str, Any] = {
        "starts": [str(start) for start in STARTS],
        "length": sizes.length,
        "update": WIDTH + np.arange(losses.shape[-1])[::every],
        "losses": losses[..., ::every],
        "learned": learned,
        "before": {path: runs.probes[path][:, :, 0, ::-1] for path in _PATHS},
        "after": {path: runs.probes[path][:, :, -1, ::-1] for path in _PATHS},
    }
    return Findings(measured, data, _notes(runs, learned, sizes.length))


def _notes(runs: Any, learned: np.ndarray, length: int) -> dict[str, Any]:
    """Numbers without a published one: learning times, forgetting times, shares of the paths."""
    notes: dict[str, Any] = {}
    lag = length // 2
    for c, start in enumerate(STARTS):
        of = "chrono" if start == "chrono" else f"b_f = {start:g}"
        notes[f"updates to a loss of {LEARNED}, {of}"] = learned[c]
        times = runs.probes["forgetting time"][c]
        for when, n in (("before", 0), ("after", -1)):
            notes[f"median forgetting time {when} learning, {of}"] = times[:, n]
            carry, rest = (runs.probes[p][c, :, n, -1 - lag] for p in ("carry", "recurrent"))
            name = f"ln of recurrent over carry path at lag {lag} {when} learning, {of}"
            notes[name] = rest - carry
    return notes


# ---- figures -------------------------------------------------------------------------------------
def _name(start: str) -> str:
    return "chrono" if start == "chrono" else f"forget bias {float(start):g}"


def _draw(data: dict[str, Any]) -> list[Chart]:
    learned = np.array(data["learned"], float)  # JSON has no inf.
    learned = np.median(np.where(np.isnan(learned), np.inf, learned), axis=1)
    times = [f"{_name(s)} {counted(n)}" for s, n in zip(data["starts"], learned, strict=True)]
    learning = Chart(
        "learning",
        f"Updates until the loss is below {LEARNED}: {', '.join(times)}",
        "updates",
        "mean squared error",
        [
            line(_name(start), data["update"], losses)
            for start, losses in zip(data["starts"], data["losses"], strict=True)
        ],
        f"The adding problem of length {data['length']}, means over {WIDTH} updates. Without "
        "memory the loss is 1/6.",
        log_y=True,
    )
    return [learning, *(_paths(data, when) for when in ("before", "after"))]


def _paths(data: dict[str, Any], when: str) -> Chart:
    """The gradient of the cell state by path, for chrono and for the usual bias."""
    lines = []
    for c, start in enumerate(data["starts"]):
        if start == "0.0":
            continue
        for path in ("carry", "recurrent"):
            norms = np.array(data[when][path][c], float)[:, 2:]
            name, lag = f"{_name(start)}: {path}", np.arange(norms.shape[1]) + 2
            lines.append(line(name, lag, norms, untrained=when == "before"))
    far = {entry.label: entry.middle[-1] for entry in lines}
    chrono = far["chrono: carry"] - far["chrono: recurrent"]
    which = "along the cell state" if chrono > 0 else "through the recurrent weights"
    return Chart(
        f"paths-{when}",
        f"{when.capitalize()} learning, most of a chrono LSTM's gradient comes {which}",
        "lag: steps before the last",
        "ln of the norm of dL/dc",
        lines,
        '"carry": the product of the forget gates; "recurrent": through recurrent weights at least '
        "once.",
    )


# ---- anchors -------------------------------------------------------------------------------------
_G5 = "f = sigmoid(b), G5"
_KEPT_ANCHORS = [
    Anchor(
        f"kept {length}",
        f"mean of f^T over the units, chrono with T_max = T = {length}",
        kept,
        "C",
        "absolute",
        1e-3,
        _G5,
        f"b_f = ln U[1, T-1], {UNITS:,} units",
    )
    for length, kept in KEPT.items()
]
_SLOPES = [
    Anchor(
        f"slope {bias:g}",
        f"slope of ln |dL/dc| along the carry, nats a step, forget bias {bias:g}",
        float(-np.log1p(np.exp(-bias))),
        "C",
        "absolute",
        1e-5,
        _G5,
        "no inputs, no recurrent weights",
    )
    for bias in BIASES
]
_SPEED = Anchor(
    "speed",
    f"updates to a loss of {LEARNED}: forget bias 1 over chrono",
    7.0,
    "V",
    "above",
    1.5,
    "Tallec & Ollivier 2018, adding at T = 750",
    "RMSprop 1e-3, decay 0.9, no clipping; the bound 1.5 is for T = 100, LSTM-32",
    median=True,
)


STUDY = Study(
    "S9",
    "Chrono starts, and the path that carries",
    "Does an LSTM learn a lag sooner if its forgetting times reach that far at the start, and is "
    "it then the cell state that carries the gradient, or the recurrent weights?",
    (*_KEPT_ANCHORS, *_SLOPES, _SPEED),
    _run,
    _draw,
)
