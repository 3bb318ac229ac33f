"""The configurations of a sweep that make one program, and the record of their runs."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Key
from ._together import Given, Program, Running, advance, measure, start
from .loop import Info

__all__ = ["Group", "Record"]
__dir__ = __all__.copy


class Record(NamedTuple):
    """The record of R runs after n updates.

    Attributes:
        runs: the runs, leaves [R, ...].
        history: the infos of the n updates, leaves [n, R, ...].
        probes: the results of P calls of `probe`, leaves [P, R, ...]; None without one.
    """

    runs: Running
    history: Info
    probes: Any

    @property
    def updates(self) -> int:
        """The number of updates, n."""
        return self.history["loss"].shape[0]


class Group:
    """The configurations of one program.

    Args:
        program: the program.
        members: their places among all configurations of the sweep.
        numbers: the numbers of each.
        keys: [S, 3], the random keys of the seeds.
        chunk: updates per compiled call.
    """

    def __init__(
        self,
        program: Program,
        members: list[int],
        numbers: list[dict[str, float]],
        keys: Key,
        chunk: int,
    ):
        self.members = members
        self._program, self._chunk = program, chunk
        # Of Python numbers, so weakly typed: a number times a bfloat16 stays one.
        repeated = {
            name: jnp.repeat(jnp.stack([jnp.asarray(each[name]) for each in numbers]), len(keys))
            for name in numbers[0]
        }
        seed = jnp.tile(jnp.arange(len(keys), dtype=jnp.int32), len(members))
        self._given = Given(keys, seed, repeated)

    def like(self, n: int) -> Record:
        """The types of the record after n updates."""
        runs, info, probe = self._types
        probed = 1 + math.ceil(n / self._chunk)
        return Record(runs, _stacked(n, info), _stacked(probed, probe))

    def begin(self) -> Record:
        """The record before the first update."""
        runs = start(self._program, self._given)
        empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.like(0).history)
        return Record(runs, empty, self._probed(runs))

    def train(self, record: Record, steps: int) -> Iterator[Record]:
        """Train on to `steps` updates, or until all runs have ended; give a record each chunk."""
        while record.updates < steps and np.any(record.runs.live):
            first = record.updates
            end = min(first + self._chunk, steps)
            between = jnp.asarray(first, jnp.int32), jnp.asarray(end, jnp.int32)
            runs, made, n = advance(self._program, self._chunk, self._given, record.runs, *between)
            made = jax.tree.map(lambda leaf, n=int(n): leaf[:n], jax.device_get(made))
            history, probes = _after(record.history, made), record.probes
            record = Record(runs, history, _after(probes, self._probed(runs)))
            yield record

    @functools.cached_property
    def _types(self) -> tuple[Any, Any, Any]:
        """The types of the runs, of their info, and of what `probe` gives, leaves [R, ...]."""
        runs = start.eval_shape(self._program, self._given)
        n = jax.ShapeDtypeStruct((), jnp.int32)
        _, history, _ = advance.eval_shape(self._program, self._chunk, self._given, runs, n, n)
        info = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), history)
        if self._program.probe is None:
            return runs, info, None
        return runs, info, measure.eval_shape(self._program, self._given, runs.state.params)

    def _probed(self, runs: Running) -> Any:
        """What `probe` gives of these runs, leaves [1, R, ...]."""
        if self._program.probe is None:
            return None
        found = jax.device_get(measure(self._program, self._given, runs.state.params))
        return jax.tree.map(lambda leaf: leaf[None], found)


def _stacked(rows: int, types: Any) -> Any:
    """Types with one more axis in front."""
    return jax.tree.map(lambda t: jax.ShapeDtypeStruct((rows, *t.shape), t.dtype), types)


def _after(rows: Any, more: Any) -> Any:
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), rows, more)
