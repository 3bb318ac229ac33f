"""What the primitives become on a platform: by default what XLA makes of the defining function.

A faster implementation is one more rule here, of a platform; the kernel of the CPU is one. Where it
cannot, XLA serves, and the program says so; where nothing but the kernel was asked for, an error.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..._jax import Primitive, is_jit_disabled, set_cpu_lowering, set_lowering
from ..._typing import Array
from .. import native
from ..base import TIMED
from .batching import Vmapped, fields
from .binding import FUNCTIONS, Static, evaluate, operands_of, out_structure, types_of
from .named import by_kernel, by_xla, check_asked


def _chosen(primitive: Primitive, why_not: str | None, *, static: Static) -> Callable[..., Any]:
    """The kernel where it was asked for and may run, or XLA. why_not: why no kernel may."""
    if static.native and not why_not:
        return partial(_by_kernel, primitive)
    return partial(_by_xla, primitive, why_not if static.native else static.asked.why)


def _elsewhere(
    primitive: Primitive, *leaves: Array, static: Static, unroll: int = 1
) -> list[Array]:
    """The flat results on other platforms than a CPU."""
    why = "the kernel is one for a CPU" if static.native else static.asked.why
    return _by_xla(primitive, why, *leaves, static=static, unroll=unroll)


def _by_xla(
    primitive: Primitive, why: str | None, *leaves: Array, static: Static, unroll: int = 1
) -> list[Array]:
    """The flat results, by XLA.

    why: why by nothing faster.
    unroll: steps in a round of its loop.
    """
    with by_xla(primitive, static, leaves, why):
        return evaluate(primitive, *leaves, static=static, unroll=unroll)


def _by_kernel(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    """The flat results, by the kernel if it can."""
    try:
        with by_kernel(primitive, static, leaves):
            return _calls(primitive, *leaves, static=static)
    except native.Untranslatable as error:
        return _by_xla(primitive, str(error), *leaves, static=static)


def _calls(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    """One call of the kernel, or one for each member of a batch that has weights of its own.

    Raises:
        Untranslatable: the kernel cannot.
    """
    operands, cell = operands_of(primitive, static, leaves), static.cell
    if isinstance(cell, Vmapped) and cell.weights_batched:
        return _one_by_one(primitive, leaves, static)
    # One batch more is as any other, where there is nothing that it has for itself.
    while isinstance(cell, Vmapped):
        if cell.weights_batched or (cell.extras_batched and operands[0].extras):
            raise native.Untranslatable("parameters differ from sequence to sequence")
        cell = cell.cell
    results = types_of(primitive, *map(jax.typeof, leaves), static=static)
    name = FUNCTIONS[primitive].__name__
    return native.flat.evaluate(name, cell, static.reverse, operands, results)


def _one_by_one(primitive: Primitive, leaves: Sequence[Array], static: Static) -> list[Array]:
    """The calls of a vmapped cell's members, in a loop: each fills the machine's cores itself."""
    member = static._replace(cell=static.cell.cell)
    axes = [None if f == "projection" else int(f in TIMED) for f in fields(static.tree)]
    own = {k: jnp.moveaxis(leaves[k], axis, 0) for k, axis in enumerate(axes) if axis is not None}

    def call(own: dict[int, Array]) -> list[Array]:
        each = [own.get(k, leaf) for k, leaf in enumerate(leaves)]
        return _calls(primitive, *each, static=member)

    results = fields(out_structure(primitive, static, leaves))
    stacked = zip(lax.map(call, own), results, strict=True)
    return [jnp.moveaxis(x, 0, int(field in TIMED)) for x, field in stacked]


def _without_jit(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    """What runs where there is no program to lower: `jax.disable_jit`, or a search for a NaN."""
    if is_jit_disabled():
        check_asked(primitive, static, leaves, "jax.disable_jit leaves no program to be part of")
    return evaluate(primitive, *leaves, static=static)


UNROLL = 4
"""Steps in a round of XLA's loop on a GPU, where the host launches each round anew.

Measured on an H200 (jax 0.11.2, float32), LSTM, T 512, B 1, H 32, forward and gradient: with
1 step 2.69 and 6.79 ms, 2 steps 1.98 and 4.78, 4 steps 1.61 and 3.82, 8 steps 1.52 and 3.72, where
compiling both took 1.4, 0.9, 1.5 and 3.1 s.
"""

for _primitive in FUNCTIONS:
    _primitive.def_impl(partial(_without_jit, _primitive))
    set_lowering(_primitive, partial(_elsewhere, _primitive))
    for _platform in ("cuda", "rocm"):
        set_lowering(_primitive, partial(_elsewhere, _primitive, unroll=UNROLL), _platform)
    set_cpu_lowering(_primitive, partial(_chosen, _primitive))
