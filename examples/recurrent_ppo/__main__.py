"""`python -m examples.recurrent_ppo`: train an agent and print its returns."""

import argparse
from typing import Any

import numpy as np

from .agent import Settings
from .learning import Curve, drawn, train_all
from .modules import MODULES


def mean_returns(curve: Curve, parts: int) -> Any:
    """Mean return of the episodes that ended in each part of the training: [agents, parts]."""
    returned, ended = (np.array_split(np.asarray(leaf), parts, axis=-1) for leaf in curve[1:])
    means = [a.sum(-1) / np.maximum(b.sum(-1), 1) for a, b in zip(returned, ended, strict=True)]
    return np.stack(means, axis=-1)


def main(arguments: list[str] | None = None) -> Any:
    """Train and print the returns of each seed; return them, [seeds, parts]."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--smoke", action="store_true", help="a tiny agent and two updates, to see that it runs")
    add("--module", choices=MODULES, default="lstm_jax")
    add("--updates", type=int, default=Settings.updates)
    add("--seeds", type=int, default=1)
    add("--velocities", action="store_true", help="show the agent the velocities too")
    given = parser.parse_args(arguments)
    settings = Settings(given.updates, observed=4 if given.velocities else 2)
    if given.smoke:
        settings = Settings(2, steps=8, epochs=1, minibatches=2, hidden_size=4)
    agents = drawn(settings, given.module, range(given.seeds))
    found = mean_returns(train_all(settings, given.module, *agents)[1], min(10, settings.updates))
    for seed, returns in enumerate(found):
        print(f"seed {seed}, {given.module}: return", *(f"{value:.0f}" for value in returns))
    return found


if __name__ == "__main__":
    main()
