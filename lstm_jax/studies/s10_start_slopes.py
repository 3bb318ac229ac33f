"""S10, starts: how fast a gradient decays in an untrained network, by the start of W.

An orthogonal W keeps every gradient of a linear network. Under tanh it is the mean-field network of
gain 1: with input gradients vanish exponentially, without input as T^(-1/2). A Gaussian W follows
mean-field theory of its gain.

Sources: Saxe, McClelland & Ganguli (2014) for orthogonal starts of linear networks; the mean field
of `diagnostics.mean_field` for the rest.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import diagnostics, initializers
from .._cells.base import State
from .._cells.rnn import RNN
from .._typing import Array, Key
from ..charts import Chart, line
from .record import Anchor, Findings, Setting, Study
from .s13_criticality import exponent_in_theory, gaussian_exponent, largest_exponent

__all__ = ["STUDY"]
__dir__ = __all__.copy

UNITS = 256
STEPS = {"ci": 800, "cpu": 1500, "gpu": 1500}
LAGS = 200
VARIANCES = (0.0, 0.1, 1.0)
ORTHOGONAL = {0.1: -0.1864, 1.0: -0.4595}
"""lambda_1 of an orthogonal W under tanh, by the variance of the input: mean field at gain 1."""
GAUSSIAN = {(2.0, 0.0): 0.15472, (2.0, 1.0): 0.04598}
"""lambda_1 by (gain, variance of the input), G2."""
ALGEBRAIC = (100, 400)
"""Steps T between which, and four times T, growth without input is measured."""


def _orthogonal(key: Key, size: int) -> Array:
    return initializers.orthogonal()(key, (size, size), jnp.zeros(()).dtype)


@functools.partial(jax.jit, static_argnums=2)
def _exponent_of_orthogonal(key: Key, variance: Array, steps: int) -> Array:
    key_w, key_run = jax.random.split(key)
    return largest_exponent(_orthogonal(key_w, UNITS), variance, key_run, steps)


@functools.partial(jax.jit, static_argnums=(1, 3))
def _norms(w_hh: Array, activation: str, key: Key, steps: int, variance: Array) -> Array:
    """ln |dL/dh_t| by lag, [steps], of a loss that is linear in the last state."""
    size = len(w_hh)
    params = {"w_ih": jnp.eye(size, dtype=w_hh.dtype), "w_hh": w_hh, "b": jnp.zeros_like(w_hh[0])}
    key_start, key_x, key_v = jax.random.split(key, 3)
    draw = functools.partial(jax.random.normal, dtype=w_hh.dtype)
    start, v = State(jnp.tanh(draw(key_start, (size,)))), draw(key_v, (size,))
    xs = jnp.sqrt(variance) * draw(key_x, (steps, size))

    def loss(ys: Array) -> Array:
        return jnp.vdot(v, ys[-1])

    cell = RNN(size, activation)
    return diagnostics.gradient_norms_by_lag(cell, params, xs, loss, start).h[::-1]


@jax.jit
def _growth(key: Key) -> Array:
    """ln |J_t ... J_1 v| of an orthogonal W under tanh without input, for every t."""
    key_w, key_start = jax.random.split(key)
    size = UNITS // 2
    w_hh = _orthogonal(key_w, size)
    params = {"w_ih": jnp.zeros((1, size)), "w_hh": w_hh, "b": jnp.zeros(size)}
    start = State(jnp.tanh(jax.random.normal(key_start, (size,))))
    xs = jnp.zeros((4 * ALGEBRAIC[-1], 1))
    spectrum = diagnostics.lyapunov_spectrum(RNN(size), params, xs, start, exponents=1)
    return jnp.cumsum(spectrum.growth[:, 0])


def _run(setting: Setting) -> Findings:
    steps = STEPS[setting.scale]
    with jax.enable_x64(True):
        seeds = [_of_seed(jax.random.key(seed), steps) for seed in setting.seeds]
    names = [key for key in seeds[0] if key not in ("lines", "growth")]
    data = {
        "lines": {name: [seed["lines"][name] for seed in seeds] for name in seeds[0]["lines"]},
        "growth": [seed["growth"] for seed in seeds],
    }
    return Findings({name: [seed[name] for seed in seeds] for name in names}, data)


def _of_seed(key: Key, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    key_w, key_run = jax.random.split(key)
    w_hh = _orthogonal(key_w, UNITS)
    zero = jnp.zeros((), jnp.float64)
    slope = diagnostics.slope_per_step(_norms(w_hh, "identity", key_run, LAGS, zero)[::-1])
    found["linear"] = float(slope)
    for variance in ORTHOGONAL:
        at = jnp.asarray(variance, jnp.float64)
        found[f"orthogonal {variance}"] = float(_exponent_of_orthogonal(key, at, steps))
    for gain, variance in GAUSSIAN:
        numbers = (jnp.asarray(n, jnp.float64) for n in (gain, variance))
        found[f"gaussian {gain} {variance}"] = float(gaussian_exponent(key, *numbers, 400, steps))
    growth = np.asarray(_growth(key))
    for t in ALGEBRAIC:
        found[f"algebraic {t}"] = float((growth[4 * t - 1] - growth[t - 1]) / np.log(4))
    lines = {}
    for variance in VARIANCES:
        at = jnp.asarray(variance, jnp.float64)
        norms = np.asarray(_norms(w_hh, "tanh", key_run, LAGS, at))
        lines[f"{variance:g}"] = norms - norms[0]
    return found | {"lines": lines, "growth": growth[::10]}


def _draw(data: dict[str, Any]) -> list[Chart]:
    lag = np.arange(LAGS)
    lines = [
        line(f"input variance {variance}", lag, norms) for variance, norms in data["lines"].items()
    ]
    theory = [
        line(f"mean field, {variance:g}", lag, lag * exponent_in_theory(1.0, variance), True)
        for variance in ORTHOGONAL
    ]
    far = lines[-1].middle[-1]
    slopes = Chart(
        "slopes",
        f"Under tanh an orthogonal start loses its gradient: with inputs e^{far:.0f} of it is left "
        f"after {LAGS} steps",
        "lag: steps before the last",
        "ln of the norm over that at lag 0",
        [*lines, *theory],
        "An untrained network of 256 units; the linear one would keep the gradient at 0.",
    )
    growth = np.array(data["growth"], float)
    steps = 10 * np.arange(growth.shape[1]) + 1
    half = growth[:, 10].mean() - 0.5 * (np.log(steps) - np.log(steps[10]))
    algebraic = Chart(
        "algebraic",
        "Without input the decay is a power of time, not an exponential",
        "steps T",
        "ln of the growth of a small difference",
        [line("measured", steps, growth), line("T to the power -1/2", steps, half, True)],
        "Orthogonal W under tanh, 128 units.",
        log_x=True,
    )
    return [slopes, algebraic]


def _anchors() -> tuple[Anchor, ...]:
    orthogonal = [
        Anchor(
            f"orthogonal {variance}",
            f"first exponent, orthogonal W, tanh, input variance {variance:g}",
            exponent,
            "C",
            "absolute",
            0.01,
            "mean field at gain 1, G2",
            f"{UNITS} units, nats a step",
        )
        for variance, exponent in ORTHOGONAL.items()
    ]
    gaussian = [
        Anchor(
            f"gaussian {gain} {variance}",
            f"first exponent, Gaussian W of gain {gain:g}, tanh, input variance {variance:g}",
            exponent,
            "C",
            "absolute",
            0.025,
            "mean field, G2",
            "400 units, nats a step",
            median=True,
        )
        for (gain, variance), exponent in GAUSSIAN.items()
    ]
    algebraic = [
        Anchor(
            f"algebraic {t}",
            f"power of T in the decay without input, from T = {t} to {4 * t}",
            -0.5,
            "C",
            "absolute",
            0.02,
            "dh/dt = -h\N{SUPERSCRIPT THREE}/3",
            f"orthogonal W, tanh, {UNITS // 2} units",
        )
        for t in ALGEBRAIC
    ]
    linear = Anchor(
        "linear",
        "slope of the gradient by lag, orthogonal W, linear network, nats a step",
        0.0,
        "C",
        "absolute",
        1e-10,
        "orthogonal matrices keep norms, G1",
        "float64",
    )
    return (linear, *orthogonal, *gaussian, *algebraic)


STUDY = Study(
    "S10",
    "Starts of W against the mean-field line",
    "How fast does a gradient vanish before any learning, and what does an orthogonal start "
    "change?",
    _anchors(),
    _run,
    _draw,
)
