"""Lyapunov exponents of a network driven by inputs."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent
from .._checks import as_array, check_floating, check_positive_int, fail
from .._net import Net
from .._numerics import varying_as
from .._typing import Array, Carry, Params
from ._qr import orthonormal
from .jacobian import Step, for_each_direction, pushed, vector_step
from .singular_values import random_frame

__all__ = ["LyapunovSpectrum", "entropy", "kaplan_yorke_dimension", "lyapunov_spectrum"]
__dir__ = __all__.copy


class LyapunovSpectrum(NamedTuple):
    """The result of `lyapunov_spectrum`.

    Attributes:
        exponents: [k], lambda_1 >= lambda_2 >= ..., in nats per step.
        growth: [blocks, k], the growth in nats of each direction in each block of `interval` steps,
            in the order of the QR. `cumsum(growth, 0)` over the steps so far shows convergence.
    """

    exponents: Array
    growth: Array


jax.export.register_namedtuple_serialization(
    LyapunovSpectrum, serialized_name="lstm_jax.LyapunovSpectrum"
)


def lyapunov_spectrum(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    exponents: int | None = None,
    warmup: int = 0,
    interval: int = 1,
) -> Any:
    """Compute the first k Lyapunov exponents of the carry along the inputs xs.

    With J_t the Jacobian of step t, of the full carry (h and c of an LSTM), and Q [N, k]:

        P = J_t Q                   k jvps, every step
        Q R = P                     a QR, every `interval` steps
        lambda_i = (1/T) sum ln|R_ii|     over the T steps after the warm-up

    so sum_i lambda_i = mean ln|det J_t| if k = N. Use `jax.vmap` over a batch. A loss of the
    exponents can be differentiated (gradient flossing); a direction that a step maps to zero, such
    as a ReLU unit that is off, is constant then.

    Args:
        cell: any cell or net, on the carry of all its layers.
        params: as from `cell.init`.
        xs: [T, D], one example; integers [T] for an `embedding`.
        carry: the carry before the first step, leaves [H]; None: `cell.initial_carry`.
        exponents: k, at most N, the size of the carry; None: N.
        warmup: steps at the start of xs that do not count, in which the carry reaches its attractor
            and Q aligns with the leading directions.
        interval: steps from one QR to the next. Between two QRs all columns turn to the leading
            direction, which spoils the last exponents first: keep interval * (lambda_1 - lambda_k)
            below about 5 nats in float32, 15 in float64.

    Returns:
        `LyapunovSpectrum(exponents, growth)`, in nats per step and nats. A direction that is mapped
        to zero (an exact zero of R) counts as ln of the smallest normal number in each block. Of a
        bidirectional net, alone or in a readout, residual or embedding, `Directions(forward,
        backward)` of two such.

    Raises:
        ValueError: xs has batch axes; exponents, warmup or interval out of range; bidirectional
            layers in a stack; or as `unroll`.

    Source: Benettin et al. (1980); for driven recurrent networks Engelken, Wolf & Abbott (2023),
    "Lyapunov spectra of chaotic recurrent neural networks", Phys. Rev. Research 5, and Vogt et al.
    (2022). Logarithms are natural; some published code uses log2.
    """

    def run(net: Recurrent | Net, params: Params, xs: Array, carry: Carry) -> LyapunovSpectrum:
        vector, step = vector_step(net, params, carry)
        count = vector.shape[0] if exponents is None else exponents
        _check(count, vector.shape[0], warmup, interval, xs.shape[0])
        frame = random_frame(count, vector.shape[0], vector.dtype)
        state = (vector, varying_as(frame, vector))
        if warmup:
            state, _ = _grown(step, state, xs[:warmup], interval)
        _, growth = _grown(step, state, xs[warmup:], interval)
        rates = growth.sum(axis=0) / (xs.shape[0] - warmup)
        return LyapunovSpectrum(jnp.sort(rates, descending=True), growth)

    return for_each_direction(run, cell, params, xs, carry)


def _grown(
    step: Step, state: tuple[Array, Array], xs: Array, interval: int
) -> tuple[tuple[Array, Array], Array]:
    """Run over xs: (new state, ln|R_ii| of each block [ceil(T/interval), k]).

    The state is (carry [N], frame [k, N] with orthonormal rows); the last block may be shorter.
    """

    def push(state, x):
        vector, frame = state
        return pushed(step, vector, frame, x), None

    def block(state, xs):
        (vector, frame), _ = lax.scan(push, state, xs)
        q, growth = orthonormal(frame.T)
        return (vector, q.T), growth

    blocks = xs.shape[0] // interval
    whole = blocks * interval
    stacked = xs[:whole].reshape(blocks, interval, *xs.shape[1:])
    state, growth = lax.scan(block, state, stacked)
    if whole < xs.shape[0]:
        state, last = block(state, xs[whole:])
        growth = jnp.concatenate([growth, last[None]])
    return state, growth


def _check(count: int, size: int, warmup: int, interval: int, steps: int) -> None:
    check_positive_int("exponents", count)
    check_positive_int("interval", interval)
    if count > size:
        raise fail("exponents", count, f"at most N = {size}, the size of the carry", "pass None")
    check_positive_int("warmup", warmup, least=0)
    if not warmup < steps:
        wanted = f"an integer in [0, T) = [0, {steps})"
        raise fail("warmup", warmup, wanted, "pass longer xs or fewer steps")


def kaplan_yorke_dimension(exponents: Array) -> Array:
    """Kaplan-Yorke dimension D = k + (lambda_1 + ... + lambda_k) / |lambda_{k+1}|.

    k is the largest number of leading exponents with a sum >= 0.

    Args:
        exponents: [N] in any order and unit.

    Returns:
        A scalar in [0, N]: 0 if lambda_1 < 0; N if no sum is negative, a lower bound if `exponents`
        is a part of the spectrum.

    Source: Frederickson, Kaplan, Yorke & Yorke (1983).
    """
    exponents = jnp.sort(_checked(exponents), descending=True)
    sums = jnp.cumsum(exponents)
    k = jnp.sum(sums >= 0)
    padded = jnp.pad(sums, (1, 0))  # padded[k] is the sum of the first k.
    # If no sum is negative there is no lambda_{k+1}, and D = k.
    last = k == exponents.shape[0]
    following = jnp.where(last, 1, jnp.pad(exponents, (0, 1))[k])
    return k.astype(exponents.dtype) + jnp.where(last, 0, padded[k] / jnp.abs(following))


def entropy(exponents: Array) -> Array:
    """Sum of the positive exponents, an upper bound of the Kolmogorov-Sinai entropy.

    Args:
        exponents: [N] in nats per step.

    Returns:
        A scalar in nats per step; 0 for a stable network.

    Source: Ruelle (1978) for the bound; Pesin (1977) for equality.
    """
    return jnp.sum(jnp.maximum(_checked(exponents), 0))


def _checked(exponents: Any) -> Array:
    """Convert the exponents to an array; raise unless it is [N]."""
    exponents = jnp.asarray(as_array("exponents", exponents))
    check_floating("exponents", exponents)
    if exponents.ndim != 1:
        raise fail("exponents", f"shape {exponents.shape}", "[N]", "jax.vmap over a batch")
    return exponents
