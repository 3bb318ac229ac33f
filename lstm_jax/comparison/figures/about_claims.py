"""Figures of the claims, one each."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ...charts import CELLS, Bars, Figure, Line, Surface, line, middle
from ..claims import scores, updates
from ..verdicts import median
from . import values
from .about_cells import bars, task_chart
from .values import Results, by_lag, last, number, or_nan

__all__ = [
    "FIGURES",
    "explosion",
    "gates",
    "initialisation",
    "one_optimiser",
    "regularisation",
    "relu",
    "vanishing",
]
__dir__ = __all__.copy


def _variants(
    runs: list[Results], said: Callable[[str], str] = str, untrained: bool = True
) -> list[Line]:
    """Lines by lag of variants of one cell, with their slopes in brackets."""
    lines = []
    for name in runs[0]:
        table = values.relative(run[name]["norms"] for run in runs)
        label = f"{said(name)} ({_slope(runs, name)})"
        lines.append(line(label, np.arange(table.shape[1]), table, untrained=untrained))
    return lines


def _slope(runs: list[Results], name: str) -> str:
    found = [run[name]["slope"] for run in runs if run[name]["slope"] is not None]
    return f"{np.median(found):+.2f}" if found else "lost"


def _extremes(lines: list[Line]) -> tuple[Line, Line]:
    """The lines that end lowest and highest; what was lost altogether ends lowest."""
    ordered = sorted(lines, key=lambda line: np.nan_to_num(last(line), nan=-np.inf))
    return ordered[0], ordered[-1]


def _bare(line: Line) -> str:
    """A label without what stands in brackets."""
    return line.label.rsplit(" (", 1)[0]


def _left(line: Line) -> str:
    """What the gradient has become at the last lag, relative to the first."""
    end = last(line)
    if not np.isfinite(end):
        return "is lost"
    return f"{'rises' if end > 1 else 'falls'} to {number(end)}"


def _steps(line: Line) -> str:
    return f"{len(line.x) - 1} steps"


def vanishing(results: Results) -> Figure:
    """The untrained tanh RNN's gradient by lag on both problems, with a fitted exponential."""
    name = CELLS["rnn-tanh"]
    panels, said = [], []
    for problem, place in (("task", f"the {results['task']['name']} task"), ("text", "text")):
        runs = results["cells"]["rnn-tanh"][problem]
        table = values.relative(run["before"]["norms"]["h"] for run in runs)
        measured = line(name, np.arange(table.shape[1]), table, untrained=True)
        rate = float(np.median([or_nan(run["before"]["slope"]["h"]) for run in runs]))
        logs = np.log(measured.middle)
        fit = np.exp(np.nanmean(logs) + rate * (measured.x - measured.x.mean()))
        lines = [measured, line("exponential", measured.x, fit, theory=True)]
        legend = f"exponential: {rate:+.3f} nats a step"
        panels.append(by_lag(problem, f"on {place}", lines, formula=legend))
        said.append(f"{_left(measured)} over {_steps(measured)} on {place}")
    title = f"The gradient of an untrained {name} {' and '.join(said)}"
    return Figure("claim-1", title, panels)


def explosion(results: Results) -> Figure:
    """The cliff with a clipped and an unclipped descent, and the outcome of all descents."""
    cliff = results["cliff"]
    kinds = {"not clipped": cliff["plain"], "clipped": cliff["clipped"]}
    paths = [line(name, *np.asarray(of["path"], np.float64)[0].T) for name, of in kinds.items()]
    w, b, heights = (np.asarray(cliff[name], np.float64) for name in ("w", "b", "surface"))
    surface = Surface(
        "surface",
        "the cliff: one start, with and without the clip",
        "w (recurrent weight)",
        "b (bias)",
        "E",
        w,
        b,
        np.maximum(heights, 1e-8),
        paths,
    )
    shares = {name: 100 * np.asarray(of["share_off_the_minimum"]) for name, of in kinds.items()}
    starts = [f"from w = {w:g}, b = {b:g}" for w, b in cliff["starts"]]
    ends = Bars(
        "ends",
        "64 descents from two places",
        "descents",
        "descents that end off the minimum (%)",
        list(shares),
        {start: np.array([[of[n] for of in shares.values()]]) for n, start in enumerate(starts)},
        limits=(0, 114),
    )
    lost = {name: f"{np.mean(of):.0f} %" for name, of in shares.items()}
    title = (
        f"Without the clip {lost['not clipped']} of the descents along a cliff end off the "
        f"minimum, with it {lost['clipped']}"
    )
    return Figure("claim-2", title, [surface, ends])


def initialisation(results: Results) -> Figure:
    """The gradient by lag for each initialisation of W, for tanh and ReLU."""
    panels = [
        by_lag(of, CELLS[cell], _variants([run[of] for run in results["starts"]]))
        for cell, of in (("rnn-tanh", "tanh"), ("rnn-relu", "relu"))
    ]
    least, most = _extremes(list(panels[0].lines))
    title = (
        f"Over {_steps(least)} the gradient of the {CELLS['rnn-tanh']} {_left(least)} from W "
        f"{_bare(least)}, and {_left(most)} from {_bare(most)}"
    )
    return Figure("claim-3", title, panels, "In brackets: nats a step.")


def regularisation(results: Results) -> Figure:
    """The gradient by lag of tanh RNNs trained with each penalty, each beside that without."""
    runs = results["penalties"]

    def said(name: str) -> str:
        rho = np.median([or_nan(run[name]["spectral_radius"]) for run in runs])
        return f"{name}, rho {rho:.2f}"

    lines = _variants(runs, said, untrained=False)
    by_name = dict(zip(runs[0], lines, strict=True))
    without = by_name.pop("none")
    _, most = _extremes(list(by_name.values()))
    name = next(name for name, of in by_name.items() if of is most)
    title = (
        f"After {updates(results, 'penalised')}, over {_steps(without)}, the gradient of the "
        f"{CELLS['rnn-tanh']} {_left(without)} without a penalty, and {_left(most)} with {name}"
    )
    panels = [by_lag(name, f"with {name}", [without, of]) for name, of in by_name.items()]
    return Figure("claim-4", title, panels, "In brackets: nats a step.", level=True)


def relu(results: Results) -> Figure:
    """Gradient and learning of the ReLU RNN with identity initialisation and the tanh RNN."""
    names = ("rnn-tanh", "rnn-relu")
    starts = {"rnn-tanh": "orthogonal W", "rnn-relu": "identity W"}
    tables = {
        f"{CELLS[name]}, {starts[name]}": values.relative(
            run["before"]["norms"]["h"] for run in results["cells"][name]["task"]
        )
        for name in names
    }
    gaussian = [run["relu"]["gaussian, rho 1.0"]["norms"] for run in results["starts"]]
    tables[f"{CELLS['rnn-relu']}, Gaussian W, rho 1"] = values.relative(gaussian)
    lines = [
        line(name, np.arange(table.shape[1]), table, untrained=True)
        for name, table in tables.items()
    ]
    flow = by_lag("start", "gradient at the start", lines)
    task = f"learning the {results['task']['name']} task"
    _, identity, from_gaussian = lines
    title = (
        f"Over {_steps(identity)} the gradient of the {CELLS['rnn-relu']} {_left(identity)} from "
        f"the identity, and {_left(from_gaussian)} from a Gaussian W"
    )
    return Figure("claim-5", title, [flow, task_chart(results, names, "learning", task)])


def gates(results: Results) -> Figure:
    """Untrained LSTMs by forget bias, with their forget gates alone, and trained cells."""
    runs = results["forget_biases"]
    lines = _variants(runs, lambda name: f"forget bias {name}")
    alone = [
        _gates_alone(_bare(of), [run[name]["keep_product"] for run in runs])
        for name, of in zip(runs[0], lines, strict=True)
    ]
    untrained = by_lag(
        "start",
        "untrained LSTM, along c",
        [*lines, *alone],
        formula="forget gates alone",
    )
    cells = values.of_cells(results, "task", "after", ("rnn-tanh", "lstm", "gru"))
    least, most = lines[0], lines[-1]
    title = (
        f"Over {_steps(least)} the gradient of an untrained LSTM {_left(least)} with {_bare(least)}"
        f", and {_left(most)} with {_bare(most)}"
    )
    panels = [untrained, by_lag("trained", f"after {updates(results, 'task')} on the task", cells)]
    return Figure("claim-6", title, panels, "In brackets: nats a step.")


def _gates_alone(name: str, products: list[Any]) -> Line:
    """What the forget gates let through, relative to lag 1, where dL/dc starts."""
    product = middle(values.stacked(products))[1:]
    lag = np.arange(1, len(product) + 1)
    return line(f"{name}, forget gates alone", lag, product / product[0], theory=True)


def one_optimiser(results: Results) -> Figure:
    """Every cell's final loss on the task and on text over that of a memoryless predictor."""
    order0 = results["text"]["order0_bits_per_character"]

    def score(run: Results, problem: str) -> float:
        if problem == "task":
            return or_nan(run["final_loss"]) / run["baseline"]
        return or_nan(run["bits_per_character"]) / order0

    said = []
    for problem, place in (("task", f"the {results['task']['name']} task"), ("text", "text")):
        ends = [median(scores(results, cell, problem)) for cell in results["cells"]]
        low, high = (number(edge(ends)) for edge in (np.fmin.reduce, np.fmax.reduce))
        share = low if low == high else f"{low} to {high}"
        said.append(f"{share} of the loss without memory on {place}")
    title = f"With one optimiser the cells end at {' and at '.join(said)}"
    level = (1.0, "without memory")
    names = ("claim-7", title, "final loss over that without memory")
    return Figure("claim-7", title, [bars(results, score, names, limits=(0, None), level=level)])


FIGURES: dict[int, Callable[[Results], Figure]] = {
    1: vanishing,
    2: explosion,
    3: initialisation,
    4: regularisation,
    5: relu,
    6: gates,
    7: one_optimiser,
}
"""Figures by the number of the claim."""
