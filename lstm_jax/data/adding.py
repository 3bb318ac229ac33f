"""The adding problem: add the two values of a long sequence that a second channel marks."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import losses
from .._checks import check_choice
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, draw_length, sample_batch, uniform_int

__all__ = ["Adding"]
__dir__ = __all__.copy

Bounds = tuple[tuple[Any, Any], tuple[Any, Any]]
"""The steps (low, high) among which each of the two marks is drawn, high excluded."""


def _halves(length: int, seq_length: Any) -> Bounds:
    """Marks in [0, L/2) and [L/2, 2(L/2)), L/2 rounded down: an odd L never marks its last step."""
    del seq_length
    half = length // 2
    return (0, half), (half, 2 * half)


def _halves_scornn(length: int, seq_length: Any) -> Bounds:
    """Marks in [0, s) and [s, L), s = floor((L - 1) / 2)."""
    del seq_length
    split = (length - 1) // 2
    return (0, split), (split, length)


def _anywhere(length: int, seq_length: Any) -> Bounds:
    """Marks in [0, L) and among the other L - 1 steps: every pair is equally likely."""
    del seq_length
    return (0, length), (0, length - 1)


def _early_hs97(length: int, seq_length: Any) -> Bounds:
    """Marks in the first 10 steps and among the first L/2 - 1 of the others."""
    del seq_length
    return (0, 10), (0, length // 2 - 1)


def _early_pascanu(length: int, seq_length: Any) -> Bounds:
    """Marks in [0, l/10) and [l/10, l/10 + 4l/10), each quotient rounded down."""
    del length
    tenth = seq_length // 10
    return (0, tenth), (tenth, tenth + 4 * seq_length // 10)


class _Convention(NamedTuple):
    """One published form of the adding problem; the defaults are the commonest."""

    minimum: int
    reason: str
    bounds: Callable[[int, Any], Bounds]
    others: bool = False  # the second mark is drawn among the steps that the first left
    low: float = 0.0  # values ~ U[low, 1]
    shift: float = 0.0  # target = shift + scale * (X1 + X2)
    scale: float = 1.0
    longest: Callable[[int], int] | None = None  # None: every sequence has L steps
    mark_channel: int = 1
    marked_ends: bool = False  # -1 in the mark channel of the first and last pair


_URNN = _Convention(2, "each half needs a step", _halves)
_DISTINCT = _Convention(2, "two marks need two steps", _anywhere, others=True)
_CONVENTIONS = {
    "hs97": _Convention(
        11,
        "the first ten pairs and a last one",
        _early_hs97,
        others=True,
        low=-1.0,
        shift=0.5,
        scale=0.25,
        longest=lambda length: length + length // 10,
        marked_ends=True,
    ),
    "pascanu": _Convention(
        10,
        "the first mark falls in the first tenth",
        _early_pascanu,
        scale=0.5,
        longest=lambda length: length + max(length // 10 - 1, 0),
        mark_channel=0,
    ),
    "urnn": _URNN,
    "janet": _URNN,
    "chrono": _URNN,
    "scornn": _Convention(3, "the first part has (length-1)//2 steps", _halves_scornn),
    "tcn": _DISTINCT,
    "cybertronai": _URNN._replace(low=-1.0),
    "le2015": _DISTINCT,
    "hu2018": _DISTINCT,
}


@dataclasses.dataclass(frozen=True)
class Adding(Static):
    """The adding problem (Hochreiter & Schmidhuber 1997, experiment 4), in any of its forms.

    xs [T, B, 2] holds values and marks; at the last step the network shall output

        target = shift + scale * (X1 + X2)        X1, X2: the two marked values

    The forms differ in the target's variance, so their losses cannot be compared. L is `length`,
    positions count from 0, l is the length of one sequence.

        variant        values   marks (ch. = channel)          target          l            baseline
        "hs97"         U[-1,1]  p0 < 10, p1 of first L/2-1     .5+(X1+X2)/4    L..1.1L      ~ 1/24
        "pascanu"      U[0,1]   p0 < .1l, p1 in [.1l,.5l)      (X1+X2)/2       L..1.1L-1    1/24
        "urnn"         U[0,1]   [0,L/2) and [L/2,L)            X1+X2           L            1/6
        "scornn"       U[0,1]   [0,s) and [s,L), s=(L-1)//2    X1+X2           L            1/6
        "tcn"          U[0,1]   two distinct, anywhere         X1+X2           L            1/6
        "le2015"       U[0,1]   two distinct, anywhere         X1+X2           L            1/6
        "cybertronai"  U[-1,1]  as "urnn"                      X1+X2           L            2/3

    "janet" and "chrono" equal "urnn"; "hu2018" equals "le2015" (that its two positions are distinct
    is our reading, unconfirmed). Values are in channel 0 and marks (1 or 0) in channel 1; "pascanu"
    has marks in channel 0. L/2 is rounded down, and as in the code of "urnn" both halves have that
    many steps, so an odd L never marks its last step.

    "hs97": the mark of the first and the last step is always -1. If the first step is drawn as a
    mark, its value is set to 0, as in the paper for X1 (here for X2 too); this lowers the variance,
    so the baseline is 1/24 * (1 - (1/10 + 9/10 / (L//2 - 1)) / 2).
    "pascanu" and "hs97" draw l for each sequence (Pascanu's code draws it once per batch).

    Sources: hs97 - Hochreiter & Schmidhuber 1997, experiment 4. pascanu - Pascanu, Mikolov & Bengio
    2013, code. urnn - Arjovsky, Shah & Bengio 2016, code; janet - van der Westhuizen & Lasenby
    2018, code; chrono - Tallec & Ollivier 2018. scornn - Helfrich, Willmott & Ye 2018, code.
    tcn - Bai, Kolter & Koltun 2018, code. cybertronai - the `schmidhuber-problems` reproduction.
    le2015 - Le, Jaitly & Hinton 2015; hu2018 - Hu et al. 2018.

    Raises:
        ValueError: for an unknown variant or a length in which the marks do not fit.
    """

    length: int
    variant: str = "urnn"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, _CONVENTIONS)
        check_length(self.length, self._convention.minimum, self._convention.reason)

    @property
    def _convention(self) -> _Convention:
        return _CONVENTIONS[self.variant]

    @property
    def input_size(self) -> int:
        """D = 2: one value and one mark."""
        return 2

    @property
    def output_size(self) -> int:
        """The number of outputs: 1."""
        return 1

    @property
    def kind(self) -> str:
        """The kind of loss, "regression": a squared error."""
        return "regression"

    @property
    def total_length(self) -> int:
        """T, the longest possible sequence."""
        longest = self._convention.longest
        return self.length if longest is None else longest(self.length)

    @property
    def baseline(self) -> float:
        """The variance of the target, scale**2 * E[marks that count] * (1 - low)**2 / 12."""
        convention = self._convention
        marks = 2.0
        if convention.marked_ends:
            marks -= 1 / 10 + 9 / 10 / (self.length // 2 - 1)
        return convention.scale**2 * marks * (1.0 - convention.low) ** 2 / 12.0

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw xs [T, B, 2], targets [T, B, 1] and a mask that is True only at each last step."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Mean squared error of ys [T, B, 1] at the last steps."""
        return losses.mean_squared_error(ys, batch.targets, batch.mask)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one sequence: xs [T, 2], targets [T, 1], mask [T], its length or None."""
        convention, steps = self._convention, jnp.arange(self.total_length, dtype=jnp.int32)
        key_length, key_marks, key_values = jax.random.split(key, 3)
        seq_length = draw_length(key_length, self.length, self.total_length)
        p_0, p_1 = self._positions(key_marks, seq_length)
        marked = (steps == p_0) | (steps == p_1)
        values = jax.random.uniform(
            key_values, steps.shape, jnp.float32, minval=convention.low, maxval=1.0
        )
        marks = marked.astype(jnp.float32)
        if convention.marked_ends:
            values = jnp.where(marked & (steps == 0), 0.0, values)
            marks = jnp.where((steps == 0) | (steps == seq_length - 1), -1.0, marks)
        total = jnp.sum(jnp.where(marked, values, 0.0))
        channels = (marks, values) if convention.mark_channel == 0 else (values, marks)
        xs = jnp.where((steps < seq_length)[:, None], jnp.stack(channels, axis=-1), 0.0)
        target = convention.shift + convention.scale * total
        return Batch(
            xs=xs,
            targets=jnp.broadcast_to(target, (*steps.shape, 1)),
            mask=steps == seq_length - 1,
            seq_lengths=None if convention.longest is None else jnp.asarray(seq_length, jnp.int32),
        )

    def _positions(self, key: Key, seq_length: Array | int) -> tuple[Array, Array]:
        """Draw the two marked steps."""
        (low_0, high_0), (low_1, high_1) = self._convention.bounds(self.length, seq_length)
        low, high = (jnp.array(edge, jnp.int32) for edge in ((low_0, low_1), (high_0, high_1)))
        p_0, p_1 = uniform_int(key, low, high, (2,))
        if self._convention.others:
            p_1 = p_1 + (p_1 >= p_0).astype(jnp.int32)
        return p_0, p_1
