"""The seven claims of the tutorial, each judged by the results of a study.

A statement claims exactly what its checks compare; the sentence about the finding is computed from
the same numbers. `verdicts` turns checks into a verdict.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..charts import CELLS
from .verdicts import Check, figure, median, weigh

__all__ = [
    "CLAIMS",
    "LEARNED",
    "NATS",
    "TRAINED",
    "UPDATES",
    "VANISHES",
    "Finding",
    "Results",
    "explosion",
    "gates",
    "initialisation",
    "judge",
    "one_optimiser",
    "regularisation",
    "relu",
    "scores",
    "slopes",
    "straightness",
    "updates",
    "vanishing",
]
__dir__ = __all__.copy

Results = dict[str, Any]

VANISHES = -0.01
"""Slope in nats per step, a factor of 0.6 in 50 steps; a flatter gradient counts as kept."""
LEARNED = {"task": 0.5, "text": 0.75}
"""Ratio of a network's loss to that of a predictor without memory, below which it has learned."""
NATS = "nats a step"
TRAINED = "networks that learned"
UPDATES = 500
"""With no more updates than this, a network counts as not trained, whatever its loss."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The finding of a study about a claim.

    Attributes:
        checks: the comparisons that decide the claim.
        sentence: the result in a sentence, computed from the numbers.
        reading: how to read the claim's figure.
        measured: further numbers by name, each a list over the seeds.
    """

    checks: list[Check]
    sentence: str
    reading: str
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)


def judge(results: Results) -> list[dict[str, Any]]:
    """Judge the seven claims, in the tutorial's order.

    Returns [{"id", "title", "statement", "verdict", "reason", "needs", "checks", "sentence",
    "reading", "measured"}]. A claim about cells that the study left out is "not tested" and has no
    checks.
    """
    judged = []
    for number, (title, statement, cells, test) in enumerate(CLAIMS, start=1):
        missing = [name for name in cells if name not in results["cells"]]
        found = Finding([], "", "") if missing else test(results)
        needs = f"--cells with {' '.join(missing)}" if missing else None
        verdict = weigh(found.checks, needs)
        said = {"sentence": found.sentence, "reading": found.reading, "measured": found.measured}
        judged.append({"id": number, "title": title, "statement": statement} | verdict | said)
    return judged


def straightness(norms: Any) -> float:
    """R^2 of a linear fit of ln(norm) against the lag; near 1 for exponential decay or growth."""
    logs = np.log(np.asarray(norms, np.float64))
    usable = np.isfinite(logs)
    if usable.sum() < 3:
        return float("nan")
    return float(np.corrcoef(np.arange(len(logs))[usable], logs[usable])[0, 1] ** 2)


def scores(results: Results, cell: str, problem: str) -> list[float]:
    """Final loss over that of a predictor without memory, for each seed."""
    runs = results["cells"][cell][problem]
    if problem == "task":
        return [_number(run["final_loss"]) / run["baseline"] for run in runs]
    order0 = results["text"]["order0_bits_per_character"]
    return [_number(run["bits_per_character"]) / order0 for run in runs]


def slopes(
    results: Results, cell: str, problem: str, when: str, leaf: str | None = None
) -> list[float]:
    """Slopes in nats per step along `leaf` (None: c of an LSTM, else h), for each seed."""
    leaf = leaf or ("c" if cell == "lstm" else "h")
    return [_number(run[when]["slope"][leaf]) for run in results["cells"][cell][problem]]


def _number(value: float | None) -> float:
    """Convert None, which study.json holds for a diverged run, to NaN, which fails every check."""
    return float("nan") if value is None else float(value)


def updates(results: Results, problem: str) -> str:
    """How long networks of "task", "text" or "penalised" were trained, in words."""
    return f"{results['config']['settings'][problem]['steps']:,} updates"


def _places(results: Results) -> dict[str, str]:
    """Names of the two problems in words."""
    return {"task": f"the {results['task']['name']} task", "text": "text"}


def _share(slope: float) -> str:
    """Describe the change of the gradient by one step back, in words."""
    change = 100 * math.expm1(slope)
    if not math.isfinite(change):
        return "is lost altogether"
    return f"{'loses' if change < 0 else 'gains'} {abs(change):.2g} % a step"


def _learned(results: Results, problem: str, cells: Any = None) -> Check:
    """Check that the best of `cells` (None: all) has learned, a condition of other checks."""
    of_cells = [scores(results, name, problem) for name in cells or results["cells"]]
    best = np.nanmin(np.where(np.isnan(of_cells), np.inf, of_cells), axis=0).tolist()
    whose = "best cell" if cells is None else CELLS[cells[0]]
    steps = [float(results["config"]["settings"][problem]["steps"])] * len(best)
    asks = "a full study, without --quick"
    full = Check(f"updates on {_places(results)[problem]}", steps, ">", UPDATES, asks=asks)
    return dataclasses.replace(_learns(results, problem, best, whose, full), asks=TRAINED)


def _learns(
    results: Results, problem: str, values: list[float], whose: str, given: Check | None = None
) -> Check:
    quantity = f"loss on {_places(results)[problem]} over that without memory, {whose}"
    return Check(quantity, values, "<", LEARNED[problem], given=given)


def vanishing(results: Results) -> Finding:
    """Judge vanishing: slope and straightness of the untrained tanh RNN, on both problems."""
    checks, found = [], []
    for problem, place in _places(results).items():
        rates = slopes(results, "rnn-tanh", problem, "before")
        runs = results["cells"]["rnn-tanh"][problem]
        straight = [straightness(run["before"]["norms"]["h"]) for run in runs]
        checks += [
            Check(f"slope on {place}", rates, "<", VANISHES, NATS),
            Check(f"R^2 of the exponential on {place}", straight, ">", 0.9),
        ]
        steps = len(runs[0]["before"]["norms"]["h"]) - 1
        left = math.exp(median(rates) * steps)
        found.append(f"{_share(median(rates))} on {place} ({figure(left)} left after {steps})")
    return Finding(
        checks,
        f"On its way back the gradient {' and '.join(found)}.",
        "A straight line on the logarithmic axis is an exponential. W is orthogonal at the start, "
        "so that what is lost is lost in tanh alone.",
    )


def explosion(results: Results) -> Finding:
    """Judge explosion: the slope at rho(W) = 2, and the outcome of descents on the cliff."""
    cliff, starts = results["cliff"], results["starts"]
    growing = [_number(run["tanh"]["gaussian, rho 2.0"]["slope"]) for run in starts]
    explodes = Check("slope with rho(W) = 2", growing, ">", -VANISHES, NATS, every=False)
    lost = {n: float(np.mean(cliff[n]["share_off_the_minimum"])) for n in ("plain", "clipped")}
    step = {n: float(np.max(cliff[n]["largest_step_median"])) for n in ("plain", "clipped")}
    return Finding(
        [
            explodes,
            Check("share of descents lost without the clip", [lost["plain"]], ">", 0.5),
            Check("share of descents lost with the clip", [lost["clipped"]], "<", 0.01),
        ],
        f"With rho(W) = 2 the gradient {_share(median(growing))} in the median over the seeds, and "
        f"explodes in {explodes.holds.count(True)} of {len(growing)}. On the cliff "
        f"{100 * lost['plain']:.0f} % of the descents without a clip end off the minimum and "
        f"{100 * lost['clipped']:.0f} % of those with it; the largest step is "
        f"{figure(step['plain'])} without and {figure(step['clipped'])} with it.",
        "One unit over 50 steps, E = (sigmoid(x_50) - 0.7)^2, 64 descents from two places that "
        "differ by 1e-13. At the wall an unclipped update goes as far as its gradient is long. "
        "Clipping bounds the step; it does not make a chaotic network learnable (Mikhaeil et al. "
        "2022).",
        {"largest step without the clip": step["plain"], "with it": step["clipped"]},
    )


def initialisation(results: Results) -> Finding:
    """Judge initialisation: the lowest and the highest slope of a tanh RNN over the starts of W."""
    by_start = {
        name: [_number(run["tanh"][name]["slope"]) for run in results["starts"]]
        for name in results["starts"][0]["tanh"]
    }
    ordered = sorted(by_start, key=lambda name: median(by_start[name]))
    table = np.array(list(by_start.values()))
    first, last = ordered[0], ordered[-1]
    return Finding(
        [
            Check("lowest slope of the starts", table.min(axis=0).tolist(), "<", VANISHES, NATS),
            Check("highest slope of the starts", table.max(axis=0).tolist(), ">", -VANISHES, NATS),
        ],
        f"From W {first} the gradient {_share(median(by_start[first]))}; from {last} it "
        f"{_share(median(by_start[last]))}.",
        "The same networks and inputs; only W differs. rho is the spectral radius of W, set "
        "exactly.",
        {f"slope, {name}": values for name, values in by_start.items()},
    )


def regularisation(results: Results) -> Finding:
    """Judge regularisation: slopes after training with each penalty and without."""
    runs = results["penalties"]
    by_name = {
        quantity: {name: [_number(run[name][quantity]) for run in runs] for name in runs[0]}
        for quantity in ("slope", "final_loss", "spectral_radius")
    }
    without = by_name["slope"]["none"]
    baseline = results["task"]["penalised_baseline"]
    losses = [value / baseline for value in by_name["final_loss"]["none"]]
    quantity = "loss over that without memory, no penalty"
    learned = Check(quantity, losses, "<", LEARNED["task"], asks=TRAINED)
    asks = "a gradient that vanishes without a penalty"
    left = Check("its slope", without, "<", VANISHES, NATS, given=learned, asks=asks)
    rises = {
        name: [a - b for a, b in zip(values, without, strict=True)]
        for name, values in by_name["slope"].items()
        if name != "none"
    }
    found = [f"{figure(median(values))} with {name}" for name, values in rises.items()]
    return Finding(
        [
            Check(f"slope with {name} minus slope without", values, ">", 0.0, NATS, given=left)
            for name, values in rises.items()
        ],
        f"After {updates(results, 'penalised')} the slope is {figure(median(without))} {NATS} "
        f"without a penalty; it changes by {', '.join(found)}.",
        "L2 shrinks W, and a smaller W forgets faster: it cures explosion and causes vanishing "
        "(Pascanu et al. 2013, section 3.1). |W^T W - I|^2 and Omega ask for norms to be kept.",
        {
            f"{quantity.replace('_', ' ')}, {name}": values
            for quantity in ("spectral_radius", "final_loss")
            for name, values in by_name[quantity].items()
        },
    )


def relu(results: Results) -> Finding:
    """Judge ReLU: slopes from identity and from Gaussian W, and the final losses from identity."""
    gaussian = [_number(r["relu"]["gaussian, rho 1.0"]["slope"]) for r in results["starts"]]
    checks = [Check("slope from a Gaussian W of rho 1", gaussian, "<", VANISHES, NATS)]
    said = []
    for problem, place in _places(results).items():
        kept = slopes(results, "rnn-relu", problem, "before")
        score, tanh = (scores(results, name, problem) for name in ("rnn-relu", "rnn-tanh"))
        checks += [
            Check(f"|slope| on {place}", [abs(v) for v in kept], "<", -VANISHES, NATS),
            _learns(results, problem, score, "ReLU RNN", _learned(results, problem)),
        ]
        said.append(
            f"On {place} the gradient from the identity {_share(median(kept))}; the loss ends at "
            f"{figure(median(score))} of that without memory (tanh RNN: {figure(median(tanh))})."
        )
    dead = [run["after"]["gates"]["h"]["dead"] for run in results["cells"]["rnn-relu"]["task"]]
    return Finding(
        checks,
        " ".join(said) + f" From a Gaussian W it {_share(median(gaussian))}.",
        "A derivative of 0 or 1 is not enough: a Gaussian W of the same spectral radius stands "
        "beside the identity.",
        {f"share of units never above zero, after {updates(results, 'task')} on the task": dead},
    )


def gates(results: Results) -> Finding:
    """Judge gates: slopes by forget bias, and of trained LSTM and GRU beside the tanh RNN's."""
    runs = results["forget_biases"]
    by_bias = {name: [_number(run[name]["slope"]) for run in runs] for name in runs[0]}
    alone = {name: [_number(run[name]["keep_slope"]) for run in runs] for name in runs[0]}
    slopes_of, alone_of = np.array(list(by_bias.values())), np.array(list(alone.values()))
    rise = np.diff(slopes_of, axis=0).min(axis=0).tolist()
    above = (slopes_of - alone_of).min(axis=0).tolist()
    checks = [
        Check("least slope of an LSTM above its forget gates'", above, ">", -0.02, NATS),
        Check("least rise of the slope with the forget bias", rise, ">", 0.0, NATS),
    ]
    after = {}
    for problem, place in _places(results).items():
        tanh = slopes(results, "rnn-tanh", problem, "after")
        after[f"tanh RNN on {place}"] = tanh
        for cell in ("lstm", "gru"):
            rates = slopes(results, cell, problem, "after")
            after[f"{CELLS[cell]} on {place}"] = rates
            farther = [a - b for a, b in zip(rates, tanh, strict=True)]
            quantity = f"trained {CELLS[cell]}'s slope minus the tanh RNN's on {place}"
            given = _learned(results, problem, [cell])
            checks.append(Check(quantity, farther, ">", 0.0, NATS, given=given))
    first, last = list(by_bias)[0], list(by_bias)[-1]
    trained = ", ".join(f"{figure(median(values))} for the {who}" for who, values in after.items())
    return Finding(
        checks,
        f"Untrained, the gradient along c {_share(median(by_bias[first]))} with a forget bias of "
        f"{first} and {_share(median(by_bias[last]))} with {last}. After "
        f"{updates(results, 'task')} on the task and {updates(results, 'text')} on text the slopes "
        f"are {trained}.",
        "Left: untrained LSTMs that differ in the forget bias alone; dotted, what their forget "
        "gates alone let through; the rest comes by the path through h. Right: after "
        f"{updates(results, 'task')}.",
        {f"slope with a forget bias of {name}": values for name, values in by_bias.items()}
        | {f"forget gates alone with {name}": values for name, values in alone.items()},
    )


def one_optimiser(results: Results) -> Finding:
    """Judge the optimiser: the final losses of all cells, on both problems."""
    checks, said = [], []
    for problem, place in _places(results).items():
        given = _learned(results, problem)
        by_cell = {name: scores(results, name, problem) for name in results["cells"]}
        checks += [
            _learns(results, problem, values, CELLS[name], given)
            for name, values in by_cell.items()
        ]
        ends = ", ".join(f"{CELLS[n]} {figure(median(v))}" for n, v in by_cell.items())
        said.append(f"On {place} the losses end at these shares of that without memory: {ends}.")
    skipped = {
        f"updates skipped, {CELLS[name]} on {place}": [run["skipped"] for run in cell[problem]]
        for name, cell in results["cells"].items()
        for problem, place in _places(results).items()
    }
    return Finding(
        checks,
        " ".join(said),
        "Learning rate, momentum and the largest norm are the same for every cell of a problem. "
        "They differ in how far the gradient reaches back.",
        skipped,
    )


CLAIMS: tuple[tuple[str, str, tuple[str, ...], Callable[[Results], Finding]], ...] = (
    (
        "A tanh chain makes gradients vanish",
        "Before training, the gradient of a tanh RNN falls exponentially with the lag.",
        ("rnn-tanh",),
        vanishing,
    ),
    (
        "Gradients explode too, and clipping cures it",
        "In some networks the gradient explodes; clipping its norm keeps a descent along a cliff "
        "on its way.",
        (),
        explosion,
    ),
    (
        "The start of W decides",
        "How W is initialised decides whether the gradient of a tanh RNN vanishes or explodes.",
        (),
        initialisation,
    ),
    (
        "Regularisation against vanishing",
        "Each penalty on W reduces vanishing in a trained tanh RNN.",
        (),
        regularisation,
    ),
    (
        "ReLU, if it starts at the identity",
        "A ReLU network that starts at the identity keeps the gradient and learns, on the task and "
        "on text; from a Gaussian W of the same spectral radius the gradient vanishes.",
        ("rnn-tanh", "rnn-relu"),
        relu,
    ),
    (
        "Gates carry the gradient",
        "Along an LSTM's c the gradient falls no faster than its forget gates alone let it, and "
        "less with a larger forget bias; trained LSTMs and GRUs carry it farther than a tanh RNN.",
        ("rnn-tanh", "lstm", "gru"),
        gates,
    ),
    (
        "One optimiser for all",
        "The same clipped SGD, with the same settings, lets every cell learn the task and text.",
        (),
        one_optimiser,
    ),
)
"""Claims in the tutorial's order: (title, statement, cells that it needs, its judge)."""
