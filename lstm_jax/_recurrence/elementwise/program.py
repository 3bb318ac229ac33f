"""Translation of a cell's function from its jaxpr to a program of elementwise instructions.

The function is elementwise over the batch, so each of its arrays is [B, n], with one row for each
sequence, or is shared by all sequences. In the program each array is a `View` of a register, an
argument, a result or the constants. Any engine can use the program: one may interpret it, another
may print it as source code.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import Literal, inner_jaxpr, name_of, needed
from ..jaxprs import OTHERS, ROWS, VIEWS, Untranslatable, without_devices
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


def translate(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    operations: Sequence[str],
    aliases: Mapping[int, int],
) -> Program:
    """Translate `function`, which takes arrays and returns a list of arrays, into a program.

    It is translated for two batch sizes. If the programs differ, the function depends on the batch
    size, or an axis was mistaken for the batch axis, and the translation is refused.

    Args:
        function: a function elementwise over the batch.
        arguments: (shape, dtype, shared) of each argument, the shape without the batch axis; an
            argument that all sequences share has none. All have the dtype of the program.
        operations: names of the instructions that exist.
        aliases: index of a result to index of the argument whose memory it may reuse.

    Raises:
        Untranslatable: an operation has no instruction; the message names it.
    """
    one, other = (_translated(function, arguments, operations, n, aliases) for n in (ROWS, OTHERS))
    if one != other:
        raise Untranslatable("update looks at the number of sequences, or has an axis as long")
    return one


def _translated(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    operations: Sequence[str],
    rows: int,
    aliases: Mapping[int, int],
) -> Program:
    """Translate `function` for a batch of `rows` sequences; see `translate`."""
    types = [
        jax.ShapeDtypeStruct(shape if shared else (rows, *shape), dtype)
        for shape, dtype, shared in arguments
    ]
    with without_devices():
        traced = jax.make_jaxpr(function)(*types)
    if traced.effects:
        raise unknown("a side effect")
    writer = Writer(operations, rows, np.dtype(arguments[0][1]))
    translator = _Translator(writer)
    translator.whole(traced, arguments)
    code = simplified(writer.code, writer.constants, writer.register)
    return Program(
        code=tuple(code),
        constants=np.asarray(writer.constants, np.float64).tobytes(),
        registers=tuple(writer.sizes.items()),
        arrays=tuple(translator.arrays.items()),
        shapes=tuple(shape for shape, _, _ in arguments),
        aliases=tuple((FIRST + len(arguments) + r, FIRST + a) for r, a in aliases.items()),
    )


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
        of_sums = any([isinstance(v, Sum) for v in inputs])
        outs = self._of_sums(eqn, inputs) if of_sums else self.to.equation(eqn, inputs)
        shapes = [var.aval.shape for var in eqn.outvars]
        return [self.to.proven(out, shape) for out, shape in zip(outs, shapes, strict=True)]

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
