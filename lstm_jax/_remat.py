"""Rematerialisation: what the backward pass through time stores and what it recomputes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._checks import fail, shown
from ._numerics import shared
from ._sequence import Sequence
from ._typing import Carry, Params

Remat = str | int | None
Run = Callable[[Params, Sequence], tuple[Carry, Any]]


def rematerialized(
    run: Run, params: Params, seq: Sequence, chunk: int | None, reverse: bool
) -> tuple[Carry, Any]:
    """Run `run(params, seq)` in chunks of time steps, to bound the memory of its backward pass.

    With chunks of k steps the backward pass stores the carry at the T/k borders, and the residuals
    of one chunk at a time: memory T/k + k, least at k = sqrt(T) (Chen et al. 2016, arXiv
    1604.06174). chunk=None stores everything.
    """
    if chunk is None:
        return run(params, seq)
    if chunk >= seq.xs.shape[0]:
        return jax.checkpoint(run)(params, seq)
    return _chunked(jax.checkpoint(run, prevent_cse=False), params, seq, chunk, reverse)


def chunk_length(remat: Remat, steps: int) -> int | None:
    """The chunk length for the argument `remat` of `unroll`; None: store everything."""
    if remat is None:
        return None
    if isinstance(remat, str) and remat == "minimal":
        return max(steps, 1)
    if isinstance(remat, str) and remat == "sqrt":
        return max(math.isqrt(max(steps - 1, 0)) + 1, 1)
    if isinstance(remat, (int, np.integer)) and not isinstance(remat, bool) and remat >= 1:
        return int(remat)
    wanted = 'None, "minimal", "sqrt" or a chunk length of at least 1'
    raise fail("remat", shown(remat), wanted, "pass one of these")


def _chunked(run: Run, params: Params, seq: Sequence, chunk: int, reverse: bool) -> Any:
    """Run whole chunks in one scan, and the last T mod k steps apart, in order of the direction."""
    given = shared((params, seq.origin))

    def piece(carry: Carry, timed: Any) -> tuple[Carry, Any]:
        (params, origin), (xs, valid, restart, noise) = given(), timed
        return run(params, Sequence(xs, carry, origin, valid, restart, noise))

    def chunks(carry: Carry, timed: Any) -> tuple[Carry, Any]:
        cut = (whole // chunk, chunk)  # Not -1: other axes may be empty.
        pieces = jax.tree.map(lambda leaf: leaf.reshape(*cut, *leaf.shape[1:]), timed)
        carry, ys = lax.scan(piece, carry, pieces, reverse=reverse)
        return carry, jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), ys)

    whole = seq.xs.shape[0] // chunk * chunk
    walks = [(chunks, slice(0, whole)), (piece, slice(whole, None))]
    if whole == seq.xs.shape[0]:
        walks.pop()
    carry, results = seq.carry, []
    for walk, steps in reversed(walks) if reverse else walks:
        timed = (seq.xs, seq.valid, seq.restart, seq.noise)
        carry, ys = walk(carry, jax.tree.map(lambda leaf, steps=steps: leaf[steps], timed))
        results.append(ys)
    if reverse:
        results.reverse()
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=0), *results)
