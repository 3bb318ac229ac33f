"""`python -m bench.newton --json FILE`: Newton's method over all steps against loops over them.

For contracting cells and growing T: milliseconds of the outputs, or of the gradient of their
squares in the parameters, by "newton", by the default and by "scan", and beside them iterations and
residual of the certificate. All are compiled; contenders take turns; medians of the turns, and of
the ratios of each turn. With 8 units a Jacobian is whole, with 64 it is a block for each unit.

`--cpu-time` counts the time that this process ran, for one core that others use too.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import lstm_jax as lj
from lstm_jax import initializers

from . import record
from .__main__ import check_json
from .sweep import heading, interleaved, ratio

CELLS = {"RNN": lj.RNN, "LSTM": lj.LSTM, "GRU": lj.GRU}
STEPS = {8: (100, 1_000, 10_000, 100_000), 64: (100, 1_000, 10_000)}
"""The lengths T for each size H."""
CONTENDERS = {"newton": "newton", "default": None, "scan": "scan"}
INPUTS, BATCH, GAIN = 8, 1, 0.5

Row = dict[str, Any]
Clock = Callable[[], float]


def main() -> None:
    """Measure, write the file after each row, and print a table in Markdown."""
    made = argparse.ArgumentParser(prog="python -m bench.newton", description=__doc__)
    add = made.add_argument
    add("--json", type=Path, metavar="FILE", required=True, help="write every sample to FILE")
    add("--overwrite", action="store_true", help="replace FILE if it exists")
    add("--turns", type=int, default=5)
    add("--cpu-time", action="store_true", help="seconds of this process, not of the wall clock")
    given = made.parse_args()
    check_json(given.json, given.overwrite)
    clock = time.process_time if given.cpu_time else time.perf_counter
    document: Any = {"environment": record.environment(sys.argv[1:], "float32"), "rows": []}
    document["environment"]["clock"] = clock.__name__
    print(heading(document["environment"], "bench.newton"))
    print(f"- clock: {clock.__name__}\n\n{HEAD}")
    for size, lengths in STEPS.items():
        for name in CELLS:
            for steps in lengths:
                for row in measured(name, size, steps, given.turns, clock):
                    document["rows"].append(row)
                    record.write(given.json, document)
                    print(text(row), flush=True)


def measured(name: str, size: int, steps: int, turns: int, clock: Clock) -> Iterator[Row]:
    """Yield outputs, then gradient: samples of all contenders, in seconds, and the certificate."""
    cell = CELLS[name](size, w_hh_init=initializers.orthogonal(GAIN))
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (steps, BATCH, INPUTS))

    def outputs(implementation: str | None) -> Callable[[Any], Any]:
        return lambda params: lj.unroll(cell, params, xs, implementation=implementation)[1]

    certificate = lj.unroll_newton(cell, params, xs)[2]
    functions = {label: outputs(chosen) for label, chosen in CONTENDERS.items()}
    for computed, compiled in {"outputs": jax.jit, "gradient": gradient}.items():
        calls = {
            label: functools.partial(compiled(function), params)
            for label, function in functions.items()
        }
        yield {
            "computed": computed,
            "cell": name,
            "H": size,
            "B": BATCH,
            "T": steps,
            "default": lj.which(cell).implementation,
            "iterations": int(certificate.iterations.max()),
            "residual": float(certificate.residual.max()),
            "converged": bool(certificate.converged.all()),
            "samples": interleaved(calls, turns, clock),
        }


def gradient(outputs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compile the gradient of the sum of squared outputs."""
    return jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(outputs(params)))))


# ---- the table -----------------------------------------------------------------------------------
COLUMNS = ("", "cell", "H", "T", "iterations", "residual", "newton, ms", "default, ms",
           "speed-up over it", "over scan")  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def text(row: Row) -> str:
    """Format one row; a speed-up below 1 is a loss."""
    samples = row["samples"]
    newton, default = (f"{1e3 * statistics.median(samples[n]):.3g}" for n in ("newton", "default"))
    ups = [f"{ratio(samples[name], samples['newton']):.2g}" for name in ("default", "scan")]
    residual = f"{row['residual']:.0e}" + ("" if row["converged"] else ", refused")
    given = row["computed"], row["cell"], row["H"], f"{row['T']:,}", row["iterations"], residual
    return f"| {' | '.join(map(str, (*given, newton, default, *ups)))} |"


if __name__ == "__main__":
    main()
