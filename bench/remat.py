"""`python -m bench.remat`: memory and time of a gradient through very many steps, by `remat`.

The loss is of the last state, so that nothing but the backward pass stores anything for each step,
the inputs apart (T * B floats). Peak memory is the growth of the process's resident memory during a
compiled call, of a process of its own for each case; "planned" is what the compiler sets aside for
what is neither argument nor result.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import lstm_jax as lj

from . import memory, record
from .sweep import heading

HIDDEN, BATCH = 128, 8
LENGTHS = (1000, 10_000, 100_000)
REMATS = ("none", "sqrt")


def main() -> None:
    """Measure, and print a table in Markdown; or one case, as its cells."""
    made = argparse.ArgumentParser(prog="python -m bench.remat", description=__doc__)
    made.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    made.add_argument("--one", nargs=2, metavar=("REMAT", "T"), help="this case alone")
    given = made.parse_args()
    if given.one:
        print(case(given.one[0], int(given.one[1])))
        return
    print(heading(record.environment(sys.argv[1:], "float32"), "bench.remat"))
    print(f"\nLSTM, H = {HIDDEN}, B = {BATCH}\n")
    print("| remat | T | peak, MiB | planned, MiB | gradient, s |\n| --- | --- | --- | --- | --- |")
    for remat in REMATS:
        for steps in given.lengths:
            command = [sys.executable, "-m", "bench.remat", "--one", remat, str(steps)]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end=""
            )


def case(remat: str, steps: int) -> str:
    """Format the row of one case."""
    cell = lj.LSTM(HIDDEN)
    params = cell.init(jax.random.key(0), 1)
    xs = jax.random.normal(jax.random.key(1), (steps, BATCH, 1))
    gradient = jax.jit(jax.grad(lambda params, xs: loss(cell, remat, params, xs)))
    compiled = gradient.lower(params, xs).compile()
    start = time.perf_counter()
    _, peak = memory.watched(lambda: jax.block_until_ready(compiled(params, xs)))
    seconds = time.perf_counter() - start
    analysis: Any = compiled.memory_analysis()
    sizes = [mebibytes(size) for size in (peak, analysis and analysis.temp_size_in_bytes)]
    return f"| {remat} | {steps} | {' | '.join(sizes)} | {seconds:.2f} |"


def loss(cell: Any, remat: str, params: Any, xs: Any) -> Any:
    """Square the last state."""
    carry = lj.unroll(cell, params, xs, remat=None if remat == "none" else remat)[0]
    return jnp.sum(jnp.square(carry.h))


def mebibytes(size: int | None) -> str:
    """Format a size; "not known" for None."""
    return "not known" if size is None else f"{size / 2**20:.1f}"


if __name__ == "__main__":
    main()
