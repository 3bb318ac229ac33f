"""The way back through one cell: gradients with respect to its carry, step by step.

With s_t the carry, W the recurrent weights, and step t of `unroll` (with masks and restarts)

    s_t = step(s_{t-1}, W, x_t)          y_t = output(s_t)

the gradients of L(y_1 .. y_T) follow from one pass backwards, from n_T = 0:

    a_t                   = n_t + (dy_t/ds_t)^T dL/dy_t
    n_{t-1}, dx_t, dW_t   = (ds_t/d(s_{t-1}, x_t, W))^T a_t            a vjp of the step

n_t is dL/ds_t through later steps only; a_t includes the effect on y_t: it is the gradient of a
probe eps_t added to s_t after step t. dW_t is the contribution of step t to dL/dW = sum_t dW_t.

Each step rescales n_t by a power of two for each sequence, so that nothing under- or overflows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent
from .._cells.wrappers import ClipCotangents, Wrapper
from .._checks import fail
from .._numerics import choose, varying_as, zero_unless, zero_where
from .._typing import Array, Carry, Params
from .record import CellRun, Steps, equations, turned
from .scaled import Scaled, aligned, aligned_rows, normalized, restored


class Layer(NamedTuple):
    """One cell on the way back, in the order in which its steps ran; leaves [T, *batch, ...].

    Attributes:
        run: what the cell did.
        pulls: the vjp of `update` of every step, if the cell factors; else None.
        after: a_t for every t.
        given: what the vjp of each step takes: a_t, or (n_t, dL/dy_t) of a cell that defines its
            own `step`.
        dys: dL/dy_t for every t; zero at steps that are not valid.
    """

    run: CellRun
    pulls: Any
    after: Scaled
    given: Scaled
    dys: Scaled


def walked_back(cell: Recurrent, run: CellRun, dys: Scaled) -> Layer:
    """Walk a cell's run backwards from dL/dys, in the order of time."""
    dys = turned(dys, run.reverse)
    dys = normalized(Scaled(zero_unless(run.steps.valid, dys.value), dys.exponent))
    pulls = pulls_of_update(cell, run) if cell.factors else None

    def body(n: Scaled, inputs: tuple[Steps, Any, Scaled]) -> tuple[Scaled, Any]:
        steps, pull, dy = inputs
        n_value, dy_value, exponent = at_one_scale(cell, n, dy)
        after, given = at_output(cell, run.live, steps, n_value, dy_value)
        before, _ = pulled(cell, run.live, steps, pull, given)
        seen = (after, given if cell.own_step else None, exponent)
        return held(steps, Scaled(before, exponent), Scaled(n_value, exponent)), seen

    start = no_gradient(run, dys)
    _, (after, given, exponent) = lax.scan(body, start, (run.steps, pulls, dys), reverse=True)
    given = given if cell.own_step else after
    return Layer(run, pulls, Scaled(after, exponent), Scaled(given, exponent), dys)


def no_gradient(run: CellRun, dys: Scaled) -> Scaled:
    """n_T = 0, for one step of every sequence."""
    dtype = dys.value.dtype
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype), run.final)
    return Scaled(nothing, jnp.sum(dys.exponent[:0], axis=0, dtype=dys.exponent.dtype))


def held(steps: Steps, before: Scaled, after: Scaled) -> Scaled:
    """Hand on the gradient at a step that is not valid; cut it at a restart."""
    before = choose(steps.valid, before, after)
    return Scaled(zero_where(steps.restart, before.value), before.exponent)


def pulls_of_update(cell: Recurrent, run: CellRun) -> Any:
    """The vjp of `update` at every step: a function a_t -> (ds_{t-1}, dwx_t, du_t), a pytree.

    Its residuals are computed for all steps at once, which a loop could not spread over cores.
    """

    def of_step(steps: Steps) -> Any:
        def update(carry, wx, u):
            return cell.advance(carry, wx, u, cell.extras(run.live), steps.noise)

        return jax.vjp(update, steps.before, steps.inputs, steps.u)[1]

    return jax.vmap(of_step)(run.steps)


def at_output(
    cell: Recurrent, live: Params, steps: Steps, n: Carry, dy: Array
) -> tuple[Carry, Any]:
    """Compute (a_t, what the vjp of the step takes) from n_t and dL/dy_t."""
    compute = cell.compute_dtype(live)
    y, pull = jax.vjp(lambda carry: cell.emit(live, carry, compute), steps.after)
    if y.shape != dy.shape:
        wanted = f"shape {dy.shape}, that of y"
        raise fail("cell.output", f"shape {y.shape}", wanted, "override output beside step")
    direct = pull(dy.astype(y.dtype))[0]
    after = jax.tree.map(lambda n, d: n + d.astype(n.dtype), n, direct)
    return after, (n, dy) if cell.own_step else after


def pulled(cell: Recurrent, live: Params, steps: Steps, pull: Any, given: Any) -> tuple[Carry, Any]:
    """Pull the gradients `given` back through one step, to the carry before it and its inputs.

    pull: the vjp of its `update`, if the cell factors.
    """
    if cell.factors:
        around, inputs, u = pull(typed(given, steps.after))
        through = through_recur(cell, live, steps.before, u)
        before = jax.tree.map(jnp.add, around, through)
    else:
        ends = steps.before, steps.inputs
        out, back = jax.vjp(lambda *each: _step(cell, live, steps, *each), *ends)
        before, inputs = back(typed(given, out))
    wide = jax.tree.leaves(given)[0].dtype
    return jax.tree.map(lambda leaf: leaf.astype(wide), before), inputs


def typed(tree: Any, like: Any) -> Any:
    """Convert every leaf to the dtype of the leaf in its place of `like`."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def _step(cell: Recurrent, live: Params, steps: Steps, carry: Carry, inputs: Any) -> Any:
    """One step of a cell that does not factor: the carry, and y if the `step` is its own."""
    if cell.own_step:
        return cell.unchecked_step(live, carry, inputs, steps.noise)
    return cell.following(live, carry, inputs, steps.noise)


def through_recur(cell: Recurrent, live: Params, before: Carry, du: Array) -> Carry:
    """Pull du_t through u_t = recur(W, s_{t-1}) to s_{t-1}."""
    return jax.vjp(lambda carry: cell.recur(live, carry), before)[1](du)[0]


def through_step(cell: Recurrent, live: Params, steps: Steps, a: Carry) -> Carry:
    """Pull a_t to s_{t-1} through a step of a cell that does not factor."""

    def following(carry: Carry) -> Carry:
        out = _step(cell, live, steps, carry, steps.inputs)
        return out[0] if cell.own_step else out

    return jax.vjp(following, steps.before)[1](a)[0]


def weight_gradients(cell: Recurrent, layer: Layer, function: Callable[[Scaled], Any]) -> Any:
    """Compute function(dW_t) for each t, one after the other, to hold one dW_t at a time.

    dW_t is summed over the batch; its exponent is a scalar.
    """
    run = layer.run
    # Inside `shard_map` JAX would sum over devices what each has at an exponent of its own.
    own = varying_as(cell.weights(run.params), layer.given)
    wide = layer.dys.value.dtype

    def live(weights: Params) -> Params:
        return equations(cell, {**run.params, **weights}, run.xs, run.key)[0]

    named, to_own = jax.vjp(lambda weights: cell.weights(live(weights)), own)

    def of_step(inputs: tuple[Steps, Any, Scaled]) -> Any:
        steps, pull, given = inputs
        given = aligned_rows(given)
        (gradient,) = to_own(_through_weights(cell, run, named, steps, pull, given.value))
        value = jax.tree.map(lambda leaf: leaf.astype(wide), gradient)
        return function(normalized(Scaled(value, given.exponent)))

    return lax.map(of_step, (run.steps, layer.pulls, layer.given))


def _through_weights(
    cell: Recurrent, run: CellRun, weights: Params, steps: Steps, pull: Any, given: Any
) -> Params:
    """Pull the gradients `given` of one step back to the weights that its equations take."""

    def function(weights: Params) -> Any:
        live = {**run.live, **weights}
        if cell.factors:
            return cell.recur(live, steps.before)
        return _step(cell, live, steps, steps.before, steps.inputs)

    out, back = jax.vjp(function, weights)
    cotangent = pull(typed(given, steps.after))[2] if cell.factors else typed(given, out)
    return back(zero_unless(steps.valid, cotangent))[0]


def gradient_of_inputs(cell: Recurrent, layer: Layer) -> Scaled:
    """Compute dL/dxs, [T, *batch, D] in the order of time."""
    run, wide = layer.run, layer.dys.value.dtype

    def of_step(steps: Steps, pull: Any, given: Any) -> Any:
        return pulled(cell, run.live, steps, pull, given)[1]

    inputs = jax.vmap(of_step)(run.steps, layer.pulls, layer.given.value)
    inputs = turned(zero_unless(run.steps.valid, inputs), run.reverse)
    back = jax.vjp(lambda xs: equations(cell, run.params, xs, run.key)[1], run.xs)[1]
    value = back(inputs)[0].astype(wide)
    return normalized(Scaled(value, turned(layer.given.exponent, run.reverse)))


def at_one_scale(cell: Recurrent, n: Scaled, dy: Scaled) -> tuple[Carry, Array, Array]:
    """Bring n_t and dL/dy_t to one exponent, 0 for a cell that clips its cotangents."""
    if clips(cell):  # Its limit is one of plain numbers.
        return restored(n), restored(dy), jnp.zeros_like(dy.exponent)
    return aligned(n, dy)


def clips(cell: Recurrent) -> bool:
    """True if a wrapper of the cell clips its cotangents."""
    while isinstance(cell, Wrapper):
        if isinstance(cell, ClipCotangents):
            return True
        cell = cell.cell
    return False
