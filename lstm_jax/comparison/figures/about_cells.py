"""Figures of all cells side by side: gradient by lag, learning curves, clipping."""

from collections.abc import Callable, Iterable

import numpy as np

from ...charts import CELLS, Bars, Chart, Figure, Line, alone, line, middle
from ..claims import LEARNED, scores, updates
from ..verdicts import median
from . import values
from .values import Results, number, or_nan

__all__ = [
    "FIGURES",
    "bars",
    "clipping",
    "flow_on_task",
    "flow_on_text",
    "learning_task",
    "learning_text",
    "task_chart",
]
__dir__ = __all__.copy


# ---- the gradient on its way back ----------------------------------------------------------------
def flow_on_task(results: Results) -> Figure:
    """The gradient norm against the lag on the task, before and after training."""
    return _flow(results, "task", _task(results))


def flow_on_text(results: Results) -> Figure:
    """The same on text, for the loss of one character."""
    return _flow(results, "text", "text")


def _flow(results: Results, problem: str, place: str) -> Figure:
    panels = [
        values.by_lag(
            when,
            "before training" if when == "before" else f"after {updates(results, problem)}",
            values.of_cells(results, problem, when, results["cells"]),
        )
        for when in ("before", "after")
    ]
    caption = (
        f"How far back the loss of the last step reaches on {place}: the norm of its derivative "
        "with respect to the state, against the lag."
    )
    title = _kept(panels[1].lines, f"After {updates(results, problem)} on {place}")
    return Figure(f"gradient-by-lag-{problem}", title, panels, caption, level=True)


def _kept(lines: Iterable[Line], when: str) -> str:
    """Which cell keeps most of its gradient by then, and which least."""
    kept = {line.label.removesuffix(", c"): values.last(line) for line in lines}
    steps = max(len(line.x) for line in lines) - 1
    known = sorted((name for name in kept if np.isfinite(kept[name])), key=lambda name: -kept[name])
    if not known:
        return f"{when} no gradient is finite"
    most, least = known[0], known[-1]
    others = f", the {least} {number(kept[least])}" if least != most else ""
    share = f"{number(kept[most])} {'times' if kept[most] > 1 else 'of'} its gradient"
    return f"{when} the {most} keeps {share} over {steps} steps{others}"


# ---- learning ------------------------------------------------------------------------------------
def learning_task(results: Results) -> Figure:
    """Learning curves on the task."""
    title = _learned(results, "task", _task(results))
    caption = "All cells with the same optimiser."
    return alone(task_chart(results, results["cells"], "learning-task", title, caption))


def task_chart(
    results: Results, names: Iterable[str], name: str, title: str, caption: str = ""
) -> Chart:
    """Learning curves of these cells on the task, with the loss of a predictor without memory."""
    curves = [_curve(results, cell, "task") for cell in names]
    baseline = _level("loss without memory", curves, results["task"]["baseline"])
    adding = results["task"]["name"] == "adding"
    return Chart(
        name,
        title,
        "updates",
        "mean squared error" if adding else "loss (nats)",
        [*curves, baseline],
        caption,
        log_y=True,
        whole=False,
        formula=baseline.label,
    )


def learning_text(results: Results) -> Figure:
    """Learning curves on text, with the loss on held-out text at their ends."""
    curves = [_curve(results, name, "text") for name in results["cells"]]
    held_out = {
        CELLS[name]: [or_nan(run["bits_per_character"]) for run in cell["text"]]
        for name, cell in results["cells"].items()
    }
    ends = [
        line(f"{label}, held-out text", curve.x[-1:], np.array(bits)[:, None])
        for (label, bits), curve in zip(held_out.items(), curves, strict=True)
    ]
    order0 = results["text"]["order0_bits_per_character"]
    level = _level("entropy of single characters", curves, order0)
    said = ", ".join(f"{label} {_bits(median(bits))}" for label, bits in held_out.items())
    chart = Chart(
        "learning-text",
        _learned(results, "text", "text"),
        "updates",
        "bits per character",
        [*curves, *ends, level],
        f"Lines: training; dots: the held-out last tenth of the text ({said}).",
        whole=False,
        formula=f"{level.label}: {order0:.2f}",
        dots="held-out text",
    )
    return alone(chart)


def _curve(results: Results, cell: str, problem: str) -> Line:
    runs = results["cells"][cell][problem]
    rows = values.stacked(run["curve"]["value"] for run in runs)
    return line(CELLS[cell], runs[0]["curve"]["step"], rows)


def _level(label: str, curves: list[Line], height: float) -> Line:
    """A line at one height, as long as the curves."""
    ends = [min(curve.x[0] for curve in curves), max(curve.x[-1] for curve in curves)]
    return line(label, ends, [height, height], theory=True)


def _bits(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "diverged"


def _task(results: Results) -> str:
    return f"the {results['task']['name']} task"


def _learned(results: Results, problem: str, place: str) -> str:
    """Which cells learn, and which not."""
    score = {name: median(scores(results, name, problem)) for name in results["cells"]}
    learned = [CELLS[name] for name, value in score.items() if value < LEARNED[problem]]
    others = [CELLS[name] for name in score if CELLS[name] not in learned]
    bound = f"{LEARNED[problem]:.0%} of the loss without memory"
    if not learned:
        return f"No cell gets below {bound} on {place}"
    verb = "does" if len(others) == 1 else "do"
    rest = f"; {values.listed(others)} {verb} not" if others else ""
    gets = "gets" if len(learned) == 1 else "get"
    return f"{values.listed(learned)} {gets} below {bound} on {place}{rest}"


# ---- clipping ------------------------------------------------------------------------------------
def clipping(results: Results) -> Figure:
    """The share of clipped updates, and the largest gradient norm over the median one."""
    share = bars(
        results,
        lambda run, _: 100 * run["clip_rate"],
        ("share", "How often it clips", "updates clipped (%)"),
        limits=(0, 114),
    )
    ratio = bars(
        results,
        lambda run, _: _ratio(run),
        ("largest", "How high gradients rise", "largest / median gradient norm"),
        limits=(1, None),
        log_y=True,
    )
    caption = "Thin lines: from the lowest to the highest seed."
    return Figure("clipping", _clipped(share, ratio), [share, ratio], caption)


def _ratio(run: Results) -> float:
    return or_nan(run["gradient_norm_largest"]) / (run["gradient_norm_median"] or np.nan)


def bars(
    results: Results,
    value: Callable[[Results, str], float | None],
    names: tuple[str, str, str],
    **options,
) -> Bars:
    """One bar for each cell on the task and on text.

    Args:
        results: the results of a study.
        value: (run, "task" or "text") -> the height of a bar.
        names: of the chart, its title, and what the height is.
        options: further fields of the chart.
    """
    name, title, y = names
    cells = list(results["cells"])
    series = {
        problem: np.array(
            [[or_nan(value(run, problem)) for run in results["cells"][n][problem]] for n in cells]
        ).T
        for problem in ("task", "text")
    }
    return Bars(name, title, "cell", y, [CELLS[n] for n in cells], series, **options)


def _clipped(share: Bars, ratio: Bars) -> str:
    """The shares of clipped updates, and the largest gradient over the median one."""
    shares = np.concatenate([middle(table) for table in share.series.values()])
    low, high = (f"{edge:.0f}%" for edge in (np.nanmin(shares), np.nanmax(shares)))
    said = f"{low if low == high else f'{low} to {high}'} of the updates are clipped"
    ratios = {
        f"the {cell} on {'the task' if problem == 'task' else problem}": height
        for problem, table in ratio.series.items()
        for cell, height in zip(ratio.groups, middle(table), strict=True)
        if np.isfinite(height)
    }
    if not ratios:
        return said
    who = max(ratios, key=lambda who: ratios[who])
    return f"{said}; the largest gradient of {who} is {number(ratios[who])} times its median"


FIGURES: tuple[Callable[[Results], Figure], ...] = (
    flow_on_task,
    learning_task,
    learning_text,
    flow_on_text,
    clipping,
)
