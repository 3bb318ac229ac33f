"""Gates along a sequence, and their statistics: means, saturation, time scales."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .._adjoints.record import CellRun, Given, forward, of_each_cell, turned
from .._cells.contract import Recurrent
from .._cells.wrappers import Wrapper
from .._checks import fail
from .._net import Net, cells_of, check_net
from .._numerics import cast, zero_unless
from .._typing import Array, Carry, Params

__all__ = ["GateStatistics", "gate_statistics", "gates"]
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
            kept state decays as prod f_t = exp(-T / forgetting_time), to 1/e in this time.
        timescale: 1 / (1 - mean(f)), in steps: of a gate that is always f the sum 1 + f + f^2 + ...
            of what it leaves of a number; what `initializers.chrono` spreads. It is longer than the
            forgetting time, by half a step for f near 1 and by one for f near 0, and by more for a
            gate that varies.
    """

    mean: Array
    saturated: Array | None = None
    dead: Array | None = None
    forgetting_time: Array | None = None
    timescale: Array | None = None


jax.export.register_namedtuple_serialization(
    GateStatistics, serialized_name="lstm_jax.GateStatistics"
)


def gates(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
) -> Any:
    """Compute every gate of a cell at every step of a batch of sequences.

    The cell computes its gates by `gates(carry, wx, u, **extras)`, or by
    `step_gates(params, carry, x)` if it defines its own step; both return {name: [*batch, H]} after
    the activation. In evaluation: there is no noise of training.

    Args:
        cell: an `RNN`, `LSTM`, `GRU`, or a cell with such a method; one of these in wrappers: then
            the gates are those of the wrapped cell at the wrapper's carries; or a net of such.
        params: as from `cell.init`.
        xs: [T, *batch, D].
        carry: the carry before the first step; None: `cell.initial_carry`.
        seq_lengths, mask, resets, reverse: as in `unroll`.

    Returns:
        {gate: [T, *batch, H]}, such as {"i": ..., "f": ..., "g": ..., "o": ...}, in the order of
        time, zero at steps that are not valid; for a net these are nested as its carry is, one for
        each cell.

    Raises:
        ValueError: a cell has no such method; or as `unroll`.
    """
    given = Given(seq_lengths, mask, resets, reverse)
    return _of_each_cell(cell, params, xs, carry, given, _values)


def gate_statistics(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
) -> Any:
    """Compute statistics of every gate of a cell over a batch of sequences.

    The gates are those of `diagnostics.gates`, whose arguments these are. The name of a gate tells
    its range: i, f, o, r, z are sigmoids and g, n tanhs, unless the cell's activations differ; h of
    an `RNN` follows its activation. Only valid steps count (NaN without any).

    Returns:
        {gate: GateStatistics}, such as {"i": ..., "f": ..., "g": ..., "o": ...}; for a net these
        are nested as its carry is, one for each cell.

    Raises:
        ValueError: a cell has no such method; or as `unroll`.

    Source: Tallec & Ollivier (2018), section 2, for the time scale 1/(1-f).
    """
    given = Given(seq_lengths, mask, resets, reverse)
    return _of_each_cell(cell, params, xs, carry, given, _all_statistics)


def _of_each_cell(
    net: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None,
    given: Given,
    function: Callable[[Recurrent, CellRun], Any],
) -> Any:
    """Run a net whose cells all have gates; compute function(cell, its run) for each."""
    check_net("cell", net)
    for cell in cells_of(net):
        _own_gates(cell)
    return of_each_cell(net, forward(net, params, xs, carry, given), function)


def _values(cell: Recurrent, run: CellRun) -> dict[str, Array]:
    """Compute the gates of all steps in the order of time, zero at steps that are not valid."""
    own, steps, live = _own_gates(cell), run.steps, run.live
    if steps.u is not None:
        given = cast((steps.before, steps.inputs, cell.extras(live)), steps.u.dtype)
        before, wx, extras = given
        values = jax.vmap(lambda carry, wx, u: own(carry, wx, u, **extras))(before, wx, steps.u)
    else:
        live, xs, _ = cell.prepare(run.params, turned(run.xs, run.reverse), run.final)
        values = jax.vmap(lambda carry, x: own(live, carry, x))(steps.before, xs)
    return turned(zero_unless(steps.valid, values), run.reverse)


def _all_statistics(cell: Recurrent, run: CellRun) -> dict[str, GateStatistics]:
    valid = turned(run.steps.valid, run.reverse)
    values = _values(cell, run)
    return {name: _statistics(cell, name, value, valid) for name, value in values.items()}


def _own_gates(cell: Recurrent) -> Callable[..., dict[str, Array]]:
    """The `gates` of a cell that factors, or the `step_gates` of any other; raise if it has none.

    If a subclass overrides the equations, inherited gates are not those of its equations.
    """
    name, equations = "gates", ["update"]
    if not cell.factors:
        name, equations = "step_gates", ["step", "following"]
    inner: Any = cell
    while isinstance(inner, Wrapper):  # Wrappers change the carry, not the gates.
        inner = inner.cell
    own = getattr(inner, name, None)
    if own is None or min(_depth(inner, other) for other in equations) < _depth(inner, name):
        remedy = 'write gates(carry, wx, u), or step_gates(params, carry, x) beside an own "step"'
        raise fail("cell", type(inner).__name__, "a cell that says what its gates are", remedy)
    return own


def _depth(cell: Recurrent, method: str) -> int:
    """Position in the cell's method resolution order of the class that defines the method."""
    bases = type(cell).__mro__
    return next((i for i, base in enumerate(bases) if method in vars(base)), len(bases))


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
