"""The figures of S16, chaotic targets."""

from typing import Any

import numpy as np

from ...charts import Chart, Line, line
from .forcing import CLIPPED, FORCED, GOOD, LENGTH, MAX_NORM
from .lorenz import DT

__all__ = ["draw"]
__dir__ = __all__.copy

_INTERVALS = [network.interval for network in FORCED]


def draw(data: dict[str, Any]) -> list[Chart]:
    """The figures; those against the interval only where several were trained."""
    several = [_distances(data), _exponents(data)] if len(data["names"]) > 1 else []
    return [*several, _lags(data), _free(data)]


def _of_good(data: dict[str, Any], what: str) -> np.ndarray:
    """The numbers of the network that is forced at the best interval."""
    return np.array(data[what][data["names"].index(GOOD.name)], float)


def _middle(values: Any) -> np.ndarray:
    """The medians over the seeds, [..., S] -> [...]; JSON has null for inf."""
    table = np.array(values, float)
    return np.median(np.where(np.isnan(table), np.inf, table), axis=-1)


def _by_interval(values: Any) -> list[Line]:
    """The forced networks by interval; the clipped one has none, so its line is flat."""
    *forced, clipped = np.array(values, float)
    flat = np.repeat(clipped[:, None], 2, axis=1)
    return [
        line("forced", _INTERVALS, np.transpose(forced)),
        line(CLIPPED.name, [_INTERVALS[0], LENGTH], flat),
    ]


def _distances(data: dict[str, Any]) -> Chart:
    *forced, clipped = _middle(data["distances"])
    said = ", ".join(f"{d:.2g} at {n}" for d, n in zip(forced, _INTERVALS, strict=True))
    return Chart(
        "distance",
        f"Divergence from the system, by steps between forcings: {said}; clipped instead, "
        f"{clipped:.2g}",
        "steps between two forcings",
        "D_stsp, nats",
        _by_interval(data["distances"]),
        "Kullback-Leibler divergence of histograms of states; 0 is the system itself.",
        log_x=True,
    )


def _exponents(data: dict[str, Any]) -> Chart:
    clipped, good = _middle(data["exponents"])[-1], np.median(_of_good(data, "exponents"))
    system = line("the system", [_INTERVALS[0], LENGTH], [data["exponent"]] * 2)
    return Chart(
        "exponents",
        f"The system's largest exponent is {data['exponent']:.2f}; forced every "
        f"{GOOD.interval} steps a network has {good:.2f}, clipped {clipped:.2f}",
        "steps between two forcings",
        "largest exponent, nats per unit of time",
        [*_by_interval(data["exponents"]), system],
        "Lyapunov exponents of networks that run by themselves.",
        log_x=True,
    )


def _lags(data: dict[str, Any]) -> Chart:
    norms = _of_good(data, "norms")
    clipped = norms + _of_good(data, "clip")[:, None]
    lag = np.arange(norms.shape[-1])
    rate = data["exponent"] * DT
    lines = [
        line(f"{GOOD.name}: before a clip", lag, norms),
        line(f"{GOOD.name}: after a clip", lag, clipped),
        line("as the system's exponent", lag, np.median(norms[:, 0]) + rate * lag, theory=True),
    ]
    if CLIPPED.name in data["names"]:
        lines.insert(2, line(f"trained {CLIPPED.name}", lag, data["norms"][-1]))
    return Chart(
        "lags",
        f"After a clip as before it, the gradient of the network {GOOD.name} grows by "
        f"e^{np.median(norms[:, -1] - norms[:, 0]):.0f} over {len(lag)} steps",
        "lag: steps before the last",
        "ln of the norm of dE/dh",
        lines,
        f"E: squared error of the last step. A clip to {MAX_NORM:g} scales all lags alike. "
        "Formula: the growth at the exponent of the system.",
    )


def _free(data: dict[str, Any]) -> Chart:
    free = np.array(data["free"], float)[:, 0]  # The first seed.
    time = DT * np.arange(free.shape[-1])
    shown = {name: z for name, z in zip(data["names"], free, strict=True) if name in _SHOWN}
    said = ", ".join(f"{name} by {z.std():.2f}" for name, z in shown.items())
    return Chart(
        "free",
        f"The networks by themselves vary: {said}; the system by 1",
        "time",
        "z, standardised",
        [
            line("the system", time, data["truth"]),
            *(line(name, time, z) for name, z in shown.items()),
        ],
        "Standard deviations; first seed, each from a state of its own.",
    )


_SHOWN = (GOOD.name, CLIPPED.name)
