"""`unroll` as Flax's RNN calls it: with its order of the outputs; and names of parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_bool, fail
from .._typing import Array, Carry, Params
from .._unroll import unroll

Sharding = Mapping[str, Any]
"""{name or path of a parameter: the names of the mesh axes, one for each of its axes}."""


def run(
    net: Any,
    params: Params,
    xs: Array,
    carry: Carry | None,
    *,
    reverse: bool,
    keep_order: bool,
    time_major: bool,
    seq_lengths: Array | None,
    **options: Any,
) -> tuple[Carry, Any]:
    """Run `unroll`; reversed outputs come in the order of processing, unless `keep_order`."""
    check_bool("keep_order", keep_order)
    order = {"reverse": reverse, "time_major": time_major, "seq_lengths": seq_lengths}
    carry, ys = unroll(net, params, xs, carry, **order, **options)
    if reverse and not keep_order:
        axis = 0 if time_major else jnp.ndim(xs) - net.input_ndim - 1
        ys = jax.tree.map(lambda leaf: flipped(leaf, seq_lengths, axis), ys)
    return carry, ys


def flipped(ys: Array, seq_lengths: Array | None, axis: int) -> Array:
    """Reverse the valid steps of each sequence, which lie before its padding.

    Args:
        ys: the sequences, zero in the padding.
        seq_lengths: [*batch], the number of valid steps; None: all.
        axis: the axis of time, before or after those of the batch.
    """
    if seq_lengths is None:
        return jnp.flip(ys, axis)
    steps = ys.shape[axis]
    lengths = jnp.expand_dims(jnp.asarray(seq_lengths, jnp.int32), axis)
    t = jnp.expand_dims(jnp.arange(steps, dtype=jnp.int32), _others(lengths.ndim, axis))
    source = (lengths - 1 - t) % max(steps, 1)
    features = tuple(range(source.ndim, ys.ndim))
    return jnp.take_along_axis(ys, jnp.expand_dims(source, features), axis)


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(n for n in range(ndim) if n != axis)


def named(params: Any, sharding: Sharding) -> dict[str, Any]:
    """The entry of `sharding` for each leaf of params, by the leaf's path ("0/w_ih").

    A path goes before the name at its end, which stands for all layers.

    Raises:
        ValueError: an entry names no parameter, or has not one name for each axis.
    """
    leaves = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    known = leaves.keys() | {path.rpartition("/")[2] for path in leaves}
    for name in sharding:
        if name not in known:
            remedy = "name these, or 'layer/name' for one layer"
            raise fail("sharding", repr(name), f"parameters: {', '.join(sorted(known))}", remedy)
    found = {}
    for path, leaf in leaves.items():
        axes = sharding.get(path, sharding.get(path.rpartition("/")[2]))
        if axes is not None and len(axes) != leaf.ndim:
            wanted = f"{leaf.ndim} names or None, for shape {leaf.shape}"
            raise fail(f"sharding[{path!r}]", repr(axes), wanted, "name each axis")
        found[path] = axes
    return found


def first(value: Any, default: Any) -> Any:
    """`value`, or `default` if it is None."""
    return default if value is None else value


def _path(path: Any) -> str:
    return "/".join(str(entry.key) for entry in path)


def by_path(function: Any, params: Any) -> Any:
    """Apply `function(path, leaf)` to each leaf of nested dicts, with its path "0/w_ih"."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_path(path), leaf), params)
