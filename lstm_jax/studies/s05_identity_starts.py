"""S5, identity starts: a ReLU network that begins as a sum learns a long sum.

The derivative of a ReLU is 0 or 1, which alone keeps no gradient: a Gaussian W of gain 1 under ReLU
loses half of the squared norm a step, as half of the units are off. With W = I and b = 0 (IRNN)
every unit that is on keeps its gradient for ever. RIN starts at I + N(0, 0.001^2).

Sources: Le, Jaitly & Hinton (2015), arXiv 1504.00941; Hu et al. (2018), "Overcoming the vanishing
gradient problem in plain recurrent networks", which reports learning rates. The adding problem is
of their form.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, initializers, optim, train
from .._cells.base import Cell
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._layers import Readout
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from ..data import Adding
from .compiling import compiling
from .means import log_rms, survived, window_means
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY"]
__dir__ = __all__.copy

BATCH, RATE, MAX_NORM, HIGH_RATE = 32, 1e-3, 1.0, 1e-2
WIDTH = 50
"""A loss is the mean over this many updates."""
PROBED = 16
"""Sequences on which gradients are measured."""
LONGER = 150
"""A length at which the tanh networks are tried too, three times that of the scale."""
UNITS, LAGS = 256, 60
"""Size and lags of the untrained networks of the closed forms."""


class Sizes(NamedTuple):
    """Sizes of the training: length of the task, hidden size, updates, learning rate."""

    length: int
    hidden_size: int
    updates: int
    rate: float = RATE


SIZES = {
    "ci": Sizes(30, 32, 2000),
    "cpu": Sizes(50, 50, 3000),
    "gpu": Sizes(200, 100, 60_000, 1e-4),
}


_CLIPPED = f"IRNN, learning rate {HIGH_RATE:g}"
_UNCLIPPED = f"{_CLIPPED}, not clipped"


# ---- starts --------------------------------------------------------------------------------------
def _near_identity(key: Key, shape: Any, dtype: Any) -> Array:
    """I + N(0, 0.001^2), the start of a RIN."""
    return initializers.identity()(None, shape, dtype) + initializers.normal(1e-3)(
        key, shape, dtype
    )


def _families(size: int) -> dict[str, dict[str, Cell]]:
    """Cells by family and start; those of a family differ only in what `init` draws."""
    glorot, small = initializers.glorot_uniform(), initializers.normal(1e-3)
    irnn = RNN(size, "relu", w_hh_init=initializers.identity(), w_ih_init=small)
    return {
        "tanh": {
            "tanh Glorot": RNN(size, w_hh_init=glorot),
            "tanh orthogonal": RNN(size),
        },
        "relu": {
            "ReLU Glorot": RNN(size, "relu", w_hh_init=glorot),
            "IRNN": irnn,
            "RIN": RNN(size, "relu", w_hh_init=_near_identity, w_ih_init=small),
            _CLIPPED: irnn,
            _UNCLIPPED: irnn,
        },
        "lstm": {
            f"LSTM forget bias {b:g}": LSTM(size, b_init=initializers.forget_bias(b))
            for b in (0.0, 1.0)
        },
    }


# ---- closed forms --------------------------------------------------------------------------------
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _slope(key: Key, start: Callable[..., Array], signed: bool, units: int = UNITS) -> Array:
    """Slope of ln |dL/dh_t| by lag in an untrained ReLU network.

    Units of W = I must all be on, so its inputs are positive; those of a random W are on half of
    the time if inputs have both signs.
    """
    cell = RNN(units, "relu", w_hh_init=start, w_ih_init=initializers.identity())
    key_cell, key_x = jax.random.split(key)
    params: Any = cell.init(key_cell, units)
    xs = jax.random.normal(key_x, (LAGS, units))
    xs = xs if signed else jnp.abs(xs)
    norms = diagnostics.gradient_norms_by_lag(cell, params, xs, lambda ys: jnp.sum(ys[-1]))
    return diagnostics.slope_per_step(norms.h)


# ---- training ------------------------------------------------------------------------------------
def _sweep(family: str, setting: Setting, sizes: Sizes, name: str = "") -> Any:
    task = Adding(sizes.length, "hu2018")
    starts = _families(sizes.hidden_size)[family]
    nets = [Readout(cell, task.output_size) for cell in starts.values()]
    net, cell = nets[0], next(iter(starts.values()))

    def init(key: Key, config: Any) -> Any:
        drawn = [each.init(key, task.input_size) for each in nets]
        at = config["start"].astype(jnp.int32)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[at], *drawn)

    def tx(config: Any) -> Any:
        return optax.chain(
            optim.clip_by_global_norm(config["max_norm"]), optax.adam(config["rate"])
        )

    def loss(params: Any, batch: Any, config: Any) -> Any:
        return task.loss(unroll(net, params, batch.xs)[1], batch)

    def probe(params: Any, key: Key, config: Any) -> Array:
        def last(ys: Any) -> Any:
            return jnp.sum(net.after(params, ys[-1], ys[-1]))

        xs = task.sample(key, PROBED).xs
        norms = diagnostics.gradient_norms_by_lag(cell, params["inner"], xs, last)
        return log_rms(norms[-1])  # The last leaf is an LSTM's cell state.

    return train.sweep(
        loss,
        tx,
        init,
        lambda key: task.sample(key, BATCH),
        [
            {
                "start": float(n),
                "rate": HIGH_RATE if name in (_CLIPPED, _UNCLIPPED) else sizes.rate,
                "max_norm": math.inf if name == _UNCLIPPED else MAX_NORM,
            }
            for n, name in enumerate(starts)
        ],
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 5, 1),
        probe=probe,
        path=setting.path(name or family),
    )


def _run(setting: Setting) -> Findings:
    measured: dict[str, Any] = {
        name: [float(_slope(jax.random.key(seed), start, signed)) for seed in setting.seeds]
        for name, (start, signed, _) in _SLOPES.items()
    }
    sizes = SIZES[setting.scale]
    data: dict[str, Any] = {"length": sizes.length, "losses": {}}
    data |= {"before": {}, "after": {}}
    start, signed, _ = _SLOPES["glorot"]
    notes: dict[str, Any] = {
        f"slope of the gradient by lag, Glorot's W, ReLU, {4 * UNITS} units": [
            float(_slope(jax.random.key(seed), start, signed, 4 * UNITS)) for seed in setting.seeds
        ]
    }
    for family, starts in _families(1).items():
        with compiling(quickly=setting.scale == "ci"):
            runs = _sweep(family, setting, sizes)
        losses = window_means(survived(runs), WIDTH)
        for n, name in enumerate(starts):
            data["losses"][name] = losses[n]
            for when, at in (("before", 0), ("after", -1)):
                data[when][name] = runs.probes[n][:, at]
            notes[f"{name}: loss at the end"] = losses[n][:, -1]
            notes[f"{name}: updates until the loss is not finite"] = runs.steps_to_divergence[n]
    data["update"] = WIDTH * np.arange(1, losses.shape[-1] + 1)
    for name, anchor in (
        ("IRNN", "irnn"),
        ("LSTM forget bias 1", "lstm"),
        ("tanh Glorot", "tanh"),
    ):
        measured[anchor] = data["losses"][name][:, -1]
    measured["diverges"] = [float(_lost(data["losses"][_UNCLIPPED]).sum())] * len(setting.seeds)
    notes["seeds that diverge likewise, but clipped"] = [
        float(_lost(data["losses"][_CLIPPED]).sum())
    ] * len(setting.seeds)
    if setting.scale == "cpu":  # At the scale "gpu" the task itself is as long.
        longer = sizes._replace(length=LONGER)
        runs = _sweep("tanh", setting, longer, "tanh-longer")
        ends = window_means(survived(runs), WIDTH)[..., -1]
        for name, end in zip(_families(1)["tanh"], ends, strict=True):
            notes[f"{name}: loss at the end at T = {LONGER}"] = end
    return Findings(measured, data, notes)


def _lost(losses: np.ndarray) -> np.ndarray:
    """Whether a mean loss of a run, [S, N], is above 1 or not finite."""
    return ~np.all(losses <= 1, axis=-1)


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    final = {name: np.array(v, float)[:, -1] for name, v in data["losses"].items()}
    clipped = [name for name in final if name not in (_CLIPPED, _UNCLIPPED)]
    learned = [name for name in clipped if np.median(final[name]) < LEARNED]
    said = ", ".join(learned) or "no network"
    learning = Chart(
        "learning",
        f"After {data['update'][-1]} updates below a loss of {LEARNED}: {said}",
        "updates",
        "mean squared error",
        [line(name, data["update"], data["losses"][name]) for name in clipped],
        f"The adding problem of length {data['length']}, means over {WIDTH} updates; gradients "
        f"clipped to {MAX_NORM:g}. Without memory the loss is 1/6.",
        log_y=True,
    )
    lost = {
        name: int(_lost(np.array(data["losses"][name], float)).sum())
        for name in (_UNCLIPPED, _CLIPPED)
    }
    rate = Chart(
        "not-clipped",
        f"At a learning rate of {HIGH_RATE:g} the loss of {lost[_UNCLIPPED]} of "
        f"{len(final[_CLIPPED])} IRNNs goes above 1, clipped of {lost[_CLIPPED]}",
        "updates",
        "mean squared error",
        [
            line(name, data["update"], data["losses"][name])
            for name in ("IRNN", _CLIPPED, _UNCLIPPED)
        ],
        "A line ends where the loss is no longer finite.",
        log_y=True,
    )
    return [learning, *(_gradients(data, when) for when in ("before", "after")), rate]


LEARNED = 0.05


def _gradients(data: dict[str, Any], when: str) -> Chart:
    """ln of the gradient by lag, over that at lag 1, of every clipped network."""
    lines = []
    for name, norms in data[when].items():
        if name not in (_CLIPPED, _UNCLIPPED):
            norms = np.array(norms, float)[:, 1:]
            lag = np.arange(1, norms.shape[1] + 1)
            lines.append(line(name, lag, norms - norms[:, :1], untrained=when == "before"))
    far = {entry.label: entry.middle[-1] for entry in lines}
    left = ", ".join(f"e^{far[name]:.1f} ({name})" for name in ("IRNN", "ReLU Glorot"))
    return Chart(
        f"gradients-{when}",
        f"{when.capitalize()} learning, of a gradient {len(lag)} steps back there is left {left}",
        "lag: steps before the last",
        "ln of the norm over that at lag 1",
        lines,
        "Gradient of the output with respect to the state; of the LSTM, to the cell state.",
    )


# ---- anchors -------------------------------------------------------------------------------------
_SLOPES: dict[str, tuple[Any, bool, Anchor]] = {
    id: (
        start,
        signed,
        Anchor(id, quantity, number, "C", "absolute", tolerance, source, f"{UNITS} units, {drive}"),
    )
    for id, start, signed, drive, quantity, number, tolerance, source in (
        (
            "identity",
            initializers.identity(),
            False,
            "positive inputs",
            "slope of the gradient by lag, W = I, ReLU, nats a step",
            0.0,
            1e-6,
            "units that are on keep their gradient",
        ),
        (
            "scaled",
            initializers.identity(0.9),
            False,
            "positive inputs",
            "slope of the gradient by lag, W = 0.9 I, ReLU, nats a step",
            math.log(0.9),
            1e-5,
            "ln 0.9",
        ),
        (
            "glorot",
            initializers.glorot_uniform(),
            True,
            "white inputs",
            "slope of the gradient by lag, Glorot's W, ReLU, nats a step",
            math.log(0.5) / 2,
            0.03,
            "mean field: half of the units are off, ln(g\N{SUPERSCRIPT TWO}/2)/2 at gain g = 1",
        ),
    )
}
_FORM = (
    f"adding at T = 50, 50 units, 3000 updates, Adam {RATE:g}, batch {BATCH}, clipped to "
    f"{MAX_NORM:g}; the last {WIDTH} updates"
)
_HU = "Hu et al. 2018, adding at T = 200 to 400"
_TRAINED = (
    Anchor("irnn", "loss of the IRNN", None, "V", "below", LEARNED, _HU, _FORM, True),
    Anchor(
        "lstm",
        "loss of the LSTM with forget bias 1",
        0.0033,
        "R",
        "below",
        LEARNED,
        "schmidhuber-problems, LSTM-12, adding at T = 50",
        _FORM,
        True,
    ),
    Anchor(
        "tanh",
        "loss of the tanh network with Glorot's W",
        1 / 6,
        "C",
        "above",
        0.12,
        "loss without memory, 1/6",
        _FORM,
        True,
        ("cpu", "gpu"),
    ),
    Anchor(
        "diverges",
        "seeds with which the loss of the IRNN goes above 1 or is none, not clipped, at a learning "
        f"rate of {HIGH_RATE:g}",
        None,
        "V",
        "above",
        0.5,
        "Hu et al. 2018: training could fail at 1e-3, T = 300 and 400",
        _FORM,
    ),
)

STUDY = Study(
    "S5",
    "Identity starts of ReLU networks",
    "The derivative of a ReLU is 0 or 1: does that keep a gradient, or is it the start W = I that "
    "does?",
    (*(anchor for _, _, anchor in _SLOPES.values()), *_TRAINED),
    _run,
    _draw,
    "The slope under Glorot's W departs from mean field because 256 units are few: with 1024, "
    "among the notes, it does less. Tanh networks learn sums over 50 steps with Adam; over 150 "
    "steps, a note of the scale cpu, they stay at the loss without memory. The loss of an IRNN "
    "goes above 1 at the high rate whether it is clipped or not; clipped, it comes back and "
    "learns.",
)
