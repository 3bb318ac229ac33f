"""A function of a cell, from its jaxpr to the instructions of the kernel's machine.

The function is elementwise over the batch, so its arrays are [B, n] or do not depend on the
sequence. In the program each is a view of a register, of an operand or of the constants: which of
them, an offset, and the distance between its rows and its elements, zero where all are one. Slices,
broadcasts and reshapes are views and cost nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from .instructions import CONSTANTS, FIRST, SCRATCH, Code, Instruction, View
from .jaxprs import VIEWS, Untranslatable, inner_jaxpr, needed, without_devices
from .registers import allocated, coalesced, placed
from .simplify import simplified


def unknown(what: str) -> Untranslatable:
    """What the machine has no instruction for (raise what this returns)."""
    return Untranslatable(f"update has {what}, which the kernel has no instruction for")


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
    return _Translator(list(operations), batch, block, dtype, shared).whole(jaxpr, arguments)


class _Translator:
    """One pass over the jaxpr."""

    def __init__(
        self, operations: list[str], batch: int, block: int, dtype: np.dtype, aliases: Any
    ):
        self.aliases = aliases
        self.operations, self.batch, self.block, self.dtype = operations, batch, block, dtype
        self.code: Code = []
        self.constants: list[float] = []
        self.sizes: dict[
            int, tuple[int, bool]
        ] = {}  # of the registers: elements a row, and batched

    def whole(self, jaxpr: Any, arguments: Sequence[Any]) -> Program:
        views = [self._argument(k, *a) for k, a in enumerate(arguments)]
        consts = [self._constant(np.asarray(c)) for c in jaxpr.consts]
        outs = self._run(jaxpr.jaxpr, [*consts, *views])
        for k, (out, var) in enumerate(zip(outs, jaxpr.jaxpr.outvars, strict=True)):
            self._result(FIRST + len(arguments) + k, out, var.aval)
        return self._assembled()

    def _argument(self, k: int, shape: Any, dtype: Any, shared: bool) -> View:
        del dtype
        n = math.prod(shape) // (1 if shared else self.batch)
        return View(FIRST + k, 0, 0 if shared else n, int(n != 1), n, not shared)

    def _result(self, base: int, value: Any, aval: Any) -> None:
        """Where a result belongs; one without rows is a sum over them."""
        n = self._features(aval.shape)
        if isinstance(value, _Sum):
            self.code.append(
                Instruction("accumulate", n, View(base, 0, 0, 1, n, False), (value.of,))
            )
        elif self._has_rows(aval.shape):
            self._emit("copy", (self._repeated(value, n),), out=View(base, 0, n, 1, n, True))
        elif not self._is_zero(value):  # A sum begins as zeros.
            raise unknown("a derivative that is the same for every sequence")

    # ---- values ----------------------------------------------------------------------------------
    def _has_rows(self, shape: Sequence[int]) -> bool:
        return bool(shape) and shape[0] == self.batch

    def _features(self, shape: Sequence[int]) -> int:
        return math.prod(shape[1:] if self._has_rows(shape) else shape)

    def _constant(self, value: np.ndarray) -> View:
        n, numbers = self._features(value.shape), np.asarray(value, np.float64).reshape(-1)
        if np.all(numbers == numbers[:1]):
            numbers = numbers[:1]
        elif self._has_rows(value.shape):
            raise unknown("a constant that differs from sequence to sequence")
        self.constants.extend(numbers)
        return View(
            CONSTANTS, len(self.constants) - len(numbers), 0, int(len(numbers) > 1), n, False
        )

    def _is_zero(self, value: View) -> bool:
        return value.base == CONSTANTS and not value.elem and self.constants[value.offset] == 0

    def _repeated(self, value: View, n: int) -> View:
        """One number for n where a value has but one."""
        return value if value.n == n else value._replace(n=n, elem=0)

    def _register(self, n: int, batched: bool) -> View:
        root = len(self.sizes)
        self.sizes[root] = n, batched
        return View(SCRATCH, 0, n if batched else 0, int(n != 1), n, batched, root)

    def _emit(self, op: str, inputs: tuple[View, ...], out: View | None = None) -> View:
        n = max(v.n for v in inputs)
        if out is None:
            out = self._register(n, any(v.batched for v in inputs))
        self.code.append(Instruction(op, out.n, out, inputs))
        return out

    # ---- equations -------------------------------------------------------------------------------
    def _run(self, jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

        def read(atom):
            return self._constant(np.asarray(atom.val)) if isinstance(atom, Literal) else env[atom]

        for eqn in needed(jaxpr):
            outs = self._equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Any]) -> Sequence[Any]:
        name, inner = eqn.primitive.name, inner_jaxpr(eqn)
        if inner is not None:
            consts = [self._constant(np.asarray(c)) for c in inner.consts]
            return self._run(inner.jaxpr, [*consts, *inputs])
        if any(isinstance(v, _Sum) for v in inputs):
            return self._of_sums(eqn, inputs)
        special: Any = getattr(self, f"_{name}", None)
        op = str(NAMES.get(name, name))
        if special is None and op not in self.operations:
            raise unknown(name)
        if name not in VIEWS:
            self._check_dtype(eqn)
        if special is None:
            return [self._emit(op, tuple(inputs))]
        outs = special(eqn, *inputs)
        return outs if isinstance(outs, list) else [outs]

    def _check_dtype(self, eqn: Any) -> None:
        """Numbers are computed with in the machine's dtype: not in a narrower or a wider one."""
        for var in eqn.outvars:
            if var.aval.dtype not in (self.dtype, np.dtype(bool)):
                raise unknown(f"{eqn.primitive.name} in {var.aval.dtype}")

    def _of_sums(self, eqn: Any, inputs: list[Any]) -> Sequence[Any]:
        """A linear function of a sum over the batch is the sum of that function."""
        name, sums = eqn.primitive.name, [isinstance(v, _Sum) for v in inputs]
        linear = (
            name in (*VIEWS, "neg", "reduce_sum")
            or (name in ("add", "add_any", "sub") and all(sums))
            or (name == "mul" and not all(sums))
            or (name == "div" and not sums[1])
            or (name == "pad" and self._is_zero(inputs[1]))
        )
        if not linear or any(self._has_rows(var.aval.shape) for var in eqn.outvars):
            raise unknown(f"{name} of a sum over the batch")
        inner = [v.of if isinstance(v, _Sum) else v for v in inputs]
        # A sum stays in the machine's dtype until it is whole.
        outs = inner if name == "convert_element_type" else self._equation(eqn, inner)
        return [_Sum(out) for out in outs]

    # Views. Axes of features lie one after another in a row, whatever their number.
    def _view(self, eqn: Any, value: Any) -> Any:
        shape = eqn.outvars[0].aval.shape
        n = self._features(shape)
        if n == value.n or value.n == 1:
            return self._repeated(value, n)
        raise unknown(f"{eqn.primitive.name} to {shape}")

    _broadcast_in_dim = _reshape = _squeeze = _expand_dims = _copy = _copy_p = _view
    _clip_cotangent = _view  # Forwards; what it is transposed to is plain.

    def _slice(self, eqn: Any, value: View) -> View:
        (shape, start, limit) = (
            eqn.invars[0].aval.shape,
            eqn.params["start_indices"],
            eqn.params["limit_indices"],
        )
        last = len(shape) - 1
        whole = all(
            a == 0 and b == n
            for a, b, n in zip(start[:last], limit[:last], shape[:last], strict=True)
        )
        one = math.prod(shape[1:last] if self._has_rows(shape) else shape[:last]) == 1
        if eqn.params["strides"] is not None or not whole or not one:
            raise unknown("slice of other than the last axis")
        return self._part(value, start[last], limit[last])

    def _part(self, value: View, start: int, stop: int) -> View:
        return value._replace(offset=value.offset + start * value.elem, n=stop - start)

    def _split(self, eqn: Any, value: View) -> list[Any]:
        shape, axis = eqn.invars[0].aval.shape, eqn.params["axis"]
        if axis != len(shape) - 1 or self._features(shape) != shape[-1]:
            raise unknown("split of other than the last axis")
        ends = np.cumsum([0, *eqn.params["sizes"]])
        return [self._part(value, int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def _concatenate(self, eqn: Any, *values: View) -> View:
        shape = eqn.outvars[0].aval.shape
        if eqn.params["dimension"] != len(shape) - 1 or self._features(shape) != shape[-1]:
            raise unknown("concatenate of other than the last axis")
        whole = self._register(shape[-1], any(v.batched for v in values))
        at = 0
        for value in values:
            self._emit("copy", (value,), self._part(whole, at, at + value.n)._replace(elem=1))
            at += value.n
        return whole

    def _pad(self, eqn: Any, value: View, filling: View) -> View:
        shape, config = eqn.outvars[0].aval.shape, eqn.params["padding_config"]
        if any(low or high or inner for low, high, inner in config[:-1]) or config[-1][2]:
            raise unknown("pad of other than the last axis")
        low, high, _ = config[-1]
        if min(low, high) < 0 or self._features(shape) != shape[-1]:
            raise unknown("pad of other than the last axis")
        whole, n = self._register(shape[-1], value.batched), shape[-1]
        for a, b, what in ((0, low, filling), (low, n - high, value), (n - high, n, filling)):
            if a < b:
                what = what if what is value else what._replace(n=b - a)
                self._emit("copy", (what,), self._part(whole, a, b)._replace(elem=1))
        return whole

    def _convert_element_type(self, eqn: Any, value: Any) -> Any:
        old, new = np.dtype(eqn.invars[0].aval.dtype), np.dtype(eqn.params["new_dtype"])
        if value.base == CONSTANTS and new == self.dtype:
            return value
        if new == np.dtype(bool) != old:
            return self._emit("ne", (value, self._constant(np.zeros(()))))
        if jnp.issubdtype(old, np.integer) or new.itemsize > self.dtype.itemsize:
            raise unknown(f"a conversion from {old} to {new}")
        if old in (np.dtype(bool), new) or (new == self.dtype and old.itemsize < new.itemsize):
            return value
        if ROUNDINGS.get(new.name) not in self.operations:
            raise unknown(f"a conversion to {new}")
        return self._emit(ROUNDINGS[new.name], (value,))

    def _round(self, eqn: Any, value: View) -> View:
        if eqn.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
            raise unknown("round of halves away from zero")
        return self._emit("round", (value,))

    # ---- sums, powers ----------------------------------------------------------------------------
    def _reduce_sum(self, eqn: Any, value: View) -> Any:
        shape, axes = eqn.invars[0].aval.shape, eqn.params["axes"]
        if not self._has_rows(shape) or 0 not in axes:
            return self._over_features("sum", shape, axes, value)
        return _Sum(self._over_features("sum", shape, axes[1:], value) if axes[1:] else value)

    def _reduce_max(self, eqn: Any, value: View) -> Any:
        return self._over_features("largest", eqn.invars[0].aval.shape, eqn.params["axes"], value)

    def _over_features(self, op: str, shape: Any, axes: Any, value: View) -> View:
        features = range(1, len(shape)) if self._has_rows(shape) else range(len(shape))
        if math.prod(shape[a] for a in features if a not in axes) != 1:
            raise unknown("a sum or a maximum over some of the axes")
        out = self._register(1, value.batched)
        self.code.append(Instruction(op, value.n, out, (value,)))
        return out

    def _integer_pow(self, eqn: Any, value: View) -> View:
        y, one = eqn.params["y"], self._constant(np.ones(()))
        power = value if y else one._replace(n=value.n)
        for _ in range(abs(y) - 1):
            power = self._emit("mul", (power, value))
        return power if y >= 0 else self._emit("div", (one, power))

    def _square(self, eqn: Any, value: View) -> View:
        return self._emit("mul", (value, value))

    def _select_n(self, eqn: Any, which: View, *values: View) -> View:
        if len(values) != 2:
            raise unknown("a choice of more than two")
        return self._emit("select", (which, *values))

    def _clamp(self, eqn: Any, low: View, value: View, high: View) -> View:
        return self._emit("min", (self._emit("max", (value, low)), high))

    def _add_any(self, eqn: Any, a: View, b: View) -> View:
        return self._emit("add", (a, b))

    # ---- what the machine gets -------------------------------------------------------------------
    def _assembled(self) -> Program:
        code = simplified(self.code, self.constants, self._register)
        rows = {root: n for root, (n, _) in self.sizes.items()}
        elements = {
            root: n * (self.block if batched else 1) for root, (n, batched) in self.sizes.items()
        }
        code = coalesced(code, rows, self.aliases)
        places, scratch = allocated(code, elements)
        encoded = np.asarray([self._encoded(it, places) for it in code], np.int32).reshape(-1, 19)
        return Program(encoded, np.asarray(self.constants), scratch, self.block)

    def _encoded(self, it: Instruction, places: dict[int, int]) -> list[int]:
        """As struct Instruction in kernel.cc."""
        views = [it.out, *it.inputs]
        views += [it.inputs[0]] * (4 - len(views))
        op, each_row = self.operations.index(it.op), int(it.out.batched)
        return [op, it.n, each_row, *(x for v in views for x in placed(v, places).operand())]


class _Sum(NamedTuple):
    """The sum over the rows of a view: only a result may be one."""

    of: View


NAMES = {"and": "and_", "or": "or_", "not": "not_", "xor": "ne"}
"""Primitives whose instructions have other names."""

ROUNDINGS = {"bfloat16": "bfloat16", "float16": "half", "float32": "single"}
"""The instructions that round to a narrower dtype than the machine's."""
