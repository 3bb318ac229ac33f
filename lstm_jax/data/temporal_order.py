"""The temporal order problem: name the order of two or three symbols far apart in noise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import losses
from .._checks import check_choice, fail
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, draw_length, sample_batch, uniform_int

__all__ = ["TemporalOrder"]
__dir__ = __all__.copy

_X, _Y, _FIRST_DISTRACTOR, _START, _END = 0, 1, 2, 6, 7
_DISTRACTORS = 4
_TENTH = "each informative symbol has a tenth of it to stand in"


class _Convention(NamedTuple):
    """One published form of the task; windows are (low, high) in hundredths of the length."""

    alphabet: int
    windows: dict[int, tuple[tuple[int, int], ...]]  # by the number of informative symbols
    inclusive: bool  # whether the upper end of a window belongs to it
    longest: Callable[[int], int] | None = None
    framed: bool = False  # a start symbol first and an end symbol last


_CONVENTIONS = {
    "pascanu": _Convention(
        alphabet=6,
        windows={2: ((10, 20), (50, 60)), 3: ((10, 20), (30, 40), (60, 70))},
        inclusive=False,
    ),
    "hs97": _Convention(
        alphabet=8,
        windows={2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))},
        inclusive=True,
        longest=lambda length: length + length // 10,
        framed=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class TemporalOrder(Static):
    """Temporal order (Hochreiter & Schmidhuber 1997, experiments 6a and 6b).

    One-hot symbols: 0, 1 the informative X, Y; 2..5 the distractors a, b, c, d; "hs97" adds
    6 = E, the start, and 7 = B, the end. `informative` symbols v_k, each X or Y with probability
    1/2, stand at random positions t_k; every other step is a random distractor. At the last step
    the network shall output the class

        target = sum_k v_k 2**k            k = 0 for the first, X = 0, Y = 1

    L is `length`, positions count from 0, l is the length of one sequence.

        variant      informative   t_k                                           l
        "pascanu"    2             [.1L,.2L), [.5L,.6L)                          L
        "pascanu"    3             [.1L,.2L), [.3L,.4L), [.6L,.7L)               L
        "hs97"       2 (6a)        [.1L,.2L], [.5L,.6L]                          L..1.1L
        "hs97"       3 (6b)        [.1L,.2L], [.33L,.43L], [.66L,.76L]           L..1.1L

    Window ends are rounded: low ends down, widths of "pascanu" as its code does, int(.1 L). With
    `shortest` each sequence of "pascanu" has a length of its own, uniform on [shortest, L], and
    windows of that length: as the paper trains one model for lengths from 50 to 200, though there
    all sequences of a batch have the same length.
    The papers' setting of "hs97" is L = 100: t1 in 10..20, t2 in 50..60, 100 to 110 steps. It
    trained sigmoid outputs on squared error; here, as in Pascanu's code, the loss is the softmax
    cross entropy, so baseline = informative * ln 2: ln 4 or ln 8.

    Sources: hs97 - Hochreiter & Schmidhuber 1997. pascanu - Pascanu, Mikolov & Bengio
    2013, code (its description puts the first symbol in [1, L/10], its code in [.1L, .2L)).

    Raises:
        ValueError: for an unknown variant, informative other than 2 or 3, a length below 10,
            shortest outside [10, length] or with "hs97".
    """

    length: int
    variant: str = "pascanu"
    informative: int = 2
    shortest: int | None = None

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, _CONVENTIONS)
        check_choice("informative", self.informative, (2, 3))
        check_length(self.length, 10, _TENTH)
        if self.shortest is not None:
            self._check_shortest(self.shortest)

    def _check_shortest(self, shortest: int) -> None:
        if self._convention.longest is not None:
            seen, remedy = f"{shortest} with {self.variant!r}", 'pass variant="pascanu"'
            raise fail("shortest", seen, "None, as this variant draws its lengths itself", remedy)
        check_length(shortest, 10, _TENTH, "shortest")
        if shortest > self.length:
            remedy = f"pass shortest<={self.length}"
            raise fail("shortest", shortest, f"at most the length, {self.length}", remedy)

    @property
    def _convention(self) -> _Convention:
        return _CONVENTIONS[self.variant]

    @property
    def input_size(self) -> int:
        """D, the number of symbols: 6, or 8 for "hs97"."""
        return self._convention.alphabet

    @property
    def output_size(self) -> int:
        """The number of classes: 2**informative."""
        return 2**self.informative

    @property
    def kind(self) -> str:
        """The kind of loss, "classification": in nats."""
        return "classification"

    @property
    def total_length(self) -> int:
        """T, the longest possible sequence."""
        longest = self._convention.longest
        return self.length if longest is None else longest(self.length)

    @property
    def baseline(self) -> float:
        """The loss without memory: ln(2**informative), in nats."""
        return self.informative * math.log(2.0)

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The steps (low, high) among which each t_k of length L is drawn, high excluded."""
        return self._windows(self.length)

    def _windows(self, length: Any) -> tuple[tuple[Any, Any], ...]:
        """The windows of a sequence of this length, which may be traced."""
        convention = self._convention
        windows = convention.windows[self.informative]
        if convention.inclusive:
            return tuple((low * length // 100, high * length // 100 + 1) for low, high in windows)
        starts = (low * length // 100 for low, _ in windows)
        return tuple((start, start + length // 10) for start in starts)

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw one-hot xs [T, B, D], targets [T, B] and a mask, True only at each last step."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Softmax cross entropy of ys [T, B, 2**informative] at the last steps, nats."""
        return losses.softmax_cross_entropy(ys, batch.targets, batch.mask)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one sequence: xs [T, D], targets [T], mask [T], its length or None."""
        convention, total = self._convention, self.total_length
        key_length, key_noise, key_symbols, key_times = jax.random.split(key, 4)
        shortest = self.length if self.shortest is None else self.shortest
        seq_length = draw_length(key_length, shortest, total)
        steps = jnp.arange(total, dtype=jnp.int32)
        last = steps == seq_length - 1
        noise = (_FIRST_DISTRACTOR, _FIRST_DISTRACTOR + _DISTRACTORS)
        symbols = uniform_int(key_noise, *noise, (total,))
        informative = uniform_int(key_symbols, _X, _Y + 1, (self.informative,))
        # The windows of "hs97" are those of L, whatever the length of the sequence.
        of = seq_length if convention.longest is None else self.length
        low, high = jnp.array(self._windows(of), jnp.int32).T
        times = uniform_int(key_times, low, high, (self.informative,))
        for k in range(self.informative):
            symbols = jnp.where(steps == times[k], informative[k], symbols)
        if convention.framed:
            symbols = jnp.where(steps == 0, _START, jnp.where(last, _END, symbols))
        one_hot = jax.nn.one_hot(symbols, convention.alphabet, dtype=jnp.float32)
        powers = jnp.array([2**k for k in range(self.informative)], jnp.int32)
        return Batch(
            xs=jnp.where((steps < seq_length)[:, None], one_hot, 0.0),
            targets=jnp.broadcast_to(jnp.sum(informative * powers, dtype=jnp.int32), (total,)),
            mask=last,
            seq_lengths=None if shortest == total else jnp.asarray(seq_length, jnp.int32),
        )
