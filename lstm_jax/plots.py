"""The figures of a study, drawn with matplotlib (extra `study`).

Each function takes the study's results and returns a `Figure`; nothing global is touched.
"""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {"rnn-tanh": "#d1495b", "rnn-relu": "#edae49", "lstm": "#00798c", "gru": "#5b4b8a"}
LABELS = {"rnn-tanh": "tanh RNN", "rnn-relu": "ReLU RNN", "lstm": "LSTM (c)", "gru": "GRU"}
GREY = "#6b7280"
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "svg.fonttype": "path",
}
LAG = "lag: steps before the end"
NORM = "gradient norm, relative to the end"

Results = dict[str, Any]


def _figure(columns: int = 1, width: float = 8.0, height: float = 4.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _carried(flow: Results) -> np.ndarray:
    """The norms by lag of the leaf that carries the memory: c where there is one, else h."""
    norms = flow["norms"]
    return np.asarray(norms.get("c", norms["h"]), np.float64)


def _relative(norms: Any) -> np.ndarray:
    """Over the first that is there: lag 0, or lag 1 for a c that the loss does not see at lag 0."""
    values = np.asarray(norms, np.float64)
    known = values[np.isfinite(values)]
    return values / known[0] if known.size else values


def _lag_axes(axes: Axes, title: str) -> None:
    axes.set_yscale("log")
    axes.set_xlabel(LAG)
    axes.set_ylabel(NORM)
    axes.set_title(title)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1e-20), min(high, 1e20))


def _lines_by_lag(axes: Axes, lines: dict[str, Any], title: str, **styles: Any) -> None:
    for name, norms in lines.items():
        axes.plot(_relative(norms), label=LABELS.get(name, name), color=COLORS.get(name), **styles)
    _lag_axes(axes, title)
    axes.legend(fontsize=9)


def flow(results: Results, problem: str = "task") -> Figure:
    """Gradient norm against lag, before and after training, all cells."""
    figure, (left, right) = _figure(2, width=11.0)
    for axes, when in ((left, "before"), (right, "after")):
        lines = {name: _carried(cell[problem][when]) for name, cell in results["cells"].items()}
        _lines_by_lag(axes, lines, f"{when} training")
    low = min(axes.get_ylim()[0] for axes in (left, right))
    high = max(axes.get_ylim()[1] for axes in (left, right))
    for axes in (left, right):
        axes.set_ylim(low, high)
    return figure


def flow_on_text(results: Results) -> Figure:
    """`flow` on the text: how the loss of one character reaches back."""
    return flow(results, "text")


def task_curves(results: Results) -> Figure:
    """Learning curves on the task, against its baseline."""
    figure, (axes,) = _figure()
    for name, cell in results["cells"].items():
        points = cell["task"]["curve"]
        axes.plot(points["step"], points["value"], color=COLORS[name], label=_plain(name))
    axes.axhline(results["task"]["baseline"], color=GREY, ls="--", label="baseline: no memory")
    axes.set_yscale("log")
    axes.set_xlabel("updates")
    axes.set_ylabel("mean squared error" if results["task"]["name"] == "adding" else "loss (nats)")
    axes.set_title(f"learning the {results['task']['name']} task")
    axes.legend(fontsize=9)
    return figure


def text_curves(results: Results) -> Figure:
    """Learning curves on text, against its order-0 entropy; dots: held-out text at the end."""
    figure, (axes,) = _figure()
    order0 = results["text"]["order0_bits_per_character"]
    for name, cell in results["cells"].items():
        points, bits = cell["text"]["curve"], cell["text"]["bits_per_character"]
        label = f"{_plain(name)}: {bits:.2f}" if np.isfinite(bits) else f"{_plain(name)}: diverged"
        axes.plot(points["step"], points["value"], color=COLORS[name], label=label)
        axes.plot(points["step"][-1], bits, "o", color=COLORS[name])
    axes.axhline(order0, color=GREY, ls="--", label=f"order-0 entropy: {order0:.2f}")
    axes.set_ylim(0, 1.5 * order0)
    axes.set_xlabel("updates")
    axes.set_ylabel("bits per character")
    axes.set_title("learning text (dots and numbers: held-out text)")
    axes.legend(fontsize=9)
    return figure


def _plain(name: str) -> str:
    return LABELS[name].removesuffix(" (c)")


def clipping(results: Results) -> Figure:
    """How often the clip acted, and how far the gradient norm went."""
    figure, (left, right) = _figure(2, width=11.0, height=3.4)
    names = list(results["cells"])
    for offset, problem in ((-0.2, "task"), (0.2, "text")):
        runs = [results["cells"][name][problem] for name in names]
        style: dict[str, Any] = {"width": 0.38, "label": problem}
        style["color"] = "#00798c" if problem == "task" else "#edae49"
        left.bar(np.arange(len(names)) + offset, [100 * r["clip_rate"] for r in runs], **style)
        ratio = [r["gradient_norm_largest"] / r["gradient_norm_median"] for r in runs]
        right.bar(np.arange(len(names)) + offset, ratio, **style)
    left.set_ylabel("updates clipped (%)")
    right.set_ylabel("largest / median gradient norm")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xticks(range(len(names)), [_plain(name) for name in names])
        _legend_above(axes)
    return figure


def claim_vanishing(results: Results) -> Figure:
    """The tanh RNN's gradient by lag and the exponential through it."""
    figure, (axes,) = _figure(height=3.6)
    before = results["cells"]["rnn-tanh"]["task"]["before"]
    norms = _relative(before["norms"]["h"])
    lag, slope = np.arange(len(norms)), before["slope"]["h"]
    fit = np.exp(np.nanmean(np.log(norms)) + slope * (lag - lag.mean()))
    axes.plot(lag, norms, color=COLORS["rnn-tanh"], label="measured")
    axes.plot(lag, fit, "--", color=GREY, label=f"exponential: {slope:+.3f} nats a step")
    _lag_axes(axes, "tanh RNN at its start")
    axes.legend(fontsize=9)
    return figure


def claim_explosion(results: Results) -> Figure:
    """The cliff, with one descent that is clipped and one that is not; and what became of all."""
    figure, (left, right) = _figure(2, width=11.0)
    cliff = results["cliff"]
    surface = np.log10(np.maximum(cliff["surface"], 1e-8))
    filled = left.contourf(cliff["w"], cliff["b"], surface, levels=24, cmap="YlGnBu_r")
    figure.colorbar(filled, ax=left, label="log10 E")
    for name, color in (("plain", COLORS["rnn-tanh"]), ("clipped", "#e07a00")):
        path = np.asarray(cliff[name]["path"])[0]
        inside = np.clip(path, [3, -5], [8, -1])
        label = "not clipped" if name == "plain" else name
        left.plot(*inside.T, color=color, lw=1.5, label=label, marker=".", ms=4)
    left.set_xlabel("w (recurrent weight)")
    left.set_ylabel("b (bias)")
    left.set_title("the cliff: one start, two ends")
    left.legend(fontsize=9, loc="upper right", frameon=True)
    shares = [100 * np.mean(cliff[n]["share_off_the_minimum"]) for n in ("plain", "clipped")]
    bars = right.bar(["not clipped", "clipped"], shares, color=[COLORS["rnn-tanh"], "#e07a00"])
    right.bar_label(bars, fmt="%.0f %%")
    right.set_ylim(0, 105)
    right.set_ylabel("descents that end off the minimum (%)")
    right.set_title("64 neighbouring starts")
    return figure


def claim_initialisation(results: Results) -> Figure:
    """Gradient by lag for each start of W, tanh and ReLU."""
    figure, (left, right) = _figure(2, width=11.0)
    for axes, activation in ((left, "tanh"), (right, "relu")):
        lines = {
            f"{name} ({start['slope']:+.2f})": start["norms"]
            for name, start in results["starts"][activation].items()
        }
        title = "tanh" if activation == "tanh" else "ReLU"
        _lines_by_lag(axes, lines, f"{title} RNN (in brackets: nats a step)")
    return figure


def claim_regularisation(results: Results) -> Figure:
    """Gradient by lag of tanh RNNs trained with each penalty."""
    figure, (axes,) = _figure()
    lines = {
        f"{name} ({run['slope']:+.2f} nats a step, rho {run['spectral_radius']:.2f})": run["norms"]
        for name, run in results["penalties"].items()
    }
    _lines_by_lag(axes, lines, "tanh RNN after training with a penalty on W")
    return figure


def claim_relu(results: Results) -> Figure:
    """The ReLU RNN at the identity against the tanh RNN: gradient and learning."""
    figure, (left, right) = _figure(2, width=11.0)
    names = ("rnn-tanh", "rnn-relu")
    lines = {name: results["cells"][name]["task"]["before"]["norms"]["h"] for name in names}
    lines["ReLU RNN, Gaussian W, rho 1"] = results["starts"]["relu"]["gaussian, rho 1.0"]["norms"]
    _lines_by_lag(left, lines, "gradient at the start")
    for name in names:
        points = results["cells"][name]["task"]["curve"]
        right.plot(points["step"], points["value"], color=COLORS[name], label=LABELS[name])
    right.axhline(results["task"]["baseline"], color=GREY, ls="--", label="baseline: no memory")
    right.set_yscale("log")
    right.set_xlabel("updates")
    right.set_ylabel("loss")
    right.set_title("learning the task")
    right.legend(fontsize=9)
    return figure


def claim_gates(results: Results) -> Figure:
    """Untrained LSTMs by forget bias, with their forget gates alone; and cells after training."""
    figure, (left, right) = _figure(2, width=11.0)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(results["forget_biases"])))
    for shade, (bias, start) in zip(shades, results["forget_biases"].items(), strict=True):
        label = f"forget bias {bias} ({start['slope']:+.2f} nats a step)"
        left.plot(_relative(start["norms"]), color=shade, label=label)
        product = np.asarray(start["keep_product"])[1:]  # dL/dc starts at lag 1.
        left.plot(np.arange(1, len(product) + 1), product / product[0], "--", color=shade, lw=1.2)
    _lag_axes(left, "untrained LSTM: |dL/dc| (dashed: forget gates alone)")
    left.legend(fontsize=9)
    cells = {name: results["cells"][name]["task"]["after"] for name in ("rnn-tanh", "lstm", "gru")}
    _lines_by_lag(right, {name: _carried(cell) for name, cell in cells.items()}, "after training")
    return figure


def claim_one_optimiser(results: Results) -> Figure:
    """Every cell's final loss on the task and bits per character, over the trivial predictor's."""
    figure, (axes,) = _figure(height=3.4)
    cells, order0 = results["cells"], results["text"]["order0_bits_per_character"]
    places = np.arange(len(cells))
    task = [c["task"]["final_loss"] / c["task"]["baseline"] for c in cells.values()]
    text = [c["text"]["bits_per_character"] / order0 for c in cells.values()]
    for offset, values, label, color in (
        (-0.2, task, "task: loss / baseline", "#00798c"),
        (0.2, text, "text: bits / order-0 entropy", "#edae49"),
    ):
        bars = axes.bar(places + offset, values, 0.38, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=9)
    axes.axhline(1.0, color=GREY, ls="--")
    axes.set_xticks(places, [_plain(name) for name in cells])
    axes.set_ylabel("relative to no memory")
    _legend_above(axes)
    return figure


def _legend_above(axes: Any) -> None:
    """Bars may fill the axes: the legend stands over them."""
    axes.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)


CLAIMS: dict[int, Callable[[Results], Figure]] = {
    1: claim_vanishing,
    2: claim_explosion,
    3: claim_initialisation,
    4: claim_regularisation,
    5: claim_relu,
    6: claim_gates,
    7: claim_one_optimiser,
}
"""The figure of each claim by its number."""


def draw(results: Results) -> dict[str, Figure]:
    """Every figure of a study by name."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "gradient-by-lag-task": flow(results),
            "learning-task": task_curves(results),
            "learning-text": text_curves(results),
            "gradient-by-lag-text": flow_on_text(results),
            "clipping": clipping(results),
        }
        for claim in results["claims"]:
            figures[f"claim-{claim['id']}"] = CLAIMS[claim["id"]](results)
    return figures
