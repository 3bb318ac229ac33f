"""Singular values of products of step Jacobians."""

from typing import Any

import jax
from jax import lax

from .._cells.contract import Recurrent
from .._checks import check_positive_int, fail
from .._net import Net
from .._numerics import varying_as
from .._typing import Array, Carry, DType, Params
from . import _graded
from ._qr import qr
from .jacobian import Step, for_each_direction, pushed, vector_step

__all__ = ["jacobian_product_singular_values"]
__dir__ = __all__.copy


def jacobian_product_singular_values(
    cell: Recurrent | Net, params: Params, xs: Array, carry: Carry | None = None, *, every: int = 1
) -> Any:
    """Compute ln of the singular values of d carry_t / d carry_0 = J_t ... J_1, for every t.

        J_t Q_{t-1} = Q_t R_t                         QR, from a random orthogonal Q_0
        A_t = R_t A_{t-1} = Q_t^T J_t ... J_1 Q_0     in log scale: see `_graded`
        sigma(J_t ... J_1) = sigma(A_t)               one-sided Jacobi, in log scale

    Nothing under- or overflows: 10,000 steps of 0.5 give -6931.47 in float32. Divided by t they
    tend to the Lyapunov exponents; `lyapunov_spectrum` computes those at a lower cost.

    Accuracy: up to a moderate power of N, the result is exact for Jacobians that each differ from
    J_t by eps |J_t|. So all values, not only the leading ones, are accurate if each single J_t is
    well-conditioned, however wide the spectrum of the product. A direction that one step shrinks by
    more than eps is noise: a singular J_t (a dead ReLU unit) shows as a drop of about ln(eps), not
    as -inf; a J_t of zeros does give -inf. A direction that several steps shrink by more than eps
    relative to another, and later steps expand again, is lost.

    Args:
        cell: any cell or net, on the carry of all its layers.
        params: as from `cell.init`.
        xs: [T, D], one example; `jax.vmap` over a batch. Integers [T] for an `embedding`.
        carry: the carry before the first step, leaves [H]; None: `cell.initial_carry`.
        every: compute the singular values every so many steps; T: of the whole product only. They
            dominate the cost, at several times an ordinary SVD; the rest is one QR per step.

    Returns:
        [T // every, N] in nats, descending along N, the size of the full carry (2H for an LSTM).
        Entry j is for the first (j + 1) * every steps. There is no reverse-mode derivative. Of a
        bidirectional net, alone or in a readout, residual or embedding, `Directions(forward,
        backward)` of two such; backward counts its steps from the end of xs.

    Raises:
        ValueError: xs has batch axes; T is not a multiple of every; bidirectional layers in a
            stack; or as `unroll`.

    Source: Stewart (1995), "On graded QR decompositions of products of matrices", ETNA 3; Drmac &
    Veselic (2008), "New fast and accurate Jacobi SVD algorithm", SIAM J. Matrix Anal. 29.
    """
    check_positive_int("every", every)

    def run(net: Recurrent | Net, params: Params, xs: Array, carry: Carry) -> Array:
        vector, step = vector_step(net, params, carry)
        if xs.shape[0] % every:
            wanted = f"a divisor of T = {xs.shape[0]}"
            raise fail("every", every, wanted, "cut xs to a multiple of it")
        return _of_products(vector, step, xs, every)

    return for_each_direction(run, cell, params, xs, carry)


def _of_products(vector: Array, step: Step, xs: Array, every: int) -> Array:
    """Compute ln of the singular values from a carry [N] and its step. -> [T // every, N]"""
    size, dtype = vector.shape[0], vector.dtype

    def advance(state, x):
        vector, q, product = state
        vector, columns = pushed(step, vector, q.T, x)
        q, r = qr(columns.T)
        return (vector, q, _graded.multiplied(r, product)), None

    def block(state, xs):
        state, _ = lax.scan(advance, state, xs)
        return state, _graded.log_singular_values(state[-1])

    # Not from I, which structured weights might keep in an invariant subspace for ever.
    start = (random_frame(size, size, dtype).T, _graded.identity(size, dtype))
    state = (vector, *varying_as(start, vector))
    return lax.scan(block, state, xs.reshape(xs.shape[0] // every, every, *xs.shape[1:]))[1]


def random_frame(rows: int, size: int, dtype: DType) -> Array:
    """Draw a fixed random matrix [rows, size] with orthonormal rows."""
    columns = jax.random.normal(jax.random.key(0), (size, rows), dtype)
    return qr(columns)[0].T
