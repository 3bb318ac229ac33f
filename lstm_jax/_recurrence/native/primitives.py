"""What each primitive of JAX becomes: views and instructions of the kernel's machine.

Slices, broadcasts and reshapes are views and cost nothing; a primitive without a method here is one
instruction.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import name_of
from .instructions import CONSTANTS, SCRATCH, Code, Instruction, View
from .jaxprs import VIEWS, Untranslatable

NAMES = {"and": "and_", "or": "or_", "not": "not_", "xor": "ne"}
"""Primitives whose instructions have other names."""

ROUNDINGS = {"bfloat16": "bfloat16", "float16": "half", "float32": "single"}
"""The instructions that round to a narrower dtype than the machine's."""


def unknown(what: str) -> Untranslatable:
    """What the machine has no instruction for (raise what this returns)."""
    return Untranslatable(f"update has {what}, which the kernel has no instruction for")


class Sum(NamedTuple):
    """The sum over the rows of a view: only a result may be one."""

    of: View


class Writer:
    """Writes instructions, one equation after another.

    operations: the names of the machine's; dtype: its own; batch: rows, the size of no other axis.
    """

    def __init__(self, operations: Sequence[str], batch: int, dtype: np.dtype):
        self.operations, self.batch, self.dtype = list(operations), batch, dtype
        self.code: Code = []
        self.constants: list[float] = []
        self.sizes: dict[int, tuple[int, bool]] = {}  # of registers: elements a row, and batched

    def equation(self, eqn: Any, inputs: Sequence[View]) -> Sequence[Any]:
        """Its results, each a view or a `Sum`."""
        name = name_of(eqn)
        special: Any = getattr(self, f"_{name}", None)
        op = str(NAMES.get(name, name))
        if special is None and op not in self.operations:
            raise unknown(name)
        if name not in VIEWS:
            self._check_dtype(eqn)
        if special is None:
            return [self.emit(op, tuple(inputs))]
        outs = special(eqn, *inputs)
        return outs if isinstance(outs, list) else [outs]

    def _check_dtype(self, eqn: Any) -> None:
        """Numbers are computed with in the machine's dtype: not in a narrower or a wider one."""
        for var in eqn.outvars:
            if var.aval.dtype not in (self.dtype, np.dtype(bool)):
                raise unknown(f"{name_of(eqn)} in {var.aval.dtype}")

    # ---- values ----------------------------------------------------------------------------------
    def has_rows(self, shape: Sequence[int]) -> bool:
        return bool(shape) and shape[0] == self.batch

    def features(self, shape: Sequence[int]) -> int:
        return math.prod(shape[1:] if self.has_rows(shape) else shape)

    def constant(self, value: np.ndarray) -> View:
        n, numbers = self.features(value.shape), np.asarray(value, np.float64).reshape(-1)
        if np.all(numbers == numbers[:1]):
            numbers = numbers[:1]
        elif self.has_rows(value.shape):
            raise unknown("a constant that differs from sequence to sequence")
        self.constants.extend(numbers)
        return View(
            CONSTANTS, len(self.constants) - len(numbers), 0, int(len(numbers) > 1), n, False
        )

    def is_zero(self, value: View) -> bool:
        return value.base == CONSTANTS and not value.elem and self.constants[value.offset] == 0

    def repeated(self, value: View, n: int) -> View:
        """One number for n where a value has but one."""
        return value if value.n == n else value._replace(n=n, elem=0)

    def register(self, n: int, batched: bool) -> View:
        root = len(self.sizes)
        self.sizes[root] = n, batched
        return View(SCRATCH, 0, n if batched else 0, int(n != 1), n, batched, root)

    def emit(self, op: str, inputs: tuple[View, ...], out: View | None = None) -> View:
        n = max(v.n for v in inputs)
        if out is None:
            out = self.register(n, any(v.batched for v in inputs))
        self.code.append(Instruction(op, out.n, out, inputs))
        return out

    # ---- views -----------------------------------------------------------------------------------
    # Axes of features lie one after another in a row, whatever their number.
    def _view(self, eqn: Any, value: Any) -> Any:
        shape = eqn.outvars[0].aval.shape
        n = self.features(shape)
        if n == value.n or value.n == 1:
            return self.repeated(value, n)
        raise unknown(f"{name_of(eqn)} to {shape}")

    _broadcast_in_dim = _reshape = _squeeze = _expand_dims = _copy = _copy_p = _view
    _stop_gradient = _view  # What is translated is a value, or a derivative already.
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
        one = math.prod(shape[1:last] if self.has_rows(shape) else shape[:last]) == 1
        if eqn.params["strides"] is not None or not whole or not one:
            raise unknown("slice of other than the last axis")
        return self._part(value, start[last], limit[last])

    def _part(self, value: View, start: int, stop: int) -> View:
        return value._replace(offset=value.offset + start * value.elem, n=stop - start)

    def _split(self, eqn: Any, value: View) -> list[Any]:
        shape, axis = eqn.invars[0].aval.shape, eqn.params["axis"]
        if axis != len(shape) - 1 or self.features(shape) != shape[-1]:
            raise unknown("split of other than the last axis")
        ends = np.cumsum([0, *eqn.params["sizes"]])
        return [self._part(value, int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def _concatenate(self, eqn: Any, *values: View) -> View:
        shape = eqn.outvars[0].aval.shape
        if eqn.params["dimension"] != len(shape) - 1 or self.features(shape) != shape[-1]:
            raise unknown("concatenate of other than the last axis")
        whole = self.register(shape[-1], any(v.batched for v in values))
        at = 0
        for value in values:
            self.emit("copy", (value,), self._part(whole, at, at + value.n)._replace(elem=1))
            at += value.n
        return whole

    def _pad(self, eqn: Any, value: View, filling: View) -> View:
        shape, config = eqn.outvars[0].aval.shape, eqn.params["padding_config"]
        if any(low or high or inner for low, high, inner in config[:-1]) or config[-1][2]:
            raise unknown("pad of other than the last axis")
        low, high, _ = config[-1]
        if min(low, high) < 0 or self.features(shape) != shape[-1]:
            raise unknown("pad of other than the last axis")
        whole, n = self.register(shape[-1], value.batched), shape[-1]
        for a, b, what in ((0, low, filling), (low, n - high, value), (n - high, n, filling)):
            if a < b:
                what = what if what is value else what._replace(n=b - a)
                self.emit("copy", (what,), self._part(whole, a, b)._replace(elem=1))
        return whole

    def _convert_element_type(self, eqn: Any, value: Any) -> Any:
        old, new = np.dtype(eqn.invars[0].aval.dtype), np.dtype(eqn.params["new_dtype"])
        if value.base == CONSTANTS and new == self.dtype:
            return value
        if new == np.dtype(bool) != old:
            return self.emit("ne", (value, self.constant(np.zeros(()))))
        if jnp.issubdtype(old, np.integer) or new.itemsize > self.dtype.itemsize:
            raise unknown(f"a conversion from {old} to {new}")
        if old in (np.dtype(bool), new) or (new == self.dtype and old.itemsize < new.itemsize):
            return value
        if ROUNDINGS.get(new.name) not in self.operations:
            raise unknown(f"a conversion to {new}")
        return self.emit(ROUNDINGS[new.name], (value,))

    def _round(self, eqn: Any, value: View) -> View:
        if eqn.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
            raise unknown("round of halves away from zero")
        return self.emit("round", (value,))

    # ---- sums, powers ----------------------------------------------------------------------------
    def _reduce_sum(self, eqn: Any, value: View) -> Any:
        shape, axes = eqn.invars[0].aval.shape, eqn.params["axes"]
        if not self.has_rows(shape) or 0 not in axes:
            return self._over_features("sum", shape, axes, value)
        return Sum(self._over_features("sum", shape, axes[1:], value) if axes[1:] else value)

    def _reduce_max(self, eqn: Any, value: View) -> Any:
        return self._over_features("largest", eqn.invars[0].aval.shape, eqn.params["axes"], value)

    def _over_features(self, op: str, shape: Any, axes: Any, value: View) -> View:
        features = range(1, len(shape)) if self.has_rows(shape) else range(len(shape))
        if math.prod(shape[a] for a in features if a not in axes) != 1:
            raise unknown("a sum or a maximum over some of the axes")
        out = self.register(1, value.batched)
        self.code.append(Instruction(op, value.n, out, (value,)))
        return out

    def _integer_pow(self, eqn: Any, value: View) -> View:
        y, one = eqn.params["y"], self.constant(np.ones(()))
        power = value if y else one._replace(n=value.n)
        for _ in range(abs(y) - 1):
            power = self.emit("mul", (power, value))
        return power if y >= 0 else self.emit("div", (one, power))

    def _square(self, eqn: Any, value: View) -> View:
        return self.emit("mul", (value, value))

    def _one_minus_square(self, eqn: Any, value: View) -> View:
        """Of which simplify.py makes a derivative of tanh, where it is one."""
        return self.emit("dtanh", (self.constant(np.ones(())), value))

    def _exp_neg_sq(self, eqn: Any, value: View) -> View:
        return self.emit("exp", (self.emit("neg", (self._square(eqn, value),)),))

    def _log2(self, eqn: Any, value: View) -> View:
        return self.emit("div", (self.emit("log", (value,)), self.constant(np.log(2.0))))

    def _polynomial(self, eqn: Any, value: View, *coefficients: View) -> View:
        """By Horner's rule; the constant one comes first."""
        out = coefficients[-1]
        for coefficient in coefficients[-2::-1]:
            out = self.emit("add", (self.emit("mul", (out, value)), coefficient))
        return self.repeated(out, value.n)

    def _select_n(self, eqn: Any, which: View, *values: View) -> View:
        if len(values) != 2:
            raise unknown("a choice of more than two")
        return self.emit("select", (which, *values))

    def _clamp(self, eqn: Any, low: View, value: View, high: View) -> View:
        return self.emit("min", (self.emit("max", (value, low)), high))

    def _add_any(self, eqn: Any, a: View, b: View) -> View:
        return self.emit("add", (a, b))
