"""Figures of the claims, one each."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import axes as drawing
from .about_cells import bars, by_lag, carried, last_values, task_panel
from .axes import COLORS, GREY, LABELS, MARKERS, STYLES, Picture, Results

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


def _variants(lines: dict[str, Any], cell: str, when: str) -> list[tuple[str, np.ndarray, Any]]:
    """Lines for `by_lag`: norms by lag of variants of one cell, with different markers."""
    styles = (
        {"color": COLORS[cell], "ls": STYLES[when], "marker": marker, "markevery": 4, "lw": 1.5}
        for marker in MARKERS
    )
    return [
        (label, drawing.relative(norms), style)
        for (label, norms), style in zip(lines.items(), styles, strict=False)
    ]


def _panel(axes: Any, lines: list[tuple[str, np.ndarray, Any]], title: str) -> str:
    """Plot lines by lag in a panel with its own limits; return a description in words."""
    marks = drawing.limit(axes, by_lag(axes, lines, title))
    axes.legend()
    ends = last_values([line[:2] for line in lines], str(lines[0][1].shape[1] - 1))
    beyond = f" Beyond the axis, marked at its edge: {', '.join(marks)}." if marks else ""
    return f"{title}: lines of the gradient norm against the lag. {ends}{beyond}"


def _each(runs: list[Results], name: str) -> list[Any]:
    return [run[name]["norms"] for run in runs]


def _slope(runs: list[Results], name: str) -> str:
    values = [run[name]["slope"] for run in runs if run[name]["slope"] is not None]
    return f"{np.median(values):+.2f}" if values else "lost"


def vanishing(results: Results) -> Picture:
    """Plot the untrained tanh RNN's gradient by lag on both problems, with a fitted exponential."""
    figure, places = drawing.panels(2, height=3.8)
    seen = []
    for axes, problem in zip(places, ("task", "text"), strict=True):
        runs = results["cells"]["rnn-tanh"][problem]
        table = drawing.relative(run["before"]["norms"]["h"] for run in runs)
        style = {"color": COLORS["rnn-tanh"], "ls": STYLES["before"]}
        rate = float(np.median([run["before"]["slope"]["h"] for run in runs]))
        lag = np.arange(table.shape[1])
        logs = np.log(drawing.middle(table))
        fit = np.exp(np.nanmean(logs) + rate * (lag - lag.mean()))
        axes.plot(lag, fit, ":", color=drawing.ink(), label=f"exponential: {rate:+.3f} nats a step")
        said = _panel(axes, [("measured", table, style)], f"tanh RNN at its start, {problem}")
        seen.append(f"{said} The line of an exponential of {rate:+.3f} nats a step lies on it.")
    return Picture(figure, tuple(seen))


def explosion(results: Results) -> Picture:
    """Plot the cliff with a clipped and an unclipped descent, and the outcome of all descents."""
    figure, (left, right) = drawing.panels(2)
    cliff = results["cliff"]
    surface = np.log10(np.maximum(cliff["surface"], 1e-8))
    filled = left.contourf(cliff["w"], cliff["b"], surface, levels=24, cmap="Greys_r", alpha=0.9)
    left.figure.colorbar(filled, ax=left, label="log10 E")
    ends = []
    for name, style in (("plain", ":"), ("clipped", "-")):
        path = np.asarray(cliff[name]["path"])[0]
        label = "not clipped" if name == "plain" else "clipped"
        inside = np.clip(path, [3, -5], [8, -1])
        left.plot(*inside.T, color="#ffffff", lw=3.5)
        left.plot(*inside.T, style, color="#111111", lw=1.8, label=label, marker=".", ms=4)
        ends.append(f"{label}, ends at w = {path[-1][0]:.2g}, b = {path[-1][1]:.2g}")
    left.set_xlim(3, 8)
    left.set_ylim(-5, -1)
    left.set_xlabel("w (recurrent weight)")
    left.set_ylabel("b (bias)")
    left.set_title("the cliff: one start, two ends")
    left.legend(loc="upper right", frameon=True, facecolor="#ffffff", labelcolor="#111111")
    shares = [100 * np.mean(cliff[n]["share_off_the_minimum"]) for n in ("plain", "clipped")]
    drawn = right.bar(["not clipped", "clipped"], shares, color=GREY, hatch=["///", ""])
    right.bar_label(drawn, fmt="%.0f %%")
    right.set_ylim(0, 105)
    right.set_ylabel("descents that end off the minimum (%)")
    right.set_title("64 neighbouring starts")
    return Picture(
        figure,
        (
            f"E as shades over w and b, with the paths of two descents; {'; '.join(ends)}.",
            f"Bars: {shares[0]:.0f} % of the descents without the clip end off the minimum, "
            f"{shares[1]:.0f} % of those with it.",
        ),
    )


def initialisation(results: Results) -> Picture:
    """Plot the gradient by lag for each initialisation of W, for tanh and ReLU."""
    figure, places = drawing.panels(2)
    seen = []
    for axes, cell, activation in zip(
        places, ("rnn-tanh", "rnn-relu"), ("tanh", "relu"), strict=True
    ):
        runs = [run[activation] for run in results["starts"]]
        lines = {f"{name} ({_slope(runs, name)})": _each(runs, name) for name in runs[0]}
        title = f"{LABELS[cell]} (in brackets: nats a step)"
        seen.append(_panel(axes, _variants(lines, cell, "before"), title))
    return Picture(figure, tuple(seen))


def regularisation(results: Results) -> Picture:
    """Plot the gradient by lag of tanh RNNs trained with each penalty."""
    figure, (axes,) = drawing.panels()
    runs = results["penalties"]
    lines = {
        f"{name} ({_slope(runs, name)} nats a step, "
        f"rho {np.median([run[name]['spectral_radius'] for run in runs]):.2f})": _each(runs, name)
        for name in runs[0]
    }
    title = "tanh RNN after training with a penalty on W"
    return Picture(figure, (_panel(axes, _variants(lines, "rnn-tanh", "after"), title),))


def relu(results: Results) -> Picture:
    """Plot gradient and learning of the ReLU RNN with identity initialisation and the tanh RNN."""
    figure, (left, right) = drawing.panels(2)
    names = ["rnn-tanh", "rnn-relu"]
    lines = [
        (
            f"{LABELS[name]}, {'identity' if name == 'rnn-relu' else 'orthogonal'} W",
            drawing.relative(run["before"]["norms"]["h"] for run in results["cells"][name]["task"]),
            {"color": COLORS[name], "ls": STYLES["before"]},
        )
        for name in names
    ]
    gaussian = _each([run["relu"] for run in results["starts"]], "gaussian, rho 1.0")
    lines += _variants({"ReLU RNN, Gaussian W, rho 1": gaussian}, "rnn-relu", "before")
    return Picture(
        figure, (_panel(left, lines, "gradient at the start"), task_panel(right, results, names))
    )


def gates(results: Results) -> Picture:
    """Plot untrained LSTMs by forget bias, with their forget gates alone, and trained cells."""
    figure, (left, right) = drawing.panels(2)
    runs = results["forget_biases"]
    measured = {f"forget bias {name} ({_slope(runs, name)})": _each(runs, name) for name in runs[0]}
    lines = _variants(measured, "lstm", "before")
    for name, (_, _, style) in zip(runs[0], lines, strict=True):
        alone = drawing.stacked(run[name]["keep_product"] for run in runs)
        alone = drawing.middle(alone)[1:]  # dL/dc starts at lag 1.
        thin = style | {"ls": ":", "lw": 1.2, "ms": 3}
        left.plot(np.arange(1, len(alone) + 1), alone / alone[0], **thin)
    left.plot([], [], ":", color=COLORS["lstm"], lw=1.2, label="dotted: forget gates alone")
    seen = _panel(left, lines, "untrained LSTM, along c (nats a step)")
    cells = ("rnn-tanh", "lstm", "gru")
    after = [
        (
            LABELS[name] + (", c" if name == "lstm" else ""),
            carried(results["cells"][name]["task"], "after"),
            {"color": COLORS[name], "ls": STYLES["after"]},
        )
        for name in cells
    ]
    return Picture(figure, (seen, _panel(right, after, "after training on the task")))


def one_optimiser(results: Results) -> Picture:
    """Plot every cell's final loss on the task and on text over that of a memoryless predictor."""
    figure, (axes,) = drawing.panels(height=3.6)
    order0 = results["text"]["order0_bits_per_character"]

    def score(run: Results, problem: str) -> float:
        loss = run["final_loss"] if problem == "task" else run["bits_per_character"]
        alone = run["baseline"] if problem == "task" else order0
        return float("nan") if loss is None else loss / alone

    said = bars(axes, results, score, ".2f")
    axes.axhline(1.0, color=GREY, ls=":")
    axes.set_ylabel("loss over that without memory")
    return Picture(figure, (f"Bars of the final loss over that without memory: {said}.",))


FIGURES: dict[int, Callable[[Results], Picture]] = {
    1: vanishing,
    2: explosion,
    3: initialisation,
    4: regularisation,
    5: relu,
    6: gates,
    7: one_optimiser,
}
"""Figures by the number of the claim."""
