"""What the primitives become on a platform: by default what XLA makes of the defining function.

A faster implementation is one more rule here, of a platform; the kernel of the CPU is one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from ..._typing import Array
from .. import native
from ..native.place import on_one_device
from .batching import Vmapped
from .binding import FUNCTIONS, Static, evaluate, operands_of, types_of


def _rule(primitive: Primitive, function: Callable[..., Any]) -> Callable[..., Any]:
    """The lowering rule that calls `function` of the flattened operands."""
    return mlir.lower_fun(partial(function, primitive), multiple_results=True)


def _cpu_rule(primitive: Primitive, ctx: Any, *leaves: Any, static: Static) -> Any:
    """The kernel where it was asked for and runs, or what every platform does."""
    chosen = _by_kernel if static.native and on_one_device(ctx.module_context) else evaluate
    return _rule(primitive, chosen)(ctx, *leaves, static=static)


def _by_kernel(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    """The flat results, by the kernel if it can."""
    operands = operands_of(primitive, static, leaves)
    cell, name = static.cell, FUNCTIONS[primitive].__name__
    results = types_of(primitive, *map(jax.typeof, leaves), static=static)
    # One batch more is as any other, where there is nothing that it has for itself.
    while isinstance(cell, Vmapped) and not cell.weights_batched and not operands[0].extras:
        cell = cell.cell
    try:
        if isinstance(cell, Vmapped):
            raise native.Untranslatable("parameters differ from sequence to sequence")
        return native.flat.evaluate(name, cell, static.reverse, operands, results)
    except native.Untranslatable:
        return evaluate(primitive, *leaves, static=static)


for _primitive in FUNCTIONS:
    mlir.register_lowering(_primitive, _rule(_primitive, evaluate))
    mlir.register_lowering(_primitive, partial(_cpu_rule, _primitive), platform="cpu")
