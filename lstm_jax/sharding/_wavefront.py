"""A wavefront: items that pass device after device, each at work on another item at a time.

With n devices in a row and k items, device s works on item t - s at tick t: k + n - 1 ticks, of
which each device is at work in k. What a device makes of an item is the message to the next one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._numerics import choose, varying_as
from .._typing import Array

__all__ = ["from_last", "pieces_of", "place_of", "wavefront", "whole_of"]
__dir__ = __all__.copy

Work = Callable[[Any, Any, Array], tuple[Any, Any, Any]]


def wavefront(
    work: Work, state: Any, message: Any, items: int, axis: str, size: int, reverse: bool = False
) -> tuple[Any, Any]:
    """Run a wavefront inside `shard_map`; the backward pass computes each item again.

    Before its first and after its last item a device works too, on what will be thrown away.

    Args:
        work: (state, message, item) -> (state, message for the next device, result of the item).
            The first device gets a message too, of which it makes no use.
        state: what a device keeps from item to item.
        message: one that `work` can take, before any has come; it varies over the devices.
        items: k, the number of items.
        axis, size: the axis of the mesh with the n devices.
        reverse: True if the last device is the first.

    Returns:
        (state after the last item, results of all items [k, ...]).
    """
    place = place_of(axis, size, reverse)
    links = [(s + 1, s) if reverse else (s, s + 1) for s in range(size - 1)]
    shapes = jax.eval_shape(work, state, message, place)[2]
    results = jax.tree.map(lambda x: jnp.zeros((items, *x.shape), x.dtype), shapes)
    results = varying_as(results, message)

    def tick(carried: Any, t: Array) -> tuple[Any, None]:
        state, message, results = carried
        item = jnp.clip(t - place, 0, items - 1)
        is_at_work = t - place == item
        after, message, result = jax.checkpoint(work, prevent_cse=False)(state, message, item)
        results = jax.tree.map(
            lambda old, new: lax.dynamic_update_index_in_dim(
                old, jnp.where(is_at_work, new, old[item]), item, 0
            ),
            results,
            result,
        )
        message = jax.tree.map(lambda x: lax.ppermute(x, axis, links), message)
        return (choose(is_at_work, after, state), message, results), None

    ticks = jnp.arange(items + size - 1, dtype=jnp.int32)
    (state, _, results), _ = lax.scan(tick, (state, message, results), ticks)
    return state, results


def place_of(axis: str, size: int, reverse: bool) -> Array:
    """The place of this device in the row."""
    index = lax.axis_index(axis)
    return size - 1 - index if reverse else index


def from_last(tree: Any, axis: str, size: int, reverse: bool = False) -> Any:
    """Give the tree of the last device of the row to all of them."""
    is_last = place_of(axis, size, reverse) == size - 1
    return jax.tree.map(lambda x: lax.psum(jnp.where(is_last, x, jnp.zeros_like(x)), axis), tree)


def pieces_of(tree: Any, count: int, at: int) -> Any:
    """Cut every array into pieces along an axis, which become its first axis."""

    def cut(x: Array) -> Array:
        shape = (*x.shape[:at], count, x.shape[at] // count, *x.shape[at + 1 :])
        return jnp.moveaxis(x.reshape(shape), at, 0)

    return jax.tree.map(cut, tree)


def whole_of(tree: Any, at: int) -> Any:
    """Join the pieces of every array: undo `pieces_of`."""

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, at)
        return x.reshape(*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])

    return jax.tree.map(join, tree)
