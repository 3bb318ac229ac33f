"""S18, regularisers: what each does to the gradient that reaches the past.

A tanh RNN from a critical random start learns to add two numbers, with one regulariser at a time.
Shrinking W shrinks the gradient with every step back; penalties that ask W, or the step back of the
error, to keep norms do the opposite. In an LSTM zoneout keeps a part of the cell state at every
step, and so of its gradient: the factor of a step is p + (1 - p) f_t; dropout has no such part.

Sources: Pascanu, Mikolov & Bengio (2013), section 3.1, on L2, and Omega; Vorontsov et al. (2017),
orthogonality; Krueger & Memisevic (2016), the norm stabiliser; Schmidt et al. (2021), the manifold
attractor; Krueger et al. (2017), zoneout and its figure of dL/dc_t; Engelken (2023), flossing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, initializers, regularizers, train
from .._cells.contract import Recurrent
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._cells.wrappers import RecurrentDropout, Zoneout
from .._layers import Readout
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from ..data import Adding, Batch
from .compiling import compiling
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY"]
__dir__ = __all__.copy

TASK = Adding(100)
RATE, MAX_NORM, BATCH = 1e-3, 1.0, 32
SHARED = {"L2": 1e-3, "orthogonality": 0.01, "norm stabiliser": 1.0, "manifold attractor": 0.5}
"""Penalties that cost little, and their strengths: in one program, where others have 0.0."""
ALONE = {"Omega": 2.0, "flossing": 1.0, "zoneout": 1.0}
"""What costs much, or changes the cell: a program for each."""
ATTRACTING = 0.3
"""The share of the units that the manifold attractor binds."""
STRONGER = {"orthogonality, 10 times": 0.1, "orthogonality, 100 times": 1.0}
"""Not judged: is it the strength that keeps orthogonality from mattering?"""
NAMES = "none", *SHARED, *STRONGER, *ALONE
NOISES = "no noise", "zoneout", "dropout"
P = 0.1
"""The probability of zoneout, and of recurrent dropout."""


class Sizes(NamedTuple):
    """Hidden units; updates of the RNN, and of the LSTM."""

    hidden_size: int
    updates: int
    noisy_updates: int


SIZES = {"ci": Sizes(16, 300, 200), "cpu": Sizes(32, 1500, 1000), "gpu": Sizes(128, 10_000, 5000)}


class Drawn(NamedTuple):
    """A batch, and the key of the noise of training."""

    batch: Batch
    key: Key


def _sample(key: Key) -> Drawn:
    return Drawn(TASK.sample(key, BATCH), jax.random.fold_in(key, 1))


# ---- penalties on a tanh RNN ---------------------------------------------------------------------
def _rnn(sizes: Sizes, config: Any) -> Readout:
    size = sizes.hidden_size
    cell: Recurrent = RNN(size, w_hh_init=initializers.normal(float(1 / np.sqrt(size))))
    return Readout(Zoneout(cell, h=P) if config["alone"] == "zoneout" else cell, 1)


def _configs() -> list[dict[str, Any]]:
    """One regulariser each, in the order of NAMES."""
    nothing: dict[str, Any] = {name: 0.0 for name in SHARED} | {"alone": None}
    shared = [{**nothing, name: weight} for name, weight in SHARED.items()]
    shared += [{**nothing, "orthogonality": weight} for weight in STRONGER.values()]
    return [nothing, *shared, *({**nothing, "alone": name} for name in ALONE)]


def _penalised(sizes: Sizes, params: Any, drawn: Drawn, config: Any) -> tuple[Array, Array]:
    """The loss with its penalty, and the squared error alone."""
    net, alone, batch = _rnn(sizes, config), config["alone"], drawn.batch
    hs = unroll(net.inner, params["inner"], batch.xs, key=_noise(drawn, alone))[1]
    error = TASK.loss(net.after(params, hs, hs), batch)
    if alone is None:
        return error + _cheap(config, params["inner"], hs), error
    if alone == "Omega":
        found = regularizers.omega(net.inner, params["inner"], batch.xs, _of(net, params, batch))
        return error + ALONE[alone] * found, error
    if alone == "flossing":
        xs, half = batch.xs[:, 0], sizes.hidden_size // 2
        spectrum = diagnostics.lyapunov_spectrum(net.inner, params["inner"], xs, exponents=half)
        return error + ALONE[alone] * jnp.mean(jnp.square(spectrum.exponents)), error
    return error, error


def _cheap(config: Any, inner: Any, hs: Array) -> Array:
    """The penalties that share a program, each times its strength."""
    w = inner["w_hh"]
    penalties = {
        "L2": regularizers.l2(w),
        "orthogonality": regularizers.orthogonality(w),
        "norm stabiliser": regularizers.norm_stabilizer(hs),
        "manifold attractor": regularizers.manifold_attractor(
            w, inner["b"], round(ATTRACTING * w.shape[0])
        ),
    }
    return sum((config[name] * value for name, value in penalties.items()), jnp.zeros(()))


def _of(net: Readout, params: Any, batch: Batch) -> Any:
    """The squared error, as a function of the states of all steps."""
    return lambda hs: TASK.loss(net.after(params, hs, hs), batch)


def _noise(drawn: Drawn, name: Any) -> Key | None:
    """The key of the noise of training, if there is noise."""
    return drawn.key if name in ("zoneout", "dropout") else None


def _norms(net: Readout, params: Any, drawn: Drawn, name: Any) -> Any:
    """ln of the norms of the error's gradient, by step and sequence."""
    return diagnostics.gradient_norms_by_lag(
        net.inner,
        params["inner"],
        drawn.batch.xs,
        _of(net, params, drawn.batch),
        key=_noise(drawn, name),
    )


def _train_rnn(sizes: Sizes, setting: Setting) -> train.Runs:
    def probe(params: Any, key: Key, config: Any) -> dict[str, Array]:
        found = _norms(_rnn(sizes, config), params, _sample(key), config["alone"])
        norms = diagnostics.mean_log_norms(found.h)
        return {"norms": norms, "slope": diagnostics.slope_per_step(norms)}

    return train.sweep(
        lambda params, drawn, config: _penalised(sizes, params, drawn, config),
        lambda config: optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(RATE)),
        lambda key, config: _rnn(sizes, config).init(key, TASK.input_size),
        _sample,
        _configs(),
        setting.seeds,
        sizes.updates,
        chunk=sizes.updates // 5,
        probe=probe,
        has_aux=True,
        path=setting.path("penalties"),
    )


# ---- noise in an LSTM ----------------------------------------------------------------------------
def _lstm(sizes: Sizes, noise: str) -> Readout:
    cell: Recurrent = LSTM(sizes.hidden_size)
    if noise == "zoneout":
        cell = Zoneout(cell, h=P, c=P)
    if noise == "dropout":
        cell = RecurrentDropout(cell, rate=P)
    return Readout(cell, 1)


def _train_lstm(sizes: Sizes, setting: Setting) -> train.Runs:
    def loss(params: Any, drawn: Drawn, config: Any) -> Array:
        net, key = _lstm(sizes, config["noise"]), _noise(drawn, config["noise"])
        return TASK.loss(unroll(net, params, drawn.batch.xs, key=key)[1], drawn.batch)

    def probe(params: Any, key: Key, config: Any) -> Array:
        net = _lstm(sizes, config["noise"])
        return log_masses(_norms(net, params, _sample(key), config["noise"]).c)

    return train.sweep(
        loss,
        lambda config: optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(RATE)),
        lambda key, config: _lstm(sizes, config["noise"]).init(key, TASK.input_size),
        _sample,
        [{"noise": noise} for noise in NOISES],
        setting.seeds,
        sizes.noisy_updates,
        chunk=sizes.noisy_updates,
        probe=probe,
        path=setting.path("noise"),
    )


def log_masses(norms: Array) -> Array:
    """ln of the share of each step in the sum of all norms, from their logarithms: [T, B] -> [T]"""
    by_step = jax.nn.logsumexp(norms, axis=1)
    return by_step - jax.nn.logsumexp(by_step)


def early(masses: np.ndarray) -> np.ndarray:
    """The share of the first quarter of the steps, [..., T] -> [...]."""
    return np.exp(masses[..., : masses.shape[-1] // 4]).sum(-1)


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    with compiling(quickly=setting.scale == "ci"):
        runs, noisy = (learn(sizes, setting) for learn in (_train_rnn, _train_lstm))
    errors = runs.history["aux"][..., -50:].mean(-1)  # [C, S]
    slope = runs.probes["slope"]  # [C, S, P]
    radius = np.asarray(diagnostics.spectral_radius(runs.params["inner"]["w_hh"]))  # [C, S]
    notes: dict[str, Any] = {"slope before learning": slope[0, :, 0]}
    for c, name in enumerate(NAMES):
        notes[f"{name}: mean squared error"] = errors[c]
        notes[f"{name}: slope of ln |dL/dh|, nats a step"] = slope[c, :, -1]
        notes[f"{name}: spectral radius of W"] = radius[c]
    masses = noisy.probes.astype(np.float64)  # [N, S, P, T]
    shares = early(masses)
    for n, noise in enumerate(NOISES):
        for when, p in (("before", 0), ("after", -1)):
            notes[f"LSTM, {noise}: first quarter's share {when} learning"] = shares[n, :, p]
    ends = dict(zip(NAMES, slope[..., -1], strict=True))
    measured = {name: ends[name] - ends["none"] for name in ORDERS}
    measured["zoneout"] = shares[1, :, -1] / shares[2, :, -1]
    data = {
        "slopes": dict(zip(NAMES, slope, strict=True)),
        "norms": dict(zip(NAMES, runs.probes["norms"][:, :, -1], strict=True)),
        "updates": runs.probed_at,
        "masses": dict(zip(NOISES, masses[:, :, -1], strict=True)),
    }
    return Findings(measured, data, notes)


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    slopes = {name: np.array(rows, float) for name, rows in data["slopes"].items()}
    ends = {name: float(np.median(rows[:, -1])) for name, rows in slopes.items()}
    ranked = sorted(ends, key=lambda name: ends[name])
    said = ", ".join(f"{name} {ends[name]:.3f}" for name in (ranked[0], "none", ranked[-1]))
    slope = Chart(
        "slopes",
        f"Slope of the gradient's norm after learning: {said}",
        "updates",
        "slope of ln |dL/dh_t| against the lag, nats a step",
        [line(name, data["updates"], rows) for name, rows in slopes.items()],
        f"A tanh RNN, the adding problem of length {TASK.length}. Zero keeps the norm; below it "
        "the gradient vanishes with the lag.",
    )
    steps = np.arange(TASK.length)
    norms = {name: np.array(rows, float)[:, ::-1] for name, rows in data["norms"].items()}
    far = {name: float(np.median(rows[:, -1] - rows[:, 0])) for name, rows in norms.items()}
    norm = Chart(
        "norms",
        f"Over all lags ln |dL/dh| changes by {far['L2']:.0f} with L2, {far['none']:.0f} without "
        f"penalty, {far['Omega']:.0f} with Omega",
        "lag: steps before the last",
        "ln |dL/dh_t|, mean over sequences",
        [line(name, steps, rows) for name, rows in norms.items()],
        "After learning.",
    )
    masses = {name: np.array(rows, float) for name, rows in data["masses"].items()}
    quarter = ", ".join(f"{np.median(early(rows)):.2g} {name}" for name, rows in masses.items())
    mass = Chart(
        "masses",
        f"The first quarter's share of the gradient of an LSTM's cell state: {quarter}",
        "t",
        "share of step t in the sum of |dL/dc_t|",
        [line(name, steps, np.exp(rows)) for name, rows in masses.items()],
        f"After learning, with the noise of training, p = {P:g}.",
        log_y=True,
    )
    return [slope, norm, mass]


# ---- anchors -------------------------------------------------------------------------------------
ORDERS = {
    "L2": ("below", "Pascanu, Mikolov & Bengio (2013), section 3.1"),
    "Omega": ("above", "Pascanu, Mikolov & Bengio (2013), section 3.3"),
    "orthogonality": ("above", "Vorontsov et al. (2017)"),
}
"""On which side of no penalty the slope must be."""


def _anchors() -> tuple[Anchor, ...]:
    strengths = SHARED | ALONE
    orders = [
        Anchor(
            name,
            f"slope of ln |dL/dh|, {name} less no penalty, nats a step",
            None,
            "V",
            kind,
            0.0,
            source,
            f"tanh RNN, strength {strengths[name]:g}, clip {MAX_NORM:g}, adam {RATE:g}",
            median=True,
        )
        for name, (kind, source) in ORDERS.items()
    ]
    zoneout = Anchor(
        "zoneout",
        "first quarter's share of |dL/dc_t|, zoneout over dropout",
        None,
        "V",
        "above",
        2.0,
        "Krueger et al. (2017), the figure of gradients after one epoch of permuted MNIST",
        f"LSTM, p = {P:g}, after learning, with the noise of training",
        median=True,
    )
    return (*orders, zoneout)


STUDY = Study(
    "S18",
    "Regularisers and the gradient",
    "Which regularisers keep the gradient of early steps, and which make it vanish?",
    _anchors(),
    _run,
    _draw,
    "Orthogonality holds W at the norm 1, and what the tanh takes away remains: ten and a hundred "
    "times as strong, among the notes, it leaves slopes between -0.1 and -0.3 in every seed. "
    "Without a penalty W grows, and the slope is anywhere between -0.1 and -0.6: in some seeds as "
    "little steep as with one.",
)
