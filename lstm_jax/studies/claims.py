"""The seven claims of the tutorial, each judged by the numbers of one study.

A verdict is computed: "supported", "refuted", or "mixed" where only a part of the claim holds. The
bounds are stated in each claim's docstring, and `measured` holds every number that enters.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Results = dict[str, Any]

VANISHES = -0.01
"""Nats per step: a factor of 0.6 in 50 steps. What is flatter counts as kept."""


def judge(results: Results) -> list[dict[str, Any]]:
    """Every claim that the cells of the study allow: [{id, title, statement, measured, verdict,
    reading}]."""
    judged = []
    for number, (cells, claim) in enumerate(CLAIMS, start=1):
        if set(cells) <= set(results["cells"]):
            judged.append({"id": number, **claim(results)})
    return judged


def verdict(*parts: bool) -> str:
    """ "supported" if every part holds, "refuted" if none does, else "mixed"."""
    if all(parts):
        return "supported"
    return "mixed" if any(parts) else "refuted"


def straightness(norms: Any) -> float:
    """R^2 of the line through ln(norm) against lag: near 1 where the change is exponential."""
    logs = np.log(np.asarray(norms, np.float64))
    usable = np.isfinite(logs)
    if usable.sum() < 3:
        return float("nan")
    return float(np.corrcoef(np.arange(len(logs))[usable], logs[usable])[0, 1] ** 2)


def _flow(results: Results, cell: str, when: str) -> Any:
    return results["cells"][cell]["task"][when]


def _number(value: float | None) -> float:
    """NaN for the null that study.json holds where a run diverged: below no bound."""
    return float("nan") if value is None else value


def vanishing(results: Results) -> dict[str, Any]:
    """Supported: slope below -0.01 nats a step and R^2 of the exponential above 0.9."""
    before = _flow(results, "rnn-tanh", "before")
    norms = np.asarray(before["norms"]["h"])
    measured = {
        "slope_nats_per_step": before["slope"]["h"],
        "r_squared_of_exponential": straightness(norms),
        "first_over_last": float(norms[-1] / norms[0]),
        "lyapunov_nats_per_step": before["lyapunov"],
    }
    vanishes = measured["slope_nats_per_step"] < VANISHES
    straight = measured["r_squared_of_exponential"] > 0.9
    return {
        "title": "A tanh chain makes gradients vanish",
        "statement": "In a tanh RNN the gradient falls exponentially with the lag.",
        "measured": measured,
        "verdict": verdict(vanishes, straight) if vanishes else "refuted",
        "reading": "At its start, before any training; a straight line on the logarithmic axis is "
        "an exponential. W is orthogonal there, so the loss is due to tanh alone.",
    }


def explosion(results: Results) -> dict[str, Any]:
    """Supported: a tanh RNN with rho(W) = 2 has a slope above 0; without the clip more than half of
    the descents end off the minimum of the cliff (E > 0.05), with it none."""
    cliff = results["cliff"]
    growing = results["starts"]["tanh"]["gaussian, rho 2.0"]["slope"]
    plain, clipped = (
        float(np.mean(cliff[name]["share_off_the_minimum"])) for name in ("plain", "clipped")
    )
    measured = {
        "slope_at_rho_2_nats_per_step": growing,
        "lost_without_clip": plain,
        "lost_with_clip": clipped,
        "largest_step_without_clip": float(np.max(cliff["plain"]["largest_step_median"])),
        "largest_step_with_clip": float(np.max(cliff["clipped"]["largest_step_median"])),
    }
    return {
        "title": "Gradients explode too, and clipping cures it",
        "statement": "Gradients can explode; clipping their norm keeps training on its way.",
        "measured": measured,
        "verdict": verdict(growing > 0, plain > 0.5, clipped == 0.0),
        "reading": "One unit over 50 steps, E = (sigmoid(x_50) - 0.7)^2, 64 descents from two "
        "places that differ by 1e-13: unclipped, the wall throws most of them away. Clipping "
        "bounds the step; it does not make a chaotic network learnable (Mikhaeil et al. 2022).",
    }


def initialisation(results: Results) -> dict[str, Any]:
    """Supported: the slopes of the starts of W differ by more than 0.1 nats a step."""
    slopes = {name: start["slope"] for name, start in results["starts"]["tanh"].items()}
    spread = max(slopes.values()) - min(slopes.values())
    return {
        "title": "The start of W decides",
        "statement": "How W is initialised changes whether gradients vanish or explode.",
        "measured": {"slopes_nats_per_step": slopes, "spread_nats_per_step": spread},
        "verdict": verdict(spread > 0.1),
        "reading": "The same tanh RNN and inputs; only W differs. rho is the spectral radius, set "
        "exactly.",
    }


def regularisation(results: Results) -> dict[str, Any]:
    """Supported: every penalty flattens the slope by more than 0.01 nats a step; refuted: none."""
    slopes = {name: run["slope"] for name, run in results["penalties"].items()}
    radii = {name: run["spectral_radius"] for name, run in results["penalties"].items()}
    losses = {name: run["final_loss"] for name, run in results["penalties"].items()}
    flatter = {
        name: abs(rate) < abs(slopes["none"]) - 0.01
        for name, rate in slopes.items()
        if name != "none"
    }
    return {
        "title": "Regularisation against vanishing",
        "statement": "Regularising W reduces vanishing.",
        "measured": {
            "slopes_nats_per_step": slopes,
            "spectral_radius": radii,
            "final_loss": losses,
            "flatter_than_without": flatter,
        },
        "verdict": verdict(*flatter.values()),
        "reading": "L2 shrinks W, and a smaller W forgets faster: it cures explosion and causes "
        "vanishing (Pascanu et al. 2013, section 3.1). |W^T W - I|^2 and Omega ask for norms to be "
        "kept; what counts is the slope beside the one that training alone arrives at.",
    }


def relu(results: Results) -> dict[str, Any]:
    """Supported: at the identity start |slope| is below 0.01 nats a step, and the final loss of
    the ReLU network is below the tanh network's."""
    start = _flow(results, "rnn-relu", "before")["slope"]["h"]
    losses = {
        name: _number(results["cells"][name]["task"]["final_loss"])
        for name in ("rnn-relu", "rnn-tanh")
    }
    measured = {
        "slope_at_identity_nats_per_step": start,
        "slope_of_tanh_nats_per_step": _flow(results, "rnn-tanh", "before")["slope"]["h"],
        "slope_at_gaussian_rho_1_nats_per_step": results["starts"]["relu"]["gaussian, rho 1.0"][
            "slope"
        ],
        "final_loss": losses,
        "dead_share_after_training": _flow(results, "rnn-relu", "after")["gates"]["h"]["dead"],
    }
    return {
        "title": "ReLU, if it starts at the identity",
        "statement": "A ReLU network that starts at the identity keeps the gradient and learns.",
        "measured": measured,
        "verdict": verdict(abs(start) < -VANISHES, losses["rnn-relu"] < losses["rnn-tanh"]),
        "reading": "A derivative of 0 or 1 is not enough: the slope with a Gaussian W of "
        "spectral radius 1 stands beside that of the identity.",
    }


def gates(results: Results) -> dict[str, Any]:
    """Supported: after training LSTM (along c) and GRU have flatter slopes than the tanh RNN; and
    before it, a larger forget bias flattens the LSTM's, which at the largest is within 0.02 nats a
    step of what the forget gates alone let through."""
    cells = {"lstm": "c", "gru": "h", "rnn-tanh": "h"}
    before, after = (
        {
            f"{name} {leaf}": _flow(results, name, when)["slope"][leaf]
            for name, leaf in cells.items()
        }
        for when in ("before", "after")
    )
    biases = results["forget_biases"]
    slopes = {name: start["slope"] for name, start in biases.items()}
    alone = {name: start["keep_slope"] for name, start in biases.items()}
    largest = list(biases)[-1]
    bound = abs(after["rnn-tanh h"])
    return {
        "title": "Gates carry the gradient",
        "statement": "LSTM and GRU carry the gradient: along c it is multiplied by the forget "
        "gate, and a forget gate near one lets it through.",
        "measured": {
            "slopes_after_training_nats_per_step": after,
            "slopes_before_training_nats_per_step": before,
            "slopes_by_forget_bias_nats_per_step": slopes,
            "slopes_of_forget_gates_alone_nats_per_step": alone,
        },
        "verdict": verdict(
            abs(after["lstm c"]) < bound,
            abs(after["gru h"]) < bound,
            list(slopes.values()) == sorted(slopes.values()),
            abs(slopes[largest] - alone[largest]) < 0.02,
        ),
        "reading": "Left: untrained LSTMs that differ in the forget bias alone; dashed, what their "
        "forget gates alone let through; what lies above them comes back by the path through h. "
        "Right: after training.",
    }


def one_optimiser(results: Results) -> dict[str, Any]:
    """Supported: every cell ends below 0.9 of the task's baseline, and below the order-0 entropy
    of the text."""
    cells = results["cells"]
    task = {
        name: _number(c["task"]["final_loss"]) / c["task"]["baseline"] for name, c in cells.items()
    }
    order0 = results["text"]["order0_bits_per_character"]
    bits = {name: _number(c["text"]["bits_per_character"]) for name, c in cells.items()}
    return {
        "title": "One optimiser for all",
        "statement": "The same clipped SGD, with the same settings, fits every cell.",
        "measured": {
            "final_loss_over_baseline": task,
            "bits_per_character": bits,
            "order0_bits_per_character": order0,
            "skipped_steps": {name: c["text"]["skipped"] for name, c in cells.items()},
        },
        "verdict": verdict(
            *(ratio < 0.9 for ratio in task.values()), *(b < order0 for b in bits.values())
        ),
        "reading": "Learning rate, momentum and the largest norm are the same for every cell of a "
        "problem. What differs between them is what the gradient brings back from the past.",
    }


CLAIMS: tuple[tuple[tuple[str, ...], Callable[[Results], dict[str, Any]]], ...] = (
    (("rnn-tanh",), vanishing),
    ((), explosion),
    ((), initialisation),
    ((), regularisation),
    (("rnn-tanh", "rnn-relu"), relu),
    (("rnn-tanh", "lstm", "gru"), gates),
    ((), one_optimiser),
)
"""(the cells that it needs, the claim), in the tutorial's order."""
