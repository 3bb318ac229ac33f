"""A function of a cell, from its jaxpr to the instructions of the kernel's machine.

The function is elementwise over the batch, so its arrays are [B, n] or do not depend on the
sequence. In the program each is a view of a register, of an operand or of the constants: which of
them, an offset, and the distance between its rows and its elements, zero where all are one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import Literal, inner_jaxpr, name_of, needed
from .bounds import check
from .instructions import FIRST, Instruction, View
from .jaxprs import VIEWS, Untranslatable, without_devices
from .primitives import Sum, Writer, unknown
from .registers import allocated, coalesced, placed
from .simplify import simplified


class Program(NamedTuple):
    """Instructions, the numbers in them, and the registers that they need."""

    code: np.ndarray  # int32 [instructions, 19]
    constants: np.ndarray
    scratch: int  # elements
    block: int  # rows

    def same(self, other: "Program") -> bool:
        """Whether `other` does the same, to the last bit."""
        arrays = zip(self[:2], other[:2], strict=True)
        return self[2:] == other[2:] and all(a.tobytes() == b.tobytes() for a, b in arrays)


BATCHES = 65537, 65539
"""Numbers of rows to translate for, primes; a program must not tell which."""

BLOCK = 512
"""Elements of a register: some of them at a time fit the first cache."""


def translate(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    operations: Sequence[str],
    aliases: Mapping[int, int],
) -> Program:
    """The program of `function`, a flat function of flat arguments.

    It is the same for two numbers of rows, so an axis that is taken for the rows by its size, or a
    number that was made of theirs, is found out.

    Args:
        function: of the arguments with rows.
        arguments: (shape, dtype, shared) of each, without an axis of rows, which those that are
            shared do not get; all of one dtype, the machine's own.
        operations: the names of the machine's instructions, in its order.
        aliases: result to argument, by their places, which may lie in the same memory.

    Raises:
        Untranslatable: the message names the operation.
    """
    one, other = (_translated(function, arguments, operations, n, aliases) for n in BATCHES)
    if not one.same(other):
        raise Untranslatable("update looks at the number of sequences, or has an axis as long")
    return one


def _translated(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    operations: Sequence[str],
    batch: int,
    aliases: Mapping[int, int],
) -> Program:
    """As `translate`, from a trace with `batch` rows."""
    types = [
        jax.ShapeDtypeStruct(shape if shared else (batch, *shape), dtype)
        for shape, dtype, shared in arguments
    ]
    with without_devices():
        jaxpr = jax.make_jaxpr(function)(*types)
    if jaxpr.effects:
        raise unknown("a side effect")
    widest = max((math.prod(shape) for shape, _, _ in arguments), default=1)
    block = max(1, min(64, BLOCK // max(1, widest // 4)))
    shared = {FIRST + len(arguments) + r: FIRST + a for r, a in aliases.items()}
    translator = _Translator(Writer(operations, batch, np.dtype(arguments[0][1])))
    translator.whole(jaxpr, arguments)
    return _assembled(translator, block, shared)


class _Translator:
    """One pass over the jaxpr. arrays: the whole of each argument and result."""

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
        """Where a result belongs; one without rows is a sum over them."""
        n, rows = self.to.features(aval.shape), self.to.has_rows(aval.shape)
        view = View(base, 0, n if rows else 0, 1, n, rows)
        self.arrays[base] = view
        if isinstance(value, Sum):
            self.to.emit("accumulate", (value.of,), view)
        elif rows:
            self.to.emit("copy", (value,), view)
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
        of_sums = any(isinstance(v, Sum) for v in inputs)
        outs = self._of_sums(eqn, inputs) if of_sums else self.to.equation(eqn, inputs)
        shapes = [var.aval.shape for var in eqn.outvars]
        return [self.to.proven(out, shape) for out, shape in zip(outs, shapes, strict=True)]

    def _of_sums(self, eqn: Any, inputs: list[Any]) -> Sequence[Any]:
        """A linear function of a sum over the batch is the sum of that function."""
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
        # A sum stays in the machine's dtype until it is whole.
        outs = inner if name == "convert_element_type" else self.to.equation(eqn, inner)
        return [Sum(out) for out in outs]


def _assembled(translator: _Translator, block: int, aliases: Mapping[int, int]) -> Program:
    """What the machine gets."""
    writer = translator.to
    code = simplified(writer.code, writer.constants, writer.register)
    sizes = writer.sizes.items()  # After simplified, which asks for registers of its own.
    rows = {root: n for root, (n, _) in sizes}
    elements = {root: n * (block if batched else 1) for root, (n, batched) in sizes}
    code = coalesced(code, rows, aliases)
    places, scratch = allocated(code, elements)
    check(code, translator.arrays, writer.sizes, len(writer.constants))
    encoded = [_encoded(it, places, writer.operations) for it in code]
    numbers = np.asarray(encoded, np.int32).reshape(-1, 19)
    return Program(numbers, np.asarray(writer.constants), scratch, block)


def _encoded(it: Instruction, places: Mapping[int, int], operations: Sequence[str]) -> list[int]:
    """As struct Instruction in kernel.cc."""
    views = [it.out, *it.inputs]
    views += [it.inputs[0]] * (4 - len(views))
    op, each_row = operations.index(it.op), int(it.out.batched)
    return [op, it.n, each_row, *(x for v in views for x in placed(v, places).operand())]
