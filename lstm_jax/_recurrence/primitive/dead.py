"""Dead results: what nobody uses of a recurrence is not computed, in inference u and most carries.

Which results there are is a static parameter, from which `jit` strikes the dead ones. A derivative
of what is left runs the whole again.
"""

from itertools import compress
from typing import Any

from ..._jax import set_rules
from .binding import run_p


def _without_dead(used: list[bool], eqn: Any) -> tuple[list[bool], Any]:
    """Which operands are used, and the equation with those of its results that are."""
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
