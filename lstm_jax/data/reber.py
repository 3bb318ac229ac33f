"""Reber grammars: predict the next symbol of strings whose second symbol returns near the end."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import losses
from .._checks import as_array, check_choice, check_floating, check_shape, fail
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, sample_batch, uniform_int

__all__ = ["Reber"]
__dir__ = __all__.copy

_SYMBOLS = "BTPSXVE"
_PLAIN = (
    (("B", 1),),
    (("T", 2), ("P", 3)),
    (("S", 2), ("X", 4)),
    (("T", 3), ("V", 5)),
    (("X", 3), ("S", 6)),
    (("P", 4), ("V", 6)),
    (("E", 7),),
    (),
)
"""Arcs of Reber's grammar, (symbol, next state) by state; the last state is the end."""


class _Grammar(NamedTuple):
    """A grammar of N states as tables; from state n either arc is taken with probability 1/2.

    Attributes:
        symbols, following: int32 [N, 2], symbol and next state of each arc; of a single arc, twice.
        after: int32 [N, 7], the state after each symbol; the end after an illegal one.
        legal: bool [N, 7], the symbols that may come next.
        recall: bool [N], states in which the string's second symbol tells the next.
        end: the state of a string that has ended.
    """

    symbols: np.ndarray
    following: np.ndarray
    after: np.ndarray
    legal: np.ndarray
    recall: np.ndarray
    end: int


@functools.cache
def _grammar(variant: str) -> _Grammar:
    """The tables of a variant."""
    arcs, recalling = (_PLAIN, ()) if variant == "plain" else _embedded(variant == "continual")
    end = len(arcs) - 1
    twice = [(branch * 2)[:2] or (("B", end),) * 2 for branch in arcs]
    after = np.full((len(arcs), len(_SYMBOLS)), end, np.int32)
    for state, branch in enumerate(arcs):
        for symbol, following in branch:
            after[state, _SYMBOLS.index(symbol)] = following
    numbers = [[_SYMBOLS.index(symbol) for symbol, _ in pair] for pair in twice]
    return _Grammar(
        symbols=np.array(numbers, np.int32),
        following=np.array([[state for _, state in pair] for pair in twice], np.int32),
        after=after,
        legal=np.array([[s in dict(branch) for s in _SYMBOLS] for branch in arcs]),
        recall=np.isin(np.arange(len(arcs)), recalling),
        end=end,
    )


def _embedded(continual: bool) -> tuple[tuple[tuple[tuple[str, int], ...], ...], tuple[int, ...]]:
    """The arcs of B s (a plain string) s E with s = T or P, and the states before the second s."""
    size = len(_PLAIN)
    inner = [
        tuple((symbol, state + 2 + k * size) for symbol, state in branch) or ((s, 2 + 2 * size),)
        for k, s in enumerate("TP")
        for branch in _PLAIN
    ]
    last = 2 + 2 * size
    arcs = [(("B", 1),), (("T", 2), ("P", 2 + size)), *inner]
    return (*arcs, (("E", 0 if continual else last + 1),), ()), (1 + size, 1 + 2 * size)


@dataclasses.dataclass(frozen=True)
class Reber(Static):
    """Next-symbol prediction of Reber strings (Cleeremans et al. 1989), embedded and in a stream.

    One-hot symbols 0..6 = B T P S X V E. At each step the network sees a symbol and predicts the
    next one, of which the grammar allows one or two, each with probability 1/2:

        0 -B-> 1     1 -T-> 2, -P-> 3     2 -S-> 2, -X-> 4     3 -T-> 3, -V-> 5
        4 -X-> 3, -S-> 6     5 -P-> 4, -V-> 6     6 -E-> the end

    An embedded string is B s (such a string) s E with s = T or P: to predict the second s, a
    network must remember the first over at least 6 steps. L is `length`.

        variant       sequence                                                T
        "plain"       one string without its last symbol, cut after L steps   L
        "embedded"    one embedded string, likewise                           L
        "continual"   embedded strings without end or mark between them       L

    Single strings have 4 or 8 steps at least; of embedded ones 1 in 800 has 30 or more. The
    loss is the softmax cross entropy of the next symbol, the mean over all steps; the best network
    has the loss `optimum`. The criterion of Hochreiter & Schmidhuber is `correct` at every step.

    Sources: "plain" - Reber 1967; Cleeremans, Servan-Schreiber & McClelland 1989. "embedded" -
    Hochreiter & Schmidhuber 1997, experiment 1. "continual" - Gers, Schmidhuber & Cummins 2000.

    Raises:
        ValueError: for an unknown variant or a length below 1.
    """

    length: int
    variant: str = "continual"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("plain", "embedded", "continual"))
        check_length(self.length, 1, "one symbol tells what may come next")

    @property
    def _grammar(self) -> _Grammar:
        return _grammar(self.variant)

    @property
    def input_size(self) -> int:
        """D = 7, the number of symbols."""
        return len(_SYMBOLS)

    @property
    def output_size(self) -> int:
        """The number of symbols, 7."""
        return len(_SYMBOLS)

    @property
    def kind(self) -> str:
        """The kind of loss, "classification": in nats."""
        return "classification"

    @property
    def total_length(self) -> int:
        """T = length."""
        return self.length

    @property
    def baseline(self) -> float:
        """The loss of the best answers that know the number of the step alone, nats a step."""
        p = self._next_symbols()
        entropies = -np.sum(p * np.log(p, out=np.zeros_like(p), where=p > 0), axis=-1)
        counted = self._states()[:, : self._grammar.end].sum(axis=-1)
        return float(counted @ entropies / counted.sum())

    @property
    def optimum(self) -> float:
        """The loss of the best answers that know all symbols so far, nats a step."""
        states = self._states()[:, : self._grammar.end]
        choices = self._grammar.legal[: self._grammar.end].sum(axis=-1)
        return float(np.sum(states @ np.log(choices)) / states.sum())

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw one-hot xs [T, B, 7], targets [T, B] and a mask, False beyond a string's end."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Softmax cross entropy of ys [T, B, 7] at the steps of the mask, nats."""
        return losses.softmax_cross_entropy(ys, batch.targets, batch.mask)

    def legal(self, xs: Array) -> Array:
        """Which symbols may come after each step of xs [T, *batch, 7]: bool, of that shape.

        xs begin with the first symbol of a string; a step beyond a string's end has none.

        Raises:
            ValueError: xs are not [T, *batch, 7] floating.
        """
        return jnp.asarray(self._grammar.legal)[self._states_after(xs)]

    def recall(self, xs: Array) -> Array:
        """Which steps of xs [T, *batch, 7] are followed by the second s: bool [T, *batch].

        Raises:
            ValueError: xs are not [T, *batch, 7] floating.
        """
        return jnp.asarray(self._grammar.recall)[self._states_after(xs)]

    def correct(self, ys: Array, xs: Array) -> Array:
        """Where every legal output of ys [T, *batch, 7] exceeds every illegal one: [T, *batch].

        Raises:
            ValueError: xs or ys are not [T, *batch, 7] floating, of one shape.
        """
        legal, ys = self.legal(xs), _rows("ys", ys)
        check_shape("ys", ys, legal.shape, "the shape of xs", "pass one output a step and sequence")
        least = jnp.min(jnp.where(legal, ys, jnp.inf), axis=-1)
        most = jnp.max(jnp.where(legal, -jnp.inf, ys), axis=-1)
        return (least > most) & jnp.any(legal, axis=-1)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one sequence: xs [T, 7], targets [T], mask [T], its length or None."""
        grammar = self._grammar
        symbols, following = jnp.asarray(grammar.symbols), jnp.asarray(grammar.following)

        def step(state: Array, coin: Array) -> tuple[Array, tuple[Array, Array]]:
            after = following[state, coin]
            return after, (symbols[state, coin], after)

        coins = uniform_int(key, 0, 2, (self.length + 1,))
        _, (drawn, states) = lax.scan(step, jnp.zeros((), jnp.int32), coins)
        mask = states[:-1] != grammar.end
        one_hot = jax.nn.one_hot(drawn[:-1], self.input_size, dtype=jnp.float32)
        return Batch(
            xs=jnp.where(mask[:, None], one_hot, 0.0),
            targets=jnp.where(mask, drawn[1:], 0),
            mask=mask,
            seq_lengths=None if self.variant == "continual" else jnp.sum(mask, dtype=jnp.int32),
        )

    def _states_after(self, xs: Array) -> Array:
        """The grammar's state after each step, int32 [T, *batch]."""
        after, end = jnp.asarray(self._grammar.after), self._grammar.end

        def step(state: Array, x: Array) -> tuple[Array, Array]:
            known = jnp.any(x > 0, axis=-1)
            state = jnp.where(known, after[state, jnp.argmax(x, axis=-1)], end)
            return state, state

        xs = _rows("xs", xs)
        start = jnp.zeros(xs.shape[1:-1], jnp.int32)
        return lax.scan(step, start, xs)[1]

    def _states(self) -> np.ndarray:
        """The probability of each state after each step, [T, N]."""
        moves = np.zeros((len(self._grammar.legal),) * 2)
        for arc in range(2):
            np.add.at(moves, (np.arange(len(moves)), self._grammar.following[:, arc]), 0.5)
        p, found = np.eye(len(moves))[0], []
        for _ in range(self.length):
            p = p @ moves
            found.append(p)
        return np.array(found)

    def _next_symbols(self) -> np.ndarray:
        """The probability of each next symbol after each step that counts, [T, 7]."""
        emits = self._grammar.legal / np.maximum(self._grammar.legal.sum(-1, keepdims=True), 1)
        p = self._states() @ emits
        total = p.sum(axis=-1, keepdims=True)
        return np.divide(p, total, out=np.zeros_like(p), where=total > 0)


def _rows(argument: str, given: Array) -> Array:
    """Convert to an array; raise unless it has one number a step, sequence and symbol."""
    rows = jnp.asarray(as_array(argument, given))
    check_floating(argument, rows)
    if rows.ndim < 2 or rows.shape[-1] != len(_SYMBOLS):
        remedy = "pass what sample gives, or outputs of that shape"
        raise fail(argument, f"shape {rows.shape}", "[T, *batch, 7]", remedy)
    return rows
