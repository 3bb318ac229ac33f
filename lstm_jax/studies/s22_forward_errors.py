"""S22, errors propagated forwards: the gradient of BPTT without going back, and what rounding does.

With the loss L = sum_t l_t(h_t), J_t the Jacobian of step t and g_t the gradient of l_t, the errors
delta_t = dL/dh_t obey a recursion that can be run both ways:

    backwards:  delta_t = J_{t+1}' delta_{t+1} + g_t          from delta_T = g_T
    forwards:   delta_{t+1} = J_{t+1}^-T (delta_t - g_t)      from delta_0

A first pass forwards from 0 ends at some delta'_T, and since the difference of two solutions is
multiplied by J^-T at every step,

    delta_0 = (J_T ... J_1)' (delta_T - delta'_T).

A second pass then gives all errors, and the gradient, with no memory of the past. On paper. But an
imprecision e of delta_0 grows to l^-T e with l the factor of a linear unit, and in general at the
rate of minus the last Lyapunov exponent: what a network forgets best spoils the errors most. In
floating point the method ends after ln(1 / rounding) nats.

Source: Zucchet, Pourcel & Ernoult (2026), "Forward propagation of errors through time", 17 February
2026, github.com/nzucchet/Online-BPTT (whose formula of delta_0 has the other sign). It is not the
method of that name of Kag & Saligrama (2021), which optimises something else than the gradient.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import diagnostics
from .._cells.gru import GRU
from .._cells.independent import IndRNN
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY", "backward_errors", "forward_errors", "of_network"]
__dir__ = __all__.copy

CELLS = {"tanh RNN": RNN, "GRU": GRU, "LSTM": LSTM}
DECAYS = (0.9, 0.99)
LENGTHS = {"ci": (32, 98, 256), "cpu": (32, 98, 256, 784), "gpu": (32, 98, 256, 784)}
UNITS = {"ci": 8, "cpu": 16, "gpu": 32}
NATS = {"float32": np.log(2.0**24), "float64": np.log(2.0**53)}
"""ln(1 / rounding) by dtype: the growth after which an imprecision is all that is left."""
GROWN = np.arange(2.0, 61.0, 2.0)
"""Growth over the whole sequence, T |ln l|, at which networks of linear units are measured."""
STEPS, WARMUP = 120, 200
"""Steps over which a random network's errors are followed, and steps before them."""
TRIED = np.arange(1, STEPS + 1)
GOOD = 0.9
"""Cosine to the gradient of BPTT that counts as the gradient."""


_EXACT = "quality from the exact first error"


class Linearized(NamedTuple):
    """A network along a sequence: what the errors depend on.

    Attributes:
        jacobians: [T, N, N], J_1 ... J_T.
        local: [T, N], g_1 ... g_T.
    """

    jacobians: Array
    local: Array


# ---- the method ----------------------------------------------------------------------------------
def backward_errors(network: Linearized) -> Array:
    """The errors delta_1 ... delta_T [T, N], as BPTT has them."""
    jacobians, local = network
    after = jnp.concatenate([jacobians[1:], jnp.zeros_like(jacobians[:1])])

    def step(delta: Array, at: Any) -> tuple[Array, Array]:
        jacobian, g = at
        delta = jacobian.T @ delta + g
        return delta, delta

    return lax.scan(step, jnp.zeros_like(local[0]), (after, local), reverse=True)[1]


def forward_errors(network: Linearized, start: Array) -> Array:
    """The errors delta_1 ... delta_T [T, N] forwards from delta_0."""
    before = jnp.concatenate([jnp.zeros_like(network.local[:1]), network.local[:-1]])

    def step(delta: Array, at: Any) -> tuple[Array, Array]:
        jacobian, g = at
        delta = jnp.linalg.solve(jacobian.T, delta - g)
        return delta, delta

    return lax.scan(step, start, (network.jacobians, before))[1]


def first_error(network: Linearized) -> Array:
    """delta_0 [N], from a first pass forwards that starts at 0."""
    last = forward_errors(network, jnp.zeros_like(network.local[0]))[-1]

    def times(product: Array, jacobian: Array) -> tuple[Array, None]:
        return jacobian @ product, None

    one = jnp.eye(len(last), dtype=last.dtype)
    product = lax.scan(times, one, network.jacobians)[0]
    return product.T @ (network.local[-1] - last)


def of_network(cell: Any, params: Any, xs: Array, carry: Any, local: Array) -> Linearized:
    """The Jacobians of a cell's steps along xs [T, D], with the gradients of the losses given."""

    def step(carry: Any, x: Array) -> Any:
        jacobian = diagnostics.step_jacobian(cell, params, carry, x)
        return cell.step(params, carry, x)[0], jacobian

    return Linearized(lax.scan(step, carry, xs)[1], local)


def _cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle between two gradients; 0 where one is not finite."""
    scale = jnp.max(jnp.abs(a))
    a = a / jnp.where(scale > 0, scale, 1)
    found = jnp.sum(a * b) / jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))
    return jnp.where(jnp.isfinite(found), found, 0)


# ---- linear units --------------------------------------------------------------------------------
@functools.partial(jax.jit, static_argnums=(4, 5))
def _quality(key: Key, grown: Array, length: Array, spread: Array, size: int, steps: int) -> Array:
    """Cosine of the forward gradient in w_hh to BPTT's, for linear units with factors of [l, 1).

    l = exp(-grown / length). Local losses are squared distances from white targets.
    spread: 1, or 0 for units that all have the factor l.
    """
    key_l, key_x, key_y = jax.random.split(key, 3)
    dtype = grown.dtype
    lowest = jnp.exp(-grown / length)
    share = spread * jax.random.uniform(key_l, (size,), dtype).at[0].set(0)
    decays = lowest + share * (1 - lowest)
    cell = IndRNN(size, "identity")
    params = {"w_ih": jnp.eye(size, dtype=dtype), "w_hh": decays, "b": jnp.zeros(size, dtype)}
    xs = jax.random.normal(key_x, (steps, size), dtype)
    ys = unroll(cell, params, xs)[1]
    local = ys - jax.random.normal(key_y, (steps, size), dtype)
    network = of_network(cell, params, xs, cell.initial_carry(params), local)
    before = jnp.concatenate([jnp.zeros_like(ys[:1]), ys[:-1]])

    def gradient(errors: Array) -> Array:
        return jnp.sum(errors * before, axis=0)  # dh_t/dw = h_{t-1}

    forward = forward_errors(network, first_error(network))
    return _cosine(gradient(forward), gradient(backward_errors(network)))


def _horizon(grown: np.ndarray, quality: np.ndarray) -> float:
    """The growth up to which the gradient is good: between the last good and the first bad."""
    bad = np.flatnonzero(quality < GOOD)
    if not bad.size:
        return np.inf
    return float(grown[0] if not bad[0] else (grown[bad[0] - 1] + grown[bad[0]]) / 2)


def _growth_of_unit(decay: float, steps: int = 100) -> float:
    """Rate in nats a step at which an imprecision of delta_0 grows, in one linear unit."""
    one = jnp.ones((steps, 1), jnp.float64)
    network = Linearized(decay * one[..., None], one)
    right = first_error(network)
    off = forward_errors(network, right + 1.0) - forward_errors(network, right)
    return float(jnp.log(off[-1, 0])) / steps


# ---- random networks -----------------------------------------------------------------------------
@functools.partial(jax.jit, static_argnums=(0, 2))
def _of_cell(cell: Any, key: Key, input_size: int) -> dict[str, Array]:
    """How an imprecision of delta_0 grows in a random network, and how good its errors are."""
    key_cell, key_x, key_v, key_g = jax.random.split(key, 4)
    draw = functools.partial(jax.random.normal, dtype=jnp.float64)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), cell.init(key_cell, input_size))
    xs = draw(key_x, (WARMUP + STEPS, input_size))
    carry = unroll(cell, params, xs[:WARMUP])[0]
    size = len(diagnostics.carry_to_vector(carry))
    local = draw(key_g, (STEPS, size))
    network = of_network(cell, params, xs[WARMUP:], carry, local)

    def step(v: Array, jacobian: Array) -> tuple[Array, Array]:
        v = jnp.linalg.solve(jacobian.T, v)
        norm = jnp.linalg.norm(v)
        return v / norm, jnp.log(norm)

    start = draw(key_v, (size,))
    grown = jnp.cumsum(lax.scan(step, start / jnp.linalg.norm(start), network.jacobians)[1])
    # After the warm-up the frame has turned to the directions of these very steps.
    spectrum = diagnostics.lyapunov_spectrum(cell, params, xs, warmup=WARMUP)
    return {
        "grown": grown,
        "last": spectrum.exponents[-1],
        "last, second half": spectrum.growth[STEPS // 2 :, -1].mean(),
        "quality": lax.map(lambda n: _agreement(network, n, False), jnp.asarray(TRIED)),
        _EXACT: lax.map(lambda n: _agreement(network, n, True), jnp.asarray(TRIED)),
    }


def _agreement(network: Linearized, length: Array, exact: bool) -> Array:
    """Cosine of the forward errors to those of BPTT, over the first `length` steps alone.

    exact: start from BPTT's own delta_0, so that only the second pass can spoil them.
    """
    inside = (jnp.arange(len(network.local)) < length)[:, None]
    # Steps that do nothing and lose nothing, so that one program does for all lengths.
    jacobians = jnp.where(
        inside[..., None], network.jacobians, jnp.eye(network.local.shape[1])[None]
    )
    cut = Linearized(jacobians, jnp.where(inside, network.local, 0))
    backward = backward_errors(cut)
    start = cut.jacobians[0].T @ backward[0] if exact else first_error(cut)
    forward = forward_errors(cut, start)
    return _cosine(jnp.where(inside, forward, 0), backward)


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    measured: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    data: dict[str, Any] = {"lengths": LENGTHS[setting.scale], "quality": {}, "cells": {}}
    keys = [jax.random.key(seed) for seed in setting.seeds]
    with jax.enable_x64(True):
        for decay in DECAYS:
            measured[f"unit {decay}"] = [_growth_of_unit(decay)] * len(keys)
        for length in LENGTHS[setting.scale]:
            for dtype in NATS:
                curves = [_curve(key, length, dtype, UNITS[setting.scale]) for key in keys]
                data["quality"].setdefault(dtype, {})[str(length)] = curves
                found = [_horizon(GROWN, curve) for curve in curves]
                measured[f"horizon {dtype} {length}"] = found
                curves = [_curve(key, length, dtype, UNITS[setting.scale], 0.0) for key in keys]
                found = [_horizon(GROWN, curve) for curve in curves]
                notes[f"that, {dtype}, T = {length}, if all units forget alike"] = found
        for name, make in CELLS.items():
            seeds = [_of_cell(make(UNITS["cpu"]), key, 4) for key in keys]
            _store(name, seeds, measured, notes)
            data["cells"][name] = {k: np.array([s[k] for s in seeds]) for k in seeds[0]}
    return Findings(measured, data, notes)


def _curve(key: Key, length: int, dtype: str, size: int, spread: float = 1.0) -> np.ndarray:
    """The quality of the gradient at each of GROWN."""
    along, width = (jnp.asarray(x, dtype) for x in (length, spread))
    at = [jnp.asarray(grown, dtype) for grown in GROWN]
    return np.array([float(_quality(key, grown, along, width, size, length)) for grown in at])


def _store(name: str, seeds: list[Any], measured: Any, notes: Any) -> None:
    """File the growth and the horizon of a random network of that cell."""
    rates = np.array([float(seed["last"]) for seed in seeds])
    # The same steps for both: over so few, the rate of one half is not that of the other.
    same = np.array([float(seed["last, second half"]) for seed in seeds])
    half = STEPS // 2
    grown = np.array([np.asarray(seed["grown"]) for seed in seeds])
    measured[f"rate {name}"] = (grown[:, -1] - grown[:, half - 1]) / half / -same
    notes[f"last Lyapunov exponent, nats a step, {name}"] = rates
    for quality, of in (("quality", ""), (_EXACT, ", from the exact first error")):
        horizons = np.array([_horizon(TRIED, np.asarray(seed[quality])) for seed in seeds])
        notes[f"steps up to which the errors are good in float64{of}, {name}"] = horizons
        shares = horizons / (NATS["float64"] / -rates)
        if of:
            notes[f"these steps over ln(1/rounding) over the rate{of}, {name}"] = shares
        else:
            measured[f"steps {name}"] = shares


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    steps = np.arange(STEPS) + 1
    lines, rates = [], []
    for name, found in data["cells"].items():
        last = float(np.median(np.array(found["last"], float)))
        rates.append(f"{name} {-last:.2f}")
        lines += [
            line(name, steps, found["grown"]),
            line(f"{name}: last Lyapunov exponent", steps, -last * steps, theory=True),
        ]
    growth = Chart(
        "growth",
        f"An imprecision grows at the rate of what is forgotten fastest: nats a step, "
        f"{', '.join(rates)}",
        "step",
        "growth of the imprecision, nats",
        lines,
        f"Random networks of {UNITS['cpu']} units with white input.",
    )
    quality = [
        line(f"{dtype}, T = {length}", GROWN, curves)
        for dtype, by_length in data["quality"].items()
        for length, curves in by_length.items()
    ]
    ends = ", ".join(f"{dtype} {nats:.0f}" for dtype, nats in NATS.items())
    return [
        growth,
        Chart(
            "quality",
            f"The forward gradient is right up to ln(1/rounding) nats of forgetting: {ends}",
            "forgetting of the fastest unit over the sequence, T |ln l|, in nats",
            "cosine to the gradient of BPTT",
            quality,
            "Linear units with factors between l and 1.",
        ),
    ]


# ---- anchors -------------------------------------------------------------------------------------
_POST = "Zucchet, Pourcel & Ernoult 2026"


def _anchors() -> tuple[Anchor, ...]:
    anchors = [
        Anchor(
            f"unit {decay}",
            f"growth of an imprecision of the first error, nats a step, factor {decay}",
            float(-np.log(decay)),
            "V",
            "relative",
            1e-4,
            f"l^-T, {_POST}",
            "one linear unit, 100 steps, float64",
        )
        for decay in DECAYS
    ]
    for length in LENGTHS["cpu"]:
        scales = tuple(scale for scale, lengths in LENGTHS.items() if length in lengths)
        for dtype, nats in NATS.items():
            what = f"nats of forgetting up to which the gradient is good, {dtype}, T = {length}"
            of = f"linear units, cosine to BPTT above {GOOD}"
            source = f"ln(1/rounding) from l^-T, {_POST}"
            horizon = (f"horizon {dtype} {length}", what, float(nats), "C", "relative", 0.25)
            anchors.append(Anchor(*horizon, source, of, True, scales))
    for name in CELLS:
        where = f"random {name} of {UNITS['cpu']} units, white input, float64"
        rate = "growth of an imprecision, over minus the last Lyapunov exponent"
        source = "the product of J^-T grows as the product of J shrinks"
        anchors.append(
            Anchor(f"rate {name}", f"{rate}, {name}", 1.0, "C", "relative", 0.1, source, where)
        )
        steps = "steps up to which the errors are good, over ln(1/rounding) over that rate"
        source = "l^-T with l = exp(last exponent)"
        anchors.append(
            Anchor(
                f"steps {name}", f"{steps}, {name}", 1.0, "C", "factor", 1.5, source, where, True
            )
        )
    return tuple(anchors)


STUDY = Study(
    "S22",
    "Errors propagated forwards in time",
    "The errors of backpropagation through time can be computed forwards, by inverted Jacobians. "
    "For how many steps, until rounding has grown as large as the errors?",
    _anchors(),
    _run,
    _draw,
    "From BPTT's own first error the second pass is good for ln(1/rounding) over the rate, within "
    "16 % for every cell and seed (below). But the method takes the first error from a first pass, "
    "which has grown as much at its end: rounding there mixes what the product of Jacobians would "
    "shrink again. The two together leave about two thirds of the steps, of the LSTM's 0.62 where "
    "0.67 was allowed. In networks of linear units, those that remember more than the fastest "
    "carry most of the gradient, and the more units there are, the longer it is good though the "
    "fastest is spoiled. If all forget alike, a note, it is good for ln(1/rounding) nats, to the 2 "
    "nats between two measurements.",
)
