"""S13, criticality: at which gain a random network neither vanishes nor explodes.

Mean-field theory says at which gain of W the first Lyapunov exponent of a random tanh network is
zero, and that inputs move it up; and for the MinimalRNN how far a gate bias lengthens the memory at
the start, by chi, the mean square singular value of a step. Both are compared with networks.

Sources: Sompolinsky, Crisanti & Sommers (1988), Molgedey, Schuchhardt & Schuster (1992) for the
tanh network; Chen, Pennington & Schoenholz (2018), arXiv 1806.05394, for the MinimalRNN.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import diagnostics
from .._cells.base import State
from .._cells.minimal import MinimalRNN
from .._cells.rnn import RNN
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY", "exponent_in_theory", "gaussian_exponent", "largest_exponent"]
__dir__ = __all__.copy

CRITICAL = {0.01: 1.1934, 0.1: 1.4093, 1.0: 1.8556}
"""Critical gain by the variance of the input (G2)."""
GAINS = (0.5, 0.9, 1.2, 1.6, 2.0, 3.0)
UNITS = {"ci": 400, "cpu": 400, "gpu": 1000}
STEPS = {"ci": 1000, "cpu": 2000, "gpu": 2000}
CHI = {(1.0, 0.0): 0.3645, (1.0, 1.0): 0.5606, (1.0, 2.0): 0.7444, (1.0, 4.0): 0.9464}
"""chi of the MinimalRNN by (gains and mean square of the inputs, bias) (G8)."""
BIASES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Biases of the figure, those of the anchors among them."""
POINT = (6.88, 1.39, 0.46, 0.0)
"""The critical point that Chen et al. name: gain, input gain, mean square input, bias."""
POINT_CHI = 0.9988


def exponent_in_theory(gain: float, variance: float) -> float:
    """lambda_1 of the tanh network by mean field."""
    found = diagnostics.mean_field(RNN(1), gain=float(gain), input_variance=variance)
    return found.exponent


def chi_in_theory(gain: float, input_gain: float, square: float, bias: float) -> float:
    """chi of the MinimalRNN by mean field, for candidates of that mean square."""
    found = diagnostics.mean_field(
        MinimalRNN(1),
        gain=gain,
        input_variance={"z": input_gain**2 * square, "n": square},
        bias={"z": float(bias)},
    )
    return found.chi


def largest_exponent(w_hh: Array, variance: Array, key: Key, steps: int) -> Array:
    """lambda_1 of h_t = tanh(h_{t-1} W + s_t), s_t of that variance in each unit.

    The exponents are those of x = W h + s, since J_h and J_x differ by a similarity.
    """
    size = len(w_hh)
    params = {"w_ih": jnp.eye(size, dtype=w_hh.dtype), "w_hh": w_hh, "b": jnp.zeros_like(w_hh[0])}
    key_start, key_inputs = jax.random.split(key)
    start = State(jnp.tanh(jax.random.normal(key_start, (size,), w_hh.dtype)))
    xs = jnp.sqrt(variance) * jax.random.normal(key_inputs, (steps, size), w_hh.dtype)
    found = diagnostics.lyapunov_spectrum(
        RNN(size), params, xs, start, exponents=1, warmup=steps // 5
    )
    return found.exponents[0]


@functools.partial(jax.jit, static_argnums=(3, 4))
def gaussian_exponent(key: Key, gain: Array, variance: Array, size: int, steps: int) -> Array:
    """lambda_1 with W ~ N(0, gain^2/N)."""
    key_w, key_run = jax.random.split(key)
    w_hh = gain / np.sqrt(size) * jax.random.normal(key_w, (size, size))
    return largest_exponent(w_hh, variance, key_run, steps)


@functools.partial(jax.jit, static_argnums=0)
def _chi(size: int, key: Key, point: Array) -> Array:
    """|J|_F^2 / N of a MinimalRNN's steps, averaged over steps 40, 50, ..., 80."""
    gain, input_gain, square, bias = point
    key_w, key_n, key_x = jax.random.split(key, 3)
    params = {
        # Candidates are n = +-sqrt(R), so their mean square is R; theory needs no more of them.
        "w_ih": jnp.eye(size),
        "b_n": jnp.zeros(size),
        "w_nh": input_gain / np.sqrt(size) * jax.random.normal(key_n, (size, size)),
        "w_hh": gain / np.sqrt(size) * jax.random.normal(key_w, (size, size)),
        "b": jnp.full(size, bias),
    }
    height = jnp.arctanh(jnp.sqrt(jnp.minimum(square, 1 - 1e-6)))
    xs = height * jax.random.rademacher(key_x, (80, size), jnp.float32)
    cell = MinimalRNN(size)
    carries = unroll(cell, params, xs, return_carries=True)[1]
    places = np.arange(40, 80, 10)

    def of_step(before: State, x: Array) -> Array:
        return jnp.sum(diagnostics.step_jacobian(cell, params, before, x) ** 2) / size

    return jnp.mean(jax.lax.map(lambda a: of_step(*a), (State(carries.h[places - 1]), xs[places])))


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    size, steps = UNITS[setting.scale], STEPS[setting.scale]
    measured: dict[str, Any] = {}
    logs: dict[str, list[float]] = {}  # ln chi, by anchor or bias of the figure.
    lines = {variance: [] for variance in CRITICAL}
    for seed in setting.seeds:
        # One matrix for all gains of a seed, so that the line shows the gain and not the draw.
        key = jax.random.key(seed)

        def exponent(gain: float, variance: float, key: Key = key) -> float:
            return float(
                gaussian_exponent(key, jnp.float32(gain), jnp.float32(variance), size, steps)
            )

        for variance, gain in CRITICAL.items():
            measured.setdefault(f"zero {variance}", []).append(exponent(gain, variance))
            lines[variance].append([exponent(gain, variance) for gain in GAINS])
        points = {f"chi {bias:g}": (1.0, 1.0, 1.0, bias) for bias in BIASES} | {"chi point": POINT}
        for name, point in points.items():
            found = _chi(size, jax.random.fold_in(key, 1), jnp.asarray(point))
            logs.setdefault(name, []).append(float(jnp.log(found)))
    for variance in CRITICAL:
        critical = diagnostics.critical_gain(RNN(1), input_variance=variance)
        measured[f"gain {variance}"] = [critical] * len(setting.seeds)
    measured |= {name: logs[name] for name in (*(f"chi {bias:g}" for _, bias in CHI), "chi point")}
    chis = np.exp([logs[f"chi {bias:g}"] for bias in BIASES]).T
    data = {"gains": GAINS, "exponents": list(lines.values()), "biases": BIASES, "chis": chis}
    return Findings(measured, data)


def _draw(data: dict[str, Any]) -> list[Chart]:
    gains = np.array(data["gains"])
    fine = np.linspace(gains[0], gains[-1], 40)
    exponents = [
        line(f"input variance {v:g}", gains, rows)
        for v, rows in zip(CRITICAL, data["exponents"], strict=True)
    ]
    theory = [
        line(
            f"mean field, {variance:g}",
            fine,
            [exponent_in_theory(gain, variance) for gain in fine],
            theory=True,
        )
        for variance in CRITICAL
    ]
    moved = Chart(
        "gain",
        f"Input moves the critical gain up, from {CRITICAL[0.01]:.2f} to {CRITICAL[1.0]:.2f}: "
        "below it gradients vanish, above it they explode",
        "gain g of W ~ N(0, g\N{SUPERSCRIPT TWO}/N)",
        "first Lyapunov exponent, nats a step",
        [*exponents, *theory],
        "A random tanh network with white input, the same W and inputs for every gain. Without "
        "input the critical gain is 1.",
    )
    biases = np.array(data["biases"])
    fine = np.linspace(biases[0], biases[-1], 40)
    chi = Chart(
        "chi",
        "A gate bias brings an untrained MinimalRNN near the critical line",
        "bias of the gate that keeps the state",
        "chi, mean square singular value of a step",
        [
            line("measured", biases, data["chis"]),
            line("mean field", fine, [chi_in_theory(1.0, 1.0, 1.0, bias) for bias in fine], True),
        ],
        "Weights of gain 1, candidates of mean square 1; chi = 1 is critical.",
    )
    return [moved, chi]


def _anchors() -> tuple[Anchor, ...]:
    anchors: list[Anchor] = []
    for variance, gain in CRITICAL.items():
        at = f"input variance {variance:g}"
        quantity = f"critical gain, {at}"
        anchors.append(
            Anchor(f"gain {variance}", quantity, gain, "C", "absolute", 1e-4, "mean field, G2", _BY)
        )
        anchors.append(
            Anchor(
                f"zero {variance}",
                f"first exponent at the critical gain {gain}, {at}",
                0.0,
                "C",
                "absolute",
                0.025,
                "mean field, G2",
                "tanh network of 400 units, white input, nats a step",
                median=True,
            )
        )
    for (of, bias), chi in CHI.items():
        anchors.append(_chi_anchor(f"chi {bias:g}", f"gains {of:g}, bias {bias:g}", chi))
    point = f"gain {POINT[0]}, gain of the candidates {POINT[1]}, of mean square {POINT[2]}, bias 0"
    return (*anchors, _chi_anchor("chi point", point, POINT_CHI))


_BY = "the library's own, diagnostics.critical_gain"


def _chi_anchor(id: str, of: str, chi: float) -> Anchor:
    return Anchor(
        id,
        f"ln chi of a MinimalRNN, {of}",
        round(float(np.log(chi)), 4),
        "C",
        "absolute",
        0.05,
        "mean field, G8",
        "400 units, candidates of both signs and equal size; networks of that size may differ by "
        "0.05, which tells one bias from the next, but not the last from the critical 0",
    )


STUDY = Study(
    "S13",
    "The critical gain",
    "At which gain does a random network neither lose its gradient nor let it explode, and what do "
    "its inputs and a gate's bias change?",
    _anchors(),
    _run,
    _draw,
)
