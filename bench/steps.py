"""`python -m bench.steps`: `cell.step` in the caller's own `lax.scan`, beside Flax's cell.

The two take turns; the ratio of the medians is theirs over ours: above 1 we are faster. grad is
with respect to parameters and inputs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import lstm_jax as lj

CELLS = {
    "RNN": (lj.RNN, nn.SimpleCell),
    "GRU": (lj.GRU, nn.GRUCell),
    "LSTM": (lj.LSTM, nn.OptimizedLSTMCell),
}
SIZES = [(100, 64, 128, 128), (100, 8, 32, 64), (200, 1, 16, 32)]  # T, B, D, H


def main() -> None:
    """Measure every case and print the table."""
    made = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__)
    made.add_argument("--turns", type=int, default=15)
    made.add_argument("--sizes", help="T,B,D,H")
    given = made.parse_args()
    all_sizes: Any = [tuple(map(int, given.sizes.split(",")))] if given.sizes else SIZES
    for sizes in all_sizes:
        print("T, B, D, H =", *sizes)
        for name in CELLS:
            print(row(name, sizes, given.turns), flush=True)


def row(name: str, sizes: Any, turns: int) -> str:
    """Format one row: milliseconds of ours and theirs, and their ratio, forward and gradient."""
    parts = [f"  {name:5}"]
    for what, wrap in (("forward", lambda f: f), ("grad", lambda f: jax.grad(f, (0, 1)))):
        both = [program(wrap(loss), *arguments) for loss, *arguments in losses(name, *sizes)]
        ours, theirs = interleaved(both, turns)
        times = f"{1e3 * ours:8.2f} / {1e3 * theirs:8.2f} ms"
        parts.append(f"{what} {times}, ratio {theirs / ours:.2f}")
    return "  ".join(parts)


def losses(name: str, steps: int, batch: int, inputs: int, size: int) -> list[Any]:
    """Make [loss, params, xs] of our cell and of Flax's."""
    ours, theirs = (make(size) for make in CELLS[name])
    xs = jax.random.normal(jax.random.key(1), (steps, batch, inputs))
    start = theirs.initialize_carry(jax.random.key(0), (batch, inputs))

    def of_ours(params: Any, xs: Any) -> Any:
        carry = ours.initial_carry(params, (batch,))
        return jnp.sum(jax.lax.scan(lambda c, x: ours.step(params, c, x), carry, xs)[1] ** 2)

    def of_theirs(params: Any, xs: Any) -> Any:
        return jnp.sum(jax.lax.scan(lambda c, x: theirs.apply(params, c, x), start, xs)[1] ** 2)

    return [
        [of_ours, ours.init(jax.random.key(0), inputs), xs],
        [of_theirs, theirs.init(jax.random.key(0), start, xs[0]), xs],
    ]


def program(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Compile a function, run it once, and return a function that runs it."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    return lambda: jax.block_until_ready(compiled(*arguments))


def interleaved(calls: Any, turns: int) -> list[float]:
    """Median seconds of each call, measured in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(turns):
        for call, own in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in times]


if __name__ == "__main__":
    main()
