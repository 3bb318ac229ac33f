"""The three primitives: how they are bound, evaluated and typed.

Each is defined by a function of `base`. The operands are pytrees; they travel flattened and their
structure is a static parameter. So an absent mask, a carry of three leaves or a projected input of
two arrays need no rule of their own.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax

from ..._jax import Primitive, checked_as, is_asked
from ..._typing import Array
from .. import base
from ..record import Asked
from ..spec import Recurrence


class Static(NamedTuple):
    """The static parameters of a bound primitive."""

    cell: Any  # a Cell, or a Vmapped one
    reverse: bool
    asked: Asked  # who is to run it
    tree: Any = None  # the structure of the flattened operands
    kept: tuple[bool, ...] | None = None  # which flat results there are; None: all

    @property
    def native(self) -> bool:
        """Whether the kernel of the CPU is to run it."""
        return self.asked.implementation == "native"


run_p = Primitive("recurrence")
linearized_p = Primitive("recurrence_linearized")
transposed_p = Primitive("recurrence_transposed")

FUNCTIONS: dict[Primitive, Callable[..., Any]] = {
    run_p: base.run,
    linearized_p: base.linearized,
    transposed_p: base.transposed,
}


def recurrence(cell: Recurrence, reverse: bool, ops: base.Operands, asked: Asked) -> base.Ran:
    """`base.run`, as a primitive."""
    return bind(run_p, Static(cell, reverse, asked), ops)


def bind(primitive: Primitive, static: Static, *operands: Any) -> Any:
    """The primitive of pytrees. static: its tree is that of `operands`, whatever it was."""
    leaves, tree = jax.tree.flatten(operands)
    static = static._replace(tree=tree)
    outs = primitive.bind(*leaves, static=static)
    return out_structure(primitive, static, leaves).unflatten(outs)


def out_structure(primitive: Primitive, static: Static, leaves: Sequence[Any]) -> Any:
    """The structure of the results; None stands for one that is not kept."""
    types = [x.aval if is_asked(x) else jax.typeof(x) for x in leaves]
    return jax.tree.structure(_jitted(primitive, static).trace(*types).out_info)


def operands_of(primitive: Primitive, static: Static, leaves: Sequence[Array]) -> tuple[Any, ...]:
    """The operands; after them which results are wanted, where not all are."""
    operands = static.tree.unflatten(leaves)
    if static.kept is None:
        return operands
    structure = out_structure(primitive, static._replace(kept=None), leaves)
    return (*operands, structure.unflatten(static.kept))


@lru_cache(maxsize=1024)
def _jitted(primitive: Primitive, static: Static, unroll: int = 1) -> Any:
    """The defining function on flattened operands; one object each, so that jit's cache serves."""

    def function(*leaves):
        operands = operands_of(primitive, static, leaves)
        return FUNCTIONS[primitive](static.cell, static.reverse, *operands, unroll=unroll)

    return jax.jit(function)


def evaluate(primitive: Primitive, *leaves: Array, static: Static, unroll: int = 1) -> list[Array]:
    """The flat results, by XLA. unroll: steps in one round of its loop."""
    return jax.tree.leaves(_jitted(primitive, static, unroll)(*leaves))


def types_of(primitive: Primitive, *types: Any, static: Static) -> list[Any]:
    """The output types are the function's own, so that sharding and varying axes survive."""
    return _types_and_effects(primitive, *types, static=static)[0]


def _types_and_effects(primitive: Primitive, *types: Any, static: Static) -> tuple[list[Any], Any]:
    """And the effects those of its update: prints, checks."""
    jaxpr = _jitted(primitive, static).trace(*types).jaxpr
    return list(jaxpr.out_avals), jaxpr.effects


for _primitive in FUNCTIONS:
    _primitive.multiple_results = True
    _primitive.def_effectful_abstract_eval(partial(_types_and_effects, _primitive))
    checked_as(_primitive, partial(evaluate, _primitive))
