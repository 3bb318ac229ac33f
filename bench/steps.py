"""`python -m bench.steps --json FILE`: one step after another, ours beside Flax's cells.

For loops whose next input is made of the last output, so that no matmul over all steps helps.
"call" is a jitted step called from Python, its carry handed on; "loop" is a `lax.scan` over steps
with a function of one's own around each, x_{t+1} = tanh(y_t w). Both forward and with the gradient
of all parameters. All have the same weights, and no row is timed before the loops' values agree.
D = H, float32. Contenders take turns in one process; microseconds of a step, medians of the turns,
and ratios of medians, above 1 where ours is faster.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lstm_jax as lj
from lstm_jax import interop

from . import record
from .__main__ import check_json
from .sweep import heading, interleaved

SHAPES = [(1, 64), (8, 64), (1, 256), (8, 256)]  # B, H
CALLS, STEPS = 200, 128
"""Calls, or steps of a loop, in one sample."""
CELLS = {
    "LSTM": (lj.LSTM, ("LSTMCell", "OptimizedLSTMCell")),
    "GRU": (lj.GRU, ("GRUCell",)),
    "RNN": (lj.RNN, ("SimpleCell",)),
}
"""Our cell, and the names of Flax's, the same in linen and nnx."""


class Stepping(NamedTuple):
    """A cell to step: step(params, carry, x) -> (carry, y)."""

    step: Callable[..., Any]
    params: Any
    carry: Any


def main() -> None:
    """Measure, write the file after each row, and print a table in Markdown."""
    made = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__)
    add = made.add_argument
    add("--json", type=Path, metavar="FILE", required=True, help="write every sample to FILE")
    add("--overwrite", action="store_true", help="replace FILE if it exists")
    add("--turns", type=int, default=31)
    add("--cell", choices=CELLS, action="append", help="one cell; repeatable (default: all)")
    add("--cpu-time", action="store_true", help="seconds of this process, not of the wall clock")
    add("--shape", action="append", default=[], metavar="B,H", help="one shape; repeatable")
    given = made.parse_args()
    check_json(given.json, given.overwrite)
    clock = time.process_time if given.cpu_time else time.perf_counter
    document: Any = {"environment": record.environment(sys.argv[1:], "float32"), "rows": []}
    document["environment"]["clock"] = clock.__name__
    print(heading(document["environment"], "bench.steps"))
    flax = document["environment"]["versions"].get("flax")
    print(f"- flax {flax}; {given.turns} turns; clock: {clock.__name__}\n\n{HEAD}")
    shapes = [tuple(map(int, each.split(","))) for each in given.shape] or SHAPES
    for row in rows(given.cell or CELLS, shapes, given.turns, clock):
        document["rows"].append(row)
        record.write(given.json, document)
        print(text(row), flush=True)


def rows(
    cells: Iterable[str], shapes: Any, turns: int, clock: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """Samples of every contender, in seconds of a step, for each cell, kind and shape."""
    for name in cells:
        for batch, size in shapes:
            found, x = contenders(name, batch, size), jnp.ones((batch, size))
            check({who: looped(each, x)() for who, each in found.items()})
            for kind, (make, per) in KINDS.items():
                calls = {who: make(each, x) for who, each in found.items()}
                samples = interleaved(calls, turns, clock)
                yield {
                    "cell": name,
                    "B": batch,
                    "H": size,
                    "kind": kind,
                    "samples": {who: [s / per for s in each] for who, each in samples.items()},
                }


def check(values: dict[str, Any]) -> None:
    """Raise unless all contenders computed the same."""
    for who, value in values.items():
        if not np.isclose(value, values["lstm_jax"], rtol=1e-3):
            raise ValueError(f"{who}: its loop gives {value}, ours {values['lstm_jax']}")


def contenders(name: str, batch: int, size: int) -> dict[str, Stepping]:
    """Ours, and Flax's cells of this name, with the same weights."""
    make, theirs = CELLS[name]
    cell, x = make(size), jnp.ones((batch, size))
    params = cell.init(jax.random.key(0), size)
    tree = jax.tree.map(jnp.asarray, interop.to_linen(cell, params)["params"]["cell"])
    found = {"lstm_jax": Stepping(cell.step, params, cell.initial_carry(params, (batch,)))}
    for kind in theirs:
        module = getattr(nn, kind)(size)
        carry = module.initialize_carry(jax.random.key(0), x.shape)
        found[f"linen.{kind}"] = Stepping(module.apply, {"params": tree}, carry)
        joined = interop.to_nnx(cell, params)["cell"] if kind != "LSTMCell" else tree
        found[f"nnx.{kind}"] = _nnx(getattr(nnx, kind)(size, size, rngs=nnx.Rngs(0)), joined, x)
    return found


def _nnx(module: Any, tree: Any, x: Any) -> Stepping:
    """By the functional API under `jax.jit`, which dispatches faster than `nnx.jit`."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    tree = {
        "if_" if name == "if" else name: jax.tree.map(jnp.asarray, part)
        for name, part in tree.items()
    }
    nnx.replace_by_pure_dict(params, tree)

    def step(params: Any, carry: Any, x: Any) -> Any:
        return nnx.merge(graph, params, rest)(carry, x)

    return Stepping(step, params, module.initialize_carry(x.shape, nnx.Rngs(0)))


# ---- kinds ---------------------------------------------------------------------------------------
def called(stepping: Stepping, x: Any) -> Callable[[], Any]:
    """Steps called from Python."""
    step = jax.jit(stepping.step)

    def run() -> Any:
        carry = stepping.carry
        for _ in range(CALLS):
            carry, y = step(stepping.params, carry, x)
        return carry, y

    return run


def called_with_gradient(stepping: Stepping, x: Any) -> Callable[[], Any]:
    """Steps with the gradient of the sum of their outputs, called from Python."""

    def loss(params: Any, carry: Any) -> Any:
        carry, y = stepping.step(params, carry, x)
        return jnp.sum(y), carry

    step = jax.jit(jax.grad(loss, has_aux=True))

    def run() -> Any:
        carry = stepping.carry
        for _ in range(CALLS):
            grads, carry = step(stepping.params, carry)
        return carry, grads

    return run


def _loop(stepping: Stepping, x: Any) -> Callable[[Any], Any]:
    """(params) -> the sum of the outputs of a loop."""
    w = jax.random.normal(jax.random.key(1), (x.shape[-1],) * 2) / x.shape[-1] ** 0.5

    def run(params: Any) -> Any:
        def body(state: Any, _: Any) -> Any:
            carry, y = stepping.step(params, *state)
            return (carry, jnp.tanh(y @ w)), jnp.sum(y)

        return jnp.sum(jax.lax.scan(body, (stepping.carry, x), None, STEPS)[1])

    return run


def looped(stepping: Stepping, x: Any) -> Callable[[], Any]:
    """A loop of steps in one program."""
    run = jax.jit(_loop(stepping, x))
    return lambda: run(stepping.params)


def looped_with_gradient(stepping: Stepping, x: Any) -> Callable[[], Any]:
    """A loop of steps in one program, with its gradient."""
    run = jax.jit(jax.value_and_grad(_loop(stepping, x)))
    return lambda: run(stepping.params)


KINDS = {
    "call": (called, CALLS),
    "call, gradient": (called_with_gradient, CALLS),
    "loop": (looped, STEPS),
    "loop, gradient": (looped_with_gradient, STEPS),
}
"""How to make a sample's call of each kind, and its number of steps."""

# ---- the table -----------------------------------------------------------------------------------
COLUMNS = ("cell", "B", "H", "kind", "ours, µs", "theirs over ours")
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def text(row: dict[str, Any]) -> str:
    """Format one row; a ratio below 1 is a loss."""
    medians = {who: statistics.median(samples) for who, samples in row["samples"].items()}
    ours = medians.pop("lstm_jax")
    ratios = ", ".join(f"{who} {median / ours:.2f}" for who, median in medians.items())
    given = row["cell"], row["B"], row["H"], row["kind"], f"{1e6 * ours:.3g}", ratios
    return f"| {' | '.join(map(str, given))} |"


if __name__ == "__main__":
    main()
