"""The identity whose transpose clips: a cotangent can be clipped inside a recurrence.

A primitive, because the modes of differentiation need all of its rules: a `custom_vjp` has no
forward mode, and `linear_call` no vmap.
"""

from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._numerics import clipped
from ._typing import Array

clip_p = Primitive("clip_cotangent")


def with_clipped_cotangent(x: Array, limit: float) -> Array:
    """x; on the way back its cotangent is clipped to [-limit, limit], number by number."""
    return clip_p.bind(x, limit=limit)


def _transpose(ct: Any, x: Any, *, limit: float) -> list[Any]:
    del x
    return [ct if type(ct) is ad.Zero else clipped(ct, limit)]


clip_p.def_impl(lambda x, *, limit: x)
clip_p.def_abstract_eval(lambda x, *, limit: x)
mlir.register_lowering(clip_p, lambda ctx, x, *, limit: [x])
ad.deflinear2(clip_p, _transpose)
batching.defvectorized(clip_p)
