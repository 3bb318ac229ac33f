"""An identity function that clips its cotangent, for use inside a recurrence.

It is a primitive with rules for every transformation: a `custom_vjp` has no forward mode, and
`linear_call` no vmap.
"""

from typing import Any

from ._jax import Primitive, is_zero, set_linear, set_lowering
from ._numerics import clipped
from ._typing import Array

clip_p = Primitive("clip_cotangent")


def with_clipped_cotangent(x: Array, limit: float) -> Array:
    """Return x; its cotangent is clipped to [-limit, limit], element by element."""
    return clip_p.bind(x, limit=limit)


def _transpose(ct: Any, x: Any, *, limit: float) -> list[Any]:
    del x
    return [ct if is_zero(ct) else clipped(ct, limit)]


clip_p.def_impl(lambda x, *, limit: x)
clip_p.def_abstract_eval(lambda x, *, limit: x)
set_lowering(clip_p, lambda x, *, limit: x)
set_linear(clip_p, _transpose)
