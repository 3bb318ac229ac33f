"""The step of a loop as a jaxpr, and its evaluation inside a kernel.

A kernel may hold no arrays but its operands, and Pallas has no lowering of primitives that are not
JAX's. So a step is traced before the kernel, its constants become operands, and the kernel
evaluates the jaxpr, with calls and primitives of this library replaced by their definitions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ...._jax import Literal, inner_jaxpr, name_of, needed
from ...jaxprs import Untranslatable, without_devices

DEFINITIONS: dict[str, Callable[..., Any]] = {
    "clip_cotangent": lambda x, limit: x,  # Its derivative has been taken.
    "exp_neg_sq": lambda x, **_: jnp.exp(-x * x),
}
"""Functions in place of primitives, by name."""


def traced(step: Callable[..., Any], *types: Any) -> tuple[Any, Any]:
    """Trace `step`. -> (closed jaxpr, shapes of the results)

    Raises:
        Untranslatable: it has side effects.
    """
    with without_devices():
        closed, shapes = jax.make_jaxpr(step, return_shape=True)(*types)
    if closed.effects:
        raise Untranslatable("its update has side effects, such as prints")
    return closed, shapes


def used(closed: Any) -> list[bool]:
    """Flags of the arguments of a closed jaxpr that its results depend on."""
    read = {var for eqn in needed(closed.jaxpr) for var in eqn.invars if _is_variable(var)}
    read |= {var for var in closed.jaxpr.outvars if _is_variable(var)}
    return [var in read for var in closed.jaxpr.invars]


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, Literal)


def evaluate(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr as part of the kernel that is being traced."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in needed(jaxpr):
        env |= zip(eqn.outvars, _results(eqn, [read(atom) for atom in eqn.invars]), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _results(eqn: Any, inputs: list[Any]) -> list[Any]:
    """Compute the results of one equation."""
    name, inner = name_of(eqn), inner_jaxpr(eqn)
    if name in DEFINITIONS:
        return [DEFINITIONS[name](*inputs, **eqn.params)]
    if inner is not None:
        return evaluate(inner.jaxpr, inner.consts, inputs)
    made = eqn.primitive.bind(*inputs, **eqn.params)
    return list(made) if eqn.primitive.multiple_results else [made]
