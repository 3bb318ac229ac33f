"""`python -m bench.newton --json FILE`: Newton's method over all steps against loops over them.

For contracting cells and T from 100 to 100,000: milliseconds of the outputs, and of the gradient of
the parameters, by "newton", by the default and by "scan"; beside them the iterations and the
residual of the certificate. All are compiled; contenders take turns; medians of the turns, and of
the ratios of each turn. With 8 units a Jacobian is whole, with 64 it is a block for each unit.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
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
STEPS = (100, 1_000, 10_000, 100_000)
SIZES = (8, 64)
INPUTS, BATCH, GAIN = 8, 1, 0.5
CONTENDERS = {"newton": "newton", "default": None, "scan": "scan"}
MODES = ("outputs", "gradient")

Row = dict[str, Any]


def main() -> None:
    """Measure, write the file after each row, and print a table in Markdown."""
    made = argparse.ArgumentParser(prog="python -m bench.newton", description=__doc__)
    add = made.add_argument
    add("--json", type=Path, metavar="FILE", required=True, help="write every sample to FILE")
    add("--overwrite", action="store_true", help="replace FILE if it exists")
    add("--turns", type=int, default=5)
    add("--longest", type=int, default=STEPS[-1], metavar="T", help="leave out longer sequences")
    given = made.parse_args()
    check_json(given.json, given.overwrite)
    document: Any = {"environment": record.environment(sys.argv[1:], "float32"), "rows": []}
    print(f"{heading(document['environment'], 'bench.newton')}\n\n{HEAD}", flush=True)
    for size in SIZES:
        for name in CELLS:
            for steps in (t for t in STEPS if t <= given.longest):
                for mode in MODES:
                    document["rows"].append(measured(name, size, steps, mode, given.turns))
                    record.write(given.json, document)
                    print(text(document["rows"][-1]), flush=True)


def measured(name: str, size: int, steps: int, mode: str, turns: int) -> Row:
    """Samples of all contenders, in seconds, and the certificate of Newton's method."""
    cell = CELLS[name](size, w_hh_init=initializers.orthogonal(GAIN))
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (steps, BATCH, INPUTS))
    *_, certificate = jax.jit(lj.unroll_newton, static_argnums=0)(cell, params, xs)
    calls: dict[Any, Callable[[], Any]] = {}
    for contender, implementation in CONTENDERS.items():
        run = jax.jit(program(cell, mode, implementation))
        calls[contender] = lambda run=run: run(params, xs)
    return {
        "cell": name,
        "H": size,
        "B": BATCH,
        "T": steps,
        "mode": mode,
        "default": lj.which(cell).implementation,
        "iterations": int(certificate.iterations.max()),
        "residual": float(certificate.residual.max()),
        "converged": bool(certificate.converged.all()),
        "samples": interleaved(calls, turns),
    }


def program(cell: Any, mode: str, implementation: str | None) -> Callable[..., Any]:
    """A function of (params, xs): the outputs, or the gradient of their mean square."""

    def outputs(params: Any, xs: Any) -> Any:
        return lj.unroll(cell, params, xs, implementation=implementation)[1]

    def loss(params: Any, xs: Any) -> Any:
        return jnp.mean(jnp.square(outputs(params, xs)))

    return outputs if mode == "outputs" else jax.grad(loss)


# ---- the table -----------------------------------------------------------------------------------
COLUMNS = ("cell", "H", "T", "mode", "iterations", "residual", "newton, ms", "default, ms",
           "speed-up over it", "over scan")  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def text(row: Row) -> str:
    """Format one row; a speed-up below 1 is a loss."""
    samples = row["samples"]
    newton, default = (f"{1e3 * statistics.median(samples[n]):.3g}" for n in ("newton", "default"))
    ups = [f"{ratio(samples[name], samples['newton']):.3g}" for name in ("default", "scan")]
    residual = f"{row['residual']:.0e}" + ("" if row["converged"] else ", refused")
    given = row["cell"], row["H"], f"{row['T']:,}", row["mode"], row["iterations"], residual
    return f"| {' | '.join(map(str, (*given, newton, default, *ups)))} |"


if __name__ == "__main__":
    main()
