"""The loop over the steps, as XLA is to compile it: what changes its speed but no number."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from .._typing import Array


class Loop(NamedTuple):
    """The way in which XLA's loop is written; the default is plain `lax.scan`.

    Attributes:
        unroll: steps in one iteration, as of `lax.scan`.
        time_major: True lays the arrays of all steps out in the order of their axes. XLA for TPUs
            else chooses it by the operations around the loop, and a step then gathers its rows.
        launches: True keeps the operations of a step in few kernels, where each is launched apart.
    """

    unroll: int = 1
    time_major: bool = False
    launches: bool = False

    def once(self, tree: Any) -> Any:
        """Compute `tree` once where launches count.

        XLA for GPUs else repeats the operations of a step in the kernels of later steps, and copies
        what they read.
        """
        return lax.optimization_barrier(tree) if self.launches else tree


PLAIN = Loop()


def scan(step: Callable[..., Any], first: Any, xs: Any, reverse: bool, loop: Loop) -> Any:
    """Call `lax.scan`; a symbolic T is not unrolled, as it may be no multiple of `unroll`."""
    known = isinstance(jax.tree.leaves(xs)[0].shape[0], int)
    xs = jax.tree.map(_time_major, xs) if loop.time_major else xs
    return lax.scan(step, first, xs, reverse=reverse, unroll=loop.unroll if known else 1)


def _time_major(x: Array) -> Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
