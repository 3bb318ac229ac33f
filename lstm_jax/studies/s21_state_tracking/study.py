"""S21, state tracking: which recurrences can follow a state whose every change matters.

Parity needs two states, the words of a group as many as it has elements. A linear recurrence whose
factors are positive can only forget; with factors in (-1, 1) it can change sign, which is parity;
diagonal and real, it still cannot count modulo 3, so of the words of S3 it knows the sign alone. A
nonlinear recurrence can do all of this. Every network is trained on short sequences and tested on
longer ones: who has found the states is right at every length.

Scores are scaled accuracies, 0 for guessing and 1 for no mistake.

Source: Grazzi et al. (2025), "Unlocking state-tracking in linear RNNs through negative
eigenvalues", arXiv 2411.12537, tables 3 and 5; Merrill, Petty & Sabharwal (2024), arXiv 2404.08819.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import optim, train
from ..._cells.linear import MinGRU
from ..._cells.lstm import LSTM
from ..._cells.slstm import SLSTM
from ..._layers import Readout
from ..._unroll import unroll
from ...charts import Chart, line
from ...data import GroupWords, Parity
from ..record import SCALES, Anchor, Findings, Setting, Study
from . import reflections

__all__ = ["STUDY", "scaled"]
__dir__ = __all__.copy

CELLS: dict[str, Any] = {
    "MinGRU": MinGRU,
    "signed MinGRU": lambda size: MinGRU(size, True),
    "sLSTM": SLSTM,
    "LSTM": LSTM,
}
OF_PARITY = {
    "MinGRU": "grazzi",
    "signed MinGRU": "grazzi",
    "sLSTM": "grazzi",
    "LSTM": "running",  # Asked at the last step only, few seeds find it in so few updates.
}
"""Which variant of parity each learns."""
OF_WORDS = ("signed MinGRU", "LSTM")
DECAYS = (0.5, 0.9, 0.99)
BY_HAND = 10_000
"""Steps of the sequences that hand-made networks read."""
RATE, MAX_NORM, TESTED = 1e-2, 1.0, 256
MORE = 3
"""Times the updates that the scale "cpu" gives to the words of A5, in a note."""


class Sizes(NamedTuple):
    """Sizes of the training: longest sequence in training and in the test, hidden size, updates."""

    length: int
    longest: int
    hidden_size: int
    updates: int
    batch: int = 64


PARITY = {
    "ci": Sizes(20, 80, 16, 1000, 32),
    "cpu": Sizes(40, 256, 32, 3000),
    "gpu": Sizes(40, 256, 128, 100_000, 1024),
}
WORDS: dict[str, dict[str, Sizes]] = {
    "ci": {"S3": Sizes(10, 40, 32, 400)},
    "cpu": {"S3": Sizes(10, 64, 32, 1000), "A5": Sizes(8, 32, 64, 2000)},
    "gpu": {"S3": Sizes(32, 128, 128, 20_000, 512), "A5": Sizes(32, 128, 128, 100_000, 512)},
}


def scaled(accuracy: Any, classes: int) -> Any:
    """Accuracy on a scale on which guessing one of `classes` is 0 and no mistake is 1."""
    return (accuracy - 1 / classes) / (1 - 1 / classes)


# ---- training ------------------------------------------------------------------------------------
def _learn(
    name: str, task: Any, longer: Any, sizes: Sizes, setting: Setting, label: str = ""
) -> Any:
    """Train on `task`: (scaled accuracy at each step of `longer` [S, T], losses at the end [S])."""
    label = label or f"{name}-{type(task).__name__}-{task.output_size}"
    net = Readout(CELLS[name](sizes.hidden_size), task.output_size)
    runs = train.sweep(
        lambda params, batch, config: task.loss(unroll(net, params, batch.xs)[1], batch),
        lambda config: optax.chain(optim.clip_by_global_norm(MAX_NORM), optax.adam(config["rate"])),
        lambda key, config: net.init(key, task.input_size),
        lambda key: task.sample(key, sizes.batch),
        [{"rate": RATE}],
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 4, 1),
        path=setting.path(label.replace(" ", "-")),
    )
    batch = longer.sample(jax.random.key(setting.seeds[0] + 2**20), TESTED)

    @jax.jit
    @jax.vmap
    def accuracy(params: Any) -> Any:
        guesses = unroll(net, params, batch.xs)[1].argmax(axis=-1)
        return jnp.mean(guesses == batch.targets, axis=1)

    found = np.asarray(accuracy(jax.tree.map(lambda leaf: leaf[0], runs.params)))
    return scaled(found, task.output_size), runs.history["loss"][0, :, -50:].mean(axis=-1)


def _explain(setting: Setting) -> dict[str, Any]:
    """What the misses would be with an easier question, or with more updates."""
    sizes, words = PARITY[setting.scale], WORDS[setting.scale]["A5"]
    every = Parity(sizes.length), Parity(sizes.longest), sizes
    longer = words._replace(updates=MORE * words.updates)
    of_words = (GroupWords(n, group="A5") for n in (words.length, words.longest))
    notes: dict[str, Any] = {}
    for name, label, (task, far, size) in (
        ("sLSTM", "sLSTM asked at every step", every),
        ("LSTM", f"A5 LSTM, {MORE} times the updates", (*of_words, longer)),
    ):
        scores, losses = _learn(name, task, far, size, setting, label)
        _store({}, notes, label, scores[:, size.length :], losses)
    return notes


def _run(setting: Setting) -> Findings:
    measured = _by_hand(setting)
    sizes = PARITY[setting.scale]
    notes: dict[str, Any] = {}
    data: dict[str, Any] = {"decays": DECAYS, "length": sizes.length, "parity": {}, "words": {}}
    for name, variant in OF_PARITY.items():
        task, longer = Parity(sizes.length, variant), Parity(sizes.longest)
        scores, losses = _learn(name, task, longer, sizes, setting)
        data["parity"][name] = scores
        _store(measured, notes, f"parity {name}", scores[:, sizes.length :], losses)
    for group, sizes in WORDS[setting.scale].items():
        data["words"][group] = {"length": sizes.length}
        for name in OF_WORDS:
            task, longer = (GroupWords(n, group=group) for n in (sizes.length, sizes.longest))
            scores, losses = _learn(name, task, longer, sizes, setting)
            data["words"][group][name] = scores
            _store(measured, notes, f"{group} {name}", scores[:, sizes.length :], losses)
    if setting.scale == "cpu":
        notes |= _explain(setting)
    return Findings(measured, data, notes)


def _by_hand(setting: Setting) -> dict[str, Any]:
    """What is measured without training."""
    measured: dict[str, Any] = {}
    for decay in DECAYS:
        steps = reflections.standstill(decay, 4000)
        measured[f"standstill {decay}"] = [steps] * len(setting.seeds)
    for seed in setting.seeds:
        key = jax.random.key(seed)
        words = {
            "A5 by hand": GroupWords(BY_HAND, group="A5"),
            "S5 by hand": GroupWords(BY_HAND, "swaps", "S5"),
        }
        shares = {"parity by hand": reflections.parity_by_hand(key, BY_HAND, 16)}
        shares |= {n: reflections.words_by_hand(key, task, 4) for n, task in words.items()}
        for name, share in shares.items():
            measured.setdefault(name, []).append(float(share))
    most = max(len(reflections.reflections(p)) for p in GroupWords(1, group="A5").permutations)
    return measured | {"reflections": [most] * len(setting.seeds)}


def _store(measured: Any, notes: Any, id: str, beyond: np.ndarray, losses: np.ndarray) -> None:
    """File the mean score beyond the trained length under the anchor of that id, or the notes."""
    if id in {anchor.id for anchor in _ANCHORS}:
        measured[id] = beyond.mean(axis=1)
    else:
        notes[f"score beyond the trained length, {id}"] = beyond.mean(axis=1)
    notes[f"loss at the end, {id}"] = losses


# ---- figures -------------------------------------------------------------------------------------
def _draw(data: dict[str, Any]) -> list[Chart]:
    length = data["length"]
    parity = {name: np.array(scores, float) for name, scores in data["parity"].items()}
    found = [
        f"{np.sum(scores[:, length:].mean(axis=1) > 0.9)} of {len(scores)} {name}"
        for name, scores in parity.items()
    ]
    first = Chart(
        "parity",
        f"Runs that know the parity at every length: {', '.join(found)}",
        f"length of the sequence; trained up to {length}",
        "scaled accuracy",
        [line(name, _steps(scores), scores) for name, scores in parity.items()],
        "0 is guessing. The factors of a MinGRU are in (0, 1), of a signed one in (-1, 1). The "
        "LSTM was asked for the parity at every step in training, the others at the last one.",
    )
    return [first, *(_words(group, dict(scores)) for group, scores in data["words"].items())]


def _words(group: str, scores: dict[str, Any]) -> Chart:
    length = scores.pop("length")
    found = {name: np.array(values, float) for name, values in scores.items()}
    ends = {name: np.median(values[:, length:].mean(axis=1)) for name, values in found.items()}
    lines = [line(name, _steps(values), values) for name, values in found.items()]
    steps = lines[0].x
    if group == "S3":
        lines.append(line("knows only the sign", steps, np.full(len(steps), _SIGN), theory=True))
    return Chart(
        f"words-{group.lower()}",
        f"Words of {group}, beyond the trained length: "
        + ", ".join(f"{name} {end:.2f}" for name, end in ends.items()),
        f"length of the word; trained on 1 to {length}",
        "scaled accuracy",
        lines,
        f"0 is guessing one of the elements of {group}.",
    )


def _steps(scores: np.ndarray) -> np.ndarray:
    return np.arange(scores.shape[1]) + 1


# ---- anchors -------------------------------------------------------------------------------------
_SIGN = float(scaled(1 / 3, 6))
"""Score on the words of S3 of who knows whether a permutation is even: one of three is right."""
_GRAZZI = "Grazzi et al. 2025, table 5"
_TRAINED = f"one layer, Adam {RATE:g}, clip {MAX_NORM:g}; mean over the lengths beyond the trained"


def _anchors() -> tuple[Anchor, ...]:
    quantity = "scaled accuracy on parity beyond the trained length"
    mamba, slstm = f"{_GRAZZI}, Mamba in", f"{_GRAZZI}, sLSTM"
    anchors = [
        Anchor(
            f"standstill {decay}",
            f"ones after which a unit with the factor {decay} repeats its state",
            round(reflections.standstill_in_theory(decay), 1),
            "C",
            "relative",
            0.15,
            "ln(ulp / 2(1 - a)) / ln a",
            "float32; theorem 1 of Grazzi et al.",
        )
        for decay in DECAYS
    ]
    by_hand = {
        "parity by hand": "one unit with the factors 1 and -1 knows the parity",
        "A5 by hand": "reflections spell a word of A5",
        "S5 by hand": "one reflection a letter spells a word of swaps in S5",
    }
    for id, what in by_hand.items():
        source = "Grazzi et al. 2025, theorem 3"
        share = f"share of {BY_HAND:,} steps at which {what}"
        anchors.append(Anchor(id, share, 1.0, "V", "absolute", 1e-9, source, "float32"))
    most = "reflections that an element of A5 takes at most"
    source = "n - 1, Grazzi et al. 2025, proposition 1"
    anchors.append(Anchor("reflections", most, 4.0, "V", "absolute", 0.5, source))
    for name, published, kind, bound, source in (
        ("MinGRU", 0.0, "below", 0.1, f"{mamba} [0, 1]"),
        ("signed MinGRU", 1.0, "above", 0.9, f"{mamba} [-1, 1]"),
        ("sLSTM", 1.0, "above", 0.9, slstm),
    ):
        what = f"{quantity}, {name}"
        id = f"parity {name}"
        anchors.append(
            Anchor(id, what, published, "V", kind, bound, source, _TRAINED, kind == "above")
        )
    for group in ("S3", "A5"):
        scales = tuple(scale for scale in SCALES if group in WORDS[scale])
        what = f"scaled accuracy on the words of {group} beyond the trained length"
        source = "simple RNNs express it, Merrill et al. 2024, introduction"
        lstm = (f"{group} LSTM", f"{what}, LSTM", None, "V", "above", 0.9, source)
        anchors.append(Anchor(*lstm, _TRAINED, True, scales))
    what = "scaled accuracy on the words of S3 beyond the trained length, signed MinGRU"
    source = "no real diagonal layer counts to 3 (theorem 2); the sign: (1/3-1/6)/(5/6)"
    sign = ("S3 signed MinGRU", what, _SIGN, "C", "absolute", 0.05, source)
    return (*anchors, Anchor(*sign, _TRAINED, True))


_ANCHORS = _anchors()

STUDY = Study(
    "S21",
    "State tracking",
    "Which recurrences can follow a state through every change: the parity of bits, or the product "
    "of permutations?",
    _ANCHORS,
    _run,
    _draw,
    "At the scale cpu the sLSTM finds the parity in every seed if it is asked at every step, not "
    "at the last alone, and the LSTM knows more of the words of A5 after three times the updates: "
    "both among the notes. The first miss is of the question, the second of the updates.",
)
