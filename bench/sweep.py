"""`python -m bench.sweep`: what a run costs within a sweep, and what a penalty costs the others.

LSTMs on the adding task, clipped SGD. First table: milliseconds of an update and run, within one
sweep over configurations and seeds, and alone by `make_loop`, where the slowest configuration
counts. Second table: milliseconds of an update of all runs, where one configuration of several has
the penalty Omega: as a static value, which makes it a program of its own, and as a traced weight,
which is 0.0 for the others.

Contenders take turns; a median of the turns, and the median of the ratios of each turn.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

import lstm_jax as lj

from . import record

SIZES = [(30, 16, 16), (50, 32, 32), (100, 32, 64)]  # T, B, H
CLIPS = [{"rate": r, "max_norm": c} for r in (0.1, 0.3) for c in (0.05, math.inf)]
SEEDS = range(3)
CHUNK = 20


def main() -> None:
    """Measure both tables and print them in Markdown."""
    made = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    made.add_argument("--turns", type=int, default=15)
    made.add_argument("--sizes", help="T,B,H")
    given = made.parse_args()
    sizes: Any = [tuple(map(int, given.sizes.split(",")))] if given.sizes else SIZES
    print(heading(record.environment(sys.argv[1:], "float32")))
    print(f"\n{len(CLIPS)} configurations, {len(SEEDS)} seeds; ms an update and run\n")
    print("| T, B, H | within the sweep | alone, the slowest | ratio |\n| --- | --- | --- | --- |")
    for size in sizes:
        print(row(size, *against_loops(size, given.turns)), flush=True)
    print("\nOmega in one configuration of four, 3 seeds; ms an update of all runs\n")
    print("| T, B, H | static | apart: three, and one | ratio | traced | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        print(row(size, *with_omega(size, given.turns)), flush=True)


def heading(environment: dict[str, Any], module: str = "bench.sweep") -> str:
    """Command, device, commit and versions."""
    command = environment["command"].replace("-m bench", f"-m {module}").strip()
    named = ("lstm-jax", "jax", "jaxlib", "numpy")
    versions = ", ".join(f"{name} {environment['versions'].get(name)}" for name in named)
    return (
        f"# {command}\n\n- {record.machine(environment)}, load {environment['load']}\n"
        f"- commit {environment['commit']}, {environment['started']}\n"
        f"- float32, {versions}, Python {environment['python']}"
    )


def row(size: Any, *columns: float) -> str:
    """Format one row."""
    return f"| {', '.join(map(str, size))} | {' | '.join(f'{x:.3g}' for x in columns)} |"


def against_loops(size: Any, turns: int) -> list[float]:
    """Milliseconds of an update and run within the sweep and alone, and their ratio."""
    functions = problem(size)
    calls: dict[Any, Any] = {"sweep": lambda: sweep(functions, CLIPS)}
    for c, config in enumerate(CLIPS):
        calls[c] = loop(functions, config)
    times = interleaved(calls, turns)
    within = [t / (len(CLIPS) * len(SEEDS)) for t in times.pop("sweep")]
    slowest = max(times.values(), key=statistics.median)
    return [*map(per_update, (within, slowest)), ratio(within, slowest)]


def with_omega(size: Any, turns: int) -> list[float]:
    """Milliseconds of one sweep with a static Omega, of two sweeps, of one with a traced Omega."""
    functions = problem(size)
    plain = [{**config, "omega": None} for config in CLIPS[:3]]
    penalised = [{**CLIPS[0], "omega": 1.0}]
    traced = [{**config, "omega": 0.0} for config in CLIPS[:3]] + penalised
    times = interleaved(
        {
            "static": lambda: sweep(functions, plain + penalised),
            "plain": lambda: sweep(functions, plain),
            "penalised": lambda: sweep(functions, penalised),
            "traced": lambda: sweep(functions, traced),
        },
        turns,
    )
    apart = [a + b for a, b in zip(times["plain"], times["penalised"], strict=True)]
    static, together = times["static"], times["traced"]
    found = per_update(static), per_update(apart), ratio(static, apart)
    return [*found, per_update(together), ratio(together, apart)]


def problem(size: Any) -> dict[str, Callable[..., Any]]:
    """The functions of a sweep."""
    steps, batch_size, hidden_size = size
    task = lj.data.Adding(steps)
    net: Any = lj.readout(lj.LSTM(hidden_size), task.output_size)

    def loss(params: Any, batch: Any, config: Any) -> Any:
        value = task.loss(lj.unroll(net, params, batch.xs)[1], batch)
        if config.get("omega") is None:
            return value

        def outputs_loss(ys: Any) -> Any:
            return task.loss(ys, batch)

        penalty = lj.regularizers.omega(net, params, batch.xs, outputs_loss)
        return value + config["omega"] * penalty

    return {
        "loss": loss,
        "tx": lambda config: lj.clipped_sgd(config["rate"], config["max_norm"], momentum=0.9),
        "init": lambda key, config: net.init(key, task.input_size),
        "sample": lambda key: task.sample(key, batch_size),
    }


def sweep(functions: Any, configs: Any) -> Any:
    """One chunk of updates of every run."""
    return lj.train.sweep(configs=configs, seeds=SEEDS, steps=CHUNK, chunk=CHUNK, **functions)


def loop(functions: Any, config: Any) -> Callable[[], Any]:
    """As many updates of one run, its initial parameters drawn anew as in a sweep."""
    loss, tx, init, sample = functions.values()
    run = lj.train.make_loop(lambda p, b: loss(p, b, config), tx(config), sample, CHUNK)
    first = jax.jit(lambda key: lj.train.create(init(key, config), tx(config)))
    keys = jax.random.split(jax.random.key(0), 2)
    return lambda: run(first(keys[0]), keys[1])


def interleaved(
    calls: dict[Any, Callable[[], Any]],
    turns: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, list[float]]:
    """Seconds of each call, measured in turns after one that compiles."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            began = clock()
            jax.block_until_ready(call())
            if turn:
                times[name].append(clock() - began)
    return times


def per_update(times: list[float]) -> float:
    """Median milliseconds of an update."""
    return 1e3 * statistics.median(times) / CHUNK


def ratio(times: list[float], others: list[float]) -> float:
    """Median of the ratios of each turn."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


if __name__ == "__main__":
    main()
