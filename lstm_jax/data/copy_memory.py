"""The copy problem: ten symbols, a long silence, then the same ten symbols from memory."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import losses
from .._checks import check_choice, check_positive_int, fail
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, sample_batch, uniform_int

__all__ = ["CopyMemory"]
__dir__ = __all__.copy


class _Convention(NamedTuple):
    """One published form of the copy problem; W = width, L = length, positions count from 0."""

    extra: int  # total_length - (L + 2 W)
    lead: int  # first output step minus first marker step
    repeated: bool  # the marker stays on to the end


_CONVENTIONS = {
    "urnn": _Convention(extra=0, lead=1, repeated=False),
    "exprnn": _Convention(extra=0, lead=0, repeated=False),
    "tcn": _Convention(extra=0, lead=1, repeated=True),
    "janet": _Convention(extra=1, lead=1, repeated=False),
}


@dataclasses.dataclass(frozen=True)
class CopyMemory(Static):
    """Copy memory (after Hochreiter & Schmidhuber 1997), in the four conventions in use.

    L is `length` (the papers' T), the pause between symbols and answer; W is `width`, S is
    `symbols`. One-hot inputs: 0 blank, 1..S the symbols, S + 1 the marker (D = S + 2). Outputs are
    the classes 0..S. The target is blank at every step but the last W, where it is the W symbols in
    their order. The loss is the mean over all steps.

        variant    input                                    first output - first marker   T
        "urnn"     W symbols, L-1 blanks, marker, W blanks        +1                      L + 2W
        "exprnn"   W symbols, L blanks, marker, W-1 blanks         0                      L + 2W
        "tcn"      W symbols, L-1 blanks, W+1 markers             +1                      L + 2W
        "janet"    W symbols, L blanks, marker, W blanks          +1                      L + 2W + 1

    baseline = W ln(S) / T: blanks cost nothing, each symbol ln(S) nats. With W = 10 and S = 8 it
    is the 10 ln 8 / (L + 20) of the literature, except for "janet", which is one step longer.

    Sources: urnn - Arjovsky, Shah & Bengio 2016, code (also Tallec & Ollivier 2018). exprnn -
    Lezcano-Casado & Martinez-Rubio 2019, code. tcn - Bai, Kolter & Koltun 2018, code, which feeds
    the symbol's number in one channel and leaves a tenth output class unused; here it is one-hot
    like the rest. janet - van der Westhuizen & Lasenby 2018, code.

    Raises:
        ValueError: for an unknown variant, a length or width below 1, fewer than 2 symbols.
    """

    length: int
    variant: str = "urnn"
    symbols: int = 8
    width: int = 10

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, _CONVENTIONS)
        check_length(self.length, 1, "the marker follows the symbols")
        check_positive_int("width", self.width)
        check_positive_int("symbols", self.symbols)
        if self.symbols < 2:
            wanted = "at least 2 (one symbol leaves nothing to remember)"
            raise fail("symbols", self.symbols, wanted, "pass symbols>=2")

    @property
    def input_size(self) -> int:
        """D = symbols + 2: blank, symbols, marker."""
        return self.symbols + 2

    @property
    def output_size(self) -> int:
        """The number of classes: symbols + 1, with the blank."""
        return self.symbols + 1

    @property
    def kind(self) -> str:
        """The kind of loss, "classification": in nats."""
        return "classification"

    @property
    def total_length(self) -> int:
        """T = length + 2 * width, and one step more for "janet"."""
        return self.length + 2 * self.width + _CONVENTIONS[self.variant].extra

    @property
    def baseline(self) -> float:
        """The loss without memory: width * ln(symbols) / total_length, in nats per step."""
        return self.width * math.log(self.symbols) / self.total_length

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw xs [T, B, symbols + 2] and targets [T, B]; the mask is True everywhere."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Softmax cross entropy of ys [T, B, symbols + 1], mean over all steps, nats."""
        return losses.softmax_cross_entropy(ys, batch.targets, batch.mask)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one sequence: xs [T, D], targets [T], mask [T]."""
        convention, blanks = _CONVENTIONS[self.variant], self.total_length - self.width
        symbols = uniform_int(key, 1, self.symbols + 1, (self.width,))
        silence = jnp.zeros((blanks,), jnp.int32)
        steps = jnp.arange(self.total_length, dtype=jnp.int32)
        marker = blanks - convention.lead
        marked = steps >= marker if convention.repeated else steps == marker
        inputs = jnp.where(marked, self.symbols + 1, jnp.concatenate([symbols, silence]))
        return Batch(
            xs=jax.nn.one_hot(inputs, self.input_size, dtype=jnp.float32),
            targets=jnp.concatenate([silence, symbols]),
            mask=jnp.ones(steps.shape, jnp.bool_),
            seq_lengths=None,
        )
