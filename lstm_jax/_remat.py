"""What the backward pass through time keeps, and what it computes again."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._checks import fail
from ._sequence import Sequence
from ._typing import Carry

Remat = str | int | None
Run = Callable[[Sequence], tuple[Carry, Any]]


def rematerialized(run: Run, seq: Sequence, chunk: int | None, reverse: bool) -> tuple[Carry, Any]:
    """`run(seq)`, with the memory of its backward pass bounded by chunks; None: unbounded.

    With chunks of k steps the carry is kept at the T/k borders and one chunk's residuals at a
    time: memory T/k + k, least at k = sqrt(T) (Chen et al. 2016, arXiv 1604.06174).
    """
    if chunk is None:
        return run(seq)
    if chunk >= seq.xs.shape[0]:
        return jax.checkpoint(run)(seq)
    return _chunked(jax.checkpoint(run, prevent_cse=False), seq, chunk, reverse)


def chunk_length(remat: Remat, steps: int) -> int | None:
    """The length of a chunk for `unroll`'s `remat`; None to keep everything."""
    if remat is None:
        return None
    if remat == "minimal":
        return max(steps, 1)
    if remat == "sqrt":
        return max(math.isqrt(max(steps - 1, 0)) + 1, 1)
    if isinstance(remat, (int, np.integer)) and not isinstance(remat, bool) and remat >= 1:
        return int(remat)
    wanted = 'None, "minimal", "sqrt" or a chunk length of at least 1'
    raise fail("remat", repr(remat), wanted, "pass one of these")


def _chunked(run: Run, seq: Sequence, chunk: int, reverse: bool) -> tuple[Carry, Any]:
    """Whole chunks inside one scan and the T mod k last steps apart, in the order of the walk."""
    whole = seq.xs.shape[0] // chunk * chunk
    pieces = [(_scan_chunks, slice(0, whole)), (_single, slice(whole, None))]
    if whole == seq.xs.shape[0]:
        pieces.pop()
    carry, results = seq.carry, []
    for walk, steps in reversed(pieces) if reverse else pieces:
        timed = jax.tree.map(lambda leaf, steps=steps: leaf[steps], _timed(seq))
        carry, ys = walk(run, seq, carry, timed, chunk, reverse)
        results.append(ys)
    if reverse:
        results.reverse()
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=0), *results)


def _timed(seq: Sequence) -> tuple[Any, ...]:
    return seq.xs, seq.valid, seq.restart, seq.noise


def _single(run: Run, seq: Sequence, carry: Carry, timed: Any, chunk: int, reverse: bool) -> Any:
    del chunk, reverse
    xs, valid, restart, noise = timed
    return run(Sequence(xs, carry, seq.origin, valid, restart, noise))


def _scan_chunks(
    run: Run, seq: Sequence, carry: Carry, timed: Any, chunk: int, reverse: bool
) -> Any:
    def body(carry, piece):
        return _single(run, seq, carry, piece, chunk, reverse)

    pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), timed)
    carry, ys = lax.scan(body, carry, pieces, reverse=reverse)
    return carry, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys)
