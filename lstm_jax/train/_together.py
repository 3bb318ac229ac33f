"""The compiled program of a sweep: runs side by side, each with parameters and numbers of its own.

R runs are one axis, as the CPU's kernel takes all members of one `vmap` in a single call. A batch
is drawn once for each seed, whatever the number of configurations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import as_array, fail
from .._static import Static
from .._typing import Array, Key
from .loop import Info, TrainState, create, make_step

__all__ = ["Given", "Program", "Running", "advance", "measure", "start"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Program(Static):
    """What a program is compiled for: functions, and the static entries of its configurations."""

    loss: Callable[..., Any]
    tx: Callable[..., Any]
    init: Callable[..., Any]
    sample: Callable[..., Any]
    stop: Callable[..., Any] | None
    probe: Callable[..., Any] | None
    has_aux: bool
    static: tuple[tuple[str, Any], ...]

    def config(self, numbers: dict[str, Array]) -> dict[str, Any]:
        """The configuration of one run, from its numbers."""
        return {**dict(self.static), **numbers}


class Given(NamedTuple):
    """What the runs are given, as traced values.

    Attributes:
        keys: [S, 3], the random keys of each seed: for `init`, for the batches, for `probe`.
        seed: int32 [R], the seed of each run, an index of `keys`.
        numbers: the numbers of each run's configuration, [R] each.
    """

    keys: Key
    seed: Array
    numbers: dict[str, Array]


class Running(NamedTuple):
    """Runs after some updates, leaves [R, ...].

    Attributes:
        state: the training states; `state.step` counts the updates that each has made.
        stopped, diverged: int32, the updates before the run stopped or diverged; -1: it did not.
    """

    state: TrainState
    stopped: Array
    diverged: Array

    @property
    def live(self) -> Any:
        """True where a run goes on."""
        return (self.stopped < 0) & (self.diverged < 0)


@functools.partial(jax.jit, static_argnums=0)
def start(program: Program, given: Given) -> Running:
    """The runs before the first update."""

    def one(key: Key, numbers: dict[str, Array]) -> TrainState:
        config = program.config(numbers)
        state = create(program.init(key, config), program.tx(config))
        # Strongly typed, as updates leave it: otherwise the second call would compile again.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

    state = jax.vmap(one)(given.keys[given.seed, 0], given.numbers)
    stopped, diverged = (jnp.full(given.seed.shape, -1, jnp.int32) for _ in range(2))
    return Running(state, stopped, diverged)


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(
    program: Program, chunk: int, given: Given, runs: Running, first: Array, end: Array
) -> tuple[Running, Info, Array]:
    """Make the updates first, ..., end - 1, or fewer, if every run ends before.

    Returns:
        (runs, history, n): the infos of n updates, in leaves [chunk, R, ...].
    """
    update = jax.jit(functools.partial(_update, program, given))  # Traced once for both uses.
    _, info = jax.eval_shape(update, runs, first)
    history = jax.tree.map(lambda leaf: jnp.zeros((chunk, *leaf.shape), leaf.dtype), info)

    def goes_on(carry: Any) -> Array:
        runs, _, n = carry
        return (n < end) & jnp.any(runs.live)

    def body(carry: Any) -> Any:
        runs, history, n = carry
        runs, info = update(runs, n)
        history = jax.tree.map(lambda all_, one: all_.at[n - first].set(one), history, info)
        return runs, history, n + 1

    runs, history, n = lax.while_loop(goes_on, body, (runs, history, first))
    return runs, history, n - first


def _update(program: Program, given: Given, runs: Running, n: Array) -> tuple[Running, Info]:
    """Make update n of every run that goes on."""
    batches = jax.vmap(lambda key: program.sample(jax.random.fold_in(key, n)))(given.keys[:, 1])
    batches = jax.tree.map(lambda leaf: leaf[given.seed], batches)

    def one(run: Running, batch: Any, numbers: dict[str, Array]) -> tuple[Running, Info]:
        config = program.config(numbers)
        step = make_step(program.loss, program.tx(config), has_aux=program.has_aux)
        state, info = step(run.state, batch, config)
        info = jax.tree.map(functools.partial(as_array, "aux"), info)
        finite = jnp.isfinite(info["loss"])
        stops = run.live & finite & _stops(program, info)
        diverges = run.live & ~stops & ~(finite & _all_finite(state.params))
        moves = run.live & ~stops & ~diverges
        return Running(
            jax.tree.map(functools.partial(jnp.where, moves), state, run.state),
            jnp.where(stops, n, run.stopped),
            jnp.where(diverges, n, run.diverged),
        ), info

    return jax.vmap(one)(runs, batches, given.numbers)


def _stops(program: Program, info: Info) -> Array:
    """What `stop` says of an info, a bool []."""
    if program.stop is None:
        return jnp.zeros((), bool)
    says = jnp.asarray(program.stop(info))
    if says.shape or says.dtype != bool:
        seen = f"{says.dtype}{list(says.shape)} for an info"
        raise fail("stop", seen, "a bool", 'pass for example lambda info: info["loss"] < 0.01')
    return says


def _all_finite(tree: Any) -> Array:
    """True if no floating-point number in the tree is NaN or Inf."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite: Any = jnp.ones((), bool)
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(x)) for x in leaves], finite)


@functools.partial(jax.jit, static_argnums=0)
def measure(program: Program, given: Given, params: Any) -> Any:
    """Call `probe` for every run: leaves [R, ...]."""

    def one(params: Any, key: Key, numbers: dict[str, Array]) -> Any:
        assert program.probe is not None
        found = program.probe(params, key, program.config(numbers))
        return jax.tree.map(functools.partial(as_array, "probe"), found)

    return jax.vmap(one)(params, given.keys[given.seed, 2], given.numbers)
