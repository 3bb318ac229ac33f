"""`python -m bench.ppo --json FILE`: a recurrent agent trained by PPO, its GRU ours or Flax's.

The program is `examples/recurrent_ppo`, one jitted program for all updates; the recurrent module is
all that differs: "lstm_jax" is our GRU, "linen" is Flax's GRUCell run by `lj.nn.linen`, "flax" is
Flax's GRUCell in a scan with restarts, as in PureJaxRL. First table: milliseconds of an update, of
its rollout alone and of its 16 gradient steps alone; contenders take turns, and the ratios are of
medians, above 1 where ours is faster: of the wall clock, and of the CPU time of the process, which
other processes on the machine change little. Second table, with --curves: mean returns of the
episodes that ended in each tenth of a training, several seeds side by side; "none" has no memory.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from examples.recurrent_ppo import agent, learning
from examples.recurrent_ppo.__main__ import mean_returns
from examples.recurrent_ppo.modules import MODULES

from . import record
from .__main__ import check_json
from .sweep import heading, interleaved

CASES = [(4, 1), (64, 1), (4, 4)]  # environments; agents side by side, a seed for each
OURS, THEIRS = ("lstm_jax", "linen"), "flax"
CHUNK = 4  # updates in a call

Calls = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, write the file after each part, and print tables in Markdown."""
    given = parser().parse_args()
    check_json(given.json, given.overwrite)
    document: Any = {"environment": record.environment(sys.argv[1:], "float32"), "times": []}
    print(heading(document["environment"], "bench.ppo"))
    if given.turns:
        sizes = f"T = 128, D = H = {given.hidden_size}"
        print(f"\n{sizes}; milliseconds, medians of {given.turns} turns\n\n{TIMES}")
    for environments, seeds in CASES if given.turns else ():
        settings = agent.Settings(CHUNK, environments, hidden_size=given.hidden_size)
        for row in timed(settings, seeds, given.turns):
            document["times"].append(row)
            record.write(given.json, document)
            print(time_text(row), flush=True)
    if given.curves:
        settings = agent.Settings(given.updates, hidden_size=given.hidden_size)
        document["curves"] = curves(settings, range(given.curves))
        record.write(given.json, document)
        print(curves_text(document["curves"]))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m bench.ppo", description=__doc__)
    add = made.add_argument
    add("--json", type=Path, metavar="FILE", required=True, help="write every sample to FILE")
    add("--overwrite", action="store_true", help="replace FILE if it exists")
    add("--turns", type=int, default=11, help="0: no times")
    add("--curves", type=int, default=0, metavar="SEEDS", help="train whole agents too")
    add("--updates", type=int, default=agent.Settings.updates, help="of each of these trainings")
    add("--hidden-size", type=int, default=agent.Settings.hidden_size)
    return made


# ---- time ----------------------------------------------------------------------------------------
def timed(settings: agent.Settings, seeds: int, turns: int) -> list[dict[str, Any]]:
    """Samples [wall clock, CPU time] in seconds of an update and of its parts, by module."""
    calls: dict[str, Calls] = {"update": {}, "rollout": {}, "learning": {}}
    for module in (*OURS, THEIRS):
        for part, call in parts(settings, module, seeds).items():
            calls[part][module] = call
    rows = []
    for part, each in calls.items():
        samples = interleaved(each, turns, clocks)
        if part == "update":
            samples = {name: [t / CHUNK for t in times] for name, times in samples.items()}
        samples = {name: np.asarray(times).tolist() for name, times in samples.items()}
        given = {"environments": settings.environments, "seeds": seeds, "part": part}
        rows.append(given | {"samples": samples})
    return rows


def parts(settings: agent.Settings, module: str, seeds: int) -> Calls:
    """Calls of compiled programs: CHUNK updates, one rollout, one rollout's gradient steps."""
    memory = MODULES[module](settings.hidden_size)

    def started(params: Any, key: Any) -> Any:
        return agent.started(settings, memory, params, key)

    def collected(params: Any, key: Any) -> Any:
        return learning.collected(settings, memory, params, started(params, key), key)[1]

    def rollout(params: Any, key: Any) -> Any:
        return agent.rollout(settings, memory, params, started(params, key), key)

    def learned(params: Any, chunk: Any, key: Any) -> Any:
        state = learning.learning(settings, params)
        return learning.learned(settings, memory, state, chunk, key)

    def update(params: Any, key: Any) -> Any:
        return learning.train(settings, module, params, key)

    params, keys = learning.drawn(settings, module, range(seeds))
    if seeds == 1:
        params, keys = jax.tree.map(lambda leaf: leaf[0], (params, keys))
    together = jax.vmap if seeds > 1 else lambda function: function
    chunk = jax.jit(together(collected))(params, keys)
    update, rollout, learned = (jax.jit(together(f)) for f in (update, rollout, learned))
    return {
        "update": lambda: update(params, keys),
        "rollout": lambda: rollout(params, keys),
        "learning": lambda: learned(params, chunk, keys),
    }


def clocks() -> Any:
    """Seconds of the wall clock, and of the CPU time of this process."""
    return np.array([time.perf_counter(), time.process_time()])


RATIOS = tuple(f"{THEIRS} / {name}" for name in OURS)
COLUMNS = ("environments", "seeds", "part", *OURS, THEIRS, *RATIOS, *(f"CPU: {r}" for r in RATIOS))
TIMES = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def time_text(row: dict[str, Any]) -> str:
    """Format one row of times: milliseconds of the wall clock, and ratios of both clocks."""
    medians = {name: np.median(times, axis=0) for name, times in row["samples"].items()}
    shown = [row["environments"], row["seeds"], row["part"]]
    shown += [f"{1e3 * medians[name][0]:.3g}" for name in (*OURS, THEIRS)]
    shown += [
        f"{medians[THEIRS][clock] / medians[name][clock]:.2f}" for clock in (0, 1) for name in OURS
    ]
    return f"| {' | '.join(map(str, shown))} |"


# ---- curves --------------------------------------------------------------------------------------
def curves(settings: agent.Settings, seeds: Any) -> dict[str, Any]:
    """Returns in each tenth of a training [seeds, 10], and for how long all modules agree."""
    found = {}
    for module in MODULES:
        agents = learning.drawn(settings, module, seeds)
        found[module] = jax.device_get(learning.train_all(settings, module, *agents)[1])
    returns = {module: mean_returns(curve, 10).tolist() for module, curve in found.items()}
    alike = {module: equal_for(found[module], found[THEIRS]).tolist() for module in OURS}
    return {"updates": settings.updates, "returns": returns, "equal updates": alike}


def equal_for(curve: learning.Curve, other: learning.Curve) -> Any:
    """The number of updates from the first on whose episodes are the same, for each seed."""
    same = (curve.returned == other.returned) & (curve.ended == other.ended)
    return np.cumprod(same, axis=-1).sum(axis=-1)


def curves_text(found: dict[str, Any]) -> str:
    """Format the medians of the seeds, the range of the last tenth, and the agreement."""
    lines = [
        f"\nMean return by tenths of {found['updates']} updates: median of the seeds\n",
        f"| module | {' | '.join(str(n + 1) for n in range(10))} | last tenth, each seed |",
        f"|{' --- |' * 12}",
    ]
    for module, returns in found["returns"].items():
        medians = [f"{value:.0f}" for value in np.median(returns, axis=0)]
        last = ", ".join(f"{row[-1]:.0f}" for row in returns)
        lines.append(f"| {module} | {' | '.join(medians)} | {last} |")
    lines.append("")
    for module, counts in found["equal updates"].items():
        lines.append(f"- {module} and {THEIRS}: the same episodes for {counts} updates, by seed")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
