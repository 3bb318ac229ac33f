"""A function of a cell, from its jaxpr to the instructions of the kernel's machine.

The function is elementwise over the batch, so its arrays are [B, n] or do not depend on the
sequence. In the program each is a view of a register, of an operand or of the constants: which of
them, an offset, and the distance between its rows and its elements, zero where all are one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..._jax import Literal, inner_jaxpr, name_of, needed
from .instructions import FIRST, Instruction, View
from .jaxprs import VIEWS, without_devices
from .primitives import Sum, Writer, unknown
from .registers import allocated, coalesced, placed
from .simplify import simplified


class Program(NamedTuple):
    """Instructions, the numbers in them, and the registers that they need."""

    code: np.ndarray  # int32 [instructions, 19]
    constants: np.ndarray
    scratch: int  # elements
    block: int  # rows


BLOCK = 512
"""Elements of a register: some of them at a time fit the first cache."""


def translate(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    operations: Sequence[str],
    batch: int,
    aliases: Mapping[int, int],
) -> Program:
    """The program of `function`, a flat function of flat arguments.

    Args:
        function: of the arguments with `batch` rows.
        arguments: (shape, dtype, shared) of each; all of one dtype, the machine's own; shared ones
            have no axis of rows.
        operations: the names of the machine's instructions, in its order.
        batch: rows that no other axis has as its size.
        aliases: result to argument, by their places, which may lie in the same memory.

    Raises:
        Untranslatable: the message names the operation.
    """
    with without_devices():
        jaxpr = jax.make_jaxpr(function)(*[jax.ShapeDtypeStruct(*a[:2]) for a in arguments])
    if jaxpr.effects:
        raise unknown("a side effect")
    widest = max((math.prod(a[0]) // (1 if a[2] else batch) for a in arguments), default=1)
    block = max(1, min(64, BLOCK // max(1, widest // 4)))
    dtype = np.dtype(arguments[0][1])
    shared = {FIRST + len(arguments) + r: FIRST + a for r, a in aliases.items()}
    writer = Writer(operations, batch, dtype)
    _Translator(writer).whole(jaxpr, arguments)
    return _assembled(writer, block, shared)


class _Translator:
    """One pass over the jaxpr."""

    def __init__(self, writer: Writer):
        self.to = writer

    def whole(self, jaxpr: Any, arguments: Sequence[Any]) -> None:
        views = [self._argument(k, *a) for k, a in enumerate(arguments)]
        consts = [self.to.constant(np.asarray(c)) for c in jaxpr.consts]
        outs = self._run(jaxpr.jaxpr, [*consts, *views])
        for k, (out, var) in enumerate(zip(outs, jaxpr.jaxpr.outvars, strict=True)):
            self._result(FIRST + len(arguments) + k, out, var.aval)

    def _argument(self, k: int, shape: Any, dtype: Any, shared: bool) -> View:
        del dtype
        n = math.prod(shape) // (1 if shared else self.to.batch)
        return View(FIRST + k, 0, 0 if shared else n, int(n != 1), n, not shared)

    def _result(self, base: int, value: Any, aval: Any) -> None:
        """Where a result belongs; one without rows is a sum over them."""
        n = self.to.features(aval.shape)
        if isinstance(value, Sum):
            self.to.code.append(
                Instruction("accumulate", n, View(base, 0, 0, 1, n, False), (value.of,))
            )
        elif self.to.has_rows(aval.shape):
            self.to.emit("copy", (self.to.repeated(value, n),), out=View(base, 0, n, 1, n, True))
        elif not self.to.is_zero(value):  # A sum begins as zeros.
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
        if any(isinstance(v, Sum) for v in inputs):
            return self._of_sums(eqn, inputs)
        return self.to.equation(eqn, inputs)

    def _of_sums(self, eqn: Any, inputs: list[Any]) -> Sequence[Any]:
        """A linear function of a sum over the batch is the sum of that function."""
        name, sums = name_of(eqn), [isinstance(v, Sum) for v in inputs]
        linear = (
            name in (*VIEWS, "neg", "reduce_sum")
            or (name in ("add", "add_any", "sub") and all(sums))
            or (name == "mul" and not all(sums))
            or (name == "div" and not sums[1])
            or (name == "pad" and self.to.is_zero(inputs[1]))
        )
        if not linear or any(self.to.has_rows(var.aval.shape) for var in eqn.outvars):
            raise unknown(f"{name} of a sum over the batch")
        inner = [v.of if isinstance(v, Sum) else v for v in inputs]
        # A sum stays in the machine's dtype until it is whole.
        outs = inner if name == "convert_element_type" else self.to.equation(eqn, inner)
        return [Sum(out) for out in outs]


def _assembled(writer: Writer, block: int, aliases: Mapping[int, int]) -> Program:
    """What the machine gets."""
    code = simplified(writer.code, writer.constants, writer.register)
    sizes = writer.sizes.items()  # After simplified, which asks for registers of its own.
    rows = {root: n for root, (n, _) in sizes}
    elements = {root: n * (block if batched else 1) for root, (n, batched) in sizes}
    code = coalesced(code, rows, aliases)
    places, scratch = allocated(code, elements)
    encoded = [_encoded(it, places, writer.operations) for it in code]
    numbers = np.asarray(encoded, np.int32).reshape(-1, 19)
    return Program(numbers, np.asarray(writer.constants), scratch, block)


def _encoded(it: Instruction, places: Mapping[int, int], operations: Sequence[str]) -> list[int]:
    """As struct Instruction in kernel.cc."""
    views = [it.out, *it.inputs]
    views += [it.inputs[0]] * (4 - len(views))
    op, each_row = operations.index(it.op), int(it.out.batched)
    return [op, it.n, each_row, *(x for v in views for x in placed(v, places).operand())]
