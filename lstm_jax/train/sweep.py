"""`sweep`: training with many configurations and seeds, side by side in one compiled program."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import check_bool, check_callable, check_positive_int, fail
from .._typing import Key
from ._configs import Config, by_static, check_configs, check_seeds, in_json, keys_of, numbers_of
from ._group import Group, Record
from ._resume import Kept, kind, named
from ._together import Program
from .loop import Info, Loss, TrainState

__all__ = ["Runs", "sweep"]
__dir__ = __all__.copy


class Runs(NamedTuple):
    """Results of a sweep: C configurations, S seeds, at most N updates.

    Attributes:
        configs: the C configurations.
        seeds: the S seeds.
        state: the final training states, leaves [C, S, ...].
        history: the infos of all updates, NumPy leaves [C, S, N, ...]. After its end a run repeats
            its last one.
        steps_to_stop: float64 [C, S], the updates that a run made before `stop` was true; inf if
            it never was, so that a median over seeds is right.
        steps_to_divergence: float64 [C, S], the updates that a run made before its loss or its
            parameters were NaN or infinite; inf if they never were.
        probes: the results of `probe`, NumPy leaves [C, S, P, ...]; None without one.
        probed_at: int64 [P], the number of updates before each probe: 0, chunk, 2 chunk, ..., N.
    """

    configs: list[Config]
    seeds: list[int]
    state: TrainState
    history: Info
    steps_to_stop: np.ndarray
    steps_to_divergence: np.ndarray
    probes: Any
    probed_at: np.ndarray

    @property
    def params(self) -> Any:
        """The final parameters, leaves [C, S, ...]."""
        return self.state.params


jax.export.register_namedtuple_serialization(Runs, serialized_name="lstm_jax.Runs")


def sweep(
    loss: Loss,
    tx: Callable[[Config], optax.GradientTransformation],
    init: Callable[[Key, Config], Any],
    sample: Callable[[Key], Any],
    configs: Sequence[Mapping[str, Any]],
    seeds: Iterable[int],
    steps: int,
    *,
    chunk: int = 100,
    stop: Callable[[Info], Any] | None = None,
    probe: Callable[[Any, Key, Config], Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    has_aux: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Runs:
    """Train every configuration from every seed, side by side in one compiled program.

        runs = sweep(
            loss=lambda params, batch, config: task.loss(apply(params, batch.xs), batch),
            tx=lambda config: lj.clipped_sgd(config["rate"], config["max_norm"]),
            init=lambda key, config: net.init(key, task.input_size),
            sample=lambda key: task.sample(key, 32),
            configs=[{"rate": r, "max_norm": c} for r in (0.1, 0.3) for c in (0.1, math.inf)],
            seeds=range(5),
            steps=1000,
        )

    A seed gives three keys, the same for all configurations:

        key_init, key_batches, key_probe = jax.random.split(jax.random.key(seed), 3)
        state_0 = create(init(key_init, config), tx(config))
        batch_n = sample(fold_in(key_batches, n))

    The keys are of threefry2x32, whatever JAX's default: those of "rbg" draw other numbers under
    `vmap`. So configurations differ in nothing that is drawn, and each run is the run of
    `make_loop` with the same configuration, state and key, but for rounding: XLA may sum in another
    order for many.

    A float in a configuration is traced: other values compile nothing, also in another call with
    the same functions. Any other value (str, bool, int, None, a cell) is static. Configurations
    with equal static values are one program, in which everybody pays for what anybody needs: a
    penalty of weight 0.0 costs as much as one of weight 1.0. A static value leaves it out:

        {"omega": None}    and in the loss    if config["omega"] is not None: value += ...

    A run ends early at the first update n whose info `stop` accepts, or that would make the loss
    or a parameter NaN or infinite. Update n is not made, so that the parameters that met the
    criterion, or the last finite ones, stay. The sweep ends when all runs have; until then a run
    that has ended costs what it did before.

    Memory, of the host and of the file: C * S * N entries for each number in an info, 28 bytes
    an update and run with `clipped_sgd`. The file is written as a whole, so a long history wants
    a large chunk. The device holds C * S states, batches and gradients.

    Args:
        loss: (params, batch, config) -> scalar, or (scalar, aux) with `has_aux`.
        tx: config -> the optimiser.
        init: (key, config) -> initial parameters.
        sample: key -> batch, any pytree; a pure function.
        configs: C dicts with the same names. A `max_norm` of `math.inf` clips nothing.
        seeds: S different integers.
        steps: number of updates.
        chunk: updates per compiled call.
        stop: info of an update -> bool, such as `lambda info: info["loss"] < 0.01`.
        probe: (params, key, config) -> any pytree; called before the first update and after each
            chunk, with the same key of the seed every time.
        path: a file, written after each chunk. If it exists the sweep goes on from there, to the
            same bits, and a finished sweep is read. It knows configurations, seeds, steps, chunk,
            shapes and dtypes, not the code of the functions: for another loss name another file.
        has_aux: `loss` returns (scalar, aux), as in `jax.value_and_grad`; aux is in the infos.
        progress: called after each chunk as progress(n); the sum of all n is C * steps.

    Raises:
        ValueError: an argument out of its range; a call within jit, vmap or grad; configurations
            whose states or infos differ in shape; a file that is damaged or of another sweep. All
            before the first update.
    """
    _check_functions(loss=loss, tx=tx, init=init, sample=sample)
    _check_functions(**{k: f for k, f in (("stop", stop), ("probe", probe)) if f is not None})
    check_bool("has_aux", has_aux)
    check_positive_int("steps", steps)
    check_positive_int("chunk", chunk)
    if progress is not None:
        check_callable("progress", progress, "a function of a number of updates")
    configs, seeds = check_configs(configs), check_seeds(seeds)
    identity: dict[str, Any] = {"configs": configs if path is None else in_json(configs)}
    kept = Kept(path, identity | {"seeds": seeds, "steps": steps, "chunk": chunk})
    keys = keys_of(seeds)
    groups = []
    for static, members in by_static(configs):
        program = Program(loss, tx, init, sample, stop, probe, has_aux, static)
        numbers = [numbers_of(configs[c]) for c in members]
        groups.append(Group(program, members, numbers, keys, chunk))
    _check_alike(groups)
    records = kept.read([group.like for group in groups])
    for number, group in enumerate(groups):
        if number == len(records):
            records.append(group.begin())
        tell = _teller(progress, len(group.members))
        tell(records[number].updates)
        for record in group.train(records[number], steps):
            made = record.updates - records[number].updates
            records[number] = record
            kept.write(records)
            tell(made)
        tell(steps - records[number].updates)
    return _joined(configs, seeds, groups, records, chunk)


def _teller(progress: Callable[[int], Any] | None, members: int) -> Callable[[int], None]:
    """A function that counts n updates of all members as done."""

    def tell(n: int) -> None:
        if progress is not None and n:
            progress(n * members)

    return tell


_WANTED = {
    "loss": ("a function of params, a batch and a configuration", 3),
    "tx": ("a function from a configuration to an optimiser", 1),
    "init": ("a function of a key and a configuration", 2),
    "sample": ("a function from a key to a batch", 1),
    "stop": ("a function from an info to a bool", 1),
    "probe": ("a function of params, a key and a configuration", 3),
}


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        check_callable(name, function, *_WANTED[name])


def _check_alike(groups: Sequence[Group]) -> None:
    """Raise unless the runs of all programs have the same shapes, so that they can be stacked."""

    def of_one_run(group: Group) -> dict[str, str]:
        record = group.like(1)
        ours = {f"state{name}": kind(x, 1) for name, x in named(record.runs.state).items()}
        ours |= {f"info{name}": kind(x, 2) for name, x in named(record.history).items()}
        return ours | {f"probe{name}": kind(x, 2) for name, x in named(record.probes).items()}

    first = of_one_run(groups[0])
    for group in groups[1:]:
        other = of_one_run(group)
        for name in first | other:
            if first.get(name) != other.get(name):
                a, b = groups[0].members[0], group.members[0]
                seen = f"{name} {first.get(name)} for [{a}] and {other.get(name)} for [{b}]"
                raise fail("configs", seen, "the same for all", "sweep over each of them alone")


# ---- results -------------------------------------------------------------------------------------
def _joined(
    configs: list[Config],
    seeds: list[int],
    groups: Sequence[Group],
    records: Sequence[Record],
    chunk: int,
) -> Runs:
    """Put the runs of all programs into the order of the configurations, with equal lengths."""
    order = tuple(np.argsort([c for group in groups for c in group.members]).tolist())
    updates = max(record.updates for record in records)
    probed_at = np.append(np.arange(0, updates, chunk), updates)

    by_config = functools.partial(_by_config, order, len(seeds))

    def counts(field: str) -> np.ndarray:
        found = by_config([np.asarray(getattr(record.runs, field)) for record in records])
        return np.where(found < 0, np.inf, found)

    histories = [_of_all_updates(record, updates) for record in records]
    probes = [_repeating_last(record.probes, len(probed_at)) for record in records]
    return Runs(
        configs,
        seeds,
        _states_by_config(order, len(seeds), [record.runs.state for record in records]),
        by_config(histories),
        counts("stopped"),
        counts("diverged"),
        by_config(probes),
        probed_at,
    )


def _by_config(order: tuple[int, ...], seeds: int, parts: Sequence[Any]) -> Any:
    """The leaves of all programs together, [C, S, ...], as the configurations are in `order`."""

    def together(*leaves: Any) -> Any:
        stack = np.concatenate if isinstance(leaves[0], np.ndarray) else jnp.concatenate
        joined = stack(leaves)
        return joined.reshape(len(order), seeds, *joined.shape[1:])[np.array(order)]

    return jax.tree.map(together, *parts)


_states_by_config = jax.jit(_by_config, static_argnums=(0, 1))
"""One program for a whole state, where each leaf would take three."""


def _of_all_updates(record: Record, updates: int) -> Info:
    """The history with leaves [R, updates, ...]; a run that has ended repeats its last info."""
    stopped, diverged = np.asarray(record.runs.stopped), np.asarray(record.runs.diverged)
    last = np.where(stopped < 0, np.where(diverged < 0, record.updates - 1, diverged), stopped)
    rows = np.minimum(np.arange(updates), last[:, None])
    runs = np.arange(len(last))[:, None]
    return jax.tree.map(lambda leaf: leaf[rows, runs], record.history)


def _repeating_last(probes: Any, count: int) -> Any:
    """Probes with leaves [R, count, ...]; if all runs ended before, the last is repeated."""

    def of_all(leaf: np.ndarray) -> np.ndarray:
        return np.moveaxis(leaf[np.minimum(np.arange(count), len(leaf) - 1)], 1, 0)

    return jax.tree.map(of_all, probes)
