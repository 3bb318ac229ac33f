"""S16, chaotic targets: gradients that must explode, and forcing in place of clipping.

A network that has learned a chaotic system has its largest Lyapunov exponent, lambda > 0, and so
its gradients grow as e^(lambda k) with the lag k: no clip changes that, as it scales all lags
alike. Forced every tau steps (`forcing`), no lag is longer than tau. Good tau are near the time in
which the system forgets, ln 2 / lambda, which for the system of Lorenz are 31 steps.

Source: Mikhaeil, Monfared & Durstewitz (2022), arXiv 2110.07238, and its authors' code.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._cells.lstm import LSTM
from ..._layers import Readout
from ..record import Anchor, Findings, Setting, Study
from .figures import draw
from .forcing import CLIPPED, FORCED, GOOD, LENGTH, Sizes, trained
from .lorenz import DT, SUBSTEPS, divergence, trajectories
from .probes import (
    FREE,
    PROBED,
    Found,
    exponents_of_system,
    growth_of_system,
    of_networks,
)

__all__ = ["STUDY"]
__dir__ = __all__.copy

DATA = (64, 1600)
"""Trajectories of the data, and steps of each."""
SHOWN = 400
"""Steps of the figure of states."""

_ALL = (*FORCED, CLIPPED)
SIZES = {
    "ci": Sizes((GOOD,), 30, 2000, 2, 3e-3),
    "cpu": Sizes(_ALL, 30, 3000, 4, 3e-3),
    "gpu": Sizes(_ALL, 30, 30_000, 32, 1e-3),
}


def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    net = Readout(LSTM(sizes.hidden_size), 3, bias=False)
    raw, other = (trajectories(jax.random.key(n), *DATA) for n in range(2))
    mean, std = (f(raw, axis=(0, 1), keepdims=True) for f in (jnp.mean, jnp.std))
    data, other = (raw - mean) / std, (other - mean) / std
    runs = trained(setting, sizes, net, data)
    found = of_networks(net, runs.params, data)
    distances = np.array([[divergence(data, one) for one in row] for row in found.states])
    system = exponents_of_system(raw[0, : FREE[0]])
    growth = [growth_of_system(raw, jax.random.key(seed)) for seed in setting.seeds]
    ones = np.ones(len(setting.seeds))
    good = sizes.networks.index(GOOD)
    measured = {
        "sum": system.sum() * ones,
        "flow": system[1] * ones,
        "exponent": system[0] * ones,
        "growth": np.array(growth) / system[0],
        "learned": found.exponents[good] / system[0],
        "slope": found.slopes[good] / found.exponents[good],
    }
    if sizes.networks == _ALL:
        short, good, long, clipped = distances
        measured |= {"divergence": good / np.minimum(long, clipped), "short": good / short}
    notes = {
        "D_stsp of other trajectories of the system": divergence(data, other) * ones,
        "ln 2 / lambda of the system, steps": math.log(2) / system[0] / DT * ones,
    }
    drawn: dict[str, Any] = {
        "names": [network.name for network in sizes.networks],
        "exponent": system[0],
        "truth": np.asarray(data[:SHOWN, 0, 2]),
        "free": found.states[:, :, :SHOWN, 0, 2],
        "distances": distances,
        "exponents": found.exponents,
        "norms": found.norms,
        "clip": found.clip,
    }
    losses = runs.history["loss"][..., -50:].mean(axis=-1)
    return Findings(measured, drawn, notes | _notes(drawn["names"], found, distances, losses))


def _notes(
    names: list[str], found: Found, distances: np.ndarray, losses: np.ndarray
) -> dict[str, Any]:
    """Numbers without a published one, for each way of training."""
    notes: dict[str, Any] = {}
    for n, name in enumerate(names):
        notes[f"D_stsp, {name}"] = distances[n]
        notes[f"largest exponent per unit of time, {name}"] = found.exponents[n]
        notes[f"growth of gradients per unit of time, {name}"] = found.slopes[n]
        notes[f"ln of the factor of the clip, {name}"] = found.clip[n]
        notes[f"loss at the end, {name}"] = losses[n]
    return notes


# ---- anchors -------------------------------------------------------------------------------------
_PAPER = "Mikhaeil, Monfared & Durstewitz 2022"
_RUNGE = f"steps of {DT}, {SUBSTEPS} of Runge-Kutta 4 in each, float64"
_TRAINED = "LSTM, Adam; D_stsp with 30 bins a coordinate"
_LARGER = ("cpu", "gpu")  # The 2000 updates of "ci" are too few to learn chaos.

_SYSTEM = [
    Anchor(
        id,
        f"{quantity} of the system, nats per unit of time",
        published,
        provenance,
        "absolute",
        tolerance,
        source,
        _RUNGE,
    )
    for id, quantity, published, provenance, tolerance, source in (
        ("sum", "sum of the exponents", -41 / 3, "C", 1e-2, "-(10 + 1 + 8/3), the divergence"),
        ("flow", "second exponent", 0.0, "C", 1e-2, "a difference along the flow stays"),
        ("exponent", "largest exponent", 0.906, "M", 2e-2, "textbooks"),
    )
]
_GROWTH = Anchor(
    "growth",
    "growth of gradients by lag through the system itself, over its largest exponent",
    1.0,
    "C",
    "absolute",
    0.1,
    "the definition of the exponent",
    f"{PROBED} trajectories of {LENGTH * DT:g} units of time",
)
_LEARNED = [
    Anchor(id, quantity, published, provenance, kind, tolerance, source, _TRAINED, True, _LARGER)
    for id, quantity, published, provenance, kind, tolerance, source in (
        (
            "divergence",
            "D_stsp forced every 30 steps, over the lesser of every 200 and clipped",
            None,
            "V",
            "below",
            0.5,
            f"{_PAPER}, figures 1 and 2: the order alone",
        ),
        (
            "short",
            "D_stsp forced every 30 steps, over that of every 5",
            None,
            "V",
            "below",
            1.0,
            f"{_PAPER}, figure 2: the order alone",
        ),
        (
            "learned",
            "largest exponent of the network forced every 30 steps, over the system's",
            1.0,
            "C",
            "absolute",
            0.25,
            "the same algorithm on the system",
        ),
        (
            "slope",
            "growth of its clipped gradients by lag, over its largest exponent",
            1.0,
            "C",
            "absolute",
            0.25,
            f"{_PAPER}, theorem 2; the definition of the exponent",
        ),
    )
]

STUDY = Study(
    "S16",
    "Chaotic targets: forcing in place of clipping",
    "Gradients of a network that has learned a chaotic system must explode. Does clipping let it "
    "learn all the same, or does it need to be put onto the data every now and then?",
    (*_SYSTEM, _GROWTH, *_LEARNED),
    _run,
    draw,
    "Networks that have not learned the chaos cannot tell what its gradients do. 3000 updates at "
    "the scale cpu, where the authors' code makes 30,000, teach it to one of three networks that "
    "are forced every 30 steps: its largest exponent is the system's, and it meets all anchors.",
)
