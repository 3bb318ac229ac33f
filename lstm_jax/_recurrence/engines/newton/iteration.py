"""Newton's iteration on all steps of each sequence, and the certificate of how it ended."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from ...._cells.contract import Recurrent
from ...._checks import concrete, fail
from ...._numerics import batch_zero, expand_to, largest
from ...._sequence import Sequence
from ...._typing import Array, Carry, Params
from ...record import refusal
from .steps import guess, previous
from .vectors import layout_of

ITERATIONS = 50
"""Iterations after which the loop over the steps takes over."""


class Certificate(NamedTuple):
    """How Newton's method ended for each sequence of a batch.

    Attributes:
        residual: [*batch], the largest |f_t(s_{t-1}) - s_t| over max(1, |s_t|), of all steps t and
            numbers of the carry s, where the iteration ended. NaN if the network itself gives NaN.
        iterations: [*batch] int32, corrections made to all steps at once.
        converged: [*batch] bool, True if the residual is rounding: at most 100 eps of the dtype,
            1.2e-5 in float32, or 4 eps of 16-bit floats that a step rounds to. False: the results
            of the sequence are from the loop over the steps.
    """

    residual: Array
    iterations: Array
    converged: Array

    def check(self) -> None:
        """Raise unless every sequence converged. In a jitted function, return it and check outside.

        Raises:
            NotImplementedError: one did not, so that its results are from the loop over the steps.
            ValueError: the certificate is traced, so it has no values yet.
        """
        residual, iterations, converged = (concrete(leaf) for leaf in self)
        if residual is None or iterations is None or converged is None:
            remedy = "return the certificate from the function, and check it outside"
            raise fail("certificate", "a traced array", "values", remedy)
        if not converged.all():
            last, most = residual[~converged].max(), iterations[~converged].max()
            counts = f"{(~converged).sum()} of {converged.size} sequences"
            why = f"{counts} did not converge, a residual of {last:.1e} after {most} iterations"
            raise refusal("newton", why)


jax.export.register_namedtuple_serialization(Certificate, serialized_name="lstm_jax.Certificate")


class _State(NamedTuple):
    """s [T, *batch, ...]; of each sequence k, residual, count and if it goes on, [*batch]."""

    s: Array
    k: Array
    residual: Array
    iterations: Array
    going: Array


def solved(
    cell: Recurrent, params: Params, seq: Sequence, iterations: int
) -> tuple[Carry, Certificate]:
    """Solve s_t = f_t(s_{t-1}) for all carries, from the first carry at every step.

    A sequence iterates until its residual is rounding, and little or no longer falling; for at most
    so many iterations. Each does on its own, so a batch equals each of its sequences. Damping k is
    one, halved whenever the residual does not fall and doubled back whenever it does.
    """
    layout, (little, limit) = layout_of(seq.carry), rounding(cell, params, seq)
    most = min(iterations, seq.xs.shape[0])

    def improved(state: _State) -> _State:
        f, slopes = layout.linearized(cell, params, seq, previous(seq.carry, layout.carry(state.s)))
        e = f - state.s
        residual = _residual(e, state.s, layout.axes)
        falls = residual < state.residual
        found = (residual <= little) | ((residual <= limit) & ~falls)
        ended = found | (state.iterations >= most)
        going = state.going & ~ended
        k = jnp.where(falls, jnp.minimum(2 * state.k, 1), state.k / 2)
        new = _finite(state.s + scanned(expand_to(k, slopes[0])[None] * slopes, e), f)
        s = jnp.where(expand_to(going, new[0])[None], new, state.s)
        return _State(s, k, residual, state.iterations + going.astype(jnp.int32), going)

    s = layout.vector(guess(seq))
    none = batch_zero(s, layout.axes)
    count = none.astype(jnp.int32)
    end = _State(s, none + 1, none + (jnp.inf if most else 0), count, count < most)
    if most:  # Otherwise there is no axis to look at.
        end = lax.while_loop(lambda state: jnp.any(state.going), improved, end)
    certificate = Certificate(end.residual, end.iterations, end.residual <= limit)
    return layout.carry(end.s), certificate


def rounding(cell: Recurrent, params: Params, seq: Sequence) -> tuple[float, float]:
    """The residuals that are surely, and that may be, rounding alone."""
    compute = cell.compute_dtype(params, seq.xs)
    carried = [leaf.dtype for leaf in jax.tree.leaves(seq.carry)]
    eps = [float(jnp.finfo(d).eps) for d in (compute, cell.accumulation(compute), *carried)]
    coarse, fine = max(eps), float(jnp.finfo(jnp.float32).eps)
    return 4 * coarse, (100 if coarse <= fine else 4) * coarse


def _residual(e: Array, s: Array, axes: int) -> Array:
    """The largest |e| over max(1, |s|) of each sequence; NaN if there is one. -> [*batch]"""
    over = (0, *range(e.ndim - axes, e.ndim))
    return largest(jnp.abs(e) / jnp.maximum(jnp.abs(s), 1), over)


def _finite(new: Array, f: Array) -> Array:
    """The numbers `new`; where one is not finite f, or zero where f is not either."""
    return jnp.where(jnp.isfinite(new), new, jnp.where(jnp.isfinite(f), f, 0))


def scanned(slopes: Array, b: Array) -> Array:
    """Solve d_t = A_t d_{t-1} + b_t, d_0 = 0; A [T, ..., m, m], b [T, ..., m]."""

    def then(first: Any, second: Any) -> Any:
        (a_1, b_1), (a_2, b_2) = first, second
        return a_2 @ a_1, (a_2 @ b_1[..., None])[..., 0] + b_2

    return lax.associative_scan(then, (slopes, b))[1]
