"""S7, the forget gate: what a stream without ends needs, and what the gate's bias does.

Embedded Reber strings follow each other without a mark. Near its end each tells its second symbol
again, so that a network must keep one bit for a string and drop it with the string. Without a
forget gate, c_t = c_{t-1} + i_t g_t, nothing is ever dropped, c grows along the stream, and the bit
cannot be read; the same network learns it if somebody resets its state after each string. The
second part varies the initial forget bias on the adding problem.

Sources: Gers, Schmidhuber & Cummins (2000), Neural Computation 12(10); its numbers are those of a
reproduction (cybertronai/schmidhuber-problems) with Adam and a stream of its own. The bias:
Jozefowicz, Zaremba & Sutskever (2015).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from ... import train
from ..._cells.lstm import LSTM
from ..._layers import Readout
from ..._typing import Key
from ..._unroll import unroll
from ...charts import Chart, line
from ...data import Adding
from ..means import running_means, updates_until
from ..record import Anchor, Findings, Setting, Study
from .reber_stream import AROUND, HIDDEN, NETS, PARTS, RATE, STREAMS, TESTED, WINDOW, learn

__all__ = ["STUDY"]
__dir__ = __all__.copy

LATE = 200
"""The last symbols of a test stream, that count as late."""
BIASES, CLOSED = (-2.0, 0.0, 1.0, 3.0, 5.0), (3.0, 5.0)
"""Forget biases; those that are also tried with the input gate closed as far, b_i = -b_f."""
SOLVED, WIDTH = 0.04, 50
"""The adding problem is solved when the mean loss over WIDTH updates is below SOLVED."""


class Sizes(NamedTuple):
    """Sizes: windows of the stream; length and updates of the adding problem."""

    windows: int
    length: int
    updates: int


SIZES = {
    "ci": Sizes(2000, 50, 1200),
    "cpu": Sizes(4000, 100, 3000),
    "gpu": Sizes(40_000, 200, 8000),
}


# ---- the bias ------------------------------------------------------------------------------------
def _biases(setting: Setting, sizes: Sizes) -> dict[str, np.ndarray]:
    """Updates until the adding problem is solved, {"open": [biases, S], "closed": ...}."""
    task, cell = Adding(sizes.length, "cybertronai"), LSTM(8)
    net = Readout(cell, task.output_size)
    configs = [{"forget": b, "input": 0.0} for b in BIASES]
    configs += [{"forget": b, "input": -b} for b in CLOSED]

    def init(key: Key, config: Any) -> Any:
        params: Any = net.init(key, task.input_size)
        gates = {"f": config["forget"], "i": config["input"]}
        b = jnp.concatenate([jnp.full(8, gates.get(name, 0.0)) for name in cell.gate_names])
        return {**params, "inner": {**params["inner"], "b": b}}

    runs = train.sweep(
        lambda params, batch, config: task.loss(unroll(net, params, batch.xs)[1], batch),
        lambda config: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3)),
        init,
        lambda key: task.sample(key, 32),
        configs,
        setting.seeds,
        sizes.updates,
        chunk=sizes.updates // 4,
        path=setting.path("biases"),
    )
    below = running_means(runs.history["loss"], WIDTH) < SOLVED
    updates = updates_until(below, WIDTH)
    return {"open": updates[: len(BIASES)], "closed": updates[len(BIASES) :]}


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    found = {name: learn(name, setting.seeds, sizes.windows) for name in NETS}
    late = {name: of["c"][:, -LATE:].mean(axis=-1) for name, of in found.items()}
    biases = _biases(setting, sizes)
    measured: dict[str, Any] = {f"outer {n}": of["outer"][:, -1] for n, of in found.items()}
    measured["c"] = late["no forget gate"] / late["forget gate"]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = biases["open"][:-1] / biases["open"][1:]
    for name, of_seeds in (("bias 1", ratios[1]), ("bias", ratios[:3].min(axis=0))):
        if not np.isnan(of_seeds).any():  # NaN where neither has learned: then nobody can tell.
            measured[name] = of_seeds
    notes: dict[str, Any] = {}
    for name, of in found.items():
        notes[f"share of correct predictions, {name}"] = of["legal"][:, -1]
        notes[f"late norm of c, {name}"] = late[name]
    for b, of_seeds in zip(BIASES, biases["open"], strict=True):
        notes[f"updates to a loss of {SOLVED}, b_f = {b:g}"] = of_seeds
    for b, of_seeds in zip(CLOSED, biases["closed"], strict=True):
        notes[f"updates to a loss of {SOLVED}, b_f = {b:g}, b_i = {-b:g}"] = of_seeds
    data = {
        "symbols": np.arange(PARTS + 1) * (sizes.windows // PARTS) * WINDOW,
        "outer": {name: of["outer"] for name, of in found.items()},
        "c": {name: of["c"] for name, of in found.items()},
        "f": found["forget gate"]["f"],
        "length": sizes.length,
        "biases": biases,
    }
    return Findings(measured, data, notes)


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    outer = {name: np.array(values, float) for name, values in data["outer"].items()}
    ends = {name: f"{100 * np.median(values[:, -1]):.0f} %" for name, values in outer.items()}
    learning = Chart(
        "learning",
        f"Recalled over a string: {ends['forget gate']} with a forget gate, "
        f"{ends['no forget gate']} without one, {ends['no forget gate, reset']} without one if "
        "the state is reset by hand",
        "symbols of the training stream, in thousands",
        "share of strings recalled",
        [line(name, np.array(data["symbols"]) / 1000, v) for name, v in outer.items()],
        "Strings whose second symbol is told again, in fresh streams of some 60 embedded Reber "
        "strings. A guess is right half the time.",
    )
    c = {name: np.array(values, float) for name, values in data["c"].items()}
    late = {name: np.median(values[:, -LATE:].mean(axis=-1)) for name, values in c.items()}
    steps = np.arange(TESTED)
    growth = Chart(
        "cell-state",
        f"Without a forget gate the cell state grows to {late['no forget gate']:.0f}, with one it "
        f"stays at {late['forget gate']:.0f}",
        "symbols of the stream so far",
        "norm of c",
        [line(name, steps[::5], values[:, ::5]) for name, values in c.items()],
        f"After learning, means over {STREAMS} fresh streams.",
        log_y=True,
    )
    return [learning, growth, _gate(np.array(data["f"], float)), _bias_chart(data)]


def _gate(f: np.ndarray) -> Chart:
    """The forget gate around the end of a string, [S, AROUND, H]."""
    ends = np.flatnonzero((AROUND >= -1) & (AROUND <= 2))
    unit = f[:, ends].min(axis=1).argmin(axis=-1)
    least = np.take_along_axis(f, unit[:, None, None], axis=-1)[..., 0]
    within, at = np.median(least.max(axis=1)), np.median(least.min(axis=1))
    return Chart(
        "gate",
        f"The unit that forgets most keeps {100 * at:.0f} % of its state at a string's end, and "
        f"up to {100 * within:.0f} % elsewhere",
        "steps after the last symbol of a string",
        "mean of the forget gate",
        [
            line("the unit that forgets most", AROUND, least),
            line("median of all units", AROUND, np.median(f, axis=-1)),
        ],
        "After learning. At 0 the last E is read, at 1 the next string begins.",
    )


def _bias_chart(data: dict[str, Any]) -> Chart:
    updates = {name: np.array(v, float) for name, v in data["biases"].items()}  # JSON has no inf.
    known = {name: np.where(np.isnan(v), np.inf, v) for name, v in updates.items()}
    middle = {name: np.median(v, axis=1) for name, v in known.items()}
    best = BIASES[int(middle["open"].argmin())]
    gain = middle["closed"].min() < middle["open"].min()
    closed = f"and {'sooner' if gain else 'not sooner'} with {CLOSED[0]:g} or more and a closed"
    return Chart(
        "bias",
        f"Adding over {data['length']} steps is learned soonest with a forget bias of {best:g}, "
        f"{closed} input gate",
        "initial forget bias",
        f"updates until the loss is below {SOLVED}",
        [
            line("input gate half open, b_i = 0", BIASES, updates["open"].T),
            line("input gate closed, b_i = -b_f", CLOSED, updates["closed"].T),
        ],
        f"LSTM of 8 units, means of the loss over {WIDTH} updates; no point where a run never gets "
        "there.",
    )


# ---- anchors -------------------------------------------------------------------------------------
_STREAM = f"H = {HIDDEN}, Adam {RATE}, clip 5, an update every {WINDOW} symbols of one stream, "
_STREAM += "state carried over; b_f = 1, b_i = b_o = -1"
_ADDING = "adding, values U[-1, 1], LSTM of 8 units, Adam 5e-3, clip 1, batch 32"
_SOURCE = "repeated by cybertronai/schmidhuber-problems, e7b8c89"
_ANCHORS = (
    Anchor(
        "outer forget gate",
        "share of strings recalled in a stream, with a forget gate",
        0.997,
        "R",
        "above",
        0.95,
        f"Gers, Schmidhuber & Cummins 2000; {_SOURCE}",
        _STREAM,
        median=True,
    ),
    Anchor(
        "outer no forget gate",
        "share of strings recalled in a stream, without a forget gate",
        0.55,
        "R",
        "below",
        0.75,
        f"Gers, Schmidhuber & Cummins 2000; {_SOURCE}",
        _STREAM,
    ),
    Anchor(
        "outer no forget gate, reset",
        "share of strings recalled without a forget gate, state reset at each string",
        1.0,
        "R",
        "above",
        0.95,
        f"Hochreiter & Schmidhuber 1997, experiment 1; {_SOURCE}, 10 of 10 runs",
        _STREAM,
        median=True,
    ),
    Anchor(
        "c",
        "norm of c late in a stream, without a forget gate over with one",
        294.8 / 28.5,
        "R",
        "above",
        4.0,
        _SOURCE,
        f"last {LATE} of {TESTED} symbols",
    ),
    Anchor(
        "bias 1",
        f"updates to a loss of {SOLVED}: forget bias 0 over 1",
        None,
        "S",
        "above",
        1.0,
        "Jozefowicz, Zaremba & Sutskever 2015: a bias of 1 closes the gap to the GRU",
        _ADDING,
        median=True,
    ),
    Anchor(
        "bias",
        "updates with a forget bias of -2, 0, 1 over those with 0, 1, 3: the least of the three",
        None,
        "S",
        "above",
        1.0,
        "Gers, Schmidhuber & Cummins 2000: a bias of 5 learns sooner than 1",
        _ADDING,
        median=True,
    ),
)

STUDY = Study(
    "S7",
    "The forget gate and its bias",
    "What does an LSTM need where nobody says when a sequence ends: can it learn to drop what it "
    "keeps? And how far open should the gate be at the start?",
    _ANCHORS,
    _run,
    _draw,
)
