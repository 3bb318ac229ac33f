"""Translation of a cell's function from its jaxpr to a program of elementwise instructions.

The function is elementwise over the batch, so each of its arrays is [B, n], with one row for each
sequence, or is shared by all sequences. In the program each array is a `View` of a register, an
argument, a result or the constants. Any engine can use the program: one may interpret it, another
may print it as source code.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import Literal, inner_jaxpr, name_of, needed
from ..alike import check_alike
from ..jaxprs import ROWS, VIEWS, without_settings
from .instructions import FIRST, Instruction, View
from .primitives import Sum, Writer, unknown
from .simplify import simplified


class Program(NamedTuple):
    """An elementwise program: instructions and all that they refer to; hashable.

    Attributes:
        code: instructions in the order of execution.
        constants: the float64 constants as bytes: -0.0 equals 0.0 as a number, not as bytes.
        registers: (number, (elements in a row, batched or not)) of each register.
        arrays: (base, view of the whole array) of each argument, then of each result.
        shapes: shapes of the arguments, without the batch axis.
        aliases: pairs (base of a result, base of an argument) that may share memory.
    """

    code: tuple[Instruction, ...]
    constants: bytes
    registers: tuple[tuple[int, tuple[int, bool]], ...]
    arrays: tuple[tuple[int, View], ...]
    shapes: tuple[tuple[int, ...], ...]
    aliases: tuple[tuple[int, int], ...]

    def numbers(self) -> np.ndarray:
        """Return the constants as an array."""
        return np.frombuffer(self.constants, np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Elementwise:
    """A function elementwise over the batch, which takes arrays and returns a list of arrays.

    Attributes:
        function: the function.
        arguments: (shape, dtype, shared) of each argument, the shape without the batch axis; an
            argument that all sequences share has none. All have the dtype of the program.
        aliases: index of a result to index of the argument whose memory it may reuse.
    """

    function: Callable[..., Any]
    arguments: Sequence[Any]
    aliases: Mapping[int, int]

    def trace(self, rows: int) -> Any:
        """Make the closed jaxpr of the function for `rows` sequences."""
        types = [
            jax.ShapeDtypeStruct(shape if shared else (rows, *shape), dtype)
            for shape, dtype, shared in self.arguments
        ]
        with without_settings():
            return jax.make_jaxpr(self.function)(*types)

    @functools.cached_property
    def jaxpr(self) -> Any:
        """The closed jaxpr for ROWS sequences, which is translated."""
        return self.trace(ROWS)


@functools.lru_cache(maxsize=1024)
def translate(of: Elementwise, operations: Sequence[str]) -> Program:
    """Translate a function into a program of the instructions named in `operations`.

    Raises:
        Untranslatable: an operation has no instruction; the message names it.
    """
    traced, arguments = of.jaxpr, of.arguments
    if traced.effects:
        raise unknown("a side effect")
    writer = Writer(operations, np.dtype(arguments[0][1]))
    translator = _Translator(writer)
    translator.whole(traced, arguments)
    code = simplified(writer.code, writer.constants, writer.register)
    return Program(
        code=tuple(code),
        constants=np.asarray(writer.constants, np.float64).tobytes(),
        registers=tuple(writer.sizes.items()),
        arrays=tuple(translator.arrays.items()),
        shapes=tuple(shape for shape, _, _ in arguments),
        aliases=tuple((FIRST + len(arguments) + r, FIRST + a) for r, a in of.aliases.items()),
    )


@functools.lru_cache(maxsize=1024)
def check_for(of: Elementwise, rows: int) -> None:
    """Raise `Untranslatable` if the program of a function does not hold for `rows` sequences."""
    check_alike(of.jaxpr, of.trace, rows, "update")


class _Translator:
    """One pass over a jaxpr. arrays: a view of the whole of each argument and result, by base."""

    def __init__(self, writer: Writer):
        self.to = writer
        self.arrays: dict[int, View] = {}

    def whole(self, jaxpr: Any, arguments: Sequence[Any]) -> None:
        views = [self._argument(k, *a) for k, a in enumerate(arguments)]
        consts = [self.to.constant(np.asarray(c)) for c in jaxpr.consts]
        outs = self._run(jaxpr.jaxpr, [*consts, *views])
        for k, (out, var) in enumerate(zip(outs, jaxpr.jaxpr.outvars, strict=True)):
            self._result(FIRST + len(arguments) + k, out, var.aval)

    def _argument(self, k: int, shape: Any, dtype: Any, shared: bool) -> View:
        del dtype
        n = math.prod(shape)
        view = View(FIRST + k, 0, 0 if shared else n, int(n != 1), n, not shared)
        self.arrays[view.base] = view
        return view

    def _result(self, base: int, value: Any, aval: Any) -> None:
        """Write a value to its result array; a result without a batch axis must be a `Sum`."""
        n, rows = self.to.features(aval.shape), self.to.has_rows(aval.shape)
        view = View(base, 0, n if rows else 0, 1, n, rows)
        self.arrays[base] = view
        if isinstance(value, Sum):
            self.to.emit("accumulate", (value.of,), view)
        elif rows:
            self.to.emit("copy", (value,), view)
        elif not self.to.is_zero(value):  # The array of a sum starts as zeros.
            raise unknown("a derivative that is the same for every sequence")

    def _run(self, jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

        def read(atom):
            return (
                self.to.constant(np.asarray(atom.val)) if isinstance(atom, Literal) else env[atom]
            )

        for eqn in needed(jaxpr):
            outs = self._equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Any]) -> Sequence[Any]:
        inner = inner_jaxpr(eqn)
        if inner is not None:
            consts = [self.to.constant(np.asarray(c)) for c in inner.consts]
            return self._run(inner.jaxpr, [*consts, *inputs])
        of_sums = Sum in map(type, inputs)
        outs = self._of_sums(eqn, inputs) if of_sums else self.to.equation(eqn, inputs)
        pairs = zip(outs, eqn.outvars, strict=True)
        return [self.to.proven(out, var.aval.shape) for out, var in pairs]

    def _of_sums(self, eqn: Any, inputs: list[Any]) -> Sequence[Any]:
        """Apply a linear function to a `Sum`: to each row, to be summed afterwards."""
        name, sums = name_of(eqn), [isinstance(v, Sum) for v in inputs]
        pairs = list(zip(sums, inputs, strict=True))
        linear = {
            "add": all(sums),
            "add_any": all(sums),
            "sub": all(sums),
            "mul": not all(sums),
            "div": not sums[-1],
            "select_n": not sums[0] and all(s or self.to.is_zero(v) for s, v in pairs[1:]),
            "pad": self.to.is_zero(inputs[-1]),
            "concatenate": all(s or self.to.is_zero(v) for s, v in pairs),
            "convert_element_type": jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating),
        }.get(name, name in (*VIEWS, "neg", "reduce_sum"))
        if not linear or any(self.to.has_rows(var.aval.shape) for var in eqn.outvars):
            raise unknown(f"{name} of a sum over the batch")
        inner = [v.of if isinstance(v, Sum) else v for v in inputs]
        # A sum is rounded only once it is complete.
        outs = inner if name == "convert_element_type" else self.to.equation(eqn, inner)
        return [Sum(out) for out in outs]
