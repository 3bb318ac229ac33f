"""Detection of cells whose functions close over a traced value.

    jax.grad(lambda a: loss(lj.RNN(4, activation=lambda x: jnp.tanh(a * x))))

Such a value is not an operand of the recurrence: the primitive cannot differentiate by it, and a
cached program would keep it after its trace has ended. It is searched in closures, defaults, bound
objects, partials, containers, and the fields and methods of the cell. A traced value elsewhere (in
a global variable) is found, and refused, when the engine traces `update`.
"""

import functools
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from jax.core import Tracer

from .._jax import may_trace
from .._static import Unread

CLOSED_OVER = (
    "computes with a value that is being traced and is none of its parameters: make it one, in "
    "`init` and, for `update`, in `elementwise`"
)


def closes_over_traced(cell: Any) -> bool:
    """True if a cell or net refers to a traced value."""
    if not may_trace():
        return False
    found, waiting = {id(cell)}, [cell]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tracer):
            return True
        news = [v for v in _inside(value) if type(v) not in _PLAIN and id(v) not in found]
        found |= {id(v) for v in news}
        waiting += news
    return False


def _inside(value: Any) -> Iterator[Any]:
    """The objects that a value refers to."""
    if isinstance(value, FunctionType):
        yield from (value.__defaults__ or ())
        yield from (value.__kwdefaults__ or {}).values()
        for cell in value.__closure__ or ():
            if cell != CellType():  # An empty one.
                yield cell.cell_contents
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (tuple, list, set, frozenset)):
        yield from value
    elif isinstance(value, property):
        yield value.fget
    elif hasattr(type(value), "unchecked_step"):  # A cell or net.
        yield from vars(value).values()
        for kind in type(value).__mro__:
            if kind.__module__.partition(".")[0] not in _OTHERS:
                yield from vars(kind).values()
    elif callable(value) and not isinstance(value, type):  # A callable object or a jitted function.
        yield from getattr(value, "__dict__", {}).values()


_PLAIN = (str, int, float, bool, type(None), Unread)
_OTHERS = (str(__package__).partition(".")[0], "abc", "builtins")
"""Packages whose classes cannot refer to traced values."""
