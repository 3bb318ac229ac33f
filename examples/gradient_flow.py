"""Plot the gradient of the last output against the lag, for four cells."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import lstm_jax as lj
from lstm_jax import diagnostics


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Write gradient_flow.png; return each cell's slope in nats per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short sequences")
    parser.add_argument("--out", type=Path, default=Path("gradient_flow.png"))
    options = parser.parse_args(arguments)
    steps = 10 if options.smoke else 100
    cells = {
        "tanh RNN": lj.RNN(64),
        "ReLU RNN, identity": lj.RNN(64, "relu", w_hh_init=lj.initializers.identity()),
        "LSTM": lj.LSTM(64),
        "LSTM, chrono": lj.LSTM(64, b_init=lj.initializers.chrono(steps)),
    }
    xs = jax.random.normal(jax.random.key(0), (steps, 16, 8))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, slopes = figure.subplots(), {}
    for name, cell in cells.items():
        params = cell.init(jax.random.key(1), 8)
        norms = diagnostics.gradient_norms_by_lag(
            cell, params, xs, lambda ys: jnp.mean(ys[-1] ** 2)
        )
        slopes[name] = float(jnp.mean(diagnostics.slope_per_step(norms.h)))
        curve = np.exp(np.asarray(diagnostics.mean_log_norms(norms).h))[::-1]
        axes.semilogy(curve, label=f"{name} ({slopes[name]:+.3f} nats a step)")
    axes.set_xlabel("lag: steps before the end")
    axes.set_ylabel("|dL/dh|")
    axes.legend()
    figure.savefig(options.out)
    return slopes


if __name__ == "__main__":
    main()
