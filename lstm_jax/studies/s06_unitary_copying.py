"""S6, copying: orthogonal transitions keep ten symbols through a silence that others lose.

An orthogonal linear transition keeps every gradient, h_t = R h_{t-1} with |R v| = |v|; an expRNN
keeps its R = R_0 exp(A - A^T) orthogonal while it learns and has modReLU in place of no activation
at all. They are compared with tanh networks, LSTMs and a GRU on copying, and by the gradient that
comes back through the silence before, early in and after learning.

Sources: Arjovsky, Shah & Bengio (2016), arXiv 1511.06464, whose task and optimiser these are;
Henaff, Szlam & LeCun (2016), arXiv 1602.06662, for linear transitions and their start;
Lezcano-Casado & Martinez-Rubio (2019), arXiv 1901.08428, for the expRNN.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import diagnostics, initializers, losses, regularizers, train
from .._cells.base import Cell
from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.modrelu import ModReLURNN
from .._cells.rnn import RNN
from .._layers import Readout
from .._typing import Key
from .._unroll import unroll
from ..charts import Chart, line
from ..data import CopyMemory
from .compiling import compiling
from .means import log_rms, survived, window_means
from .record import Anchor, Findings, Setting, Study
from .turning import slower_turns

__all__ = ["STUDY"]
__dir__ = __all__.copy

BATCH, RATE, SKEW_RATE, DECAY, LIMIT = 32, 1e-3, 1e-4, 0.9, 1.0
"""Learning rate of the expRNN's A: a tenth of the others'. Gradients are clipped to +-LIMIT."""
EARLY = 100
"""Updates after which the gradient is measured early in learning, and a mean of losses is taken."""
PROBED = 16
WHEN = {"before": 0, "early": 1, "after": -1}
LEARNED, PLATEAU = 0.3, 0.15
"""Copying is learned below this share of the loss without memory, and not within PLATEAU of it."""
KEPT = regularizers.Orthogonal()


class Sizes(NamedTuple):
    """Sizes of the training: silence, symbols to copy, hidden size, updates."""

    length: int
    width: int
    hidden_size: int
    updates: int


SIZES = {
    "ci": Sizes(20, 5, 48, 1000),
    "cpu": Sizes(30, 10, 64, 2000),
    "gpu": Sizes(500, 10, 128, 20_000),
}
LINEAR, EXP, TANH = "linear rotations", "expRNN", "tanh Glorot"


def _families(sizes: Sizes) -> dict[str, dict[str, Cell]]:
    """Cells by family and start; those of a family differ only in what `init` draws."""
    size, turned = sizes.hidden_size, initializers.rotations()
    b_init = initializers.chrono(3 * sizes.length // 2)
    return {
        "tanh": {
            TANH: RNN(size, w_hh_init=initializers.glorot_uniform()),
            "tanh orthogonal": RNN(size),
        },
        "linear": {LINEAR: RNN(size, "identity", w_hh_init=turned)},
        "exp": {EXP: ModReLURNN(size, w_hh_init=turned)},
        "lstm": {"LSTM forget bias 1": LSTM(size), "LSTM chrono": LSTM(size, b_init=b_init)},
        "gru": {"GRU": GRU(size)},
    }


# ---- training ------------------------------------------------------------------------------------
def _sweep(family: str, setting: Setting) -> Any:
    sizes = SIZES[setting.scale]
    task = CopyMemory(sizes.length, width=sizes.width)
    starts = _families(sizes)[family]
    nets = [Readout(cell, task.output_size) for cell in starts.values()]
    net, cell = nets[0], next(iter(starts.values()))

    def free(params: Any) -> Any:
        return KEPT.free(params) if family == "exp" else params

    def weights(params: Any) -> Any:
        return KEPT.weights(params) if family == "exp" else params

    def init(key: Key, config: Any) -> Any:
        drawn = [free(each.init(key, task.input_size)) for each in nets]
        at = config["start"].astype(jnp.int32)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[at], *drawn)

    def loss(params: Any, batch: Any, config: Any) -> Any:
        return task.loss(unroll(net, weights(params), batch.xs)[1], batch)

    def probe(params: Any, key: Key, config: Any) -> Any:
        batch, params = task.sample(key, PROBED), weights(params)

        def last(ys: Any) -> Any:
            outputs = net.after(params, ys[-1:], ys[-1:])
            return losses.softmax_cross_entropy(outputs, batch.targets[-1:], batch.mask[-1:])

        w_hh = params["inner"]["w_hh"]
        off = w_hh.T @ w_hh - jnp.eye(w_hh.shape[1], dtype=w_hh.dtype)
        norms = diagnostics.gradient_norms_by_lag(cell, params["inner"], batch.xs, last)
        return {"norms": log_rms(norms[-1]), "off": jnp.max(jnp.abs(off))}

    return train.sweep(
        loss,
        lambda config: slower_turns(RATE, SKEW_RATE, DECAY, LIMIT),
        init,
        lambda key: task.sample(key, BATCH),
        [{"start": float(n)} for n in range(len(starts))],
        setting.seeds,
        sizes.updates,
        chunk=EARLY,
        probe=probe,
        path=setting.path(family),
    )


def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    baseline = CopyMemory(sizes.length, width=sizes.width).baseline
    data: dict[str, Any] = {"sizes": sizes._asdict(), "baseline": baseline, "losses": {}}
    data |= {when: {} for when in WHEN}
    measured: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    with compiling(quickly=setting.scale == "ci"):
        sweeps = {family: _sweep(family, setting) for family in _families(sizes)}
    for family, starts in _families(sizes).items():
        runs = sweeps[family]
        shares = window_means(survived(runs), EARLY) / baseline
        for n, name in enumerate(starts):
            data["losses"][name] = shares[n]
            notes[f"{name}: loss at the end over that without memory"] = shares[n][:, -1]
            for when, at in WHEN.items():
                norms = runs.probes["norms"][n][:, at]
                data[when][name] = norms
                notes[
                    f"{name}: ln of the gradient at the longest lag over that at lag 1, {when}"
                ] = norms[:, -1] - norms[:, 1]
    data["update"] = EARLY * np.arange(1, shares.shape[-1] + 1)
    final = {name: shares[:, -1] for name, shares in data["losses"].items()}
    measured["learned"] = np.fmin(final[LINEAR], final[EXP])
    measured["plateau"] = final[TANH]
    measured["orthogonal"] = sweeps["exp"].probes["off"][0, :, -1]
    flat = data["before"][LINEAR]
    measured["flat"] = np.max(np.abs(flat - flat[:, :1]), axis=1)
    return Findings(measured, data, notes)


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    sizes, shares = data["sizes"], data["losses"]
    final = {name: np.median(np.array(v, float)[:, -1]) for name, v in shares.items()}
    learned = [name for name, share in final.items() if share < LEARNED]
    learning = Chart(
        "learning",
        f"After {data['update'][-1]} updates copying is learned by {_listed(learned)}",
        "updates",
        "loss over the loss without memory",
        [line(name, data["update"], v) for name, v in shares.items()],
        f"Copying {sizes['width']} symbols after {sizes['length']} steps, "
        f"{sizes['hidden_size']} units; learned: below {LEARNED} of the loss without memory, which "
        f"is {data['baseline']:.3g} nats.",
        log_y=True,
    )
    return [learning, *(_gradients(data, when) for when in WHEN)]


def _listed(names: list[str]) -> str:
    return " and ".join(names) or "no network"


_WORDS = {
    "before": "Before learning",
    "early": f"After {EARLY} updates",
    "after": "After learning",
}


def _gradients(data: dict[str, Any], when: str) -> Chart:
    """ln of the gradient by lag, over that at lag 1."""
    lines = []
    for name, norms in data[when].items():
        norms = np.array(norms, float)[:, 1:]
        lag = np.arange(1, norms.shape[1] + 1)
        lines.append(line(name, lag, norms - norms[:, :1], untrained=when == "before"))
    far = {entry.label: entry.middle[-1] for entry in lines}
    said = ", ".join(f"e^{far[name]:.1f} ({name})" for name in (LINEAR, EXP, TANH))
    steps = lines[0].x[-1]
    return Chart(
        f"gradients-{when}",
        f"{_WORDS[when]}, of the gradient {steps:.0f} steps back there is left {said}",
        "lag: steps before the last",
        "ln of the norm over that at lag 1",
        lines,
        "Gradient of the cross entropy of the last symbol with respect to the state; of an LSTM, "
        "to the cell state.",
    )


# ---- anchors -------------------------------------------------------------------------------------
_FORM = (
    f"RMSprop {RATE:g}, decay {DECAY:g}, batch {BATCH}, elements clipped to {LIMIT:g}; the last "
)
_FORM += f"{EARLY} updates; the bound is for T = 30, 64 units, 2000 updates"
_ANCHORS = (
    Anchor(
        "learned",
        "loss over that without memory, the better of the linear network and the expRNN",
        None,
        "V",
        "below",
        LEARNED,
        "Vorontsov et al. 2017: orthogonal linear transitions learn copying at T = 200 to 1000",
        _FORM,
    ),
    Anchor(
        "plateau",
        "loss over that without memory, tanh network with Glorot's W",
        1.0,
        "C",
        "relative",
        PLATEAU,
        "10 ln 8/(T + 20), G9",
        _FORM,
    ),
    Anchor(
        "orthogonal",
        "largest entry of W^T W - I of the expRNN after learning",
        0.0,
        "C",
        "absolute",
        1e-5,
        "exp of a skew-symmetric matrix is orthogonal",
        "float32",
    ),
    Anchor(
        "flat",
        "largest change by lag of the gradient of the untrained linear network, nats",
        0.0,
        "C",
        "absolute",
        1e-5,
        "rotations keep norms, G1",
        "float32",
    ),
)

STUDY = Study(
    "S6",
    "Unitary networks and copying",
    "Does a network learn to copy through a silence because its transition keeps the norm of a "
    "gradient, and does it still keep it after learning?",
    _ANCHORS,
    _run,
    _draw,
    "Over a silence of 20 steps, that of the scale ci, tanh networks begin to learn in some seeds: "
    "in those in which, among the notes, the gradient at the longest lag vanishes before learning "
    "and no longer after it.",
)
