"""S17, why clipping accelerates: where the gradient is large, the loss is curved as well.

A fixed learning rate must be safe where the loss is curved most. If the curvature grows with the
gradient, |H| <= L_0 + L_1 |g|, that is where the gradient is largest, and everywhere else such a
rate is far too small. A clipped step is small where the gradient is large and can have a larger
rate for the rest. On f(x) = e^x + e^-x - 2, from anywhere in [-x_0, x_0], gradient descent is
stable up to the rate x_0 / sinh x_0, so its updates grow as sinh(x_0) / x_0, those of clipped
descent as x_0: it is faster by a factor without a bound.

The second half asks a small LSTM that learns characters whether its curvature does grow with its
gradient, and what clipping is worth at the best learning rate of each.

Source: Zhang, He, Sra & Jadbabaie (2020), "Why gradient clipping accelerates training", ICLR, arXiv
1905.11881.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import diagnostics, losses, optim, train
from .._cells.lstm import LSTM
from .._layers import Readout
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from ..data.text import Vocabulary, read
from .means import running_means
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY", "descent_in_theory", "updates_of_descent"]
__dir__ = __all__.copy

NEAR, STARTS, LATEST = 0.1, 81, 2000
"""Distance from the minimum that counts as there; starts in [-x_0, x_0]; most updates."""
DISTANCES = (4.0, 5.0, 6.0, 7.0, 8.0)
SHORT, LONG = 6.0, 8.0
RATES = (1.0, 3.0, 10.0, 30.0)
MAX_NORM = 0.25
SYMBOLS, CHARACTERS, SMOOTH = 64, 200_000, 20


class Sizes(NamedTuple):
    """Sizes of the training: characters of a window, windows, hidden size, updates."""

    window: int
    batch: int
    hidden_size: int
    updates: int


SIZES = {
    "ci": Sizes(24, 8, 24, 200),
    "cpu": Sizes(32, 16, 64, 500),
    "gpu": Sizes(70, 80, 1150, 5000),
}


# ---- one dimension -------------------------------------------------------------------------------
def descent_in_theory(start: float) -> float:
    """Growth of the updates of gradient descent with the largest distance x_0, up to a factor."""
    return math.sinh(start) / start


def updates_of_descent(
    start: float, rate: float, max_norm: float = math.inf, most: float = LATEST
) -> float:
    """Updates until every start in [-x_0, x_0] is near the minimum of e^x + e^-x - 2; else inf."""
    x = np.linspace(-start, start, STARTS)
    for n in range(int(most)):
        if np.all(np.abs(x) < NEAR):
            return float(n)
        g = 2 * np.sinh(x)
        x = x - rate * g * np.minimum(1, max_norm / np.maximum(np.abs(g), 1e-300))
        if np.any(np.abs(x) > start * (1 + 1e-9)):
            return math.inf
    return math.inf


@functools.cache
def _best(start: float, clipped: bool) -> float:
    """Least updates over learning rates, and if clipped over the largest norm of a gradient."""
    limits = 2.0 ** np.arange(-2, 5) if clipped else [math.inf]
    best = float(LATEST)
    for rate in np.geomspace(1, 1e-3, 61):
        for limit in limits:
            # One that is not better by then need not be followed further.
            best = min(best, updates_of_descent(start, rate, limit, best))
    return best


def _smoothness(loss: Any, formula: Any) -> float:
    """Largest relative error of `local_smoothness` against a formula of the gradient's norm."""
    found = jax.vmap(lambda p: diagnostics.local_smoothness(loss, p))(jnp.linspace(0.5, 6, 12))
    return float(jnp.max(jnp.abs(found.smoothness / formula(found.gradient_norm) - 1)))


# ---- characters ----------------------------------------------------------------------------------
@functools.cache
def _text() -> np.ndarray:
    """The default corpus as numbers of symbols."""
    text = read(max_chars=CHARACTERS)
    return Vocabulary.from_text(text, SYMBOLS).encode(text).astype(np.int32)


def _learn(setting: Setting) -> Any:
    sizes = SIZES[setting.scale]
    text = jnp.asarray(_text())
    net = Readout(LSTM(sizes.hidden_size), SYMBOLS)

    def windows(key: Key) -> Array:
        starts = jax.random.randint(key, (sizes.batch,), 0, len(text) - sizes.window)
        return text[starts[None] + jnp.arange(sizes.window + 1)[:, None]]

    def loss(params: Any, ids: Array, config: Any) -> Array:
        xs = jax.nn.one_hot(ids[:-1], SYMBOLS, dtype=jnp.float32)
        return losses.softmax_cross_entropy(unroll(net, params, xs)[1], ids[1:])

    def probe(params: Any, key: Key, config: Any) -> Any:
        # The direction of the gradient, in which SGD goes.
        return diagnostics.local_smoothness(lambda p: loss(p, windows(key), config), params)

    return train.sweep(
        loss,
        lambda config: optim.clipped_sgd(config["rate"], config["max_norm"]),
        lambda key, config: net.init(key, SYMBOLS),
        windows,
        [{"rate": rate, "max_norm": limit} for limit in (MAX_NORM, math.inf) for rate in RATES],
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 25, 1),
        probe=probe,
        path=setting.path("characters"),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of the logarithms, over the probes at which both are positive."""
    known = (a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(np.log(a[known]), np.log(b[known]))[0, 1])


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    seeds = len(setting.seeds)
    measured: dict[str, Any] = {
        "exp": [_smoothness(jnp.exp, lambda g: g)] * seeds,
        "power": [_smoothness(lambda p: p**4, lambda g: 12 * (g / 4) ** (2 / 3))] * seeds,
    }
    updates = {
        name: [_best(start, clipped) for start in DISTANCES]
        for name, clipped in (("fixed rate", False), ("clipped", True))
    }
    for name, counts in updates.items():
        ratio = counts[DISTANCES.index(LONG)] / counts[DISTANCES.index(SHORT)]
        measured[name] = [ratio] * seeds
    runs = _learn(setting)
    found = _compare(runs, SIZES[setting.scale].updates)
    measured |= {"correlation": found["correlation"][0], "speed": found["speed"]}
    notes = {
        "correlation at the best rate without clipping": found["correlation"][1],
        "best rate, clipped": found["rates"][0],
        "best rate without clipping": found["rates"][1],
        "loss at the end, best rate, clipped": found["ends"][0],
        "loss at the end, best rate without clipping": found["ends"][1],
        "rates without clipping that diverged": np.isfinite(
            runs.steps_to_divergence[len(RATES) :]
        ).sum(axis=0),
    }
    data = {"updates": updates, "curves": found["curves"], "points": found["points"]}
    return Findings(measured, data, notes)


def _compare(runs: Any, updates: int) -> dict[str, Any]:
    """The best rate of each rule for each seed, by the loss at the end, and what it is like."""
    smooth = running_means(runs.history["loss"], SMOOTH)  # [C, S, N]
    smooth = np.where(np.isfinite(runs.steps_to_divergence)[..., None], np.inf, smooth)
    ends = smooth[..., -1].reshape(2, len(RATES), -1)
    best = np.argmin(ends, axis=1)  # [2, S]
    pick = best + len(RATES) * np.arange(2)[:, None]
    seeds = np.arange(best.shape[1])
    curves = smooth[pick, seeds]
    goal = curves[1, :, -1]
    reached = curves[0] <= goal[:, None]
    first = np.where(reached.any(axis=1), reached.argmax(axis=1) + SMOOTH, np.inf)
    smoothness, norms = (np.asarray(leaf)[pick, seeds] for leaf in runs.probes)
    pairs = [list(zip(s, n, strict=True)) for s, n in zip(smoothness, norms, strict=True)]
    return {
        "rates": np.array(RATES)[best],
        "ends": curves[..., -1],
        "curves": curves,
        "speed": updates / first,
        "correlation": [[_correlation(*pair) for pair in of_rule] for of_rule in pairs],
        "points": {"smoothness": smoothness, "norms": norms},
    }


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    updates = {name: np.array(v, float) for name, v in data["updates"].items()}
    gain = updates["fixed rate"][-1] / updates["clipped"][-1]
    scale = updates["fixed rate"][0] / descent_in_theory(DISTANCES[0])
    theory = [scale * descent_in_theory(start) for start in DISTANCES]
    one = Chart(
        "one-dimension",
        f"From {DISTANCES[-1]:g} away, clipping needs {gain:.0f} times fewer updates",
        "largest distance of the start from the minimum",
        "updates at the best rate",
        [
            *(line(name, DISTANCES, counts) for name, counts in updates.items()),
            line("sinh(x) / x", DISTANCES, theory, theory=True),
        ],
        "Gradient descent on e^x + e^-x - 2.",
        log_y=True,
    )
    curves = np.array(data["curves"], float)
    rules = (f"clipped at {MAX_NORM:g}", "not clipped")
    ends = ", ".join(
        f"{rule} {np.median(c[:, -1]):.2f}" for rule, c in zip(rules, curves, strict=True)
    )
    learning = Chart(
        "learning",
        f"Loss at the end, each at its best learning rate: {ends}",
        "updates",
        "nats a character",
        [
            line(rule, np.arange(c.shape[1]) + SMOOTH, c)
            for rule, c in zip(rules, curves, strict=True)
        ],
        f"An LSTM on Python's source, means over {SMOOTH} updates.",
    )
    return [one, learning, _scatter(data["points"], rules)]


def _scatter(points: dict[str, Any], rules: tuple[str, ...]) -> Chart:
    """The curvature against the norm of the gradient, in order of the norm."""
    smoothness, norms = (np.array(points[name], float) for name in ("smoothness", "norms"))
    lines, said = [], []
    for rule, of_l, of_g in zip(rules, smoothness, norms, strict=True):
        order = np.argsort(of_g[0])
        lines.append(line(rule, of_g[0][order], of_l[0][order]))
        r = np.median([_correlation(*pair) for pair in zip(of_l, of_g, strict=True)])
        said.append(f"{rule} {r:.2f}")
    return Chart(
        "smoothness",
        f"Correlation of ln curvature and ln gradient: {', '.join(said)}",
        "norm of the gradient",
        "curvature along the gradient",
        lines,
        "Probes along the learning of the first seed.",
        log_x=True,
        log_y=True,
    )


# ---- anchors -------------------------------------------------------------------------------------
_ZHANG = "Zhang et al. 2020"
_GROWTH = descent_in_theory(LONG) / descent_in_theory(SHORT)
_ONE = f"updates from {LONG:g} over those from {SHORT:g} away"

STUDY = Study(
    "S17",
    "Why clipping accelerates",
    "Is the loss curved most where its gradient is largest, and does a clipped step therefore get "
    "there sooner than the best fixed learning rate?",
    (
        Anchor(
            "exp",
            "largest relative error of the smoothness of e^p",
            0.0,
            "C",
            "absolute",
            1e-4,
            "L = |g|",
        ),
        Anchor(
            "power",
            "largest relative error of the smoothness of p^4",
            0.0,
            "C",
            "absolute",
            1e-4,
            "L = 12 (|g| / 4)^(2/3)",
        ),
        Anchor(
            "fixed rate",
            f"{_ONE}, best fixed rate",
            round(_GROWTH, 3),
            "C",
            "relative",
            0.25,
            "sinh(x) / x",
            "e^x + e^-x - 2, the slowest of all starts",
        ),
        Anchor(
            "clipped",
            f"{_ONE}, clipped",
            round(LONG / SHORT, 3),
            "C",
            "below",
            1.5,
            "x",
            "e^x + e^-x - 2, best rate and limit",
        ),
        Anchor(
            "correlation",
            "correlation of ln smoothness and ln |g|, clipped, best rate",
            None,
            "V",
            "above",
            0.5,
            f"positive correlation, {_ZHANG}, abstract",
            f"LSTM on characters, SGD, clip {MAX_NORM:g}, rates {RATES}",
            median=True,
        ),
        Anchor(
            "speed",
            "updates to the loss of the best rate without clipping: without over with",
            None,
            "V",
            "above",
            1.5,
            f"clipping accelerates, {_ZHANG}, abstract",
            f"LSTM on characters, SGD, clip {MAX_NORM:g}, each at the best of {RATES}",
            median=True,
        ),
    ),
    _run,
    _draw,
)
