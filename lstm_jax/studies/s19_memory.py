"""S19, the curse of memory: the longer a unit remembers, the steeper its loss.

A linear unit, h_t = l h_{t-1} + x_t with white x, and a teacher of the same form with its own l:

    E (dh/dl)^2 = (1 + l^2) / (1 - l^2)^3        the curvature of E (h - h_teacher)^2 / 2

so the largest stable learning rate, 2 over the curvature, falls as (1 - l^2)^3 though nothing
vanishes or explodes. With l = exp(-exp(nu)) and inputs scaled by sqrt(1 - l^2) the curvature is

    (l ln l / (1 - l^2))^2        between 0 and 1/4, and 1/4 for long memory.

Everything is in float64. Source: Zucchet & Orvieto (2024), arXiv 2405.21064; the second formula
follows from E h^2 = 1/(1 - l^2) and E h dh/dl = l/(1 - l^2)^2.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._cells.rnn import RNN
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY", "curvature", "curvature_of_log"]
__dir__ = __all__.copy

CELL = RNN(1, "identity")
DECAYS = {"ci": (0.5, 0.9, 0.99), "cpu": (0.5, 0.9, 0.99, 0.999), "gpu": (0.5, 0.9, 0.99, 0.999)}
UPDATES = 40
FACTORS = 2.0 ** (np.arange(-8, 9) / 4)
"""Learning rates that are tried, over 2 / curvature."""
RATE = 1.0
"""The one learning rate of the reparametrised unit, for every memory."""
OFFSET = 0.5
"""Distance of nu from the teacher's at the start of learning."""
NEAR = 0.02
"""A unit has learned its teacher when nu is this near."""


def curvature(decay: Any) -> Any:
    """E (dh/dl)^2, in closed form."""
    return (1 + decay**2) / (1 - decay**2) ** 3


def curvature_of_log(decay: Any) -> Any:
    """E (d sqrt(1 - l^2) h / d nu)^2, in closed form."""
    return (decay * np.log(decay) / (1 - decay**2)) ** 2


# ---- the unit ------------------------------------------------------------------------------------
def _plain(decay: Array, xs: Array) -> Array:
    """The states h_t [T, B, 1] of the unit."""
    params = {"w_ih": jnp.ones((1, 1)), "w_hh": decay.reshape(1, 1), "b": jnp.zeros(1)}
    return unroll(CELL, params, xs)[1]


def _decay(nu: Array) -> Array:
    return jnp.exp(-jnp.exp(nu))


def _scaled(nu: Array, xs: Array) -> Array:
    """The states of the unit with l = exp(-exp(nu)), of variance 1."""
    decay = _decay(nu)
    return jnp.sqrt(1 - decay**2) * _plain(decay, xs)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _sensitivity(states: Callable[..., Array], at: Array, key: Key, steps: int) -> Array:
    """E (d states / d at)^2 by a jvp, over 8 x 1000 sequences, without their first quarter."""

    def of_part(key: Key) -> Array:
        xs = jax.random.normal(key, (steps, 1000, 1), jnp.float64)
        d = jax.jvp(lambda p: states(p, xs), (at,), (jnp.ones_like(at),))[1]
        return jnp.mean(d[steps // 4 :] ** 2)

    return jnp.mean(lax.map(of_part, jax.random.split(key, 8)))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _descend(
    states: Callable[..., Array], start: Array, goal: Array, rates: Array, key: Key, steps: int
) -> Array:
    """Distances from the goal under gradient descent at each rate: [rates, UPDATES + 1]."""
    xs = jax.random.normal(key, (steps, 50, 1), jnp.float64)
    wanted = states(goal, xs)[steps // 4 :]

    def loss(p: Array) -> Array:
        return jnp.mean((states(p, xs)[steps // 4 :] - wanted) ** 2) / 2

    def run(rate: Array) -> Array:
        def update(p: Array, _: None) -> tuple[Array, Array]:
            return p - rate * jax.grad(loss)(p), p

        last, path = lax.scan(update, start, length=UPDATES)
        return jnp.append(path, last) - goal

    return jax.vmap(run)(rates)


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    decays = DECAYS[setting.scale]
    with jax.enable_x64(True):
        seeds = [_of_seed(jax.random.key(seed), decays) for seed in setting.seeds]
    measured: dict[str, Any] = {}
    for n, decay in enumerate(decays):
        measured[f"curvature {decay}"] = [seed["plain"][n] for seed in seeds]
        measured[f"rate {decay}"] = [seed["rate"][n] for seed in seeds]
        measured[f"curvature of log {decay}"] = [seed["scaled"][n] for seed in seeds]
    short, long = decays.index(0.5), decays.index(0.99)
    measured["updates"] = [seed["updates"][long] / seed["updates"][short] for seed in seeds]
    stacked = {name: np.array([seed[name] for seed in seeds]) for name in seeds[0]}
    return Findings(measured, {"decays": decays} | stacked)


def _of_seed(key: Key, decays: tuple[float, ...]) -> dict[str, Any]:
    """Everything that is measured with one seed: lists over the decays."""
    found: dict[str, Any] = {n: [] for n in ("plain", "scaled", "rate", "updates", "paths")}
    for n, decay in enumerate(decays):
        steps = round(20 / (1 - decay))
        key_plain, key_scaled, key_rate, key_learn = jax.random.split(jax.random.fold_in(key, n), 4)
        at = jnp.asarray(decay, jnp.float64)
        nu = jnp.log(-jnp.log(at))
        found["plain"].append(float(_sensitivity(_plain, at, key_plain, steps)))
        found["scaled"].append(float(_sensitivity(_scaled, nu, key_scaled, steps)))
        found["rate"].append(_largest_rate(at, key_rate, steps))
        path = _descend(_scaled, nu + OFFSET, nu, jnp.full(1, RATE), key_learn, steps)[0]
        found["paths"].append(np.abs(path))
        near = np.abs(path) < NEAR
        found["updates"].append(float(near.argmax()) if near.any() else np.inf)
    return found


def _largest_rate(at: Array, key: Key, steps: int) -> float:
    """The largest learning rate tried at which gradient descent comes back to the teacher."""
    rates = 2 / curvature(float(at)) * FACTORS
    start = at * (1 - 1e-4 * (1 - at))
    ends = np.asarray(_descend(_plain, start, at, jnp.asarray(rates), key, steps))
    stable = np.abs(ends[:, -1]) < np.abs(ends[:, 0])
    return float(rates[stable][-1]) if stable.any() else 0.0


def _draw(data: dict[str, Any]) -> list[Chart]:
    decays = np.array(data["decays"])
    times = 1 / (1 - decays)
    fine = 1 - 1 / np.geomspace(times[0], times[-1], 60)
    rise = curvature(decays[-1]) / curvature(decays[0])
    sensitivity = Chart(
        "curvature",
        f"From {times[0]:.0f} to {times[-1]:.0f} steps of memory the loss gets {rise:.1g} times "
        "steeper, unless the decay is reparametrised",
        "memory 1/(1 - l), in steps",
        "curvature of the loss",
        [
            line("in l", times, data["plain"]),
            line("in nu, inputs scaled", times, data["scaled"]),
            line("formula, in l", 1 / (1 - fine), curvature(fine), theory=True),
            line("formula, in nu", 1 / (1 - fine), curvature_of_log(fine), theory=True),
        ],
        "Mean square of the derivative of the state, by a jvp through the recurrence.",
        log_x=True,
        log_y=True,
    )
    paths = np.array(data["paths"], float)
    learning = Chart(
        "learning",
        "Reparametrised, one learning rate learns every memory",
        "updates",
        "distance of nu from the teacher's",
        [
            line(f"teacher l = {decay}", np.arange(paths.shape[2]), paths[:, n])
            for n, decay in enumerate(data["decays"])
        ],
        f"Gradient descent with learning rate {RATE} on the squared distance from the teacher.",
        log_y=True,
    )
    return [sensitivity, learning]


def _anchors() -> tuple[Anchor, ...]:
    anchors: list[Anchor] = []
    source = "(1+l\N{SUPERSCRIPT TWO})/(1-l\N{SUPERSCRIPT TWO})\N{SUPERSCRIPT THREE}, G7"
    for decay in DECAYS["cpu"]:
        scales = tuple(scale for scale, those in DECAYS.items() if decay in those)
        white = "white inputs of variance 1, float64"
        anchors += [
            Anchor(
                f"curvature {decay}",
                f"curvature in l at l = {decay}",
                float(curvature(decay)),
                "C",
                "relative",
                0.03,
                source,
                white,
                scales=scales,
            ),
            Anchor(
                f"rate {decay}",
                f"largest stable learning rate at l = {decay}",
                float(2 / curvature(decay)),
                "C",
                "factor",
                2.0,
                "2 over the curvature",
                f"{UPDATES} updates of gradient descent, rates in steps of 19 %",
                scales=scales,
            ),
            Anchor(
                f"curvature of log {decay}",
                f"curvature in nu at l = {decay}",
                float(curvature_of_log(decay)),
                "C",
                "relative",
                0.03,
                "(l ln l/(1-l\N{SUPERSCRIPT TWO}))\N{SUPERSCRIPT TWO}",
                f"l = exp(-exp(nu)), inputs scaled by sqrt(1-l\N{SUPERSCRIPT TWO}); {white}",
                scales=scales,
            ),
        ]
    equal = Anchor(
        "updates",
        "updates to learn l = 0.99 over those to learn l = 0.5, in nu",
        1.0,
        "C",
        "factor",
        2.0,
        "the curvatures in nu differ by 17 %",
        f"gradient descent, learning rate {RATE}, nu from {OFFSET} off to {NEAR} near",
    )
    return (*anchors, equal)


STUDY = Study(
    "S19",
    "The curse of memory",
    "Does a network that neither forgets nor explodes learn a long memory? Its loss gets steeper "
    "with the memory, so that a learning rate that is safe for a long one is hopeless for a short "
    "one.",
    _anchors(),
    _run,
    _draw,
)
