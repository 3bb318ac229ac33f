"""The interface of a task: draw a batch of sequences, and compute the loss of outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.export
import jax.numpy as jnp

from .._checks import check_key, check_positive_int, fail
from .._typing import Array, Key


class Batch(NamedTuple):
    """A batch of sequences drawn from a task.

    Attributes:
        xs: [T, B, D] float32 inputs, zero beyond each sequence's end.
        targets: [T, B, output_size] float32 (regression) or [T, B] int32 (classification). A
            target that is scored only at the last step is repeated at every step.
        mask: [T, B] bool, True at the steps that the loss counts.
        seq_lengths: [B] int32, or None when every sequence fills all T steps.
    """

    xs: Array
    targets: Array
    mask: Array
    seq_lengths: Array | None


jax.export.register_namedtuple_serialization(Batch, serialized_name="lstm_jax.Batch")


class Task(Protocol):
    """A synthetic task: frozen, hashable hyper-parameters; `sample` is pure and can be jitted."""

    @property
    def input_size(self) -> int:
        """D, the size of the last axis of xs."""
        ...

    @property
    def output_size(self) -> int:
        """The size of the last axis of the outputs that `loss` takes."""
        ...

    @property
    def kind(self) -> str:
        """The kind of loss: "regression" (mean squared error) or "classification" (nats)."""
        ...

    @property
    def total_length(self) -> int:
        """T, the number of steps of xs, which is the longest possible sequence."""
        ...

    @property
    def baseline(self) -> float:
        """The expected loss of the best predictor without memory."""
        ...

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw `batch_size` sequences; under jit `batch_size` is static."""
        ...

    def loss(self, ys: Array, batch: Batch) -> Array:
        """The loss of outputs ys [T, B, output_size], a scalar."""
        ...


def sample_batch(sample_one: Callable[[Key], Batch], key: Key, batch_size: int) -> Batch:
    """Draw B sequences independently with `sample_one`; the batch axis follows time.

    sample_one: key -> Batch of one sequence, (xs [T, D], targets [T, ...], mask [T], length []).
    """
    check_key("key", key)
    check_positive_int("batch_size", batch_size)
    axes: Any = (1, 1, 1, 0)  # of xs, targets, mask, seq_lengths
    return jax.vmap(sample_one, out_axes=Batch(*axes))(jax.random.split(key, batch_size))


def check_length(length: Any, minimum: int, reason: str, argument: str = "length") -> None:
    """Raise unless `length` is an integer of at least `minimum`."""
    check_positive_int(argument, length)
    if length < minimum:
        wanted = f"at least {minimum} ({reason})"
        raise fail(argument, length, wanted, f"pass {argument}>={minimum}")


def draw_length(key: Key, shortest: int, longest: int) -> Array | int:
    """Draw a sequence's length, uniform on [shortest, longest]; an int if both are equal."""
    return shortest if shortest == longest else uniform_int(key, shortest, longest + 1)


def uniform_int(key: Key, low: Any, high: Any, shape: tuple[int, ...] = ()) -> Array:
    """Draw int32 uniform on [low, high); the bounds may be traced."""
    return jax.random.randint(key, shape, low, high, dtype=jnp.int32)
