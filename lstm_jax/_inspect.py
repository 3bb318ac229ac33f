"""`inspect`: list the recurrences of a compiled program and the implementation that runs each."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ._checks import fail, shown
from ._recurrence.record import NAME, RECORDS, Inspected


class Inspection(tuple[Inspected, ...]):
    """The result of `inspect`: a tuple of `Inspected` that prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        if not self:
            return "no recurrence"
        columns = list(zip(HEAD, *map(_row, self), strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = zip(*columns, strict=True)
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def inspect(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Inspection:
    """List the recurrences in the compiled program of `function`, and what runs each one.

    The program is the one that a call with these arguments would compile, with its gradients,
    `vmap`, loops and branches; `inspect` only lowers it. A recurrence is listed as often as the
    program contains it: one inside a loop once, those of a `cond` for both branches.

        >>> cell = lj.GRU(4)
        >>> params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size=3))
        >>> xs = jax.ShapeDtypeStruct((50, 8, 3), "float32")
        >>> loss = lambda params, xs: lj.unroll(cell, params, xs)[1].sum()
        >>> print(lj.inspect(jax.grad(loss), params, xs))
        run by  call        cell                T   batch  D  H  dtype    direction  why not faster
        native  run         GRU(hidden_size=4)  50  8      3  4  float32  forwards
        native  transposed  GRU(hidden_size=4)  50  8      3  4  float32  forwards

    Args:
        function: a function, jitted or not, such as `lj.unroll` itself.
        args, kwargs: the arguments of `function`. Arrays may be `jax.ShapeDtypeStruct`. If the
            function is not jitted, arguments that are not arrays become constants.

    Returns:
        An `Inspection`, a tuple of `Inspected` in the program's order. It lacks the recurrences of
        a program that another process exported. It also lacks the forward run of a recurrence
        under "scan", "associative" or "newton" inside `jax.checkpoint` (or with `remat`): JAX drops
        its name.

    Raises:
        ValueError: `function` is not callable.
        NotImplementedError: an implementation given by name cannot run a recurrence.
    """
    if not callable(function) or isinstance(function, type):
        remedy = "pass it and its arguments apart, as in inspect(lstm_jax.unroll, cell, params, xs)"
        raise fail("function", shown(function), "a function", remedy)
    if not hasattr(function, "lower"):
        function, args, kwargs = _of_arrays(function, args, kwargs)
    lowered = jax.jit(function).lower if not hasattr(function, "lower") else function.lower
    return Inspection(_recurrences(lowered(*args, **kwargs).compiler_ir("stablehlo")))


def _of_arrays(function: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """Close over every argument but the arrays: (function of the arrays, (arrays,), {})."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {k: x for k, x in enumerate(leaves) if hasattr(x, "shape") and hasattr(x, "dtype")}

    def of_arrays(arrays: dict[int, Any]) -> Any:
        args, kwargs = tree.unflatten([arrays.get(k, x) for k, x in enumerate(leaves)])
        return function(*args, **kwargs)

    return of_arrays, (arrays,), {}


# ---- the program ---------------------------------------------------------------------------------
CALLEES = ("callee", "decomposition", "called_computations")
"""Attributes by which an operation names the functions of the module that it calls."""

LOCATION = re.compile(r'loc\("((?:[^"\\]|\\.)*)"')


def _recurrences(module: Any) -> Iterator[Inspected]:
    """Find the recurrences of a StableHLO module, following its calls from function to function."""
    functions = {
        str(op.attributes["sym_name"]).strip('"'): op
        for op in module.body.operations
        if "sym_name" in op.attributes
    }

    def of_call(function: Any, path: str) -> Iterator[Inspected]:
        seen = set()
        for op in _operations(function):
            found = LOCATION.match(str(op.location))
            where = f"{path}/{found.group(1) if found else ''}"
            for name in NAME.findall(where.removeprefix(path)):
                # JAX names the transposed operations of a recurrence like the recurrence.
                each = name, _goes_back(where)
                if name in RECORDS and each not in seen:
                    seen.add(each)
                    yield _as_seen(RECORDS[name], where)
            for callee in _callees(op):
                if callee in functions:
                    yield from of_call(functions[callee], where)

    return of_call(functions["main"], "")


def _operations(op: Any) -> Iterator[Any]:
    """Every operation inside an operation, in order."""
    for region in op.regions:
        for block in region:
            for child in block:
                yield child.operation
                yield from _operations(child.operation)


def _callees(op: Any) -> list[str]:
    names = [str(op.attributes[name]) for name in CALLEES if name in op.attributes]
    return [
        callee.strip('"') for name in names for callee in re.findall(r'@("[^"]*"|[\w.$-]+)', name)
    ]


def _goes_back(where: str) -> bool:
    """True in a transposed computation, except where `jax.checkpoint` recomputes the forward."""
    return "transpose(" in where and "rematted_computation" not in where


def _as_seen(record: Inspected, where: str) -> Inspected:
    """Set call="transposed" in the record of a recurrence that JAX itself has transposed."""
    if record.implementation in ("scan", "associative", "newton") and _goes_back(where):
        return Inspected(**{**vars(record), "call": "transposed"})
    return record


# ---- the table -----------------------------------------------------------------------------------
HEAD = (
    "run by", "call", "cell", "T", "batch", "D", "H", "dtype", "direction", "why not faster"
)  # fmt: skip


def _row(record: Inspected) -> tuple[str, ...]:
    batch = "x".join(map(str, record.batch)) or "none"
    sizes = (str(record.steps), batch, str(record.input_size), str(record.hidden_size))
    direction = "backwards" if record.reverse else "forwards"
    who = (record.implementation, record.call, record.cell)
    return (*who, *sizes, record.dtype, direction, record.why or "")
