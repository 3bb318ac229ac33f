"""Figures of all cells side by side: gradient by lag, learning curves, clipping."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from . import axes as drawing
from .axes import COLORS, GREY, LABELS, STYLES, Drawn, Picture, Results

__all__ = [
    "FIGURES",
    "bars",
    "by_lag",
    "carried",
    "clipping",
    "curves",
    "flow",
    "flow_on_text",
    "last_values",
    "task_curves",
    "task_panel",
    "text_curves",
]
__dir__ = __all__.copy


def carried(runs: list[Results], when: str) -> np.ndarray:
    """Gradient norms by lag, [S, T], along c of an LSTM, else h."""
    return drawing.relative(run[when]["norms"].get("c", run[when]["norms"]["h"]) for run in runs)


def by_lag(axes: Axes, lines: list[tuple[str, np.ndarray, dict[str, Any]]], title: str) -> Drawn:
    """Plot norms [S, T] against the lag, with labels and styles; return lines for `axes.limit`."""
    drawn: Drawn = []
    for label, table, style in lines:
        lag = np.arange(table.shape[1])
        drawing.band(axes, lag, table, label, **style)
        drawn.append((lag, table, style["color"]))
    axes.set_yscale("log")
    axes.set_xlabel(drawing.LAG)
    axes.set_ylabel(drawing.NORM)
    axes.set_title(title)
    axes.legend()
    return drawn


def last_values(lines: list[tuple[str, np.ndarray]], steps: str) -> str:
    """Say the value of each line at its last point, in words."""
    ends = [f"{label} {drawing.number(drawing.middle(table)[-1])}" for label, table in lines]
    return (
        f"Relative to the last step, the gradient norm {steps} steps before is: {', '.join(ends)}."
    )


def flow(results: Results, problem: str = "task") -> Picture:
    """Plot the gradient norm against the lag, before and after training, for all cells."""
    figure, places = drawing.panels(2)
    drawn: list[Drawn] = []
    seen = []
    for axes, when in zip(places, ("before", "after"), strict=True):
        lines = [
            (
                LABELS[name] + (", c" if name == "lstm" else ""),
                carried(cell[problem], when),
                {"color": COLORS[name], "ls": STYLES[when]},
            )
            for name, cell in results["cells"].items()
        ]
        drawn.append(by_lag(axes, lines, f"{when} training"))
        steps = str(lines[0][1].shape[1] - 1)
        ends = last_values([line[:2] for line in lines], steps)
        seen.append(f"Lines of the gradient norm against the lag, {when} training. {ends}")
    marks = [drawing.limit(*each) for each in zip(places, drawn, drawn[::-1], strict=True)]
    return Picture(figure, tuple(text + _said(m) for text, m in zip(seen, marks, strict=True)))


def flow_on_text(results: Results) -> Picture:
    """Plot `flow` for the text: the gradient of the loss of one character."""
    return flow(results, "text")


def curves(axes: Axes, runs: dict[str, list[Results]], label: Callable[[str], str]) -> list[str]:
    """Plot learning curves by cell; return marks for values beyond the axis."""
    drawn = []
    for name, of_cell in runs.items():
        steps = np.asarray(of_cell[0]["curve"]["step"])
        table = drawing.stacked(run["curve"]["value"] for run in of_cell)
        drawing.band(axes, steps, table, label(name), color=COLORS[name], ls=STYLES["after"])
        drawn.append((steps, table, COLORS[name]))
    axes.set_xlabel("updates")
    return drawing.limit(axes, drawn)


def task_panel(axes: Axes, results: Results, names: list[str]) -> str:
    """Plot learning curves on the task with its baseline; return a description in words."""
    axes.set_yscale("log")
    runs = {name: results["cells"][name]["task"] for name in names}
    marks = curves(axes, runs, lambda name: LABELS[name])
    baseline = results["task"]["baseline"]
    axes.axhline(baseline, color=GREY, ls=":", label="baseline: no memory")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8 * baseline), max(high, 1.3 * baseline))
    adding = results["task"]["name"] == "adding"
    axes.set_ylabel("mean squared error" if adding else "loss (nats)")
    axes.set_title(f"learning the {results['task']['name']} task")
    axes.legend()
    ends = {name: _median(run["final_loss"] for run in of_cell) for name, of_cell in runs.items()}
    parts = [f"{LABELS[name]} {drawing.number(end / baseline)}" for name, end in ends.items()]
    return (
        "Learning curves. At the end the loss, over the baseline of "
        f"{drawing.number(baseline)}, is: {', '.join(parts)}." + _said(marks)
    )


def task_curves(results: Results) -> Picture:
    """Plot learning curves on the task."""
    figure, (axes,) = drawing.panels()
    return Picture(figure, (task_panel(axes, results, list(results["cells"])),))


def text_curves(results: Results) -> Picture:
    """Plot learning curves on text with its order-0 entropy; dots: final loss on held-out text."""
    figure, (axes,) = drawing.panels()
    order0 = results["text"]["order0_bits_per_character"]
    runs = {name: cell["text"] for name, cell in results["cells"].items()}
    bits = {n: _median(run["bits_per_character"] for run in of_cell) for n, of_cell in runs.items()}
    marks = curves(axes, runs, lambda name: f"{LABELS[name]}: {_bits(bits[name])}")
    for name, value in bits.items():
        axes.plot(runs[name][0]["curve"]["step"][-1], value, "o", color=COLORS[name])
    axes.axhline(order0, color=GREY, ls=":", label=f"order-0 entropy: {order0:.2f}")
    axes.set_ylabel("bits per character")
    axes.set_title("learning text (dots and numbers: held-out text)")
    axes.legend()
    ends = ", ".join(f"{LABELS[name]} {_bits(value)}" for name, value in bits.items())
    seen = (
        f"Learning curves. Held-out text ends at these bits per character: {ends}; {order0:.2f} is"
    )
    return Picture(figure, (f"{seen} the entropy of single characters." + _said(marks),))


def clipping(results: Results) -> Picture:
    """Plot the share of clipped updates, and the largest gradient norm over the median one."""
    figure, (left, right) = drawing.panels(2, height=3.4)
    share = bars(left, results, lambda run, _: 100 * run["clip_rate"])
    ratio = bars(
        right, results, lambda run, _: run["gradient_norm_largest"] / run["gradient_norm_median"]
    )
    left.set_ylabel("updates clipped (%)")
    left.set_ylim(0, 105)
    right.set_ylabel("largest / median gradient norm")
    right.set_yscale("log")
    return Picture(
        figure,
        (
            f"Bars of the share of updates that were clipped, in %: {share}.",
            f"Bars of the largest gradient norm over the median one: {ratio}.",
        ),
    )


def bars(
    axes: Axes, results: Results, value: Callable[[Results, str], float], text: str = ""
) -> str:
    """Plot one bar for each cell on the task and, hatched, on text, with the range over the seeds.

    Args:
        axes: the axes to plot on.
        results: the results of a study.
        value: (run, "task" or "text") -> the height of a bar.
        text: the format of the numbers above the bars; "": no numbers.

    Returns:
        A description in words.
    """
    names = list(results["cells"])
    said = []
    for offset, problem, hatch in ((-0.2, "task", ""), (0.2, "text", "///")):
        table = drawing.stacked(
            [_or_nan(value(run, problem)) for run in results["cells"][name][problem]]
            for name in names
        ).T
        heights = drawing.middle(table)
        low, high = (np.where(np.isfinite(table), table, heights) for _ in range(2))
        errors = np.nan_to_num([heights - low.min(0), high.max(0) - heights])
        drawn = axes.bar(
            np.arange(len(names)) + offset,
            np.nan_to_num(heights),
            0.38,
            yerr=errors,
            ecolor=drawing.ink(),
            color=[COLORS[name] for name in names],
            hatch=hatch,
            edgecolor=axes.get_facecolor(),
        )
        if text:
            axes.bar_label(drawn, [format(h, text) for h in heights], fontsize=9)
        said += [
            f"{LABELS[n]} {problem} {drawing.number(h)}"
            for n, h in zip(names, heights, strict=True)
        ]
    axes.bar(0, 0, color=GREY, label="task")
    axes.bar(0, 0, color=GREY, hatch="///", edgecolor=axes.get_facecolor(), label="text")
    axes.set_xticks(range(len(names)), [LABELS[name] for name in names])
    drawing.legend_above(axes)
    return ", ".join(said)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _median(values: Any) -> float:
    return float(np.median([_or_nan(value) for value in values]))


def _bits(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "diverged"


def _said(marks: list[str]) -> str:
    return f" Beyond the axis, marked at its edge: {', '.join(marks)}." if marks else ""


FIGURES: dict[str, Callable[[Results], Picture]] = {
    "gradient-by-lag-task": flow,
    "learning-task": task_curves,
    "learning-text": text_curves,
    "gradient-by-lag-text": flow_on_text,
    "clipping": clipping,
}
"""Figures by the name of their file."""
