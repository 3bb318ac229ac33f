"""S3, clipping and the penalty Omega: what lets SGD learn the order of two symbols far apart.

The temporal order problem, by SGD (no momentum), SGD with the gradient clipped to a norm of 1
(SGD-C), and with Omega beside it (SGD-CR), from three starts: a sigmoid network, whose gradient
vanishes at once; a basic tanh network with normal weights; and a smart one, sparse with a spectral
radius of 0.95. To remember, a network must bring the spectral radius of W_hh above 1: then its
gradient explodes, just when it learns.

Source: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063, section 4.1, and its authors' code.
"""

import math
from typing import Any

import numpy as np

from ..means import running_means, window_means
from ..record import Anchor, Findings, Setting, Study
from .figures import FRESH, SOLVED, WINDOW, draw
from .regimes import BATCH, MAX_NORM, RATE, REGIMES, STARTS, Sizes, trained

__all__ = ["STUDY", "solved_after"]
__dir__ = __all__.copy

SIZES = {
    "ci": Sizes(20, 20, 50, 2500, 0.5),
    "cpu": Sizes(20, 50, 50, 10_000, 0.5),
    "gpu": Sizes(50, 200, 50, 500_000, 2.0),
}


# ---- what is measured ----------------------------------------------------------------------------
def solved_after(wrong: np.ndarray, width: int) -> np.ndarray:
    """Updates until the share of errors over `width` updates is below `SOLVED`; inf if never."""
    below = running_means(wrong, width) < SOLVED
    return np.where(below.any(axis=-1), below.argmax(axis=-1) + width, np.inf)


def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    runs = trained(setting, sizes)

    def by_regime(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return values.reshape(len(STARTS), len(REGIMES), *values.shape[1:])

    losses, wrong = map(by_regime, runs.history["aux"])  # [starts, regimes, S, N]
    norms, radii = by_regime(runs.history["norm_before"]), by_regime(runs.probes)
    width = min(FRESH // BATCH, sizes.updates)
    solved = solved_after(wrong, width)
    errors = wrong[..., -width:].mean(axis=-1)
    grown = window_means(norms, WINDOW)
    grown = grown / grown[..., :1]
    measured = _measured(losses[..., -width:].mean(axis=-1), errors, solved)
    rho = _at(radii[2, 2], runs.probed_at, solved[2, 2])
    measured |= {"rho above": rho, "rho below": rho, "growth": grown[2, 2].max(axis=-1)}
    block = max(WINDOW, sizes.updates // 150)
    update = block * (1 + np.arange(sizes.updates // block))
    data: dict[str, Any] = {
        "lengths": (sizes.shortest, sizes.length),
        "update": update,
        "losses": window_means(losses, block),
        "norms": window_means(norms, block),
        "radii": radii,
        "probed": runs.probed_at,
        "solved": solved,
        "growth": grown.max(axis=-1),
    }
    return Findings(measured, data, _notes(errors, solved, radii[..., -1], grown, losses))


def _measured(losses: np.ndarray, errors: np.ndarray, solved: np.ndarray) -> dict[str, Any]:
    """The numbers of anchors, from those at the end, [starts, regimes, S]."""
    sigmoid_losses = losses[0]
    farthest = np.abs(sigmoid_losses - math.log(4)).argmax(axis=0)
    count = np.isfinite(solved).sum(axis=0)  # [regimes, S]
    return {
        "error": errors[2, 2],
        "sigmoid": np.take_along_axis(sigmoid_losses, farthest[None], axis=0)[0],
        "clipping": (count[1] - count[0]).astype(float),
        "penalty": (count[2] - count[1]).astype(float),
    }


def _at(radii: np.ndarray, probed: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """The spectral radius at the first probe after so many updates, at most the last; [S]."""
    n = np.minimum(np.searchsorted(probed, updates), len(probed) - 1)
    return radii[np.arange(len(radii)), n]


def _notes(
    errors: np.ndarray, solved: np.ndarray, radii: np.ndarray, grown: np.ndarray, losses: np.ndarray
) -> dict[str, Any]:
    """Numbers without a published one, for each start and regime."""
    notes: dict[str, Any] = {}
    for n, start in enumerate(STARTS):
        for r, regime in enumerate(REGIMES):
            of = f"{start}, {regime}"
            notes[f"updates to {SOLVED:.0%} errors, {of}"] = solved[n, r]
            notes[f"share of errors at the end, {of}"] = errors[n, r]
            notes[f"spectral radius at the end, {of}"] = radii[n, r]
            notes[f"largest gradient norm over the first, {of}"] = grown[n, r].max(axis=-1)
    left = window_means(losses[2, 2], WINDOW) < 0.9 * math.log(4)
    first = np.where(left.any(axis=-1), left.argmax(axis=-1), np.inf)
    largest = grown[2, 2].argmax(axis=-1).astype(float)
    notes["update at which the loss leaves ln 4 (by 10 %), smart tanh, SGD-CR"] = first * WINDOW
    notes["update of the largest gradient norm, smart tanh, SGD-CR"] = largest * WINDOW
    return notes


# ---- anchors -------------------------------------------------------------------------------------
_PAPER = "Pascanu, Mikolov & Bengio 2013"
_LOG = "their own log of a run, lengths 50 to 200, 336,000 updates"
_TASK = f"SGD, learning rate {RATE}, {BATCH} sequences, clipped to a norm of {MAX_NORM:g}"
_LARGER = ("cpu", "gpu")

_ANCHORS = (
    Anchor(
        "error",
        f"share of errors in the last {FRESH:,} sequences, smart tanh, SGD-CR",
        0.0,
        "V",
        "below",
        SOLVED,
        f"{_PAPER}, section 4.1.1: solved for lengths 50 to 200",
        f"{_TASK}; errors are counted while it learns on",
        median=True,
    ),
    Anchor(
        "sigmoid",
        "loss of the sigmoid network, nats, where it is farthest from ln 4",
        math.log(4),
        "C",
        "absolute",
        0.01,
        "ln 4, the loss without memory",
        f"mean over the last {FRESH:,} sequences, of all three regimes",
    ),
    *(
        Anchor(
            f"rho {kind}",
            f"spectral radius of W_hh when solved, smart tanh, SGD-CR: {words}",
            1.24,
            "V",
            kind,
            bound,
            _LOG,
            "of a network that does not solve the task, at the end",
            median=True,
        )
        for kind, bound, words in (("above", 1.0, "at least"), ("below", 1.6, "at most"))
    ),
    Anchor(
        "growth",
        f"largest mean gradient norm over {WINDOW} updates, over the first, smart tanh, SGD-CR",
        33_367 / 0.27,
        "V",
        "above",
        100.0,
        _LOG,
        "norms before clipping",
        median=True,
        scales=_LARGER,
    ),
    *(
        Anchor(
            id,
            f"starts of three that solve the task {words}",
            None,
            "V",
            "above",
            -0.5,
            f"{_PAPER}, figure 7, an image: the order alone",
            _TASK,
            median=True,
            scales=_LARGER,
        )
        for id, words in (
            ("clipping", "by SGD-C, less those by SGD"),
            ("penalty", "by SGD-CR, less those by SGD-C"),
        )
    ),
)

STUDY = Study(
    "S3",
    "Clipping and the penalty Omega",
    "Does SGD learn the order of two symbols far apart if its gradient is clipped, and sooner if "
    "a penalty keeps the error's norm from one step to the step before?",
    _ANCHORS,
    _run,
    draw,
    "At the scale cpu the sequences have 50 steps, and 10,000 updates are few: by SGD-CR one of "
    "three networks with the smart start has learned, one is at 6 % of errors and one has not yet "
    "left the plateau; with the basic start all three are at 3 to 7 %, clipped alone at 50 %, by "
    "plain SGD at 74 %. A note says at which update each leaves the plateau.",
)
