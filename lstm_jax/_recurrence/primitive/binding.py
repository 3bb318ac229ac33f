"""The three primitives: binding, evaluation and output types.

Each is defined by a function of `equations.py`. Its operands are pytrees; they are flattened, and
their structure is a static parameter. So an absent mask, a carry of three leaves or a projected
input of two arrays need no rule of their own.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax

from ..._jax import Primitive, checked_as, is_asked
from ..._typing import Array
from .. import equations
from ..loops import PLAIN, Loop
from ..record import Asked
from ..spec import Recurrence


class Static(NamedTuple):
    """The static parameters of a bound primitive."""

    recurrence: Recurrence
    reverse: bool
    asked: Asked  # the engine that is to run it, and whether another may
    tree: Any = None  # the structure of the flattened operands
    kept: tuple[bool, ...] | None = None  # a flag for each flat result; None: all are kept

    @property
    def engine(self) -> str:
        """Name of the engine that is to run the primitive."""
        return self.asked.implementation


run_p = Primitive("recurrence")
linearized_p = Primitive("recurrence_linearized")
transposed_p = Primitive("recurrence_transposed")

FUNCTIONS: dict[Primitive, Callable[..., Any]] = {
    run_p: equations.run,
    linearized_p: equations.linearized,
    transposed_p: equations.transposed,
}


def recurrence(
    of: Recurrence, reverse: bool, ops: equations.Operands, asked: Asked
) -> equations.Ran:
    """Bind the primitive of the forward run; see `equations.run`."""
    return bind(run_p, Static(of, reverse, asked), ops)


def bind(primitive: Primitive, static: Static, *operands: Any) -> Any:
    """Bind a primitive to operands that are pytrees; their structure replaces `static.tree`."""
    leaves, tree = jax.tree.flatten(operands)
    static = static._replace(tree=tree)
    outs = primitive.bind(*leaves, static=static)
    return out_structure(primitive, static, leaves).unflatten(outs)


def out_structure(primitive: Primitive, static: Static, leaves: Sequence[Any]) -> Any:
    """Tree structure of the results; a result that is not kept is None."""
    types = [x.aval if is_asked(x) else jax.typeof(x) for x in leaves]
    return jax.tree.structure(_jitted(primitive, static).trace(*types).out_info)


def operands_of(primitive: Primitive, static: Static, leaves: Sequence[Array]) -> tuple[Any, ...]:
    """Unflatten the operands; append the flags of the results to keep, unless all are kept."""
    operands = static.tree.unflatten(leaves)
    if static.kept is None:
        return operands
    structure = out_structure(primitive, static._replace(kept=None), leaves)
    return (*operands, structure.unflatten(static.kept))


@lru_cache(maxsize=1024)
def _jitted(primitive: Primitive, static: Static, loop: Loop = PLAIN) -> Any:
    """Jit the defining function on flattened operands; cached, so that jit traces it once."""

    def function(*leaves):
        operands = operands_of(primitive, static, leaves)
        return FUNCTIONS[primitive](static.recurrence, static.reverse, *operands, loop=loop)

    return jax.jit(function)


def evaluate(
    primitive: Primitive, *leaves: Array, static: Static, loop: Loop = PLAIN
) -> list[Array]:
    """Compute the flat results by XLA. loop: the way in which its loop is written."""
    return jax.tree.leaves(_jitted(primitive, static, loop)(*leaves))


def types_of(primitive: Primitive, *types: Any, static: Static) -> list[Any]:
    """Output types, from tracing the function, so that sharding and varying axes survive."""
    return _types_and_effects(primitive, *types, static=static)[0]


def _types_and_effects(primitive: Primitive, *types: Any, static: Static) -> tuple[list[Any], Any]:
    """Output types, and the effects of the cell's update, such as prints and checks."""
    jaxpr = _jitted(primitive, static).trace(*types).jaxpr
    return list(jaxpr.out_avals), jaxpr.effects


for _primitive in FUNCTIONS:
    _primitive.multiple_results = True
    _primitive.def_effectful_abstract_eval(partial(_types_and_effects, _primitive))
    checked_as(_primitive, partial(evaluate, _primitive))
