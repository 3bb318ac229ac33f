"""The way back through a net: the gradients of a loss by every cell, layer by layer."""

from collections.abc import Callable
from typing import Any

import jax

from .._cells.closures import closes_over_traced
from .._cells.contract import Recurrent, checked_loss
from .._net import Net, Walk, Walked
from .._numerics import promote
from .._static import compiled_for
from .._typing import Array, Carry, Params
from .cell import Layer, gradient_of_inputs, walked_back
from .record import CellRun, Given, NetRun, Run, forward, turned
from .scaled import Scaled, added, normalized, scaled

Collect = Callable[[Recurrent, Layer], Any]
"""A function of a cell and its way back -> a result, leaves [T, ...] in the order of running."""


def diagnosed(
    net: Recurrent | Net,
    params: Params,
    xs: Array,
    loss: Callable[[Any], Array],
    carry: Carry | None,
    given: Given,
    collect: Collect,
) -> Any:
    """Run a net forwards and backwards, and collect a result from each of its cells."""
    return collected(net, forward(net, params, xs, carry, given), loss, collect)


def collected(
    net: Recurrent | Net, run: Run, loss: Callable[[Any], Array], collect: Collect
) -> Any:
    """Collect a result from each cell on the way back from loss(ys), nested like the carry."""
    rows = run.xs.ndim - net.input_ndim
    dys = scaled(jax.grad(checked_loss(loss))(run.ys), rows)
    fixed = compiled_for(net)
    walk = back if closes_over_traced(fixed) else _jitted
    return walk(fixed, run, dys, collect)[0]


def back(
    net: Recurrent | Net, run: Run, dys: Scaled, collect: Collect, to_inputs: bool = False
) -> tuple[Any, Scaled | None]:
    """Walk a run backwards from dL/dys, and collect a result from each cell.

    Returns:
        (results, dxs): the results nest like the carry of `net`, in the order of time; dxs is
        dL/dxs, computed if `to_inputs`, else None.
    """
    if isinstance(net, Net):
        assert isinstance(run, NetRun)
        return _back_through_net(net, run, dys, collect, to_inputs)
    assert isinstance(run, CellRun)
    layer = walked_back(net, run, dys)
    result = turned(collect(net, layer), run.reverse)
    return result, gradient_of_inputs(net, layer) if to_inputs else None


_jitted = jax.jit(back, static_argnums=(0, 3, 4))


def _back_through_net(
    net: Net, run: NetRun, dys: Scaled, collect: Collect, to_inputs: bool
) -> tuple[Any, Scaled | None]:
    """Walk the parts of a net backwards, the last first.

    What lies between the parts acts on each time step of each sequence alone and is linear on the
    way back, so it takes the scaled gradients as they are.
    """
    parts = list(net.parts.values())
    results: list[Any] = [None] * len(parts)
    to_xs, to_parts = _between(net, run, None, dys)
    for n in reversed(range(len(parts))):
        below = to_inputs or n > 0
        results[n], inputs = back(parts[n], run.parts[n], to_parts[n], collect, below)
        if inputs is not None:
            more, others = _between(net, run, n, inputs)
            to_parts = [added(a, b) for a, b in zip(to_parts, others, strict=True)]
            to_xs = [added(a, b) for a, b in zip(to_xs, more, strict=True)]
    return net.join(results), to_xs[0] if to_inputs else None


def _between(
    net: Net, run: NetRun, part: int | None, given: Scaled
) -> tuple[list[Scaled], list[Scaled]]:
    """Pull the gradient of a part's inputs, or of the net's outputs if `part` is None.

    Returns:
        ([dxs], [dys of each part]): what comes back to the net's inputs, nothing if they are
        integers, and to the outputs of the parts.
    """

    def walked(xs: list[Array], ys: list[Any]) -> Any:
        inputs: list[Any] = []

        def layer(_: Any, params: Any, xs: Array, *others: Any) -> Walked:
            n = len(inputs)
            inputs.append(xs)
            return Walked(run.parts[n].final, ys[n], run.parts[n].carries)

        walk, given = Walk(layer, run.flags.valid, run.reverse), xs[0] if xs else run.xs
        outputs = net.walk(walk, run.params, given, run.carry, run.key).ys
        return outputs if part is None else inputs[part]

    xs = [run.xs] if net.input_ndim else []
    out, pull = jax.vjp(walked, xs, [each.ys for each in run.parts])
    value = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), given.value, out)
    dtype = promote(*(leaf.dtype for leaf in jax.tree.leaves(given.value)))

    def wide(tree: Any) -> Scaled:
        value = jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
        return normalized(Scaled(value, given.exponent))

    dxs, dys = pull(value)
    return [wide(x) for x in dxs], [wide(y) for y in dys]
