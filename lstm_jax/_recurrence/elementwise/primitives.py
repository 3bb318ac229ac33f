"""Translation of each JAX primitive into views and instructions of an elementwise program.

Slices, broadcasts and reshapes are views and cost nothing; a primitive that is not in `SPECIAL` is
one instruction. No instruction reads beyond an operand: each operand has as many elements in a row
as the result, or is one number (`fitted`), and each result has the elements and rows that its type
says (`proven`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import name_of
from ..jaxprs import ROWS, VIEWS, Untranslatable
from .instructions import CONSTANTS, SCRATCH, Code, Instruction, View

NAMES = {"and": "and_", "or": "or_", "not": "not_", "xor": "ne"}
"""Instructions by primitive, where the names differ."""

ROUNDINGS = {"bfloat16": "bfloat16", "float16": "half", "float32": "single"}
"""Instructions by the dtype that they round to, narrower than the program's."""


def unknown(what: str) -> Untranslatable:
    """Build the error for an operation without an instruction; the caller raises it."""
    return Untranslatable(f"update has {what}, which the kernel has no instruction for")


class Sum(NamedTuple):
    """The sum over the rows of a view; only a result of a program may be one."""

    of: View


class Writer:
    """Writer of instructions, one equation of a jaxpr after another.

    Args:
        operations: names of the instructions that exist.
        dtype: dtype of all numbers of the program.
    """

    def __init__(self, operations: Sequence[str], dtype: np.dtype):
        self.operations, self.dtype = operations, dtype
        self.code: Code = []
        self.constants: list[float] = []
        # By register: (elements in a row, batched or not).
        self.sizes: dict[int, tuple[int, bool]] = {}

    def equation(self, eqn: Any, inputs: Sequence[View]) -> Sequence[Any]:
        """Translate one equation into its results, each a view or `Sum`, still to be `proven`."""
        name = name_of(eqn)
        special = SPECIAL.get(name)
        op = str(NAMES.get(name, name))
        if special is None and op not in self.operations:
            raise unknown(name)
        if name not in VIEWS:
            self._check_dtype(eqn)
        if special is None:
            return [self._elementwise(op, eqn, *inputs)]
        outs: Any = special(self, eqn, *inputs)
        return outs if isinstance(outs, list) else [outs]

    def _check_dtype(self, eqn: Any) -> None:
        """Refuse an equation that computes in a dtype other than the program's."""
        for var in eqn.outvars:
            if var.aval.dtype not in (self.dtype, np.dtype(bool)):
                raise unknown(f"{name_of(eqn)} in {var.aval.dtype}")

    def proven(self, value: Any, shape: Sequence[int]) -> Any:
        """Return `value` if it has the elements and rows of `shape`, else raise."""
        rows = self.has_rows(shape)
        of, fits = (
            (value.of, not rows) if isinstance(value, Sum) else (value, rows or not value.batched)
        )
        if of.n != self.features(shape) or not fits:
            raise unknown(f"an array of shape {tuple(shape)} that is not one row for each sequence")
        return value

    # ---- values ----------------------------------------------------------------------------------
    def has_rows(self, shape: Sequence[int]) -> bool:
        return bool(shape) and shape[0] == ROWS

    def features(self, shape: Sequence[int]) -> int:
        return math.prod(shape[1:] if shape and shape[0] == ROWS else shape)

    def constant(self, value: np.ndarray) -> View:
        if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
            raise unknown(f"a constant of {value.dtype}")
        n, numbers = self.features(value.shape), np.asarray(value, np.float64).reshape(-1)
        if numbers.tobytes() == numbers[:1].tobytes() * n:
            numbers = numbers[:1]
        elif self.has_rows(value.shape):
            raise unknown("a constant that differs from sequence to sequence")
        self.constants.extend(numbers)
        return View(
            CONSTANTS, len(self.constants) - len(numbers), 0, int(len(numbers) > 1), n, False
        )

    def is_zero(self, value: View | Sum) -> bool:
        if isinstance(value, Sum) or not value.n:
            return not isinstance(value, Sum)
        return value.base == CONSTANTS and not value.elem and self.constants[value.offset] == 0

    def fitted(self, value: View, n: int) -> View:
        """Return `value` as n elements in a row: its own n, or one number repeated; else raise."""
        if value.n != n and (value.elem or not value.n):
            raise unknown(f"an operand of {value.n} elements beside {n}")
        return value._replace(n=n)

    def register(self, n: int, batched: bool) -> View:
        root = len(self.sizes)
        self.sizes[root] = n, batched
        return View(SCRATCH, 0, n if batched else 0, int(n != 1), n, batched, root)

    def emit(self, op: str, inputs: Sequence[View], out: View) -> View:
        """Append the instruction out = op(inputs), the inputs `fitted` to it; return `out`."""
        fitted = tuple([self.fitted(v, out.n) for v in inputs])
        if out.n:
            self.code.append(Instruction(op, out.n, out, fitted))
        return out

    def made(self, op: str, n: int, *inputs: View) -> View:
        """Append an instruction with its result in a new register of n elements in a row."""
        return self.emit(op, inputs, self.register(n, any([v.batched for v in inputs])))

    def _elementwise(self, op: str, eqn: Any, *inputs: View) -> View:
        return self.made(op, self.features(eqn.outvars[0].aval.shape), *inputs)

    # ---- views -----------------------------------------------------------------------------------
    # A row holds all feature axes of a sequence flattened, so these only change the shape.
    def _view(self, eqn: Any, value: Any) -> Any:
        shape = eqn.outvars[0].aval.shape
        n = self.features(shape)
        if value.n != n and value.elem:
            raise unknown(f"{name_of(eqn)} to {shape}")
        return self.fitted(value, n)

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
        if set(eqn.params["strides"] or ()) - {1} or not whole or not one:
            raise unknown("slice of other than the last axis")
        return self._part(value, start[last], limit[last])

    def _part(self, value: View, start: int, stop: int) -> View:
        n = stop - start
        elem = value.elem if n != 1 else 0
        return value._replace(offset=value.offset + start * value.elem, elem=elem, n=n)

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
        if self.features(shape) != shape[-1]:
            raise unknown("pad of other than the last axis")
        value = self._part(value, max(0, -low), value.n - max(0, -high))  # Negative padding.
        low, high = max(0, low), max(0, high)
        whole, n = self.register(shape[-1], value.batched), shape[-1]
        for a, b, what in ((0, low, filling), (low, n - high, value), (n - high, n, filling)):
            if a < b:
                self.emit("copy", (what,), self._part(whole, a, b)._replace(elem=1))
        return whole

    def _convert_element_type(self, eqn: Any, value: Any) -> Any:
        old, new = np.dtype(eqn.invars[0].aval.dtype), np.dtype(eqn.params["new_dtype"])
        if value.base == CONSTANTS and new == self.dtype:
            return value
        if new == np.dtype(bool) != old:
            return self._elementwise("ne", eqn, value, self.constant(np.zeros(())))
        if jnp.issubdtype(old, np.integer) or new.itemsize > self.dtype.itemsize:
            raise unknown(f"a conversion from {old} to {new}")
        if old in (np.dtype(bool), new) or (new == self.dtype and old.itemsize < new.itemsize):
            return value
        if ROUNDINGS.get(new.name) not in self.operations:
            raise unknown(f"a conversion to {new}")
        return self._elementwise(ROUNDINGS[new.name], eqn, value)

    def _round(self, eqn: Any, value: View) -> View:
        if eqn.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
            raise unknown("round of halves away from zero")
        return self._elementwise("round", eqn, value)

    # ---- sums, powers ----------------------------------------------------------------------------
    def _reduce_sum(self, eqn: Any, value: View) -> Any:
        shape, axes = eqn.invars[0].aval.shape, set(eqn.params["axes"])
        over_rows = self.has_rows(shape) and 0 in axes
        of = self._over_features("sum", shape, axes - {0} if over_rows else axes, value)
        return Sum(of) if over_rows else of

    def _reduce_max(self, eqn: Any, value: View) -> Any:
        shape, axes = eqn.invars[0].aval.shape, set(eqn.params["axes"])
        if self.has_rows(shape) and 0 in axes:
            raise unknown("a maximum over the sequences")
        return self._over_features("largest", shape, axes, value)

    def _over_features(self, op: str, shape: Any, axes: set[int], value: View) -> View:
        """Reduce each row to one number; refuse a reduction over some of several feature axes."""
        if math.prod(shape[a] for a in axes) == 1:
            return value
        features = range(1, len(shape)) if self.has_rows(shape) else range(len(shape))
        if math.prod(shape[a] for a in features if a not in axes) != 1 or not value.n:
            raise unknown("a sum or a maximum over some of the axes")
        out = self.register(1, value.batched)
        self.code.append(Instruction(op, value.n, out, (value,)))
        return out

    def _integer_pow(self, eqn: Any, value: View) -> View:
        y, one = eqn.params["y"], self.fitted(self.constant(np.ones(())), value.n)
        power = self._power(value, abs(y)) if y else one
        return power if y >= 0 else self.made("div", value.n, one, power)

    def _power(self, value: View, y: int) -> View:
        """Write x**y by squares, as XLA does: x**5 = (x**2)**2 * x."""
        if y == 1:
            return value
        half = self._power(value, y // 2)
        square = self.made("mul", value.n, half, half)
        return self.made("mul", value.n, square, value) if y % 2 else square

    def _square(self, eqn: Any, value: View) -> View:
        return self._elementwise("mul", eqn, value, value)

    def _one_minus_square(self, eqn: Any, value: View) -> View:
        """Write 1 - x**2 as dtanh(1, x), which `simplify.py` may merge with a factor."""
        return self._elementwise("dtanh", eqn, self.constant(np.ones(())), value)

    def _exp_neg_sq(self, eqn: Any, value: View) -> View:
        return self._elementwise("exp", eqn, self.made("neg", value.n, self._square(eqn, value)))

    def _log2(self, eqn: Any, value: View) -> View:
        two = self.constant(np.log(2.0))
        return self._elementwise("div", eqn, self.made("log", value.n, value), two)

    def _polynomial(self, eqn: Any, value: View, *coefficients: View) -> View:
        """Evaluate a polynomial by Horner's rule; its constant coefficient comes first."""
        out = coefficients[-1]
        for coefficient in coefficients[-2::-1]:
            out = self._elementwise("mul", eqn, out, value)
            out = self._elementwise("add", eqn, out, coefficient)
        return self.fitted(out, value.n)

    def _select_n(self, eqn: Any, which: View, *values: View) -> View:
        if len(values) != 2:
            raise unknown("a choice of more than two")
        return self._elementwise("select", eqn, which, *values)

    def _clamp(self, eqn: Any, low: View, value: View, high: View) -> View:
        return self._elementwise("min", eqn, self._elementwise("max", eqn, value, low), high)

    def _add_any(self, eqn: Any, a: View, b: View) -> View:
        return self._elementwise("add", eqn, a, b)


SPECIAL: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": Writer._view,
    "reshape": Writer._view,
    "squeeze": Writer._view,
    "expand_dims": Writer._view,
    "copy": Writer._view,
    "copy_p": Writer._view,
    "stop_gradient": Writer._view,  # The jaxpr is a value or a derivative already.
    "clip_cotangent": Writer._view,  # The identity forwards; its transpose has other primitives.
    "slice": Writer._slice,
    "split": Writer._split,
    "concatenate": Writer._concatenate,
    "pad": Writer._pad,
    "convert_element_type": Writer._convert_element_type,
    "round": Writer._round,
    "reduce_sum": Writer._reduce_sum,
    "reduce_max": Writer._reduce_max,
    "integer_pow": Writer._integer_pow,
    "square": Writer._square,
    "one_minus_square": Writer._one_minus_square,
    "exp_neg_sq": Writer._exp_neg_sq,
    "log2": Writer._log2,
    "polynomial": Writer._polynomial,
    "select_n": Writer._select_n,
    "clamp": Writer._clamp,
    "add_any": Writer._add_any,
}
"""Methods of `Writer` for the JAX primitives that are not simply one instruction."""
