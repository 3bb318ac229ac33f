"""A run of a cell or net forwards, with everything that the way back needs."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence as Parts
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._cells.closures import closes_over_traced
from .._cells.contract import Recurrent, check_params
from .._net import Net, Walk, Walked, check_net
from .._numerics import choose, zero_unless
from .._sequence import valid_steps
from .._static import compiled_for
from .._typing import Array, Carry, Key, Params
from .._unroll import evaluated, prepared, unroll


class Flags(NamedTuple):
    """Valid steps and restarts, each [T, *batch] bool or None."""

    valid: Array | None = None
    resets: Array | None = None


class Given(NamedTuple):
    """The arguments that a diagnostic takes by name and hands on to `unroll`."""

    seq_lengths: Array | None = None
    mask: Array | None = None
    resets: Array | None = None
    reverse: bool = False
    key: Key | None = None


class Steps(NamedTuple):
    """Every step of a cell, in the order in which it ran; leaves [T, *batch, ...].

    Attributes:
        before: the carry before the step, after any restart.
        after: the carry after the step.
        inputs: wx_t, or x_t of a cell that defines its own `step`.
        u: u_t of a cell that factors, else None.
        noise: the noise of training, or None.
        valid, restart: bool, or None.
    """

    before: Carry
    after: Carry
    inputs: Any
    u: Array | None
    noise: Any
    valid: Array | None
    restart: Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CellRun:
    """What one cell did: its arguments, its steps and its outputs ys, aligned to xs.

    `live` are the parameters as its equations take them: in the compute dtype, with the masks of
    training.
    """

    params: Params
    live: Params
    xs: Array
    key: Key | None
    steps: Steps
    final: Carry
    carries: Carry
    ys: Array
    reverse: bool = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NetRun:
    """What a net did: its arguments, what each of its parts did, and its outputs ys."""

    params: Params
    xs: Array
    carry: Carry
    key: Key | None
    flags: Flags
    parts: Parts[Any]
    final: Carry
    carries: Carry
    ys: Any
    reverse: bool = dataclasses.field(metadata={"static": True})


Run = CellRun | NetRun


def forward(
    net: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None,
    given: Given,
    constant: bool = False,
) -> Run:
    """Check the arguments as `unroll` does, run `net` over xs [T, *batch, D], and record it.

    constant: no gradient flows through the run.
    """
    check_net("cell", net)
    jax.eval_shape(lambda: unroll(net, params, xs, carry, **given._asdict()))
    xs = jnp.asarray(xs)
    params = check_params(net, params, xs.shape[-1] if net.input_ndim else 0)
    valid = valid_steps(given.mask, given.seq_lengths, xs.shape[0])
    known = Flags(valid, None if given.resets is None else jnp.asarray(given.resets))
    fixed = compiled_for(net)
    run = recorded if closes_over_traced(fixed) else _jitted
    if constant:
        params, xs, carry = lax.stop_gradient((params, xs, carry))
    return run(fixed, params, zero_unless(valid, xs), carry, known, given.key, given.reverse)


def recorded(
    net: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None,
    flags: Flags,
    key: Key | None,
    reverse: bool,
) -> Run:
    """Run `net` over xs [T, *batch, D], zero where not valid, as `unroll` does, and record it."""
    if not isinstance(net, Net):
        return _recorded_cell(net, params, xs, carry, flags, key, reverse)
    runs: list[Run] = []

    def layer(part, params, xs, carry, key, reverse):
        runs.append(recorded(part, params, xs, carry, flags, key, reverse))
        return Walked(runs[-1].final, runs[-1].ys, runs[-1].carries)

    if carry is None:
        carry = net.initial_carry(params, xs.shape[1 : xs.ndim - net.input_ndim])
    final, ys, carries = net.walk(Walk(layer, flags.valid, reverse), params, xs, carry, key)
    return NetRun(params, xs, carry, key, flags, runs, final, carries, ys, reverse)


_jitted = jax.jit(recorded, static_argnums=(0, 6))


def _recorded_cell(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None,
    flags: Flags,
    key: Key | None,
    reverse: bool,
) -> CellRun:
    final, (ys, carries) = evaluated(
        cell, params, xs, carry, flags.valid, flags.resets, key=key, reverse=reverse
    )
    seq = prepared(cell, params, xs, carry, flags.valid, flags.resets, reverse)
    live, inputs, noise = equations(cell, params, xs, key)
    after, inputs, noise, valid, restart = turned(
        (carries, inputs, noise, seq.valid, seq.restart), reverse
    )
    before = jax.tree.map(lambda s, all_t: jnp.concatenate([s[None], all_t])[:-1], seq.carry, after)
    if restart is not None:
        origin = jax.tree.map(lambda s, b: jnp.broadcast_to(s[None], b.shape), seq.origin, before)
        before = choose(restart, origin, before)
    u = jax.vmap(cell.recur, in_axes=(None, 0))(live, before) if cell.factors else None
    steps = Steps(before, after, inputs, u, noise, valid, restart)
    return CellRun(params, live, xs, key, steps, final, carries, ys, reverse)


def equations(
    cell: Recurrent, params: Params, xs: Array, key: Key | None
) -> tuple[Params, Any, Any]:
    """What the cell's equations take for all steps: (parameters, inputs, noise)."""
    noise = None
    if key is not None:
        params, xs, noise = cell.training(key, params, xs)
        noise = lax.stop_gradient(noise)
    if cell.own_step:
        return params, xs, noise
    live, xs, _ = cell.prepare(params, xs, cell.initial_carry(params))
    return live, cell.project(live, xs), noise


def turned(tree: Any, reverse: bool) -> Any:
    """Turn leaves [T, ...] from the order of time to the order of running, or back."""
    return jax.tree.map(lambda leaf: leaf[::-1], tree) if reverse else tree


def of_each_cell(net: Recurrent | Net, run: Run, function: Callable[..., Any]) -> Any:
    """Compute function(cell, its run) for every cell, nested as the carry of `net` is."""
    if not isinstance(net, Net):
        return function(net, run)
    assert isinstance(run, NetRun)
    pairs = zip(net.parts.values(), run.parts, strict=True)
    return net.join([of_each_cell(part, inner, function) for part, inner in pairs])


def cell_runs(net: Recurrent | Net, run: Run) -> list[tuple[Recurrent, CellRun]]:
    """Pair every cell of a net with what it did, in the order in which they ran."""
    if not isinstance(net, Net):
        assert isinstance(run, CellRun)
        return [(net, run)]
    assert isinstance(run, NetRun)
    pairs = zip(net.parts.values(), run.parts, strict=True)
    return [pair for part, inner in pairs for pair in cell_runs(part, inner)]


def params_of_cells(net: Recurrent | Net, params: Any) -> list[Params]:
    """The parameters of every cell of a net, in the order in which they run."""
    if not isinstance(net, Net):
        return [params]
    named = net.parts.items()
    return [own for name, part in named for own in params_of_cells(part, params[name])]
