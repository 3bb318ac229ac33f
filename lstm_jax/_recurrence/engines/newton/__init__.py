"""`implementation="newton"`: all steps at once, by Newton's method and a parallel scan over time.

The carries s_1 .. s_T solve s_t = f_t(s_{t-1}), with f_t the step with its mask and restart. From a
guess s, the defects e and a linearisation of every f_t make one affine recurrence,

    e_t = f_t(s_{t-1}) - s_t         J_t = df_t/ds at s_{t-1}
    d_t = e_t + k J_t d_{t-1}        d_0 = 0;   s <- s + d

which `lax.associative_scan` solves in about log2(T) rounds (`iteration.py`). J_t is whole where the
carry is small, else it has a block for each unit (`vectors.py`). With any k and any J, the first n
steps are exact after n iterations. A sequence whose defects do not vanish in time, as of a chaotic
network, is run step by step (`steps.py`). Derivatives do not see how the carries were found
(`implicit.py`).

Source: Lim et al. (2024), "Parallelizing non-linear sequential models over the sequence length"
(DEER), arXiv 2309.12252, for the method; Gonzalez et al. (2024), "Towards scalable and stable
parallelization of nonlinear RNNs" (ELK), arXiv 2407.19115, for a part of J and for damping; Danieli
et al. (2025), "ParaRNN", arXiv 2510.21450, for blocks of an LSTM's two numbers a unit.
"""

import functools
from typing import Any

import jax
from jax import lax

from ...._cells.closures import CLOSED_OVER, closes_over_traced
from ...._cells.contract import Recurrent
from ...._numerics import zero_unless
from ...._sequence import Sequence
from ...._typing import Carry, Params
from ... import trial
from ...jaxprs import Untranslatable
from ...record import Asked, described, named
from ..kinds import Walk
from .implicit import attached
from .iteration import ITERATIONS, Certificate, solved
from .steps import TIMED, guess, looped, outputs
from .vectors import DENSE, size_of

__all__ = ["ITERATIONS", "WALK", "Certificate", "certified"]


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None for a cell whose J_t is small or has a block for each unit, or why not."""
    del platform
    if cell.input_ndim != 1:
        return f"the carry of {type(cell).__name__} has more axes than H"
    if closes_over_traced(cell):
        return f"{type(cell).__name__} {CLOSED_OVER}"
    return trial.refusal(_check_carry, cell, "its carry cannot be made")


def _check_carry(cell: Recurrent, params: Any) -> None:
    carry = jax.eval_shape(cell.initial_carry, params)
    size = size_of(carry)
    if size <= DENSE:
        return
    large = f"its carry has {size} numbers, more than {DENSE},"
    if not cell.factors:
        raise Untranslatable(f"{large} and its step does not factor")
    if any(leaf.shape != (cell.hidden_size,) for leaf in jax.tree.leaves(carry)):
        raise Untranslatable(f"{large} and they are not the same for each unit")


def unroll(
    cell: Recurrent,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    asked: Asked,
) -> tuple[Carry, Any]:
    """Unroll one cell and return (final carry, (ys, carries of all steps))."""
    final, (ys, carries, _) = certified(cell, params, seq, reverse=reverse, asked=asked)
    return final, (ys, carries)


def certified(
    cell: Recurrent,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    asked: Asked,
    iterations: int = ITERATIONS,
) -> tuple[Carry, Any]:
    """Unroll one cell and return (final carry, (ys, carries of all steps, certificate))."""
    flip = functools.partial(_flipped, reverse=reverse)
    ahead = seq._replace(**{name: flip(getattr(seq, name)) for name in TIMED})
    steps = seq.xs.shape[0]
    with named(described(asked, cell, steps, seq.carry, reverse)):
        fixed = lax.stop_gradient((params, ahead))
        found, certificate = solved(cell, *fixed, iterations)
        carries = looped(cell, *fixed, found, certificate.converged) if steps else guess(ahead)
        carries = attached(cell, params, ahead, carries) if steps else carries
        ys = outputs(cell, params, ahead, carries)
    final = jax.tree.map(lambda leaf: leaf[-1], carries) if steps else seq.carry
    return final, (flip(zero_unless(ahead.valid, ys)), flip(carries), certificate)


def _flipped(tree: Any, reverse: bool) -> Any:
    return jax.tree.map(lambda leaf: leaf[::-1], tree) if reverse else tree


# More arithmetic in fewer rounds, and it is not known beforehand in how many.
WALK = Walk(why_not, unroll, slower_on=("cpu", "gpu", "tpu"), parallel=True)
