"""S14, Lyapunov spectra of recurrent networks, before and after they learn to remember.

The exponents are computed along the inputs, on the full state, by QR (Benettin). Three identities
check them in float64: their sum is the mean of ln |det J|, the first is the growth of any small
difference, and the number of steps between two QRs does not matter. Then three cells learn the
adding problem; what happens to their exponents has no published number and is only shown.

Sources: Engelken, Wolf & Abbott (2023), Phys. Rev. Research 5; Vogt et al. (2022). Natural
logarithms, nats a step.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, train
from .._cells.base import Cell
from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._layers import Readout
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from ..data import Adding
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY"]
__dir__ = __all__.copy

CELLS = {"tanh RNN": RNN, "LSTM": LSTM, "GRU": GRU}
INTERVALS = (1, 5, 10)
CHECKED, WARMUP, STEPS = 12, 200, 2000
"""Hidden units and steps of the networks of the identities."""
RESOLVED = 15.0
"""Nats by which directions may part between two QRs, as `lyapunov_spectrum` advises."""
BATCH, PROBED = 32, 8


class Sizes(NamedTuple):
    """Sizes of the training: length of the task, hidden size, updates."""

    length: int
    hidden_size: int
    updates: int


SIZES = {"ci": Sizes(20, 16, 1000), "cpu": Sizes(50, 32, 3000), "gpu": Sizes(100, 64, 10_000)}


# ---- identities ----------------------------------------------------------------------------------
@functools.partial(jax.jit, static_argnums=0)
def _identities(cell: Cell, key: Key) -> dict[str, Array]:
    """How far each identity is from being met, for a random cell that white inputs drive."""
    key_cell, key_x, key_v = jax.random.split(key, 3)
    draw = functools.partial(jax.random.normal, dtype=jnp.float64)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(key_cell, 3))
    xs = draw(key_x, (WARMUP + 2 * STEPS, 3))
    spectra = jnp.stack(
        [
            diagnostics.lyapunov_spectrum(cell, params, xs[:200], interval=n).exponents
            for n in INTERVALS
        ]
    )
    carry = cell.initial_carry(params, ())
    long = diagnostics.lyapunov_spectrum(cell, params, xs, exponents=1, warmup=WARMUP)
    off = long.growth[:, 0] - _growth(cell, params, xs, carry, key_v)
    changes = jnp.abs(spectra[1:] - spectra[0])
    resolved = INTERVALS[-1] * (spectra[0, 0] - spectra[0]) < RESOLVED
    return {
        "determinant": jnp.sum(spectra[0]) - _mean_log_determinant(cell, params, xs[:200], carry),
        "growth": jnp.mean(off[:STEPS]),
        "growth of twice the steps": jnp.mean(off),
        "interval": jnp.max(changes),
        "interval of resolved": jnp.max(jnp.where(resolved, changes, 0)),
    }


def _mean_log_determinant(cell: Cell, params: Any, xs: Array, carry: Any) -> Array:
    """Mean of ln |det J_t|."""

    def step(carry: Any, x: Array) -> Any:
        jacobian = diagnostics.step_jacobian(cell, params, carry, x)
        return cell.step(params, carry, x)[0], jnp.linalg.slogdet(jacobian)[1]

    return jnp.mean(jax.lax.scan(step, carry, xs)[1])


def _growth(cell: Cell, params: Any, xs: Array, carry: Any, key: Key) -> Array:
    """Growth of a small difference, in nats, in each step after the warm-up."""
    leaves, tree = jax.tree.flatten(carry)
    keys = jax.random.split(key, len(leaves))
    v = tree.unflatten(
        [jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)]
    )

    def step(state: Any, x: Array) -> Any:
        carry, v = state
        carry, v = jax.jvp(lambda c: cell.step(params, c, x)[0], (carry,), (v,))
        size = optax.global_norm(v)
        return (carry, jax.tree.map(lambda leaf: leaf / size, v)), jnp.log(size)

    return jax.lax.scan(step, (carry, v), xs)[1][WARMUP:]


# ---- learning ------------------------------------------------------------------------------------
def _learn(name: str, setting: Setting) -> Any:
    sizes = SIZES[setting.scale]
    task = Adding(sizes.length)
    cell = CELLS[name](sizes.hidden_size)
    net = Readout(cell, task.output_size)

    def probe(params: Any, key: Key, config: Any) -> Array:
        def spectrum(xs: Array) -> Array:
            return diagnostics.lyapunov_spectrum(cell, params["inner"], xs).exponents

        return jax.vmap(spectrum, in_axes=1)(task.sample(key, PROBED).xs).mean(axis=0)

    return train.sweep(
        lambda params, batch, config: task.loss(unroll(net, params, batch.xs)[1], batch),
        lambda config: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config["rate"])),
        lambda key, config: net.init(key, task.input_size),
        lambda key: task.sample(key, BATCH),
        [{"rate": 5e-3}],
        setting.seeds,
        sizes.updates,
        chunk=sizes.updates // 5,
        probe=probe,
        path=setting.path(name.replace(" ", "-")),
    )


def _run(setting: Setting) -> Findings:
    measured: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    with jax.enable_x64(True):
        for name, make in (("LSTM", LSTM), ("GRU", GRU)):
            for seed in setting.seeds:
                for identity, off in _identities(make(CHECKED), jax.random.key(seed)).items():
                    place, of = (
                        (measured, f"{identity} {name}")
                        if identity in _QUANTITIES
                        else (notes, f"{_ALSO[identity]}, {name}")
                    )
                    place.setdefault(of, []).append(float(off))
    data: dict[str, Any] = {"spectra": {}, "length": SIZES[setting.scale].length}
    for name in CELLS:
        runs = _learn(name, setting)
        spectra = runs.probes[0]  # [S, P, N]
        data["spectra"][name] = spectra[:, [0, -1]]
        data["updates"] = runs.probed_at
        data.setdefault("first", {})[name] = spectra[:, :, 0]
        notes[f"{name}: loss at the end"] = runs.history["loss"][0, :, -50:].mean(axis=-1)
        for when, n in (("before", 0), ("after", -1)):
            notes[f"{name}: first exponent {when} learning"] = spectra[:, n, 0]
            notes[f"{name}: share of exponents above -0.05 {when} learning"] = np.mean(
                spectra[:, n] > -0.05, axis=-1
            )
    return Findings(measured, data, notes)


def _draw(data: dict[str, Any]) -> list[Chart]:
    moves = {name: np.median(np.array(v, float), axis=0) for name, v in data["first"].items()}
    rise = ", ".join(f"{name} {v[0]:.2f} to {v[-1]:.2f}" for name, v in moves.items())
    first = Chart(
        "first",
        f"First exponent, before to after learning: {rise}",
        "updates",
        "first Lyapunov exponent, nats a step",
        [line(name, data["updates"], v) for name, v in data["first"].items()],
        f"Along sequences of the adding problem of length {data['length']}.",
    )
    return [first, *(_spectra(name, np.array(v, float)) for name, v in data["spectra"].items())]


def _spectra(name: str, spectra: np.ndarray) -> Chart:
    """The whole spectrum before and after learning, [S, 2, N]."""
    share = np.arange(1, spectra.shape[2] + 1) / spectra.shape[2]
    before, after = (np.median(spectra[:, n].mean(axis=-1)) for n in (0, 1))
    return Chart(
        f"spectrum-{name.replace(' ', '-').lower()}",
        f"{name}: the mean exponent goes from {before:.2f} to {after:.2f}",
        "i / N",
        "i-th Lyapunov exponent, nats a step",
        [
            line("before learning", share, spectra[:, 0], untrained=True),
            line("after learning", share, spectra[:, 1]),
        ],
        "Of the full state, h and c of an LSTM.",
    )


_QUANTITIES = {
    "determinant": ("sum of the exponents less the mean of ln |det J|", 1e-10),
    "growth": ("first exponent less the growth of a small difference", 1e-3),
    "interval": (f"change of an exponent with a QR every {INTERVALS} steps", 1e-6),
}

_ALSO = {
    "growth of twice the steps": "first exponent less the growth, over twice the steps",
    "interval of resolved": f"change with a QR every {INTERVALS} steps, of exponents that part by "
    f"less than {RESOLVED:g} nats in {INTERVALS[-1]} steps",
}

STUDY = Study(
    "S14",
    "Lyapunov spectra before and after learning",
    "What does learning to remember do to the rates at which small differences grow and decay?",
    tuple(
        Anchor(
            f"{identity} {name}",
            f"{quantity}, {name}",
            0.0,
            "C",
            "absolute",
            tolerance,
            "identity",
            f"{CHECKED} units, white inputs, float64",
        )
        for identity, (quantity, tolerance) in _QUANTITIES.items()
        for name in ("LSTM", "GRU")
    ),
    _run,
    _draw,
    "Between two QRs all columns turn to the leading direction, and float64 loses what is e^-36 of "
    "it. Where exponents differ by more than 3 nats a step, ten steps are too many: the change is "
    "in the last exponents, and at most some 1e-6 among those that part less. The growth of a "
    "difference departs from the first exponent by a constant over the number of steps: half as "
    "much over twice the steps.",
)
