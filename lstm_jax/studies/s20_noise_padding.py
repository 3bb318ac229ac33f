"""S20, noise-padded inputs: a few steps tell the class, then only noise until it is asked.

No shorter lag tells anything, so the answer is learned if the gradient reaches the first steps at
the start, and not otherwise. Along its cell state an LSTM with a forget bias of 0 keeps some
0.5^200 of it; one with a chrono start keeps 15 % on average, whatever the length. An antisymmetric
network is an Euler step of an equation with imaginary eigenvalues: at the origin its step has

    |eigenvalue|^2 = (1 - epsilon gamma)^2 + epsilon^2 s^2        s: a singular value of W - W^T

so no direction vanishes; a gate makes the step smaller.

Sources: Chang, Chen, Haber & Chi (2019), arXiv 1902.09689, whose images are replaced by classes
that sixteen noisy steps tell; Tallec & Ollivier (2018) for the chrono start.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, initializers, train
from .._cells.antisymmetric import AntisymmetricRNN
from .._cells.lstm import LSTM
from .._layers import Readout
from .._typing import Array, Key, Params
from .._unroll import unroll
from ..charts import Chart, line
from ..data import Batch, NoisePadded
from ..losses import accuracy, softmax_cross_entropy
from .means import window_means
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY"]
__dir__ = __all__.copy

ZERO, CHRONO = "LSTM, forget bias 0", "LSTM, chrono"
PLAIN, GATED = "antisymmetric", "antisymmetric, gated"
EPSILON, GAMMA = 0.1, 0.01
STRENGTH, RATE, BATCH, TESTED, PROBED = 2.0, 1e-2, 32, 1000, 8
WIDTH = 10
"""Updates over which the losses of the figure are means."""


class Sizes(NamedTuple):
    """Sizes: steps of noise, telling steps before them, hidden size, updates."""

    length: int
    informative: int
    hidden_size: int
    updates: int


SIZES = {
    "ci": Sizes(200, 16, 16, 250),
    "cpu": Sizes(200, 16, 32, 1000),
    "gpu": Sizes(968, 32, 128, 10_000),
}


# ---- networks ------------------------------------------------------------------------------------
def _cells(sizes: Sizes) -> dict[tuple[str, ...], Any]:
    """The cells by the names of the networks that have them; chrono scaled by 0 is no bias."""
    hidden, steps = sizes.hidden_size, sizes.length + sizes.informative
    euler: dict[str, Any] = {"epsilon": EPSILON, "gamma": GAMMA}
    return {
        (ZERO, CHRONO): LSTM(hidden, b_init=initializers.chrono(steps)),
        (PLAIN,): AntisymmetricRNN(hidden, **euler),
        (GATED,): AntisymmetricRNN(hidden, gated=True, **euler),
    }


def off_the_formula(cell: AntisymmetricRNN, params: Params) -> Array:
    """The largest |eigenvalue| of a step at the origin, less what the formula says."""
    carry = cell.initial_carry(params, ())
    x = jnp.zeros(params["w_ih"].shape[0])
    jacobian = diagnostics.step_jacobian(cell, params, carry, x)
    s = jnp.linalg.norm(params["w_hh"] - params["w_hh"].T, ord=2)
    largest = jnp.hypot(1 - cell.epsilon * cell.gamma, cell.epsilon * s)
    return jnp.max(jnp.abs(jnp.linalg.eigvals(jacobian))) - largest


# ---- training ------------------------------------------------------------------------------------
def _learn(
    names: tuple[str, ...], cell: Any, task: NoisePadded, setting: Setting
) -> dict[str, dict[str, np.ndarray]]:
    """Train networks of one cell: what they learn, and how their gradient comes back, by name."""
    net, updates = Readout(cell, task.output_size), SIZES[setting.scale].updates

    def answers(params: Any, batch: Batch) -> Array:
        last = unroll(cell, params["inner"], batch.xs)[0].h
        return net.after(params, last, last)

    def init(key: Key, config: Any) -> Any:
        params: Any = net.init(key, task.input_size)
        inner = params["inner"]
        return {**params, "inner": {**inner, "b": config["bias"] * inner["b"]}}

    def probe(params: Any, key: Key, config: Any) -> dict[str, Array]:
        batch = task.sample(key, TESTED)
        norms: Any = diagnostics.gradient_norms_by_lag(
            cell, params["inner"], batch.xs[:, :PROBED], lambda ys: _loss(net, params, ys, batch)
        )
        kept = diagnostics.mean_log_norms(getattr(norms, "c", norms.h))
        return {
            "right": accuracy(answers(params, batch), batch.targets[-1]),
            "norms": kept[::-1],
        }

    runs = train.sweep(
        lambda params, batch, config: softmax_cross_entropy(
            answers(params, batch), batch.targets[-1]
        ),
        lambda config: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE)),
        init,
        lambda key: task.sample(key, BATCH),
        [{"bias": float(name != ZERO)} for name in names],
        setting.seeds,
        updates,
        chunk=updates,
        probe=probe,
        path=setting.path(names[-1].replace(" ", "-").replace(",", "")),
    )
    of_all = {
        "loss": runs.history["loss"],
        "right": runs.probes["right"][:, :, -1],
        "before": runs.probes["norms"][:, :, 0],
        "after": runs.probes["norms"][:, :, -1],
    }
    return {name: {key: of[c] for key, of in of_all.items()} for c, name in enumerate(names)}


def _loss(net: Readout, params: Params, ys: Array, batch: Batch) -> Array:
    """The sum of the losses of the answers after outputs ys [T, PROBED, H]."""
    answers = net.after(params, ys[-1], ys[-1])
    return PROBED * softmax_cross_entropy(answers, batch.targets[-1, :PROBED])


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    task = NoisePadded(sizes.length, sizes.informative, strength=STRENGTH)
    cells = _cells(sizes)
    found: dict[str, Any] = {}
    for names, cell in cells.items():
        found |= _learn(names, cell, task, setting)
    measured: dict[str, Any] = {f"right {name}": of["right"] for name, of in found.items()}
    measured["eigenvalue"] = [
        float(off_the_formula(cells[PLAIN,], cells[PLAIN,].init(jax.random.key(seed), 10)))
        for seed in setting.seeds
    ]
    notes: dict[str, Any] = {
        "right answers of the sum of all steps": [_of_sums(task, s) for s in setting.seeds]
    }
    for name, of in found.items():
        for when in ("before", "after"):
            ratio = of[when][:, sizes.length] - of[when][:, 1]
            notes[f"ln of the gradient left over {sizes.length} steps {when} learning, {name}"] = (
                ratio
            )
    return Findings(measured, {"length": sizes.length, "nets": found}, notes)


def _of_sums(task: NoisePadded, seed: int) -> float:
    """Right answers of one that adds up every step, the informative and the noise."""
    batch = task.sample(jax.random.key(seed), TESTED)
    return float(accuracy(jnp.sum(batch.xs, axis=0), batch.targets[-1]))


def _draw(data: dict[str, Any]) -> list[Chart]:
    nets = {
        name: {k: np.array(v, float) for k, v in of.items()} for name, of in data["nets"].items()
    }
    right = {name: f"{100 * np.median(of['right']):.0f} %" for name, of in nets.items()}
    others = ", ".join(f"{right[name]} ({name})" for name in (CHRONO, PLAIN, GATED))
    losses = {name: window_means(of["loss"], WIDTH) for name, of in nets.items()}
    updates = WIDTH * np.arange(1, 1 + losses[ZERO].shape[-1])
    learning = Chart(
        "learning",
        f"After {data['length']} steps of noise a forget bias of 0 is right in {right[ZERO]}, as "
        f"chance is; the others in {others}",
        "updates",
        "cross entropy, nats",
        [line(name, updates, means) for name, means in losses.items()],
        f"Means over {WIDTH} updates. Without memory the loss is ln 10 = 2.30, and one answer in "
        "ten is right.",
    )
    return [learning, *(_by_lag(nets, when, data["length"]) for when in ("before", "after"))]


def _by_lag(nets: dict[str, Any], when: str, length: int) -> Chart:
    """What comes back of the gradient, for each network."""
    left = {name: of[when][:, length] - of[when][:, 1] for name, of in nets.items()}
    e = {name: _factor(float(np.median(of))) for name, of in left.items()}
    return Chart(
        f"gradient-{when}",
        f"Over {length} steps the gradient changes by {e[ZERO]} with a forget bias of 0, by "
        f"{e[CHRONO]} with a chrono start and by {e[PLAIN]} in the antisymmetric network, {when} "
        "learning",
        "lag: steps before the last",
        "ln of the gradient's norm",
        [
            line(
                name,
                np.arange(1, of[when].shape[1]),
                of[when][:, 1:],
                untrained=when == "before",
            )
            for name, of in nets.items()
        ],
        "With respect to c of an LSTM and h of the others.",
    )


def _factor(log: float) -> str:
    return f"e^{round(log)}" if np.isfinite(log) else "a factor that is not finite"


# ---- anchors -------------------------------------------------------------------------------------
_TASK = f"16 telling steps of strength {STRENGTH:g}, then 200 of noise; Adam {RATE:g}, clip 1; "
_TASK += "chance is 0.1"
_CHANG = "Chang et al. 2019, noise-padded CIFAR-10, where chance is 0.1 too"


def _right(name: str, published: float | None, kind: str, bound: float, **others: Any) -> Anchor:
    given: dict[str, Any] = {"provenance": "V", "source": _CHANG} | others
    return Anchor(
        f"right {name}",
        f"share of right answers, {name}",
        published,
        kind=kind,
        tolerance=bound,
        convention=_TASK,
        **given,
    )


STUDY = Study(
    "S20",
    "Noise-padded inputs",
    "Can a network learn what only steps far in the past tell, if nothing nearer leads the way?",
    (
        _right(ZERO, 0.116, "below", 0.15),
        _right(
            CHRONO,
            None,
            "above",
            0.3,
            provenance="C",
            source="a mean of f^T over the units of 0.15 for every T, G5",
            median=True,
        ),
        _right(PLAIN, 0.483, "above", 0.3, median=True),
        _right(GATED, 0.547, "above", 0.3, median=True),
        Anchor(
            "eigenvalue",
            "largest |eigenvalue| of an antisymmetric step at the origin, less the formula",
            0.0,
            "C",
            "absolute",
            1e-5,
            "|(1 - epsilon gamma) + i epsilon s|, s = |W - W^T|",
            f"epsilon {EPSILON}, gamma {GAMMA}, before learning",
        ),
    ),
    _run,
    _draw,
)
