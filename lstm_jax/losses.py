"""Losses over sequences: the mean over valid steps, in float32 or better.

Every loss is a mean over the valid elements, those where `mask` is True:

    loss = sum(mask * l) / max(sum(mask), 1)

with l the loss of one element. Masked elements, NaN and Inf included, reach neither the value nor
the gradient; if no element is valid the loss is 0. Logits and predictions of 16 bits are converted
to float32 first, so the loss is float32.
"""

import math

import jax.numpy as jnp
import optax

from ._checks import as_array, check_flags, check_floating, check_shape, fail
from ._numerics import at_least_float32, mean_where, whole_rows, zero_unless
from ._typing import Array, ArrayLike

__all__ = [
    "accuracy",
    "binary_cross_entropy",
    "bits_per_character",
    "mean_squared_error",
    "softmax_cross_entropy",
]
__dir__ = __all__.copy


def mean_squared_error(
    predictions: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None
) -> Array:
    """Mean over valid elements of (predictions - targets)**2.

    Args:
        predictions: [T, B, D] floating (any axes).
        targets: the shape of predictions, any real dtype.
        mask: bool, True = valid, [T, B] for whole steps or [T, B, D] for single outputs.

    Returns:
        A scalar in the square of the targets' unit.
    """
    predictions, targets, mask = _elementwise("predictions", predictions, "targets", targets, mask)
    return mean_where(mask, optax.squared_error(predictions, targets))


def binary_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
) -> Array:
    """Mean over valid elements of -y log p - (1 - y) log(1 - p), p = sigmoid(logits), in nats.

    Args:
        logits: [T, B, D] floating (any axes); each output is one yes-or-no question.
        labels: the shape of logits; bool, 0/1 or probabilities in [0, 1].
        mask: bool, True = valid, [T, B] for whole steps or [T, B, D] for single outputs.

    Returns:
        A scalar, nats per output.
    """
    logits, labels, mask = _elementwise("logits", logits, "labels", labels, mask)
    return mean_where(mask, optax.sigmoid_binary_cross_entropy(logits, labels))


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
) -> Array:
    """Mean over valid steps of log(sum(exp(logits))) - logits[label], in nats.

    Args:
        logits: [T, B, C] floating (any leading axes), C classes.
        labels: [T, B] integer in [0, C); any other at a valid step makes the loss NaN. To ignore
            a number such as -100, pass mask = labels >= 0.
        mask: [T, B] bool, True = valid.

    Returns:
        A scalar, nats per step.
    """
    scores, classes, valid = _classes(logits, labels, mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, classes)
    return mean_where(valid, _nan_without_label(losses, classes, scores.shape[-1]))


def bits_per_character(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
) -> Array:
    """`softmax_cross_entropy / ln 2`: bits per valid step, the unit of character models."""
    return softmax_cross_entropy(logits, labels, mask) / math.log(2.0)


def accuracy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Array:
    """The fraction of valid steps at which argmax(logits) is the label.

    Arguments as in `softmax_cross_entropy`; NaN if a label at a valid step is outside [0, C).
    """
    scores, classes, valid = _classes(logits, labels, mask)
    hits = jnp.argmax(scores, axis=-1).astype(classes.dtype) == classes
    return mean_where(
        valid, _nan_without_label(hits.astype(scores.dtype), classes, scores.shape[-1])
    )


def _nan_without_label(per_step: Array, labels: Array, classes: int) -> Array:
    """Put NaN where a label is outside [0, classes), so that -1 does not mean the last class."""
    return jnp.where((labels >= 0) & (labels < classes), per_step, jnp.nan)


def _elementwise(name: str, outputs, target_name: str, targets, mask):
    """Check (outputs, targets, mask), give them one shape, and zero masked elements.

    The zeros are the inner half of the double where: the loss is finite at masked elements, so
    its derivative there is finite too, and the outer where (in `mean_where`) can drop it.
    """
    outputs = jnp.asarray(as_array(name, outputs))
    targets = jnp.asarray(as_array(target_name, targets))
    check_floating(name, outputs)
    if jnp.issubdtype(targets.dtype, jnp.complexfloating):
        raise fail(
            target_name,
            f"dtype {targets.dtype}",
            "real numbers",
            "pass the real and imaginary parts",
        )
    check_shape(
        target_name,
        targets,
        outputs.shape,
        f"the shape of {name}",
        f"give {target_name} one entry per element of {name}",
    )
    dtype = at_least_float32(outputs.dtype)
    outputs, targets = outputs.astype(dtype), targets.astype(dtype)
    mask = _elementwise_mask(mask, name, outputs.shape)
    return zero_unless(mask, outputs), zero_unless(mask, targets), mask


def _elementwise_mask(mask, name: str, shape: tuple[int, ...]) -> Array | None:
    """Broadcast `mask` to `shape`; it may lack the last axis."""
    if mask is None:
        return None
    mask = as_array("mask", mask)
    steps = shape if mask.shape == shape else shape[:-1]
    letters = f"the shape of {name} {shape}, or that without its last axis"
    mask = jnp.asarray(check_flags("mask", mask, steps, letters))
    return mask if steps == shape else jnp.broadcast_to(mask[..., None], shape)


def _classes(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Check (logits [..., C], labels [...], mask [...]) and zero masked steps."""
    logits, labels = jnp.asarray(as_array("logits", logits)), as_array("labels", labels)
    labels = jnp.asarray(labels)
    check_floating("logits", logits)
    if logits.ndim == 0:
        raise fail("logits", "shape ()", "[..., C] with classes last", "pass one logit per class")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        remedy = "pass class numbers, not one-hot rows or floats"
        raise fail("labels", f"dtype {labels.dtype}", "an integer dtype", remedy)
    wanted = logits.shape[:-1]
    letters = "the shape of logits without its last axis"
    check_shape("labels", labels, wanted, letters, "pass one class number per step")
    logits = whole_rows(logits.astype(at_least_float32(logits.dtype)))
    mask = check_flags("mask", mask, wanted, "the shape of labels")
    valid = None if mask is None else jnp.asarray(mask)
    return zero_unless(valid, logits), zero_unless(valid, labels), valid
