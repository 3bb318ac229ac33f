"""What a task is: hyper-parameters that know how to draw a batch and how to score outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.export
import jax.numpy as jnp

from .._checks import check_key, check_positive_int, fail
from .._typing import Array, Key


class Batch(NamedTuple):
    """One draw of a task.

    Attributes:
        xs: [T, B, D] float32 inputs, zero beyond each sequence's end.
        targets: [T, B, output_size] float32 (regression) or [T, B] int32 (classification). Where
            the answer is asked for once, at the end, it is repeated at every step.
        mask: [T, B] bool, the steps at which the loss counts.
        seq_lengths: [B] int32, or None when every sequence fills all T steps.
    """

    xs: Array
    targets: Array
    mask: Array
    seq_lengths: Array | None


jax.export.register_namedtuple_serialization(Batch, serialized_name="lstm_jax.Batch")


class Task(Protocol):
    """A frozen, hashable set of hyper-parameters; `sample` is pure and can be jitted."""

    @property
    def input_size(self) -> int:
        """D, the last axis of xs."""
        ...

    @property
    def output_size(self) -> int:
        """The last axis of the outputs that `loss` takes."""
        ...

    @property
    def kind(self) -> str:
        """Either "regression" (mean squared error) or "classification" (nats)."""
        ...

    @property
    def total_length(self) -> int:
        """T, the number of steps of xs: the longest sequence that can be drawn."""
        ...

    @property
    def baseline(self) -> float:
        """The expected loss of the best predictor that remembers nothing."""
        ...

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw `batch_size` sequences; under jit `batch_size` is static."""
        ...

    def loss(self, ys: Array, batch: Batch) -> Array:
        """The loss of outputs ys [T, B, output_size], a scalar."""
        ...


def sample_batch(sample_one: Callable[[Key], Batch], key: Key, batch_size: int) -> Batch:
    """B independent draws of `sample_one`, the batch axis after time.

    sample_one: key -> Batch of one sequence, (xs [T, D], targets [T, ...], mask [T], length []).
    """
    check_key("key", key)
    check_positive_int("batch_size", batch_size)
    axes: Any = (1, 1, 1, 0)  # of xs, targets, mask, seq_lengths
    return jax.vmap(sample_one, out_axes=Batch(*axes))(jax.random.split(key, batch_size))


def check_length(length: Any, minimum: int, reason: str) -> None:
    """Raise unless `length` is an integer of at least `minimum`."""
    check_positive_int("length", length)
    if length < minimum:
        wanted = f"at least {minimum} ({reason})"
        raise fail("length", length, wanted, f"pass length>={minimum}")


def draw_length(key: Key, shortest: int, longest: int) -> Array | int:
    """The length of one sequence, uniform on [shortest, longest]; the int itself if they meet."""
    return shortest if shortest == longest else uniform_int(key, shortest, longest + 1)


def uniform_int(key: Key, low: Any, high: Any, shape: tuple[int, ...] = ()) -> Array:
    """int32 uniform on [low, high), whether the bounds are known now or not."""
    return jax.random.randint(key, shape, low, high, dtype=jnp.int32)
