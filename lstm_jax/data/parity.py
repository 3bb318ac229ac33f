"""Parity of a sequence of bits, the smallest problem in which a state must be tracked."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from .. import losses
from .._checks import check_choice
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, draw_length, sample_batch

__all__ = ["Parity"]
__dir__ = __all__.copy

_SHORTEST = {"running": None, "deletang": 1, "grazzi": 3}
"""Shortest sequence by variant; None: all have `length` steps, and every step counts."""


@dataclasses.dataclass(frozen=True)
class Parity(Static):
    """Parity: whether the number of ones so far is odd.

    One-hot bits x_t, each 0 or 1 with probability 1/2, and

        target_t = (x_1 + ... + x_t) mod 2

        variant       steps that count     steps of one sequence
        "running"     all                  length
        "deletang"    the last             uniform on 1..length
        "grazzi"      the last             uniform on 3..length

    Without memory of all earlier bits nothing can be said, so baseline = ln 2. Trained at one
    length, a network that has found the two states is right at every other. The papers train at
    length 40; deletang tests at 41..500, grazzi at 40..256.

    Sources: deletang - Deletang et al. (2023), "Neural networks and the Chomsky hierarchy", arXiv
    2207.02098, which draws one length for a batch, here one for a sequence. grazzi - Grazzi et al.
    (2025), "Unlocking state-tracking in linear RNNs through negative eigenvalues", arXiv
    2411.12537, appendix E.1. running - the same automaton, asked at every step, which is easier to
    learn.

    Raises:
        ValueError: for an unknown variant, or a length below that of the shortest sequence.
    """

    length: int
    variant: str = "running"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, _SHORTEST)
        shortest = _SHORTEST[self.variant] or 1
        check_length(self.length, shortest, f"the shortest sequence of {self.variant!r}")

    @property
    def input_size(self) -> int:
        """D, the number of symbols: 2."""
        return 2

    @property
    def output_size(self) -> int:
        """The number of classes: even and odd."""
        return 2

    @property
    def kind(self) -> str:
        """The kind of loss, "classification": in nats."""
        return "classification"

    @property
    def total_length(self) -> int:
        """T, the longest possible sequence."""
        return self.length

    @property
    def baseline(self) -> float:
        """The loss without memory: ln 2, in nats."""
        return math.log(2.0)

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw one-hot xs [T, B, 2], targets [T, B] and a mask of the steps that count."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Softmax cross entropy of ys [T, B, 2] at the steps that count, nats."""
        return losses.softmax_cross_entropy(ys, batch.targets, batch.mask)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one sequence: xs [T, 2], targets [T], mask [T], its length or None."""
        key_bits, key_length = jax.random.split(key)
        steps = jnp.arange(self.length, dtype=jnp.int32)
        bits = jax.random.bernoulli(key_bits, shape=(self.length,)).astype(jnp.int32)
        shortest, seq_length = _SHORTEST[self.variant], None
        inside = mask = jnp.ones(self.length, bool)
        if shortest is not None:
            drawn = draw_length(key_length, shortest, self.length)
            inside, mask = steps < drawn, steps == drawn - 1
            seq_length = jnp.asarray(drawn, jnp.int32)
        return Batch(
            xs=jnp.where(inside[:, None], jax.nn.one_hot(bits, 2, dtype=jnp.float32), 0.0),
            targets=jnp.cumsum(jnp.where(inside, bits, 0), dtype=jnp.int32) % 2,
            mask=mask,
            seq_lengths=seq_length,
        )
