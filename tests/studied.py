"""Made-up results of a study, to test claims and figures."""

import datetime

import numpy as np

from lstm_jax.comparison import claims, starts, study, verdicts
from lstm_jax.comparison.models import CELL_NAMES
from lstm_jax.studies import provenance

T = 12
ORDER0 = 4.0
SENTENCE = "A gate keeps what it has."
GATES = {
    "rnn-tanh": {"h": {"mean": 0.0, "saturated": 0.1}},
    "rnn-relu": {"h": {"mean": 0.5, "dead": 0.25}},
    "lstm": {
        name: {"mean": 0.5, "saturated": 0.1} | ({"forgetting_time": 3.0} if name == "f" else {})
        for name in "ifgo"
    },
    "gru": {"r": {"mean": 0.5}, "z": {"mean": 0.5, "timescale": 2.0}, "n": {"mean": 0.0}},
}


def by_lag(slope, noise=0.0):
    """Norms that decay or grow exponentially, with their slope."""
    lag = np.arange(T)
    return {"norms": np.exp(slope * lag + noise * np.cos(lag)), "slope": slope}


def flow(cell, slope):
    """A made-up measurement of gradient flow."""
    leaves = ("h", "c") if cell == "lstm" else ("h",)
    measured = {leaf: by_lag(slope, 0.02) for leaf in leaves}
    return {
        "norms": {leaf: m["norms"] for leaf, m in measured.items()},
        "slope": {leaf: m["slope"] for leaf, m in measured.items()},
        "zero_share": dict.fromkeys(leaves, 0.0),
        "lyapunov": slope,
        "gates": GATES[cell],
        "keep_product": np.exp(-0.1 * np.arange(T)) if cell == "lstm" else None,
        "spectral_radius": dict.fromkeys(GATES[cell], 1.0),
    }


def curve(end):
    """A learning curve that falls to `end`."""
    return {"step": np.arange(10, 101, 10), "value": np.linspace(4.0, end, 10)}


def run(cell, problem, before=-0.1, after=-0.05, end=0.1):
    """A made-up run of a cell on the task or on text."""
    training = {
        "before": flow(cell, before),
        "after": flow(cell, after),
        "curve": curve(end),
        "clip_rate": 0.5,
        "skipped": 0,
        "gradient_norm_median": 0.1,
        "gradient_norm_largest": 2.0,
        "gradient_norm_first": 1.0,
    }
    if problem == "task":
        return training | {"final_loss": end, "baseline": 1.0}
    return training | {"bits_per_character": end * ORDER0, "reads": reads(cell)}


def reads(cell):
    """What a made-up network does at the sentence."""
    steps = np.arange(len(SENTENCE))
    gates = {name: 0.5 + 0.3 * np.cos(steps + n) for n, name in enumerate(GATES[cell])}
    units = {"3": gates["f"], "7": 1 - gates["f"]} if cell == "lstm" else {}
    return {"gates": gates, "units": units, "sample": " <b> & so on\nto the end"}


def results(seeds=3, cells=CELL_NAMES, quick=False):
    """Results of a study in which every claim holds, without the verdicts."""
    before = {"rnn-relu": 0.0}
    after = {"rnn-tanh": -0.2}
    described = {
        name: {
            problem: [
                run(name, problem, before.get(name, -0.1), after.get(name, -0.05))
                for _ in range(seeds)
            ]
            for problem in ("task", "text")
        }
        for name in cells
    }
    of_start = dict(zip(starts.STARTS, (-0.7, -0.1, 0.1, -0.1, -0.03), strict=True))
    now = datetime.datetime.now(datetime.UTC)
    return {
        "config": study._describe(study.Config(cells=cells, quick=quick)),
        "environment": provenance.environment(now) | {"seconds": 1.0},
        "task": {"name": "adding", "baseline": 1.0, "penalised_baseline": 1.0, "repr": "Adding()"},
        "text": {
            "source": "a text",
            "characters": 1000,
            "held_out_characters": 100,
            "symbols": 16,
            "order0_bits_per_character": ORDER0,
            "sentence": SENTENCE,
            "prompt": "A gate",
            "temperature": 0.7,
        },
        "cells": described,
        "cliff": cliff(),
        "starts": [
            {of: {name: by_lag(rate) for name, rate in of_start.items()} for of in ("tanh", "relu")}
            for _ in range(seeds)
        ],
        "forget_biases": [
            {
                name: by_lag(rate)
                | {"keep_slope": rate, "keep_product": np.exp(rate * np.arange(T))}
                for name, rate in (("0", -0.6), ("1", -0.2), ("5", -0.01))
            }
            for _ in range(seeds)
        ],
        "penalties": [
            {
                name: by_lag(rate)
                | {"spectral_radius": 1.0, "final_loss": 0.1, "curve": curve(0.1)}
                for name, rate in (("none", -0.2), ("L2", -0.1), ("Omega", -0.05))
            }
            for _ in range(seeds)
        ],
        "rule": verdicts.RULE,
    }


def judged(found):
    """Add the judged claims to `found`."""
    return found | {"claims": claims.judge(found)}


def cliff():
    """Results for the cliff, on a coarse grid."""
    descent = {
        "path": np.array([[[5.2, -2.6], [4.0, -2.0]], [[5.0, -2.5], [4.0, -2.0]]]),
        "final_error_median": np.zeros(2),
        "share_off_the_minimum": np.zeros(2),
        "largest_step_median": np.full(2, 0.05),
        "largest_gradient_norm_median": np.ones(2),
    }
    lost = {"share_off_the_minimum": np.full(2, 0.8), "largest_step_median": np.full(2, 5.0)}
    w, b = np.linspace(3, 8, 5), np.linspace(-5, -1, 4)
    surface = np.abs(np.add.outer(b, w)) / 10
    grid = {"w": w, "b": b, "surface": surface, "starts": ((5.2, -2.66), (5.0, -2.55))}
    return grid | {"clipped": descent, "plain": descent | lost}
