"""What both readers of jaxprs share: of an update (program.py), and of a `recur` (matrix.py)."""

from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal


class Untranslatable(NotImplementedError):
    """What the kernel cannot; the message is one line that says what."""


def without_devices() -> Any:
    """A context in which types say nothing of devices, whatever the caller's says."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


VIEWS = (
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "copy_p", "slice", "split",
    "concatenate", "convert_element_type",
)  # fmt: skip
"""Primitives that compute nothing: of any dtype, and linear."""

CALLS = (
    "pjit", "jit", "closed_call", "core_call", "remat", "checkpoint", "remat2", "custom_jvp_call",
    "custom_vjp_call", "eval_jaxpr",
)  # fmt: skip
"""Primitives that are their inner jaxpr, once."""


def inner_jaxpr(eqn: Any) -> Any:
    """The jaxpr of a call, of whatever kind; a loop has one too, and is none."""
    if eqn.primitive.name not in CALLS or is_exp_neg_sq(eqn):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            return inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
    return None


def is_exp_neg_sq(eqn: Any) -> bool:
    """Whether it is exp(-x^2) as erf's derivative has it from JAX 0.11 on: a function of JAX's own,
    which takes the bits of x apart. Only its name and its whole text say so."""
    if eqn.params.get("name") != "exp_neg_sq" or len(eqn.invars) != 1:
        return False
    x = eqn.invars[0].aval
    derivative = jax.make_jaxpr(lambda x: jax.jvp(lax.erf, (x,), (x,)))(x)
    body = str(eqn.params.get("call_jaxpr"))
    return any(body == str(each.params.get("call_jaxpr")) for each in derivative.eqns)


def needed(jaxpr: Any) -> list[Any]:
    """The equations that a result depends on."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if wanted & set(eqn.outvars):
            kept.append(eqn)
            wanted |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return kept[::-1]
