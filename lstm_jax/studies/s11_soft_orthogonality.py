"""S11, soft orthogonality: how far the singular values of W may stray from 1.

Linear networks learn copying with W = U diag(s) V^T and s within a margin m of 1: with m = 0 every
gradient keeps its norm through the silence, exactly and for ever; with a wider margin W may also
forget. The paper finds that a wider margin converges faster, up to silences of a thousand steps.

Source: Vorontsov et al. (2017), arXiv 1702.00071. It updates U and V by geodesic steps, here they
are Cayley transforms; its results on images are not repeated.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import diagnostics, losses, train
from .._cells.rnn import RNN
from .._layers import Readout
from .._typing import Key
from .._unroll import unroll
from ..charts import Chart, counted, line
from ..data import CopyMemory
from ..regularizers import NearOrthogonal
from .compiling import compiling
from .means import log_rms, survived, updates_until, window_means
from .record import Anchor, Findings, Setting, Study
from .turning import slower_turns

__all__ = ["STUDY"]
__dir__ = __all__.copy

MARGINS = (0.0, 0.01, 0.1, 1.0)
NONE = "none"
BATCH, RATE, SKEW_RATE, DECAY, LIMIT = 32, 1e-3, 1e-4, 0.9, 1.0
"""Learning rate of the rotations: a tenth of the others'. Gradients are clipped to +-LIMIT."""
LEARNED, WIDTH = 0.3, 25
"""Copying is learned when the mean loss over WIDTH updates is below this share of the baseline."""
PROBED = 16


class Sizes(NamedTuple):
    """Sizes of the training: silence, symbols to copy, hidden size, updates."""

    length: int
    width: int
    hidden_size: int
    updates: int


SIZES = {
    "ci": Sizes(40, 5, 48, 1500),
    "cpu": Sizes(100, 10, 96, 3000),
    "gpu": Sizes(1000, 10, 128, 20_000),
}


def _sweep(bounded: bool, setting: Setting) -> Any:
    """Train with every margin, or without one."""
    sizes = SIZES[setting.scale]
    task = CopyMemory(sizes.length, width=sizes.width)
    cell = RNN(sizes.hidden_size, "identity")
    net = Readout(cell, task.output_size)

    def weights(params: Any, config: Any) -> Any:
        return _kept(config).weights(params) if bounded else params

    def init(key: Key, config: Any) -> Any:
        params = net.init(key, task.input_size)
        return _kept(config).free(params) if bounded else params

    def loss(params: Any, batch: Any, config: Any) -> Any:
        return task.loss(unroll(net, weights(params, config), batch.xs)[1], batch)

    def probe(params: Any, key: Key, config: Any) -> Any:
        batch, params = task.sample(key, PROBED), weights(params, config)

        def last(ys: Any) -> Any:
            outputs = net.after(params, ys[-1:], ys[-1:])
            return losses.softmax_cross_entropy(outputs, batch.targets[-1:], batch.mask[-1:])

        norms = diagnostics.gradient_norms_by_lag(cell, params["inner"], batch.xs, last)
        values = jnp.linalg.svd(params["inner"]["w_hh"], compute_uv=False)
        return {"norms": log_rms(norms.h), "values": values}

    return train.sweep(
        loss,
        lambda config: slower_turns(RATE, SKEW_RATE, DECAY, LIMIT),
        init,
        lambda key: task.sample(key, BATCH),
        [{"margin": margin} for margin in (MARGINS if bounded else (math.inf,))],
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 5, 1),
        probe=probe,
        path=setting.path("bounded" if bounded else "free"),
    )


def _kept(config: Any) -> NearOrthogonal:
    return NearOrthogonal(map="cayley", margin=config["margin"])


def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    baseline = CopyMemory(sizes.length, width=sizes.width).baseline
    with compiling(quickly=setting.scale == "ci"):
        both = [_sweep(bounded, setting) for bounded in (True, False)]
    names = [*(f"{margin:g}" for margin in MARGINS), NONE]
    shares, norms, values = (
        np.concatenate(parts)
        for parts in (
            [window_means(survived(runs), WIDTH) / baseline for runs in both],
            [runs.probes["norms"][:, :, -1] for runs in both],
            [runs.probes["values"][:, :, -1] for runs in both],
        )
    )
    learned = updates_until(shares < LEARNED, WIDTH, WIDTH)
    notes: dict[str, Any] = {}
    for n, name in enumerate(names):
        notes[f"{_name(name)}: updates until copying is learned"] = learned[n]
        notes[f"{_name(name)}: loss at the end over that without memory"] = shares[n][:, -1]
        notes[f"{_name(name)}: least singular value at the end"] = values[n].min(-1)
        notes[f"{_name(name)}: largest singular value at the end"] = values[n].max(-1)
        notes[
            f"{_name(name)}: ln of the gradient at the longest lag over that at lag 0, at the end"
        ] = norms[n][:, -1] - norms[n][:, 0]
    measured: dict[str, Any] = {
        "flat": np.max(np.abs(norms[0] - norms[0][:, :1]), axis=1),
        "beyond": np.max(np.abs(values[:-1] - 1).max(-1) - np.array(MARGINS)[:, None], axis=0),
    }
    with np.errstate(invalid="ignore"):
        ratio = learned[names.index("0")] / learned[names.index("0.1")]
    if not np.isnan(ratio).any():  # NaN where neither has learned: then nobody can tell.
        measured["speed"] = ratio
    data = {
        "names": names,
        "sizes": sizes._asdict(),
        "baseline": baseline,
        "update": WIDTH * np.arange(1, shares.shape[-1] + 1),
        "losses": shares,
        "learned": learned,
        "norms": norms,
        "values": values,
    }
    return Findings(measured, data, notes)


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    names, sizes = data["names"], data["sizes"]
    learned = np.array(data["learned"], float)  # JSON has no inf.
    learned = np.median(np.where(np.isnan(learned), np.inf, learned), axis=1)
    counts = [f"{counted(n)} ({_name(m)})" for m, n in zip(names, learned, strict=True)]
    learning = Chart(
        "learning",
        f"Updates until copying is learned: {', '.join(counts)}",
        "updates",
        "loss over the loss without memory",
        [line(_name(n), data["update"], v) for n, v in zip(names, data["losses"], strict=True)],
        f"Copying {sizes['width']} symbols after {sizes['length']} steps, linear networks of "
        f"{sizes['hidden_size']} units that start orthogonal; learned: below {LEARNED}.",
        log_y=True,
    )
    norms = np.array(data["norms"], float)
    norms = norms - norms[..., :1]
    lags = np.arange(norms.shape[-1])
    far = {name: np.median(v[:, -1]) for name, v in zip(names, norms, strict=True)}
    left = ", ".join(f"e^{far[name]:.1f} ({_name(name)})" for name in names)
    gradients = Chart(
        "gradients",
        f"After learning, {lags[-1]} steps back multiply a gradient by {left}",
        "lag: steps before the last",
        "ln of the norm over that at lag 0",
        [line(_name(n), lags, v) for n, v in zip(names, norms, strict=True)],
        "Gradient of the cross entropy of the last symbol with respect to the state.",
    )
    values = np.array(data["values"], float)
    lowest, highest = (np.median(f(values[-1], axis=1)) for f in (np.min, np.max))
    spectra = Chart(
        "spectra",
        f"Without bounds learning leaves singular values between {lowest:.2f} and {highest:.2f}",
        "i / H",
        "i-th singular value of W after learning",
        [
            line(_name(n), np.arange(1, v.shape[1] + 1) / v.shape[1], v)
            for n, v in zip(names, values, strict=True)
        ],
        "All start at 1.",
    )
    return [learning, gradients, spectra]


def _name(margin: str) -> str:
    return "no bounds" if margin == NONE else f"margin {margin}"


# ---- anchors -------------------------------------------------------------------------------------
_FORM = f"RMSprop {RATE:g}, of U and V {SKEW_RATE:g}, batch {BATCH}; the bound is for T = 100"
_ANCHORS = (
    Anchor(
        "speed",
        "updates until copying is learned: margin 0 over margin 0.1",
        None,
        "V",
        "above",
        1.0,
        "Vorontsov et al. 2017: a wider margin converges faster at T = 200 to 1000",
        _FORM,
        median=True,
    ),
    Anchor(
        "flat",
        "largest change by lag of the gradient after learning with margin 0, nats",
        0.0,
        "C",
        "absolute",
        1e-4,
        "orthogonal matrices keep norms, G1",
        "float32",
    ),
    Anchor(
        "beyond",
        "largest distance of a singular value from 1 after learning, less the margin",
        None,
        "C",
        "below",
        1e-5,
        "s = 1 + 2m (sigmoid(p) - 1/2)",
        "float32, all margins",
    ),
)

STUDY = Study(
    "S11",
    "Soft orthogonality",
    "Must W stay orthogonal to learn a long memory, or does a margin around it help?",
    _ANCHORS,
    _run,
    _draw,
)
