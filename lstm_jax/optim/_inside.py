"""What a transformation asks of an optimiser, and the states of one kind inside any state."""

from types import UnionType
from typing import Any, TypeVar

import jax

from .._checks import fail, shown

__all__ = ["check_optimizer", "only", "states_of"]
__dir__ = __all__.copy

State = TypeVar("State")


def check_optimizer(tx: Any, argument: str = "tx") -> None:
    """Raise unless `tx` is an optimiser in optax's form."""
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        remedy = "pass for example lstm_jax.clipped_sgd(0.1)"
        raise fail(argument, shown(tx), "an optax.GradientTransformation", remedy)


def states_of(kind: type[State] | UnionType, state: Any) -> list[State]:
    """The nodes of this kind, or of one of several, in a tree, such as an optimiser's state."""

    def is_one(x: Any) -> bool:
        return isinstance(x, kind)

    return [s for s in jax.tree.leaves(state, is_leaf=is_one) if is_one(s)]


def only(kind: type[State] | UnionType, state: Any) -> State | None:
    """The only node of this kind; None if there are none or several."""
    found = states_of(kind, state)
    return found[0] if len(found) == 1 else None
