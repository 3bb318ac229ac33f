"""`unroll_newton`: unroll a cell by Newton's method, with a certificate of how it ended."""

from typing import Any

from ._arguments import explained
from ._cells.contract import Recurrent, check_cell
from ._checks import check_positive_int, fail
from ._net import check_net
from ._recurrence.engines.newton import ITERATIONS, Certificate
from ._typing import Array, Carry, Key, Params
from ._unroll import called


@explained
def unroll_newton(
    cell: Recurrent,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    time_major: bool = True,
    key: Key | None = None,
    return_carries: bool = False,
    iterations: int = ITERATIONS,
) -> tuple[Carry, Any, Certificate]:
    """Unroll a cell by Newton's method on all steps at once, with a certificate of how it ended.

        carry, ys, certificate = lj.unroll_newton(cell, params, xs)
        certificate.check()     # raises where a sequence did not converge

    The results are those of `unroll(..., implementation="newton")`: of a sequence that did not
    converge they are the ones of the loop over the steps, so they are right in any case, and so
    are their derivatives. `check` is for who would rather stop than wait for that loop; it needs
    values, so a jitted function returns the certificate, and its caller checks it.

    Args:
        cell: one cell; of a net, unroll its cells one after another.
        params, xs, carry, seq_lengths, mask, resets, reverse, time_major, key, return_carries: as
            for `unroll`.
        iterations: iterations after which the loop over the steps takes over. T of them are
            always enough, and as slow as the loop or slower.

    Returns:
        (carry, ys, certificate), or (carry, carries, certificate) with `return_carries`; the
        certificate has an entry for each sequence of the batch.

    Raises:
        ValueError, NotImplementedError: as `unroll`.

    Source: Lim et al. (2024), "Parallelizing non-linear sequential models over the sequence
    length", arXiv 2309.12252; Gonzalez et al. (2024), "Towards scalable and stable parallelization
    of nonlinear RNNs", arXiv 2407.19115; Danieli et al. (2025), "ParaRNN", arXiv 2510.21450.
    """
    check_net("cell", cell, "unroll_newton(cell, params, xs)")
    check_cell(cell, "a certificate")
    if cell.part is not cell:
        remedy = 'pass the cell itself, or unroll(..., implementation="newton")'
        raise fail("cell", cell, "a cell that is not split over devices", remedy)
    check_positive_int("iterations", iterations)
    given = cell, params, xs, carry, seq_lengths, mask, resets
    options = reverse, time_major, key, return_carries, None, "newton", int(iterations)
    return called(*given, *options)
