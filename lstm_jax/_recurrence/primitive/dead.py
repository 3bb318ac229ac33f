"""Dead-code elimination: unused results, in inference u and most carries, are not stored.

The results to keep are a static parameter, from which `jit` removes the unused ones. The derivative
of such a reduced primitive computes all results again.
"""

from itertools import compress
from typing import Any

from ..._jax import set_rules
from .binding import run_p


def _without_dead(used: list[bool], eqn: Any) -> tuple[list[bool], Any]:
    """Return flags of the operands in use, and the equation with its used results alone."""
    if eqn.effects:
        return [True] * len(eqn.invars), eqn
    if not any(used):
        return [False] * len(eqn.invars), None
    static, flags = eqn.params["static"], iter(used)
    there = static.kept or [True] * len(used)
    kept = tuple(keep and next(flags) for keep in there)
    outvars = list(compress(eqn.outvars, used))
    eqn = eqn.replace(outvars=outvars, params={"static": static._replace(kept=kept)})
    return [True] * len(eqn.invars), eqn


set_rules(run_p, dead=_without_dead)
