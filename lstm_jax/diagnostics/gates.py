"""Statistics of gates along a sequence: means, saturation, time scales."""

from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .._cells.contract import Recurrent, check_run
from .._cells.wrappers import Wrapper
from .._checks import fail
from .._numerics import cast, choose
from .._sequence import valid_steps
from .._typing import Array, Carry, Params
from .._unroll import unroll

__all__ = ["GateStatistics", "gate_statistics"]
__dir__ = __all__.copy

_RANGES = {"i": "sigmoid", "f": "sigmoid", "o": "sigmoid", "r": "sigmoid", "z": "sigmoid"}
_RANGES |= {"g": "tanh", "n": "tanh"}
_KEEP = ("f", "z")  # c = f*c_tm1 + i*g of the LSTM; h = (1-z)*n + z*h_tm1 of the GRU.
_MARGIN = 0.05


class GateStatistics(NamedTuple):
    """Statistics of one gate, for each unit, over all valid steps and the batch.

    Each field is [H], or None if it has no meaning for the gate.

    Attributes:
        mean: the mean of the gate.
        saturated: the fraction of steps within 0.05 of the end of its range: min(g, 1-g) < 0.05 for
            a sigmoid, 1-|a| < 0.05 for a tanh.
        dead: True if a ReLU unit was zero at every step; its mean is the dead fraction.
        forgetting_time: -1 / mean(ln f) of the keep gate (f of an LSTM, z of a GRU), in steps: the
            kept state decays as prod f_t = exp(-T / forgetting_time).
        timescale: 1 / (1 - mean(f)), in steps: equal to first order in 1 - f, about a step longer.
    """

    mean: Array
    saturated: Array | None = None
    dead: Array | None = None
    forgetting_time: Array | None = None
    timescale: Array | None = None


jax.export.register_namedtuple_serialization(
    GateStatistics, serialized_name="lstm_jax.GateStatistics"
)


def gate_statistics(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    resets: Array | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
) -> dict[str, GateStatistics]:
    """Compute statistics of every gate of a cell over a batch of sequences.

    The cell computes its gates at every step: by `gates(carry, wx, u, **extras)`, or by
    `step_gates(params, carry, x)` if it defines its own step; both return {name: [*batch, H]} after
    the activation. The name tells the range: i, f, o, r, z are sigmoids and g, n tanhs, unless the
    cell's activations differ; h of an `RNN` follows its activation.

    Args:
        cell: an `RNN`, `LSTM`, `GRU`, or a cell with such a method; or one of these in wrappers:
            then the gates are those of the wrapped cell in evaluation, at the wrapper's carries.
        params: as from `cell.init`.
        xs: [T, *batch, D].
        carry: the carry before the first step; None: `cell.initial_carry`.
        resets, seq_lengths, mask: as in `unroll`; only valid steps count (NaN without any).

    Returns:
        {gate: GateStatistics}, such as {"i": ..., "f": ..., "g": ..., "o": ...}.

    Raises:
        ValueError: the cell has no such method; or as `unroll`.

    Source: Tallec & Ollivier (2018), section 2, for the time scale 1/(1-f).
    """
    params, xs = check_run(cell, params, xs, carry, "a gate")
    gates = _gates(cell)
    _, after = unroll(
        cell,
        params,
        xs,
        carry,
        resets=resets,
        seq_lengths=seq_lengths,
        mask=mask,
        return_carries=True,
    )
    before = _shifted(cell, params, xs, carry, after, resets)
    values = jax.vmap(lambda carry, x: gates(params, carry, x))(before, xs)
    valid = valid_steps(mask, seq_lengths, xs.shape[0])
    return {name: _statistics(cell, name, value, valid) for name, value in values.items()}


def _gates(cell: Recurrent):
    """Make the function (params, carry, x) -> {gate: [*batch, H]} of a cell."""
    name, equations = "gates", ["update"]
    if not cell.factors:
        name, equations = "step_gates", ["step", "following"]
    inner = cell
    while isinstance(inner, Wrapper):  # Wrappers change the carry, not the gates.
        inner = inner.cell
    own = getattr(inner, name, None)
    # If a subclass overrides the equations, inherited gates are not those of its equations.
    if own is None or min(_depth(inner, other) for other in equations) < _depth(inner, name):
        remedy = 'write gates(carry, wx, u), or step_gates(params, carry, x) beside an own "step"'
        raise fail("cell", type(inner).__name__, "a cell that says what its gates are", remedy)

    def gates(params, carry, x):
        params, x, carry = cell.prepare(params, x, carry)
        if not cell.factors:
            return own(params, carry, x)
        u = cell.recur(params, carry)
        carry, wx, extras = cast((carry, cell.project(params, x), cell.extras(params)), u.dtype)
        return own(carry, wx, u, **extras)

    return gates


def _depth(cell: Recurrent, method: str) -> int:
    """Position in the cell's method resolution order of the class that defines the method."""
    bases = type(cell).__mro__
    return next((i for i, base in enumerate(bases) if method in vars(base)), len(bases))


def _shifted(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None,
    after: Carry,
    resets: Array | None,
) -> Carry:
    """Shift the carries after each step to those before each step, leaves [T, ...]."""
    first, _ = unroll(cell, params, xs[:0], carry)
    before = jax.tree.map(lambda s, all_t: jnp.concatenate([s[None], all_t[:-1]]), first, after)
    if resets is None:
        return before
    origin, _ = unroll(cell, params, xs[:0])
    origin = jax.tree.map(lambda s, all_t: jnp.broadcast_to(s[None], all_t.shape), origin, before)
    return choose(jnp.asarray(resets), origin, before)


def _statistics(cell: Recurrent, name: str, value: Array, valid: Array | None) -> GateStatistics:
    """Statistics of a gate with values [T, *batch, H] at the steps `valid` [T, *batch]."""
    axes = tuple(range(value.ndim - 1))
    where = None if valid is None else jnp.broadcast_to(valid[..., None], value.shape)

    def mean(x: Array) -> Array:
        return jnp.mean(x, axis=axes, where=where)

    reach = _range(cell, name)
    statistics = GateStatistics(mean(value))
    if reach == "sigmoid":
        near = jnp.minimum(value, 1 - value) < _MARGIN
        statistics = statistics._replace(saturated=mean(near.astype(value.dtype)))
    if reach == "tanh":
        near = 1 - jnp.abs(value) < _MARGIN
        statistics = statistics._replace(saturated=mean(near.astype(value.dtype)))
    if reach == "relu":
        statistics = statistics._replace(dead=jnp.all(value == 0, axis=axes, where=where))
    if name in _KEEP:
        statistics = statistics._replace(
            forgetting_time=1 / jnp.abs(mean(jnp.log(value))),
            timescale=1 / (1 - statistics.mean),
        )
    return statistics


def _range(cell: Recurrent, name: str) -> str | None:
    """The range of a gate: "sigmoid", "tanh", "relu", or None if unknown."""
    field = {"g": "input_activation", "n": "activation", "h": "activation"}
    chosen = getattr(cell, field.get(name, "gate_activation"), _RANGES.get(name))
    if chosen == "hard_sigmoid":
        return "sigmoid"
    return chosen if chosen in ("sigmoid", "tanh", "relu") else None
