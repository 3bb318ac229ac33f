"""Gradients by path: what comes back along the carry alone, and what through recurrent weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._adjoints.back import diagnosed
from .._adjoints.cell import (
    Layer,
    at_one_scale,
    at_output,
    clips,
    held,
    no_gradient,
    pulled,
    through_recur,
    typed,
)
from .._adjoints.record import Given, Steps
from .._adjoints.scaled import Scaled, added, log_norms, normalized, restored
from .._cells.contract import Recurrent
from .._checks import fail
from .._net import Net, cells_of, check_net
from .._typing import Array, Carry, Key, Params
from .gradient_by_lag import Loss

__all__ = ["gradient_norms_by_path"]
__dir__ = __all__.copy


def gradient_norms_by_path(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
) -> Any:
    """Split dL/ds_t by the paths through time, for a loss at any steps; norms in nats.

    A step back has two parts, s_{t-1} acting on s_t inside `update` and through u_t = recur(s_t-1):

        a_t = A_{t+1} a_{t+1} + R_{t+1} a_{t+1} + (dy_t/ds_t)^T dL/dy_t            dL/ds_t

    With the recurrent connection of a set P of gates cut, c_t is the gradient that is left, and d_t
    what goes through P at least once, at whatever step:

        c_t = (A_{t+1} + R_{t+1} without P) c_{t+1} + (dy_t/ds_t)^T dL/dy_t
        d_t = (A_{t+1} + R_{t+1}) d_{t+1} + (R_{t+1} in P) c_{t+1},                c_t + d_t = a_t

    For an LSTM the path "carry" is that of c alone, the product of its forget gates.

    Args:
        cell: a cell or net; every cell factors into project, recur and update.
        params, xs, loss, carry: as in `gradients_by_lag`.
        seq_lengths, mask, resets, reverse, key: as in `unroll`; a key means the noise of training.

    Returns:
        {path: norms}, as from `gradient_norms_by_lag`, with the paths:

        "all": every path, a_t; "carry": inside `update` alone, at every step; "recurrent": through
        the recurrent weights at least once; and for each gate by name: through its recurrent
        connection at least once, where u has a block of H for each gate.

        For a net a dict for each cell, nested as its carry is.

    Raises:
        ValueError: a cell does not factor; or as `unroll`.
    """
    check_net("cell", cell)
    for each in cells_of(cell):
        if not each.factors:
            wanted = "cells that factor into project, recur and update"
            raise fail("cell", type(each).__name__, wanted, "use gradient_norms_by_lag")
    given = Given(seq_lengths, mask, resets, reverse, key)
    return diagnosed(cell, params, xs, loss, carry, given, _norms_by_path)


def _norms_by_path(cell: Recurrent, layer: Layer) -> dict[str, Carry]:
    names, cuts = _cuts(cell, layer.run.steps.u)
    kept, through = jax.vmap(lambda cut: _split(cell, layer, cut))(cuts)
    norms = {name: log_norms(jax.tree.map(lambda x, n=n: x[n], through)) for n, name in names}
    carry = log_norms(jax.tree.map(lambda x: x[0], kept))
    return {"all": log_norms(layer.after), "carry": carry, **norms}


def _cuts(cell: Recurrent, u: Any) -> tuple[list[tuple[int, str]], Array]:
    """Names of the paths, and for each the columns of u through which it goes: [P, columns]."""
    gates = tuple(cell.gate_names)
    columns, cuts, names = u.shape[-1], [np.ones(u.shape[-1], bool)], ["recurrent"]
    if len(gates) > 1 and columns == len(gates) * cell.hidden_size:
        block = np.repeat(np.arange(len(gates)), cell.hidden_size)
        cuts += [block == n for n in range(len(gates))]
        names += gates
    return list(enumerate(names)), jnp.asarray(np.stack(cuts))


def _split(cell: Recurrent, layer: Layer, cut: Array) -> tuple[Scaled, Scaled]:
    """Compute (c_t, d_t) for every t, with the columns `cut` of u as P."""
    live = layer.run.live

    def through(before: Carry, du: Array, columns: Array) -> Carry:
        kept = jnp.where(columns.reshape((1,) * (du.ndim - 1) + (-1,)), du, 0)
        return _wide(through_recur(cell, live, before, kept), layer.after)

    def body(state: tuple[Scaled, Scaled], inputs: tuple[Steps, Any, Scaled]) -> Any:
        (c, d), (steps, pull, dy) = state, inputs
        d = Scaled(restored(d), jnp.zeros_like(d.exponent)) if clips(cell) else normalized(d)
        c_value, dy_value, exponent = at_one_scale(cell, c, dy)
        a, _ = at_output(cell, live, steps, c_value, dy_value)
        around, _, du = pull(typed(a, steps.after))
        rest = through(steps.before, du, ~cut)
        c_before = jax.tree.map(jnp.add, _wide(around, layer.after), rest)
        entering = Scaled(through(steps.before, du, cut), exponent)
        again, _ = pulled(cell, live, steps, pull, d.value)
        d_before = added(entering, Scaled(again, d.exponent))
        c_after = Scaled(c_value, exponent)
        state = (
            held(steps, Scaled(c_before, exponent), c_after),
            held(steps, d_before, d),
        )
        return state, (Scaled(a, exponent), d)

    start = no_gradient(layer.run, layer.dys)
    inputs = (layer.run.steps, layer.pulls, layer.dys)
    return lax.scan(body, (start, start), inputs, reverse=True)[1]


def _wide(tree: Carry, like: Scaled) -> Carry:
    """Convert to the dtypes of the values of `like`."""
    return jax.tree.map(lambda leaf, x: leaf.astype(x.dtype), tree, like.value)
