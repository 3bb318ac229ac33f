"""The two kinds of implementation in the table: `Walk` and `Engine`."""

import dataclasses
from collections.abc import Callable
from typing import Any

WhyNot = Callable[[Any, str], str | None]


@dataclasses.dataclass(frozen=True)
class Walk:
    """An implementation that runs a whole sequence in its own way.

    Attributes:
        why_not: function (cell, platform) -> None if it can run the cell there, or one line that
            says why it cannot.
        unroll: function (cell, params, seq, *, reverse, asked) -> (final carry, (ys, carries of
            all steps)). jit removes the computation of results that are not used.
        slower_on: platforms on which `implementation=None` tries it last.
        parallel: True if it halves the sequence again and again, for which T must be a number.
    """

    why_not: WhyNot
    unroll: Callable[..., Any]
    slower_on: tuple[str, ...] = ()
    parallel: bool = False


@dataclasses.dataclass(frozen=True)
class Engine:
    """An implementation of the recurrence and its derivatives, for cells that factor.

    `run`, `linearized` and `transposed` have the arguments and results of the functions of these
    names in `equations.py`, except that results may have merged batch axes and other dtypes. The
    recurrence that they are given has no `members`. They raise `Untranslatable` for a call that
    they cannot run; "fused" then runs it.

    Attributes:
        why_not: function (cell, platform) -> None or the reason, as of a `Walk`.
        run, linearized, transposed: the recurrence, its linearisation, the transpose of that.
        platforms: JAX's names of the platforms on which it runs, such as "cpu" or "cuda".
        projects: True if it computes wx = x @ w + b, and products over all steps, itself.
        vmapped: True if one `jax.vmap` may go around a call; otherwise members with weights of
            their own run one after another.
        slower_on: platforms on which `implementation=None` tries it last.
        least_steps: the fewest steps T for which `implementation=None` chooses it.
        by_name: what it is, in a few words, if `implementation=None` chooses it only where
            `measured.py` shows it right and faster; None: it is chosen unless shown otherwise.
    """

    why_not: WhyNot
    run: Callable[..., Any]
    linearized: Callable[..., Any]
    transposed: Callable[..., Any]
    platforms: tuple[str, ...]
    projects: bool = False
    vmapped: bool = False
    slower_on: tuple[str, ...] = ()
    least_steps: int = 0
    by_name: str | None = None
