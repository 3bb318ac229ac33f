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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent
from .._cells.wrappers import ClipCotangents, Wrapper
from .._checks import fail
from .._numerics import choose, zero_unless, zero_where
from .._typing import Array, Carry, Params
from .record import CellRun, Steps, equations, turned
from .scaled import Scaled, aligned, aligned_rows, normalized, restored


class Layer(NamedTuple):
    """One cell on the way back, in the order in which its steps ran.

    Attributes:
        run: what the cell did.
        pulls: the vjp of `update` of every step, if the cell factors; else None.
        later: n_t for every t, leaves [T, *batch, ...].
        dys: dL/dy_t for every t, [T, *batch, H]; zero at steps that are not valid.
    """

    run: CellRun
    pulls: Any
    later: Scaled
    dys: Scaled


def walked_back(cell: Recurrent, run: CellRun, dys: Scaled) -> Layer:
    """Walk a cell's run backwards from dL/dys, in the order of time."""
    dys = turned(dys, run.reverse)
    dys = rescaled(cell, Scaled(zero_unless(run.steps.valid, dys.value), dys.exponent))
    pulls = pulls_of_update(cell, run) if cell.factors else None
    return Layer(run, pulls, later(cell, run, pulls, dys), dys)


def pulls_of_update(cell: Recurrent, run: CellRun) -> Any:
    """The vjp of `update` at every step: a function a_t -> (ds_{t-1}, dwx_t, du_t), a pytree.

    Its residuals are computed for all steps at once, which a loop could not spread over cores.
    """

    def of_step(steps: Steps) -> Any:
        def update(carry, wx, u):
            return cell.advance(carry, wx, u, cell.extras(run.live), steps.noise)

        return jax.vjp(update, steps.before, steps.inputs, steps.u)[1]

    return jax.vmap(of_step)(run.steps)


def later(cell: Recurrent, run: CellRun, pulls: Any, dys: Scaled) -> Scaled:
    """Compute n_t for every t, by a scan from the last step to the first."""

    def body(n: Scaled, inputs: tuple[Steps, Any, Scaled]) -> tuple[Scaled, Scaled]:
        steps, pull, dy = inputs
        n_value, dy_value, exponent = aligned(n, dy)
        before = pulled(cell, run.live, steps, pull, n_value, dy_value).before
        before = choose(steps.valid, before, n_value)
        return rescaled(cell, Scaled(zero_where(steps.restart, before), exponent)), n

    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0], dys.value.dtype), run.steps.before)
    start = rescaled(cell, Scaled(nothing, jnp.zeros_like(dys.exponent[0])))
    return lax.scan(body, start, (run.steps, pulls, dys), reverse=True)[1]


class Pulled(NamedTuple):
    """Gradients of one step: of the carry after and before it, and of its inputs."""

    after: Carry
    before: Carry
    inputs: Any
    u: Array | None


def pulled(cell: Recurrent, live: Params, steps: Steps, pull: Any, n: Carry, dy: Array) -> Pulled:
    """Pull n_t and dL/dy_t back through one step; `pull` is the vjp of its `update`, if any."""
    dtype = dy.dtype
    direct = _through_output(cell, live, steps, dy)
    a = jax.tree.map(lambda n, d: n + d.astype(dtype), n, direct)
    cotangent = jax.tree.map(lambda leaf, s: leaf.astype(s.dtype), a, steps.after)
    u = None
    if cell.own_step:
        n = jax.tree.map(lambda leaf, s: leaf.astype(s.dtype), n, steps.after)
        before, inputs = _through_own_step(cell, live, steps, n, dy)
    elif cell.factors:
        around, inputs, u = pull(cotangent)
        through = through_recur(cell, live, steps.before, u)
        before = jax.tree.map(jnp.add, around, through)
    else:
        before, inputs = _through_following(cell, live, steps, cotangent)
    return Pulled(a, jax.tree.map(lambda leaf: leaf.astype(dtype), before), inputs, u)


def through_recur(cell: Recurrent, live: Params, before: Carry, du: Array) -> Carry:
    """Pull du_t through u_t = recur(W, s_{t-1}) to s_{t-1}."""
    return jax.vjp(lambda carry: cell.recur(live, carry), before)[1](du)[0]


def through_step(cell: Recurrent, live: Params, steps: Steps, a: Carry) -> Carry:
    """Pull a_t to s_{t-1} through a step of a cell that does not factor."""
    if not cell.own_step:
        return _through_following(cell, live, steps, a)[0]
    step = jax.vjp(lambda carry: cell.unchecked_step(live, carry, steps.inputs)[0], steps.before)
    return step[1](a)[0]


def _through_following(cell: Recurrent, live: Params, steps: Steps, a: Carry) -> tuple[Carry, Any]:
    def following(carry, wx):
        return cell.following(live, carry, wx, steps.noise)

    return jax.vjp(following, steps.before, steps.inputs)[1](a)


def _through_own_step(
    cell: Recurrent, live: Params, steps: Steps, n: Carry, dy: Array
) -> tuple[Carry, Any]:
    def step(carry, x):
        return cell.unchecked_step(live, carry, x, steps.noise)

    (_, y), pull = jax.vjp(step, steps.before, steps.inputs)
    return pull((n, dy.astype(y.dtype)))


def _through_output(cell: Recurrent, live: Params, steps: Steps, dy: Array) -> Carry:
    """Compute (dy_t/ds_t)^T dy_t with y_t = output(s_t)."""
    compute = cell.compute_dtype(live)
    y, pull = jax.vjp(lambda carry: cell.emit(live, carry, compute), steps.after)
    if y.shape != dy.shape:
        wanted = f"shape {dy.shape}, that of y"
        raise fail("cell.output", f"shape {y.shape}", wanted, "override output beside step")
    return pull(dy.astype(y.dtype))[0]


def of_all_steps(cell: Recurrent, layer: Layer) -> tuple[Pulled, Array]:
    """Pull every step back, all at once: (gradients [T, *batch, ...], their exponents)."""
    n, dy, exponent = aligned(layer.later, layer.dys)

    def of_step(steps: Steps, pull: Any, n: Carry, dy: Array) -> Pulled:
        return pulled(cell, layer.run.live, steps, pull, n, dy)

    return jax.vmap(of_step)(layer.run.steps, layer.pulls, n, dy), exponent


def carry_gradients(cell: Recurrent, layer: Layer) -> Scaled:
    """Compute a_t for every t, leaves [T, *batch, ...]."""
    gradients, exponent = of_all_steps(cell, layer)
    return normalized(Scaled(gradients.after, exponent))


def weight_gradient(
    cell: Recurrent, run: CellRun, steps: Steps, pull: Any, n: Scaled, dy: Scaled
) -> Scaled:
    """Compute dW_t of one step, summed over the batch; its exponent is a scalar."""
    n_value, dy_value, exponent = aligned(n, dy)
    rows = aligned_rows(Scaled((n_value, dy_value), exponent))
    (n_value, dy_value), exponent = rows
    own = cell.weights(run.params)

    def live(weights: Params) -> Params:
        return equations(cell, {**run.params, **weights}, run.xs, run.key)[0]

    named, to_own = jax.vjp(lambda weights: cell.weights(live(weights)), own)
    result = _through_weights(cell, run, named, steps, pull, n_value, dy_value)
    (own_gradient,) = to_own(result)
    wide = jax.tree.map(lambda leaf: leaf.astype(dy.value.dtype), own_gradient)
    return normalized(Scaled(wide, exponent))


def _through_weights(
    cell: Recurrent, run: CellRun, weights: Params, steps: Steps, pull: Any, n: Carry, dy: Array
) -> Params:
    """Pull one step's gradient back to the weights that its equations take."""
    cotangent: Any = (n, dy)
    if not cell.own_step:
        gradients = pulled(cell, run.live, steps, pull, n, dy)
        cotangent = gradients.u if cell.factors else gradients.after

    def function(weights: Params) -> Any:
        live = {**run.live, **weights}
        if cell.own_step:
            return cell.unchecked_step(live, steps.before, steps.inputs, steps.noise)
        if cell.factors:
            return cell.recur(live, steps.before)
        return cell.following(live, steps.before, steps.inputs, steps.noise)

    out, back = jax.vjp(function, weights)
    cotangent = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), cotangent, out)
    return back(zero_unless(steps.valid, cotangent))[0]


def gradient_of_inputs(cell: Recurrent, layer: Layer) -> Scaled:
    """Compute dL/dxs, [T, *batch, D] in the order of time."""
    run = layer.run
    gradients, exponent = of_all_steps(cell, layer)
    inputs = turned(zero_unless(run.steps.valid, gradients.inputs), run.reverse)
    pull = jax.vjp(lambda xs: equations(cell, run.params, xs, run.key)[1], run.xs)[1]
    (dxs,) = pull(inputs)
    value = dxs.astype(layer.dys.value.dtype)
    return normalized(Scaled(value, turned(exponent, run.reverse)))


def rescaled(cell: Recurrent, x: Scaled) -> Scaled:
    """Rescale each row, or restore plain numbers for a cell that clips its cotangents."""
    while isinstance(cell, Wrapper):
        if isinstance(cell, ClipCotangents):  # Its limit is one of plain numbers.
            return Scaled(restored(x), jnp.zeros_like(x.exponent))
        cell = cell.cell
    return normalized(x)
