"""What the gates of a cell do along a sequence: means, saturation, time scales."""

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
    """One gate along a sequence, unit by unit over all valid steps and the batch.

    Each is [H]; take means or histograms of them. None where it has no meaning for the gate.

    Attributes:
        mean: of the gate's value.
        saturated: the fraction of steps within 0.05 of the end of its range: min(g, 1-g) < 0.05 for
            a sigmoid, 1-|a| < 0.05 for a tanh.
        dead: True where a ReLU unit was zero at every step; its mean is the dead fraction.
        forgetting_time: -1 / mean(ln f) of the gate that keeps the state (f of an LSTM, z of a
            GRU), in steps: what was kept decays as prod f_t = exp(-T / forgetting_time).
        timescale: 1 / (1 - mean(f)), in steps: the same to first order in 1 - f, one step longer or
            so.
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
    """Statistics of every gate of a cell over a batch of sequences.

    The gates come from the cell's own equations at every step: `gates(carry, wx, u, **extras)` of
    a cell that factors, `step_gates(params, carry, x)` of one that writes its own step; each
    returns {name: [*batch, H]} after the nonlinearity. Their ranges go by name: i, f, o, r, z are
    sigmoids and g, n tanhs, unless the cell's activations say otherwise; h of an `RNN` is as its
    activation says.

    Args:
        cell: an `RNN`, `LSTM`, `GRU`, or a cell with such a method; or one of these in wrappers,
            whose gates in evaluation are those of the cell inside, at the carries of the whole.
        params: as from `cell.init`.
        xs: [T, *batch, D].
        carry: the carry before the first step; None: `cell.initial_carry`.
        resets, seq_lengths, mask: as in `unroll`; only valid steps count (NaN where none is).

    Returns:
        {gate: GateStatistics}, such as {"i": ..., "f": ..., "g": ..., "o": ...}.

    Raises:
        ValueError: the cell does not say what its gates are; or as `unroll`.

    Source: the time scale of Tallec & Ollivier (2018), section 2, as 1/(1-f).
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
    """(params, carry, x) -> {gate: [*batch, H]}, for whatever form the cell is written in."""
    name, equations = "gates", ["update"]
    if not cell.factors:
        name, equations = "step_gates", ["step", "following"]
    inner = cell
    while isinstance(inner, Wrapper):  # What wrappers change is the carry that the gates see.
        inner = inner.cell
    own = getattr(inner, name, None)
    # Gates that a subclass inherited are not those of the equations that it wrote.
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
    """How far up in the bases of the cell's class the method is written."""
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
    """The carry that each step starts from, of the carries after each step: leaves [T, ...]."""
    first, _ = unroll(cell, params, xs[:0], carry)
    before = jax.tree.map(lambda s, all_t: jnp.concatenate([s[None], all_t[:-1]]), first, after)
    if resets is None:
        return before
    origin, _ = unroll(cell, params, xs[:0])
    origin = jax.tree.map(lambda s, all_t: jnp.broadcast_to(s[None], all_t.shape), origin, before)
    return choose(jnp.asarray(resets), origin, before)


def _statistics(cell: Recurrent, name: str, value: Array, valid: Array | None) -> GateStatistics:
    """value: [T, *batch, H]; valid: [T, *batch]."""
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
    """ "sigmoid", "tanh", "relu", or None where it is not known."""
    field = {"g": "input_activation", "n": "activation", "h": "activation"}
    chosen = getattr(cell, field.get(name, "gate_activation"), _RANGES.get(name))
    if chosen == "hard_sigmoid":
        return "sigmoid"
    return chosen if chosen in ("sigmoid", "tanh", "relu") else None
