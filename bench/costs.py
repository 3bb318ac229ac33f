"""`python -m bench.costs`: what the diagnostics cost, in gradients of the loss.

For each cell milliseconds of the gradient of the parameters by the default implementation, and for
each diagnostic the ratio of its time to that; of "scan" the ratio too, the gradient that plain
`lax.scan` and autodiff give. All are compiled; contenders take turns; medians of the ratios of each
turn.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lstm_jax as lj
from lstm_jax import diagnostics, regularizers

from . import record
from .sweep import heading, interleaved, ratio

SIZES = [(200, 16, 64), (100, 32, 128), (500, 64, 32)]  # T, B, H
CELLS = {"RNN": lj.RNN, "LSTM": lj.LSTM, "GRU": lj.GRU}
NAMES = ("scan", "norms", "weight norms", "paths", "gates", "Omega", "largest exponent")


def main() -> None:
    """Measure, and print a table in Markdown."""
    made = argparse.ArgumentParser(prog="python -m bench.costs", description=__doc__)
    made.add_argument("--turns", type=int, default=15)
    given = made.parse_args()
    print(heading(record.environment(sys.argv[1:], "float32"), "bench.costs"))
    print(f"\n| cell | T, B, H | gradient, ms | {' | '.join(NAMES)} |")
    print(f"|{' --- |' * (3 + len(NAMES))}")
    for size in SIZES:
        for name, cell in CELLS.items():
            print(row(name, size, interleaved(calls(cell, size), given.turns)), flush=True)


def row(name: str, size: Any, times: dict[str, list[float]]) -> str:
    """Format one row: the gradient in milliseconds, and ratios to it."""
    gradient = times["gradient"]
    middle = sorted(gradient)[len(gradient) // 2]
    ratios = [f"{ratio(times[each], gradient):.2f}" for each in NAMES]
    return f"| {name} | {', '.join(map(str, size))} | {1e3 * middle:.2f} | {' | '.join(ratios)} |"


def calls(make: Any, size: Any) -> dict[str, Callable[[], Any]]:
    """The compiled contenders for one cell and size."""
    steps, batch, hidden = size
    cell = make(hidden)
    params = cell.init(jax.random.key(0), 32)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, 32))

    def loss(ys: Any) -> Any:
        return jnp.sum(jnp.square(ys[-1]))

    def gradient(implementation: Any) -> Any:
        def value(params: Any) -> Any:
            return loss(lj.unroll(cell, params, xs, implementation=implementation)[1])

        return jax.grad(value)

    functions: dict[str, Any] = {
        "gradient": gradient(None),
        "scan": gradient("scan"),
        "norms": lambda p: diagnostics.gradient_norms_by_lag(cell, p, xs, loss),
        "weight norms": lambda p: diagnostics.weight_gradient_norms_by_lag(cell, p, xs, loss),
        "paths": lambda p: diagnostics.gradient_norms_by_path(cell, p, xs, loss),
        "gates": lambda p: diagnostics.gate_statistics(cell, p, xs),
        "Omega": jax.grad(lambda p: regularizers.omega(cell, p, xs, loss)),
        "largest exponent": lambda p: diagnostics.lyapunov_spectrum(cell, p, xs[:, 0], exponents=1),
    }
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    return {name: (lambda f=f: f(params)) for name, f in compiled.items()}


if __name__ == "__main__":
    main()
