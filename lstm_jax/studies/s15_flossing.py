"""S15, gradient flossing: push Lyapunov exponents towards zero, then learn.

    L_floss = mean_i lambda_i^2        the first k exponents, of a rollout of T_p steps

is differentiated through the QR of `lyapunov_spectrum`. First, for tanh RNNs of three gains: how
far the exponents and the condition number of the Jacobian product fall. Then a task that needs two
past inputs at once, for networks that are flossed before they learn, before and meanwhile, or not.

    x_t = s_t ~ Bernoulli(1/2),      target_t = |s_{t-d} - s_{t-2d}|      delayed XOR

Source: Engelken (2023), "Gradient flossing", NeurIPS; github.com/RainerEngelken/GradientFlossing.
Its network is x' = J tanh(x) + b + w s, an RNN here with h = tanh(x); its start is ours, and it is
far from critical, as the weights of the input are as large as those of the state: with an RNN's
usual start there is little to floss. Its readout sees x, ours h; it learns x_0 too.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import diagnostics, train
from .._cells.rnn import RNN
from .._layers import Readout
from .._typing import Array, Key
from .._unroll import unroll
from ..charts import Chart, line
from .means import updates_until, window_means
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY"]
__dir__ = __all__.copy

GAINS, RATES = (0.5, 1.0, 1.5), (1e-3, 3e-3)
"""Gains of w_hh, and learning rates of flossing; the first is the published one."""
BATCH, RATE, MAX_NORM = 16, 1e-3, 0.03
LONG = 50
"""Steps of the Jacobian product whose condition number is compared."""
PAUSES = 100, 200
"""Updates before which a network is flossed again while it learns."""
SHORT, PUBLISHED = 5, 10
LEARNED, WIDTH = 0.95, 20
"""A network has learned when LEARNED of its answers over WIDTH updates are right."""


class Flossing(NamedTuple):
    """Leading exponents, steps of a rollout, updates."""

    exponents: int
    rollout: int
    updates: int


class Sizes(NamedTuple):
    """Hidden units; flossing alone; before learning, in each pause; longest delay, T, updates."""

    hidden_size: int
    alone: Flossing
    before: Flossing
    pause: int
    longest: int
    steps: int
    updates: int


SIZES = {
    "ci": Sizes(32, Flossing(16, 30, 300), Flossing(24, 40, 300), 150, 15, 80, 600),
    "cpu": Sizes(32, Flossing(16, 30, 300), Flossing(30, 55, 500), 500, 20, 120, 2000),
    "gpu": Sizes(80, Flossing(75, 55, 500), Flossing(75, 55, 500), 500, 40, 300, 3001),
}


# ---- flossing ------------------------------------------------------------------------------------
def _start(sizes: Sizes, key: Key, gain: Any) -> Any:
    """The authors' start: w_hh ~ N(0, gain^2 / N), all other weights ~ N(0, 1)."""
    size = sizes.hidden_size
    keys = jax.random.split(key, 4)
    inner = {
        "w_ih": jax.random.normal(keys[0], (1, size)),
        "w_hh": gain * jax.random.normal(keys[1], (size, size)) / float(np.sqrt(size)),
        "b": 0.1 * jax.random.uniform(keys[2], (size,)),
    }
    return {"inner": inner, "w": jax.random.normal(keys[3], (size, 1)), "b": jnp.full(1, 1e-3)}


def _net(sizes: Sizes) -> Readout:
    return Readout(RNN(sizes.hidden_size), 1)


def _bits(key: Key, steps: int) -> Array:
    return jax.random.bernoulli(key, 0.5, (steps, 1)).astype(jnp.float32)


def _penalty(sizes: Sizes, exponents: int, params: Any, xs: Array) -> Array:
    """The mean of lambda_i^2 over the leading exponents."""
    cell = _net(sizes).inner
    found = diagnostics.lyapunov_spectrum(cell, params["inner"], xs, exponents=exponents)
    return jnp.mean(jnp.square(found.exponents))


def _probe(sizes: Sizes, params: Any, key: Key) -> dict[str, Array]:
    """Exponents, and ln of the condition number: of the leading k directions and of all."""
    cell, xs, k = _net(sizes).inner, _bits(key, LONG), sizes.alone.exponents
    exponents = diagnostics.lyapunov_spectrum(cell, params["inner"], xs).exponents
    (logs,) = diagnostics.jacobian_product_singular_values(cell, params["inner"], xs, every=LONG)
    return {
        "size": jnp.mean(jnp.abs(exponents[:k])),
        "condition": logs[0] - logs[k - 1],
        "condition of all": logs[0] - logs[-1],
        "exponents": exponents,
    }


def _alone(sizes: Sizes, setting: Setting) -> train.Runs:
    """Floss networks of every gain at every rate."""
    k, rollout, updates = sizes.alone
    return train.sweep(
        lambda params, xs, config: _penalty(sizes, k, params, xs),
        lambda config: optax.adam(config["rate"]),
        lambda key, config: _start(sizes, key, config["gain"]),
        lambda key: _bits(key, rollout),
        [{"gain": gain, "rate": rate} for rate in RATES for gain in GAINS],
        setting.seeds,
        updates,
        chunk=updates // 5,
        probe=lambda params, key, config: _probe(sizes, params, key),
        path=setting.path("flossing"),
    )


# ---- a task of two past inputs -------------------------------------------------------------------
class Xor(NamedTuple):
    """A batch of the delayed XOR: inputs and targets [T, B, 1]; float [T, B, 1], 1 from 2d on."""

    xs: Array
    targets: Array
    counts: Array


def delayed_xor(key: Key, delay: Any, steps: int) -> Xor:
    """Draw a batch; the answers of the first 2 `delay` steps do not count."""
    bits = jax.random.bernoulli(key, 0.5, (steps, BATCH, 1))
    back = [jnp.roll(bits, n * delay, axis=0) for n in (1, 2)]
    counts = jnp.broadcast_to(jnp.arange(steps)[:, None, None] >= 2 * delay, bits.shape)
    floats = [x.astype(jnp.float32) for x in (bits, back[0] != back[1], counts)]
    return Xor(*floats)


def _loss(sizes: Sizes, params: Any, batch: Xor) -> tuple[Array, Array]:
    """Cross-entropy in nats, and the share of right answers."""
    logits = unroll(_net(sizes), params, batch.xs)[1]
    losses = optax.sigmoid_binary_cross_entropy(logits, batch.targets)
    right = ((logits > 0) == (batch.targets > 0.5)).astype(jnp.float32)
    return jnp.average(losses, weights=batch.counts), jnp.average(right, weights=batch.counts)


def _flosser(sizes: Sizes, updates: int) -> Callable[[Any, Key], Any]:
    """A function that flosses parameters."""
    k, rollout, _ = sizes.before
    tx = optax.adam(RATE)
    loop = train.make_loop(
        lambda params, xs: _penalty(sizes, k, params, xs),
        tx,
        lambda key: _bits(key, rollout),
        updates,
    )
    return lambda params, key: loop(train.create(params, tx), key)[0].params


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
def _learn(sizes: Sizes, when: str, delays: Array, key: Key) -> Array:
    """The share of right answers at every update, [delays, updates]; `when` is one of `WHEN`."""
    key_start, key_floss, key_batch = jax.random.split(key, 3)
    params = _start(sizes, key_start, 1.0)
    if when != "not flossed":
        params = _flosser(sizes, sizes.before.updates)(params, key_floss)
    tx = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(RATE))
    again = _flosser(sizes, sizes.pause)
    # Pauses of no flossing too, so that all see the same batches.
    ends = [*(pause for pause in PAUSES if pause < sizes.updates), sizes.updates]

    def learn(delay: Array) -> Array:
        state, shares, first = train.create(params, tx), [], 0
        for end in ends:
            if first and when == "flossed before and while":
                key_again = jax.random.fold_in(key_floss, first)
                state = state._replace(params=again(state.params, key_again))
            loop = train.make_loop(
                functools.partial(_loss, sizes),
                tx,
                lambda key: delayed_xor(key, delay, sizes.steps),
                end - first,
                has_aux=True,
            )
            state, history = loop(state, jax.random.fold_in(key_batch, first))
            shares.append(history["aux"])
            first = end
        return jnp.concatenate(shares)

    return jax.vmap(learn)(delays)


WHEN = {
    "not flossed": (SHORT, PUBLISHED, None),
    "flossed before": (SHORT, PUBLISHED, None),
    "flossed before and while": (PUBLISHED, None),
}
"""The delays that each learns; None: the longest of the scale."""


# ---- the study -----------------------------------------------------------------------------------
def _run(setting: Setting) -> Findings:
    sizes = SIZES[setting.scale]
    measured, notes, data = _of_flossing(_alone(sizes, setting))
    keys = jax.vmap(jax.random.key)(jnp.array(setting.seeds))
    shares: dict[tuple[str, int], np.ndarray] = {}  # [S, updates / WIDTH]
    for when, delays in WHEN.items():
        delays = [delay or sizes.longest for delay in delays]
        found = np.asarray(_learn(sizes, when, jnp.array(delays), keys), np.float64)
        for d, delay in enumerate(delays):
            shares[when, delay] = window_means(found[:, d], WIDTH)
    measured |= _gains(shares, sizes.longest)
    for (when, delay), values in shares.items():
        notes[f"share of right answers at the end, delay {delay}, {when}"] = values[:, -1]
    for when in ("not flossed", "flossed before"):
        name = f"updates to {LEARNED:g} of the answers, delay {SHORT}, {when}"
        notes[name] = _updates(shares[when, SHORT])
    data |= {
        "longest": sizes.longest,
        "learning": [[when, delay, values] for (when, delay), values in shares.items()],
    }
    return Findings(measured, data, notes)


def _of_flossing(runs: train.Runs) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Measurements, notes and data of flossing alone."""
    measured, notes, data = {}, {}, {"flossing updates": runs.probed_at, "size": {}, "spectra": {}}
    size, condition = (runs.probes[name] for name in ("size", "condition"))  # [C, S, P]
    of_all = runs.probes["condition of all"]
    for c, config in enumerate(runs.configs):
        gain = f"{config['gain']:g}"
        if config["rate"] != RATES[0]:
            name = f"mean |exponent|, before over after flossing at {config['rate']:g}, gain {gain}"
            notes[name] = size[c, :, 0] / size[c, :, -1]
            continue
        measured[f"size {gain}"] = size[c, :, 0] / size[c, :, -1]
        measured[f"condition {gain}"] = condition[c, :, 0] - condition[c, :, -1]
        name = f"fall of ln of the condition number of all directions, gain {gain}"
        notes[name] = of_all[c, :, 0] - of_all[c, :, -1]
        notes[f"mean |exponent| before flossing, gain {gain}"] = size[c, :, 0]
        data["size"][gain] = size[c]
        data["spectra"][gain] = runs.probes["exponents"][c][:, [0, -1]]
    return measured, notes, data


def _gains(shares: dict[tuple[str, int], np.ndarray], longest: int) -> dict[str, Any]:
    """What flossing gains at the three delays."""

    def gain(when: str, delay: int) -> np.ndarray:
        return shares[when, delay][:, -1] - shares["not flossed", delay][:, -1]

    plain, flossed = (_updates(shares[w, SHORT]) for w in ("not flossed", "flossed before"))
    with np.errstate(invalid="ignore"):
        speed = np.nan_to_num(plain / flossed, nan=0.0, posinf=np.inf)  # NaN: neither learned.
    return {
        "short": np.maximum(gain("flossed before", SHORT) / GAINED, speed / FASTER),
        "before": gain("flossed before", PUBLISHED),
        "while": gain("flossed before and while", longest),
    }


def _updates(shares: np.ndarray) -> np.ndarray:
    """Updates to LEARNED, [S]; inf if never."""
    return updates_until(shares > LEARNED, WIDTH, WIDTH)


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    shares = {(when, delay): np.array(rows, float) for when, delay, rows in data["learning"]}
    sizes = {gain: np.array(rows, float) for gain, rows in data["size"].items()}
    falls = ", ".join(
        f"{np.median(rows[:, 0]):.2g} to {np.median(rows[:, -1]):.2g} at gain {gain}"
        for gain, rows in sizes.items()
    )
    falling = Chart(
        "exponents",
        f"Flossing takes the mean |exponent| from {falls}",
        "flossing updates",
        "mean |exponent| of the leading ones, nats a step",
        [line(f"gain {gain}", data["flossing updates"], rows) for gain, rows in sizes.items()],
        f"Over {LONG} steps that were not flossed on.",
        log_y=True,
    )
    return [falling, _spectra(data["spectra"]), *_learning(shares, data["longest"])]


def _spectra(spectra: dict[str, Any]) -> Chart:
    """The whole spectrum before and after, of gain 1."""
    rows = np.array(spectra["1"], float)  # [S, 2, N]
    share = np.arange(1, rows.shape[-1] + 1) / rows.shape[-1]
    last = np.median(rows[:, 1, -1])
    return Chart(
        "spectrum",
        f"Only the leading exponents go to zero; the last stays at {last:.2g} nats a step",
        "i / N",
        "i-th Lyapunov exponent, nats a step",
        [
            line("before", share, rows[:, 0], untrained=True),
            line("after flossing", share, rows[:, 1]),
        ],
        "Gain 1.",
    )


def _learning(shares: dict[tuple[str, int], np.ndarray], longest: int) -> list[Chart]:
    ends = {key: float(np.median(rows[:, -1])) for key, rows in shares.items()}
    charts = []
    for delay in (SHORT, PUBLISHED, longest):
        found = {when: rows for (when, of), rows in shares.items() if of == delay}
        said = ", ".join(f"{ends[when, delay]:.2f} {when}" for when in found)
        chart = Chart(
            f"delay-{delay}",
            f"Right answers at the end, delay {delay}: {said}",
            "updates",
            "share of right answers",
            [
                line(when, WIDTH * np.arange(1, rows.shape[1] + 1), rows)
                for when, rows in found.items()
            ],
            "Half of the answers are right by chance. Flossing while it learns comes after "
            f"{' and '.join(map(str, PAUSES))} updates, which the lines do not count.",
        )
        charts.append(chart)
    return charts


# ---- anchors -------------------------------------------------------------------------------------
GAINED, FASTER = 0.1, 1.5
_CODE = "Engelken (2023), the authors' code"
_ABSTRACT = "Engelken (2023), abstract and code"


def _anchors() -> tuple[Anchor, ...]:
    each = []
    for gain in GAINS:
        convention = f"gain {gain:g}, the authors' start, adam {RATES[0]:g}, inputs of bits"
        size = "mean |exponent| of the leading ones, before over after flossing"
        condition = (
            f"fall of ln of the condition number over {LONG} steps, of the flossed directions"
        )
        bound = float(np.log(100))
        each += [
            Anchor(
                f"size {gain:g}",
                f"{size}, gain {gain:g}",
                None,
                "V",
                "above",
                10.0,
                _CODE,
                convention,
                median=True,
            ),
            Anchor(
                f"condition {gain:g}",
                f"{condition}, gain {gain:g}",
                None,
                "V",
                "above",
                bound,
                _CODE,
                convention,
            ),
        ]
    task = f"gain 1, clip {MAX_NORM:g}, adam {RATE:g}; the last {WIDTH} updates"
    short = (
        f"delayed XOR, delay {SHORT}: the larger of (share of right answers gained by flossing "
        f"before) / {GAINED:g} and (ratio of the updates to {LEARNED:g}) / {FASTER:g}"
    )
    gained = "delayed XOR, share of right answers gained by flossing"
    return (
        *each,
        Anchor(
            "short",
            short,
            None,
            "V",
            "above",
            1.0,
            _ABSTRACT,
            task,
            median=True,
            scales=("ci", "cpu"),
        ),
        Anchor(
            "before",
            f"{gained} before, delay {PUBLISHED}",
            None,
            "V",
            "above",
            GAINED,
            _ABSTRACT,
            task,
            median=True,
        ),
        Anchor(
            "while",
            f"{gained} before and while, longest delay of the scale",
            None,
            "V",
            "above",
            GAINED,
            _ABSTRACT,
            task,
            median=True,
        ),
    )


STUDY = Study(
    "S15",
    "Gradient flossing",
    "Can Lyapunov exponents be pushed to zero by gradient descent, and does a network learn more "
    "from such a start?",
    _anchors(),
    _run,
    _draw,
    "The exponents fall too slowly at the published rate: with three times the rate, as many "
    "updates make their mean fall by more than ten times at gains 0.5 and 1, at 1.5 still by less. "
    "Why flossing helps only some starts at the longer delays no experiment here has told.",
)
