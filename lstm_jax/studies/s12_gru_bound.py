"""S12, a spectral bound for the GRU: when its resting state is stable, and what a bound on W costs.

Without inputs and biases the origin is a fixed point of a GRU. There r = z = 1/2, so a step has the
Jacobian

    J = I/2 + W/4,        W the recurrent block of the candidate

and |J| < 1 in the 2-norm if |W| < 2. So a projection of W that keeps its norm below 2 - delta after
every update keeps the origin stable. It is sufficient, and necessary only for some W: the origin
loses its stability where an eigenvalue m of W has |1/2 + m/4| = 1. A positive definite W has
m = |W|, so at |W| = 2; a Gaussian W, with eigenvalues in a disc of half its norm, at |W| = 4.

Source: Kanai, Fujiwara & Iwamura (2017), "Preventing gradient explosions in gated recurrent units",
NeurIPS, whose projection is `regularizers.keep_singular_values(0, 2 - delta, gates=(2,))`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, initializers, optim, regularizers, train
from .._cells.gru import GRU
from .._layers import Readout
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from ..data import Adding
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY", "exponent_in_theory", "transition"]
__dir__ = __all__.copy

SIZE, BOUND = 32, 2.0
NORMS = np.arange(0.5, 6.01, 0.5)
STEPS = 3000
"""Steps of the free-running network."""
TRANSITIONS = {"positive definite": (2.0, 1e-3), "orthogonal": (2.0, 0.05), "Gaussian": (4.0, 0.2)}
"""Norm of W at which the origin becomes unstable, and the relative tolerance."""
DELTA, CANDIDATE = 0.2, 2
RULES: dict[str, dict[str, Any]] = {
    "none": {"max_norm": math.inf, "bounded": False},
    "clip 0.1": {"max_norm": 0.1, "bounded": False},
    f"|W| < {BOUND - DELTA:g}": {"max_norm": math.inf, "bounded": True},
}
RATE, MOMENTUM, BATCH = 0.3, 0.9, 32


class Sizes(NamedTuple):
    """Sizes of the training: length of the adding problem, hidden size, updates."""

    length: int
    hidden_size: int
    updates: int


SIZES = {"ci": Sizes(30, 16, 800), "cpu": Sizes(50, 32, 2000), "gpu": Sizes(100, 256, 10_000)}


# ---- the origin ----------------------------------------------------------------------------------
def _matrix(kind: str, key: Key) -> Array:
    """A random W [H, H] of that kind with the norm 1."""
    if kind == "orthogonal":
        return initializers.orthogonal()(key, (SIZE, SIZE), jnp.float64)
    w = jax.random.normal(key, (SIZE, SIZE), jnp.float64)
    w = w @ w.T if kind == "positive definite" else w
    return w / jnp.linalg.norm(w, 2)


def _params(w: Array, key: Key) -> dict[str, Array]:
    """A GRU without biases whose candidate has the recurrent block `w`."""
    size = len(w)
    params = GRU(size).init(key, size)
    params = {n: jnp.zeros_like(p) if n.startswith("b") else p for n, p in params.items()}
    params = {n: p.astype(w.dtype) for n, p in params.items()}
    return params | {"w_hh": params["w_hh"].at[:, CANDIDATE * size :].set(w)}


@jax.jit
def _jacobian(w: Array, key: Key) -> Array:
    """The Jacobian of a step at the origin."""
    cell, params, x = GRU(len(w)), _params(w, key), jnp.zeros(len(w), w.dtype)
    return diagnostics.step_jacobian(cell, params, cell.initial_carry(params), x)


def exponent_in_theory(w: Any) -> float:
    """First Lyapunov exponent of the origin, ln max |1/2 + m/4| over the eigenvalues m of w."""
    return float(np.log(np.abs(0.5 + np.linalg.eigvals(np.asarray(w)) / 4).max()))


def transition(w: Any) -> float:
    """The norm at which a multiple of w, which has the norm 1, makes the origin unstable."""
    m = np.linalg.eigvals(np.asarray(w)) / 4
    m = m[np.abs(m) > 0]
    # |1/2 + s m| = 1:  |m|^2 s^2 + Re(m) s - 3/4 = 0, its positive root.
    square = np.abs(m) ** 2
    roots = (-m.real + np.sqrt(m.real**2 + 3 * square)) / (2 * square)
    return float(roots.min())


@jax.jit
def _exponent(w: Array, key: Key, xs: Array) -> Array:
    """First Lyapunov exponent along xs, from the origin."""
    found = diagnostics.lyapunov_spectrum(GRU(len(w)), _params(w, key), xs, exponents=1, warmup=200)
    return found.exponents[0]


@jax.jit
def _rest(w: Array, key: Key) -> Array:
    """Norm of the state of the free-running network, long after a small push."""
    cell, params = GRU(len(w)), _params(w, key)
    start = jax.tree.map(lambda leaf: leaf + 0.01, cell.initial_carry(params))
    xs = jnp.zeros((STEPS, len(w)), w.dtype)
    return jnp.linalg.norm(unroll(cell, params, xs, start)[0].h)


def _of_seed(seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """What is measured at the origin with one seed, and what is drawn."""
    key, key_gru, key_x = jax.random.split(jax.random.key(seed), 3)
    matrices = {kind: _matrix(kind, key) for kind in TRANSITIONS}
    still = jnp.zeros((1000, SIZE), jnp.float64)
    driven = jax.random.normal(key_x, still.shape, jnp.float64)
    measured: dict[str, float] = {}
    drawn: dict[str, Any] = {"exponents": {}, "states": {}}
    for kind, w in matrices.items():
        off = _jacobian(BOUND * w, key_gru) - (jnp.eye(SIZE) / 2 + BOUND * w.T / 4)
        measured[f"jacobian {kind}"] = float(jnp.abs(off).max())
        below = float(_exponent(0.95 * BOUND * w, key_gru, still))
        measured[f"stable {kind}"] = below
        measured[f"exponent {kind}"] = below - exponent_in_theory(0.95 * BOUND * w)
        edge = transition(w)
        measured[f"transition {kind}"] = edge
        measured[f"rest below {kind}"] = float(_rest(0.95 * edge * w, key_gru))
        measured[f"rest above {kind}"] = float(_rest(1.05 * edge * w, key_gru))
        drawn["exponents"][kind] = [float(_exponent(n * w, key_gru, still[:500])) for n in NORMS]
        drawn["states"][kind] = [float(_rest(n * w, key_gru)) for n in NORMS]
    gaussian = matrices["Gaussian"]
    drawn["driven"] = [float(_exponent(n * gaussian, key_gru, driven)) for n in NORMS]
    return measured, drawn


# ---- training ------------------------------------------------------------------------------------
def _learn(setting: Setting) -> Any:
    sizes = SIZES[setting.scale]
    task = Adding(sizes.length)
    net = Readout(GRU(sizes.hidden_size), task.output_size)

    def tx(config: Any) -> optax.GradientTransformation:
        sgd = optim.clipped_sgd(RATE, config["max_norm"], MOMENTUM)
        if not config["bounded"]:
            return optax.chain(sgd, optax.identity())
        keep = regularizers.keep_singular_values(0.0, BOUND - DELTA, gates=(CANDIDATE,))
        return optax.chain(sgd, keep)

    def probe(params: Any, key: Key, config: Any) -> Array:
        return diagnostics.spectral_norm(_candidate(params["inner"]["w_hh"]))

    return train.sweep(
        lambda params, batch, config: task.loss(unroll(net, params, batch.xs)[1], batch),
        tx,
        lambda key, config: net.init(key, task.input_size),
        lambda key: task.sample(key, BATCH),
        list(RULES.values()),
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 20, 1),
        probe=probe,
        path=setting.path("adding"),
    )


def _candidate(w_hh: Array) -> Array:
    return w_hh[:, CANDIDATE * len(w_hh) :]


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    with jax.enable_x64(True):
        seeds = [_of_seed(seed) for seed in setting.seeds]
    measured: dict[str, Any] = {id: [found[id] for found, _ in seeds] for id in seeds[0][0]}
    drawn = [of_seed for _, of_seed in seeds]
    data = {
        name: {kind: [d[name][kind] for d in drawn] for kind in TRANSITIONS}
        for name in ("exponents", "states")
    }
    runs = _learn(setting)
    measured["kept"] = runs.probes[2, :, 1:].max(axis=-1)
    notes: dict[str, Any] = {}
    for c, rule in enumerate(RULES):
        gradients = runs.history["norm_before"][c]
        notes[f"largest norm of a gradient over the median, {rule}"] = gradients.max(
            axis=-1
        ) / np.median(gradients, axis=-1)
        notes[f"norm of the candidate's W at the end, {rule}"] = runs.probes[c, :, -1]
        notes[f"loss at the end, {rule}"] = runs.history["loss"][c, :, -50:].mean(axis=-1)
        notes[f"updates before it diverged, {rule}"] = runs.steps_to_divergence[c]
    data |= {
        "driven": [d["driven"] for d in drawn],
        "rules": list(RULES),
        "updates": runs.probed_at,
        "norms": runs.probes,
        "diverged": runs.steps_to_divergence,
    }
    return Findings(measured, data, notes)


def _draw(data: dict[str, Any]) -> list[Chart]:
    origin = [line(kind, NORMS, values) for kind, values in data["exponents"].items()]
    edges = ", ".join(f"{edge:g} if {kind}" for kind, (edge, _) in TRANSITIONS.items())
    exponents = Chart(
        "exponents",
        f"Below |W| = 2 the origin is stable for every W; it is lost at {edges}",
        "spectral norm of the candidate's W",
        "first Lyapunov exponent, nats a step",
        [*origin, line("Gaussian, white input", NORMS, data["driven"])],
        f"GRUs of {SIZE} units, without biases, at rest or with input.",
    )
    states = Chart(
        "states",
        "Beyond that norm the network does not come to rest",
        "spectral norm of the candidate's W",
        "norm of the state",
        [line(kind, NORMS, values) for kind, values in data["states"].items()],
        f"Without input, {STEPS} steps after a push of 0.01 in every unit.",
    )
    return [exponents, states, _training(data)]


def _training(data: dict[str, Any]) -> Chart:
    """The norm of W while the networks learn, of the runs that did not diverge."""
    norms = np.array(data["norms"], float)
    lost = np.isfinite(np.array(data["diverged"], float))  # JSON has no inf: None, then NaN.
    norms[lost] = np.nan
    runs = f"of {lost.shape[1]}"
    said = ", ".join(
        f"{rule} {of.sum()} {runs}" for rule, of in zip(data["rules"], lost, strict=True)
    )
    return Chart(
        "training",
        f"A bound on W is not a bound on the gradient: runs that diverged, {said}",
        "updates",
        "spectral norm of the candidate's W",
        [line(rule, data["updates"], of) for rule, of in zip(data["rules"], norms, strict=True)],
        f"The adding problem, SGD {RATE:g} with momentum {MOMENTUM:g}; diverged runs left out.",
        log_y=True,
    )


# ---- anchors -------------------------------------------------------------------------------------
_G6 = "J = I/2 + W/4, G6"


def _anchors() -> tuple[Anchor, ...]:
    anchors: list[Anchor] = []
    make = functools.partial(Anchor, provenance="C", source=_G6)
    for kind, (edge, tolerance) in TRANSITIONS.items():
        of = f"{kind} W of {SIZE} units, float64"
        rest = f"norm of the state {STEPS} steps after a small push, |W| at"
        rows = [
            ("jacobian", "largest error of I/2 + W/4 as the Jacobian", 0.0, "absolute", 1e-12),
            ("stable", f"first exponent at |W| = {0.95 * BOUND:g}", None, "below", 0.0),
            ("exponent", "that exponent less ln max |1/2 + m/4|", 0.0, "absolute", 5e-3),
            (
                "transition",
                "norm at which the origin becomes unstable",
                edge,
                "relative",
                tolerance,
            ),
            ("rest below", f"{rest} 0.95 of that norm", None, "below", 1e-3),
            ("rest above", f"{rest} 1.05 of that norm", None, "above", 1e-2),
        ]
        anchors += [
            make(
                f"{id} {kind}", f"{what}, {kind}", number, kind=how, tolerance=bound, convention=of
            )
            for id, what, number, how, bound in rows
        ]
    most = BOUND - DELTA
    kept = "largest norm of the candidate's W while a projected network learns"
    how = f"adding, SGD {RATE:g}, momentum {MOMENTUM:g}"
    return (
        *anchors,
        Anchor("kept", kept, most, "C", "below", most + 1e-4, "2 - delta", how),
    )


STUDY = Study(
    "S12",
    "A spectral bound for the GRU",
    "Up to which recurrent weights does a GRU come to rest, and can a bound on them take the place "
    "of clipping?",
    _anchors(),
    _run,
    _draw,
)
