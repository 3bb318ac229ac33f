"""`Feed`: updates on batches from an iterable, and streams whose carry goes on, for `fit`."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .._checks import check_bool, check_callable, check_key, counted, fail, shown
from .._typing import Carry, Key
from .loop import Info, TrainState, check_state

__all__ = ["Fed", "Feed"]
__dir__ = __all__.copy


_NONE = object()
"""What no iterable gives."""


class Fed(NamedTuple):
    """How far a `Feed` has come, for a checkpoint.

    Attributes:
        taken: the number of batches so far.
        position: what the iterator's `get_state` gave, as text; "" if it has none.
        carry: the carry of the streams; None without.
    """

    taken: int
    position: str
    carry: Carry


jax.export.register_namedtuple_serialization(Fed, serialized_name="lstm_jax.Fed")


class Feed:
    """A `run` for `fit` whose batches come from an iterable: a list, a generator, a loader.

        run = Feed(make_step(loss, tx), batches)
        state, history = fit(run, state, key, 10_000)

    With `carry` the batches are pieces of long streams, and the carry goes from each to the next:

        carry = cell.initial_carry(params, (B,))
        run = Feed(make_tbptt(apply, loss, tx, k1=50), pieces, carry=carry)

    If it is NaN at the end of a chunk, so that no loss would be finite any more, all streams begin
    anew with the carry that was given; `lstm_jax.optim.guarded` keeps such updates out of the
    parameters.

    An iterable that ends begins again, with a new `iter`; an iterator that ends is an error. Arrays
    are NumPy's or JAX's. Each shape compiles once; `lstm_jax.data.Buckets` gives sequences of many
    lengths few of them.

    The place in the data and the carry are kept by the checkpoints of `fit`: from an iterator with
    `get_state` and `set_state`, as grain's, its state (which is bytes, or JSON can hold it); of any
    other that many batches are skipped, so it must give the same ones again.

    Args:
        step: (state, batch) -> (state, info), as from `make_step`; with `carry` it is
            (state, carry, *batch) -> (state, carry, history), as from `make_tbptt`. It is compiled.
        batches: the iterable. With `carry` a batch is a tuple, such as (inputs, targets).
        carry: the carry before the first batch.
        keyed: `step` takes one more argument, a random key that differs from update to update, such
            as for dropout: `fold_in(key, state.step)`. A step of n micro-batches wants n keys: feed
            `lambda state, batch, key: step(state, batch, jax.random.split(key, n))`.

    Attributes:
        carry: the carry after the last batch, for example to evaluate from.
        taken: the number of batches so far.

    Raises:
        ValueError: `batches` cannot be iterated; in a call, they end, or `steps` is no multiple of
            the updates of a batch.
    """

    def __init__(
        self, step: Callable[..., Any], batches: Any, *, carry: Carry = None, keyed: bool = False
    ):
        check_callable("step", step, "what make_step or make_tbptt gives")
        check_bool("keyed", keyed)
        if not hasattr(batches, "__iter__"):
            remedy = "pass a list, a generator or a loader"
            raise fail("batches", shown(batches), "an iterable of batches", remedy)
        self.carry, self._begin, self.taken = carry, carry, 0
        self._batches, self._iterator = batches, iter(batches)
        self._streams, self._keyed, self._step = carry is not None, keyed, jax.jit(step)

    def __call__(self, state: TrainState, key: Key, steps: int) -> tuple[TrainState, Info]:
        """Make `steps` updates: (state, history [steps, ...] in NumPy arrays)."""
        check_state(state)
        check_key("key", key)
        histories, done = [], 0
        while done < steps:
            state, history = self._update(state, key)
            histories.append(history)
            done += len(jax.tree.leaves(history)[0]) if self._streams else 1
        if done > steps:
            per = counted(done // len(histories), "update")
            remedy = "choose fit's steps and chunk accordingly"
            raise fail("steps", steps, f"a multiple of the {per} of a batch", remedy)
        if self._streams and _has_nan(self.carry):
            self.carry = self._begin
        join = np.concatenate if self._streams else np.stack
        return state, jax.tree.map(lambda *parts: join(parts), *jax.device_get(histories))

    def _update(self, state: TrainState, key: Key) -> tuple[TrainState, Info]:
        batch = self._next()
        more = (jax.random.fold_in(key, state.step),) if self._keyed else ()
        if not self._streams:
            return self._step(state, batch, *more)
        if not isinstance(batch, tuple):
            remedy = "give for example (inputs, targets)"
            raise fail("batches", f"a batch that is {shown(batch)}", "a tuple", remedy)
        state, self.carry, history = self._step(state, self.carry, *batch, *more)
        return state, history

    def _next(self) -> Any:
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._begin_again("that ended after", "fewer steps")
            batch = next(self._iterator, _NONE)
        if batch is _NONE:
            raise fail("batches", "an iterable without any", "batches", "look at what it gives")
        self.taken += 1
        return batch

    def _begin_again(self, why: str, otherwise: str) -> None:
        again = iter(self._batches)
        if again is self._iterator:
            seen = f"an iterator {why} {self.taken} batches"
            remedy = f"pass an iterable that can begin again, as a list does, or {otherwise}"
            raise fail("batches", seen, "one that goes on", remedy)
        self._iterator = again

    # ---- checkpoints -----------------------------------------------------------------------------
    def get_state(self) -> Fed:
        """How far it has come; `fit` saves it."""
        position = self._iterator.get_state() if _has_state(self._iterator) else ""
        return Fed(self.taken, _as_text(position), self.carry)

    def set_state(self, state: Fed) -> None:
        """Go on from there."""
        if state.position:
            if not _has_state(self._iterator):
                seen = f"{shown(self._batches)}, which has no place {state.position} to go on from"
                raise fail("batches", seen, "the iterable it began with", "give that again")
            self._iterator.set_state(_from_text(state.position))
            self.taken = state.taken
        else:
            self._skip_to(state.taken)
        self.carry = state.carry

    def _skip_to(self, taken: int) -> None:
        if taken < self.taken:
            self._begin_again("that is to go back and has given", "a new Feed")
            self.taken = 0
        while self.taken < taken:
            self._next()


def _has_nan(carry: Carry) -> bool:
    leaves = [x for x in jax.tree.leaves(carry) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return any(bool(jnp.any(jnp.isnan(x))) for x in leaves)


def _has_state(iterator: Any) -> bool:
    return hasattr(iterator, "get_state") and hasattr(iterator, "set_state")


def _as_text(position: Any) -> str:
    if isinstance(position, str) and not position:
        return ""
    if isinstance(position, bytes):
        return f"bytes {position.hex()}"
    try:
        return f"json {json.dumps(position)}"
    except (TypeError, ValueError) as error:
        seen = f"an iterator whose get_state gives {shown(position)} ({error})"
        raise fail("batches", seen, "bytes, or what JSON can hold", "convert it there") from error


def _from_text(text: str) -> Any:
    kind, value = text.split(" ", 1)
    return bytes.fromhex(value) if kind == "bytes" else json.loads(value)
