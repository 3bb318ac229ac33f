"""The largest singular values of products of step Jacobians, without any N x N matrix."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent
from .._checks import check_above_zero, check_positive_int, fail
from .._net import Net
from .._numerics import largest, varying_as
from .._typing import Array, Carry, Params
from . import _graded
from ._qr import qr
from .jacobian import Step, for_each_direction, pushed, vector_step
from .singular_values import random_frame

__all__ = ["LeadingSingularValues", "leading_singular_values"]
__dir__ = __all__.copy

_SPARE = 8  # Columns beyond k, so that the k-th converges by its distance to the (k + 9)-th.


class LeadingSingularValues(NamedTuple):
    """The result of `leading_singular_values`.

    Attributes:
        logs: [k], ln sigma_1 >= ... >= ln sigma_k, in nats.
        log_condition: ln(sigma_1 / sigma_k): the condition number of the product on the k
            directions that it keeps best; of the whole product if k = N. Inf if sigma_k = 0.
        change: the largest change of a logarithm in the last sweep, in nats.
        converged: bool, `change` is within the tolerance.
        sweeps: int32, how many there were.
    """

    logs: Array
    log_condition: Array
    change: Array
    converged: Array
    sweeps: Array


jax.export.register_namedtuple_serialization(
    LeadingSingularValues, serialized_name="lstm_jax.LeadingSingularValues"
)


def leading_singular_values(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    count: int,
    tolerance: float | None = None,
    sweeps: int = 20,
) -> Any:
    """Compute ln of the k largest singular values of P = d carry_T / d carry_0 = J_T ... J_1.

    Subspace iteration with m = k + 8 columns, at most N, from a random V:

        P V = U A        forward in time: m jvps a step, then a QR
        P^T U = V B      backward in time: m vjps a step, then a QR
        sigma_i(B)       approaches sigma_i(P) from below; each sweep the relative error falls
                         by the factor (sigma_{m+1} / sigma_i)^4

    A and B are products of triangular [m, m] matrices in log scale, so nothing under- or overflows.
    The singular values of a product spread exponentially with T, so two or three sweeps suffice; a
    sweep costs about as much as m gradients, and memory for the carries of all T steps.
    `jacobian_product_singular_values` has all N, at N jvps and several products of N x N matrices a
    step. The smallest ones without the others would need solves with each J_t, which need not have
    an inverse.

    Args:
        cell: any cell or net, on the carry of all its layers.
        params: as from `cell.init`.
        xs: [T, D], one example; `jax.vmap` over a batch. Integers [T] for an `embedding`.
        carry: the carry before the first step, leaves [H]; None: `cell.initial_carry`.
        count: k, at most N, the size of the carry.
        tolerance: sweeps end once no logarithm changes by more than tolerance * max(1, |ln
            sigma|); None: sqrt(eps), 3e-4 nats in float32 and 1.5e-8 in float64.
        sweeps: the largest number of sweeps.

    Returns:
        `LeadingSingularValues`; of a bidirectional net, alone or in a readout, residual or
        embedding, `Directions(forward, backward)` of two such. There is no reverse-mode derivative.

    Raises:
        ValueError: xs has batch axes; count, tolerance or sweeps out of range; bidirectional layers
            in a stack; or as `unroll`.

    Source: Halko, Martinsson & Tropp (2011), "Finding structure with randomness", SIAM Review 53,
    section 4.5; for the log scale see `jacobian_product_singular_values`.
    """
    check_positive_int("count", count)
    check_positive_int("sweeps", sweeps)
    if tolerance is not None:
        check_above_zero("tolerance", tolerance)

    def run(net: Recurrent | Net, params: Params, xs: Array, carry: Carry) -> Any:
        vector, step = vector_step(net, params, carry)
        size = vector.shape[0]
        if count > size:
            raise fail("count", count, f"at most N = {size}, the size of the carry", "pass fewer")
        within = jnp.finfo(vector.dtype).eps ** 0.5 if tolerance is None else tolerance
        return _iterated(step, _trajectory(step, vector, xs), xs, count, float(within), sweeps)

    return for_each_direction(run, cell, params, xs, carry)


def _trajectory(step: Step, vector: Array, xs: Array) -> Array:
    """The carries before each step, [T, N]."""
    _, vectors = lax.scan(lambda v, x: (step(v, x), v), vector, xs)
    return vectors


def _iterated(
    step: Step, vectors: Array, xs: Array, count: int, tolerance: float, sweeps: int
) -> LeadingSingularValues:
    size, dtype = vectors.shape[1], vectors.dtype
    columns = min(size, count + _SPARE)

    def unfinished(state):
        now, _ = state
        return (now.sweeps < sweeps) & ~now.converged

    def sweep(state):
        now, v = state
        u, _ = _swept(lambda at, x, q: pushed(step, at, q, x)[1], vectors, xs, v, False)
        v, b = _swept(lambda at, x, q: _pulled(step, at, q, x), vectors, xs, u, True)
        logs = _graded.log_singular_values(b)[:count]
        change = jnp.abs(jnp.where(logs == now.logs, 0, logs - now.logs))
        sizes = jnp.where(jnp.isfinite(logs), jnp.abs(logs), 1)
        converged = jnp.all(change <= tolerance * jnp.maximum(sizes, 1))
        spread = jnp.where(logs[-1] == -jnp.inf, jnp.inf, logs[0] - logs[-1])
        return LeadingSingularValues(logs, spread, largest(change), converged, now.sweeps + 1), v

    infinite = jnp.asarray(jnp.inf, dtype)
    start = LeadingSingularValues(
        jnp.full(count, jnp.inf, dtype), infinite, infinite, jnp.zeros((), bool), jnp.int32(0)
    )
    state = varying_as((start, random_frame(columns, size, dtype)), vectors)
    return lax.while_loop(unfinished, sweep, state)[0]


def _swept(
    linear: Any, vectors: Array, xs: Array, frame: Array, reverse: bool
) -> tuple[Array, _graded.Graded]:
    """Apply the linear map of every step to the rows of `frame` [m, N], with a QR after each.

    Returns:
        (the new frame, the product of the triangular matrices in log scale).
    """

    def advance(state, at_x):
        frame, product = state
        q, r = qr(linear(*at_x, frame).T)
        return (q.T, _graded.multiplied(r, product)), None

    start = frame, varying_as(_graded.identity(frame.shape[0], frame.dtype), frame)
    return lax.scan(advance, start, (vectors, xs), reverse=reverse)[0]


def _pulled(step: Step, vector: Array, frame: Array, x: Array) -> Array:
    """Compute J_t^T f for each row f of `frame` [m, N]."""
    _, pull = jax.vjp(lambda v: step(v, x), vector)
    return jax.vmap(lambda f: pull(f)[0])(frame)
