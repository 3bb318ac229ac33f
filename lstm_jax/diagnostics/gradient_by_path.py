"""Gradients by path: what comes back along the carry alone, and what through recurrent weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._adjoints.back import collected
from .._adjoints.cell import Layer, pulled, rescaled, through_recur
from .._adjoints.record import Steps, forward
from .._adjoints.scaled import Scaled, added, aligned, log_norms
from .._cells.contract import Recurrent
from .._checks import fail
from .._net import Net, cells_of, check_net
from .._numerics import choose, zero_where
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

        n_{t-1} = A_t a_t + R_t a_t,     a_t = n_t + (dy_t/ds_t)^T dL/dy_t

    With the recurrent connection of a set P of gates cut, c_t is the gradient that is left, and d_t
    what goes through P at least once, at whatever step:

        c_{t-1} = (A_t + R_t without P) (c_t + direct_t)
        d_{t-1} = (A_t + R_t) d_t + (R_t in P) (c_t + direct_t),         c_t + d_t = n_t

    For an LSTM the path "carry" is that of c alone, the product of its forget gates.

    Args:
        cell: a cell or net; every cell factors into project, recur and update.
        params, xs, loss, carry: as in `gradients_by_lag`.
        seq_lengths, mask, resets, reverse, key: as in `unroll`; a key means the noise of training.

    Returns:
        {path: norms}, ln of the norms of n_t, the effect of the carry after step t through later
        steps only, as `gradient_norms_by_lag` nests them, with the paths:

        "all": every path; "carry": inside `update` alone, at every step; "recurrent": through the
        recurrent weights at least once; and for each gate by name: through its recurrent
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
    run = forward(
        cell,
        params,
        xs,
        carry,
        seq_lengths=seq_lengths,
        mask=mask,
        resets=resets,
        reverse=reverse,
        key=key,
    )
    return collected(cell, run, loss, _norms_by_path)


def _norms_by_path(cell: Recurrent, layer: Layer) -> dict[str, Carry]:
    names, cuts = _cuts(cell, layer.run.steps.u)
    kept, through = jax.vmap(lambda cut: _split(cell, layer, cut))(cuts)
    norms = {name: log_norms(jax.tree.map(lambda x, n=n: x[n], through)) for n, name in names}
    carry = log_norms(jax.tree.map(lambda x: x[0], kept))
    return {"all": log_norms(layer.later), "carry": carry, **norms}


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
        return _wide(through_recur(cell, live, before, kept), layer.later)

    def body(state: tuple[Scaled, Scaled], inputs: tuple[Steps, Any, Scaled]) -> Any:
        (c, d), (steps, pull, dy) = state, inputs
        c_value, dy_value, exponent = aligned(c, dy)
        a = pulled(cell, live, steps, pull, c_value, dy_value).after
        around, _, du = pull(jax.tree.map(lambda leaf, s: leaf.astype(s.dtype), a, steps.after))
        rest = through(steps.before, du, ~cut)
        c_before = jax.tree.map(jnp.add, _wide(around, layer.later), rest)
        entering = Scaled(through(steps.before, du, cut), exponent)
        again = pulled(cell, live, steps, pull, d.value, jnp.zeros_like(dy_value)).before
        d_before = added(entering, Scaled(again, d.exponent))
        held = _held(cell, steps, Scaled(c_before, exponent), Scaled(c_value, exponent))
        return (held, _held(cell, steps, d_before, d)), (c, d)

    nothing = jax.tree.map(lambda x: jnp.zeros_like(x[0]), layer.later.value)
    start = rescaled(cell, Scaled(nothing, jnp.zeros_like(layer.dys.exponent[0])))
    inputs = (layer.run.steps, layer.pulls, layer.dys)
    return lax.scan(body, (start, start), inputs, reverse=True)[1]


def _held(cell: Recurrent, steps: Steps, before: Scaled, after: Scaled) -> Scaled:
    """Hold the gradient at a step that is not valid; cut it at a restart."""
    before = choose(steps.valid, before, after)
    return rescaled(cell, Scaled(zero_where(steps.restart, before.value), before.exponent))


def _wide(tree: Carry, like: Scaled) -> Carry:
    """Convert to the dtypes of the values of `like`."""
    return jax.tree.map(lambda leaf, x: leaf.astype(x.dtype), tree, like.value)
