"""Noise-padded classification: a few telling steps, then noise until the answer is wanted."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from .. import losses
from .._checks import check_above_zero, check_positive_int, check_range
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, sample_batch, uniform_int

__all__ = ["NoisePadded"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class NoisePadded(Static):
    """Noise-padded classification (after Chang et al. 2019): all that tells the class is long past.

        x_t = strength * onehot(k) + noise        t < informative
        x_t = noise                               the `length` steps after, noise ~ N(0, I)

    The class k is one of `classes`, each as likely; it is wanted at the last step. No step nearer
    than `length` tells anything, so no shorter lag can be learned first. The best answer is the
    largest sum of the informative steps: with 10 classes, 16 steps and strength 1 it is right in
    98.3 % of the sequences.

    The paper's task is of this form: the 32 rows of a CIFAR-10 image, then 968 steps of noise.

    Attributes:
        length: L, the number of steps of noise.
        informative: the number of steps before them.
        classes: the number of classes, which is D.
        strength: by how much an informative step moves the class's channel, in standard deviations
            of the noise.

    Source: Chang, Chen, Haber & Chi (2019), arXiv 1902.09689, section 4.3, with images.

    Raises:
        ValueError: for a length or number of steps below 1, fewer than 2 classes, no strength.
    """

    length: int
    informative: int = 16
    classes: int = 10
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_length(self.length, 1, "noise follows what tells the class")
        check_positive_int("informative", self.informative)
        check_positive_int("classes", self.classes, least=2)
        check_range("strength", self.strength, 0)
        check_above_zero("strength", self.strength)

    @property
    def input_size(self) -> int:
        """D, the number of classes."""
        return self.classes

    @property
    def output_size(self) -> int:
        """The number of classes."""
        return self.classes

    @property
    def kind(self) -> str:
        """The kind of loss, "classification": in nats."""
        return "classification"

    @property
    def total_length(self) -> int:
        """T = informative + length."""
        return self.informative + self.length

    @property
    def baseline(self) -> float:
        """The loss without memory: ln(classes), in nats."""
        return math.log(self.classes)

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw xs [T, B, D], targets [T, B] and a mask, True only at the last step."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Softmax cross entropy of ys [T, B, classes] at the last step, nats."""
        return losses.softmax_cross_entropy(ys, batch.targets, batch.mask)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one sequence: xs [T, D], targets [T], mask [T], and no length."""
        key_class, key_noise = jax.random.split(key)
        steps = jnp.arange(self.total_length, dtype=jnp.int32)
        k = uniform_int(key_class, 0, self.classes)
        noise = jax.random.normal(key_noise, (self.total_length, self.classes), jnp.float32)
        signal = self.strength * jax.nn.one_hot(k, self.classes, dtype=jnp.float32)
        return Batch(
            xs=noise + jnp.where((steps < self.informative)[:, None], signal, 0.0),
            targets=jnp.broadcast_to(k, steps.shape),
            mask=steps == self.total_length - 1,
            seq_lengths=None,
        )
