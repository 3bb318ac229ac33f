"""Programs that run where `lstm_jax` is not installed: `jax.export` of a net, with plain types.

    exported = lstm_jax.export.program(net, params, xs)           # any T and B
    lstm_jax.export.save("net.jax", exported)

    exported = jax.export.deserialize(Path("net.jax").read_bytes())      # needs jax alone
    carry, ys = exported.call(xs)

A carry is a NamedTuple here, whose type a process without this library does not know. In an
exported program it is a dict of its fields: {"h": ..., "c": ...} of an LSTM.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from ._cells.contract import Recurrent
from ._checks import check_bool, check_path, fail, shown
from ._files import write_whole
from ._net import Net, check_net
from ._typing import Params
from ._unroll import unroll

__all__ = ["PLATFORMS", "plain", "program", "save"]
__dir__ = __all__.copy

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What a program runs on if nothing else is asked for."""


def program(
    net: Recurrent | Net,
    params: Params,
    xs: Any,
    *,
    carried: bool = False,
    seq_lengths: bool = False,
    resets: bool = False,
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> jax.export.Exported:
    """Export `unroll` of a net, for every number of steps T >= 1 and of sequences B >= 1.

    The program is called as

        carry, ys = exported.call(params, xs, carry=..., seq_lengths=..., resets=...)

    of which it takes what was asked for here, and xs. It is that of evaluation, without noise, and
    runs on XLA: it may not name a kernel of this machine.

    Args:
        net: a cell or a net.
        params: the parameters, which become a part of the program; with `trainable` their shapes
            and dtypes alone count.
        xs: inputs [T, B, ...], or a `jax.ShapeDtypeStruct` of them; T and B do not count.
        carried: it takes the carry before the first step, as it returns it; else it starts as
            `net.initial_carry` says.
        seq_lengths: it takes `seq_lengths`, int32 [B].
        resets: it takes `resets`, bool [T, B].
        trainable: it takes the parameters, in front. For gradients save with vjp_order=1 and call
            `exported.vjp()`, or `jax.grad` through `exported.call`.
        platforms: what it runs on, of "cpu", "cuda", "rocm" and "tpu".

    Raises:
        ValueError: what `unroll` raises; xs without the axes [T, B].
    """
    check_net("net", net, "program(net, params, xs)")
    asked = {"carried": carried, "seq_lengths": seq_lengths, "resets": resets}
    for name, flag in {**asked, "trainable": trainable}.items():
        check_bool(name, flag)
    shape, dtype = jnp.shape(xs), jax.dtypes.canonicalize_dtype(jnp.result_type(xs))
    if len(shape) < 2:
        raise fail("xs", shown(xs), "inputs [T, B, ...]", "add the axes of time and batch")
    steps, batch = jax.export.symbolic_shape("T, B", constraints=["T >= 1", "B >= 1"])
    inputs = jax.ShapeDtypeStruct((steps, batch, *shape[2:]), dtype)
    weights = jax.eval_shape(lambda: params) if trainable else params
    final = jax.eval_shape(lambda params, xs: unroll(net, params, xs)[0], weights, inputs)

    def run(params: Any, xs: Any, carry: Any = None, **flags: Any) -> tuple[Any, Any]:
        begin = None if carry is None else _filled(final, carry)
        carry, ys = unroll(net, params, xs, begin, **flags)
        return plain(carry), ys

    options: dict[str, Any] = {
        "carry": plain(final),
        "seq_lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
        "resets": jax.ShapeDtypeStruct((steps, batch), jnp.bool_),
    }
    options = {n: options[n] for n, on in zip(options, asked.values(), strict=True) if on}
    if trainable:
        return jax.export.export(jax.jit(run), platforms=platforms)(weights, inputs, **options)
    fixed = jax.jit(lambda xs, **options: run(params, xs, **options))
    return jax.export.export(fixed, platforms=platforms)(inputs, **options)


def save(
    path: str | os.PathLike[str], exported: jax.export.Exported, *, vjp_order: int = 0
) -> None:
    """Write an exported program to a file, whole or not at all.

    Args:
        path: the file.
        exported: from `program`, or from `jax.export.export`.
        vjp_order: how many times its derivative can be taken by who reads it.

    Raises:
        ImportError: flatbuffers, with which JAX writes programs, is not installed.
        ValueError: the file cannot be written; an older one there stays.
    """
    check_path("path", path)
    if not isinstance(exported, jax.export.Exported):
        raise fail("exported", shown(exported), "an Exported", "pass what `program` returns")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("JAX writes programs with flatbuffers: pip install flatbuffers")
    write_whole(path, bytes(exported.serialize(vjp_order=vjp_order)))


def plain(tree: Any) -> Any:
    """Replace the NamedTuples in a tree, such as a carry, by dicts of their fields.

    The dicts are what an exported program takes as `carry` and returns.
    """
    if hasattr(tree, "_asdict"):
        return {name: plain(value) for name, value in tree._asdict().items()}
    if isinstance(tree, dict):
        return {name: plain(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(plain(value) for value in tree)
    return tree


def _filled(like: Any, tree: Any) -> Any:
    """The inverse of `plain`: the values of `tree` in nodes of the types of `like`."""
    if hasattr(like, "_fields"):
        return type(like)(*(_filled(getattr(like, n), tree[n]) for n in like._fields))
    if isinstance(like, dict):
        return {name: _filled(value, tree[name]) for name, value in like.items()}
    if isinstance(like, (list, tuple)):
        return type(like)(_filled(*pair) for pair in zip(like, tree, strict=True))
    return tree
