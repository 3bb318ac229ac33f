"""Printing of an elementwise program as C++, for one unit of one sequence.

All arrays of a cell's program are made of planes of U units: h is one plane, u of an LSTM four. An
operation on n = q U numbers is q operations on a unit, so that a thread can compute a unit of a
sequence by itself, with every value in a register:

    x2 = tanhf(x1)                    one unit of a plane; or a number that a sequence has once

A sum or a maximum over a sequence's numbers needs other threads. It ends a phase: a function that
gives the unit's terms, after which the sums of all units are known. What a later phase reads of
an earlier one is kept.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from ...elementwise.instructions import CONSTANTS, FIRST, Instruction, View
from ...elementwise.program import Program
from ...jaxprs import Untranslatable

FORMS: Mapping[str, str] = {
    "copy": "{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "max": "larger({0}, {1})",
    "min": "smaller({0}, {1})",
    "neg": "-{0}",
    "abs": "fabsf({0})",
    "sign": "sign({0})",
    "tanh": "tanhf({0})",
    "logistic": "logistic({0})",
    "dtanh": "{0} * ((1.f - {1}) * (1.f + {1}))",
    "dlogistic": "{0} * ({1} * (1.f - {1}))",
    "exp": "expf({0})",
    "lt": "truth({0} < {1})",
    "le": "truth({0} <= {1})",
    "gt": "truth({0} > {1})",
    "ge": "truth({0} >= {1})",
    "eq": "truth({0} == {1})",
    "ne": "truth({0} != {1})",
    "and_": "{0} * {1}",
    "or_": "truth({0} != 0.f || {1} != 0.f)",
    "not_": "1.f - {0}",
    "select": "({0} != 0.f ? {2} : {1})",
    "sqrt": "sqrtf({0})",
    "rsqrt": "1.f / sqrtf({0})",
    "log": "logf({0})",
    "log1p": "log1pf({0})",
    "expm1": "expm1f({0})",
    "sin": "sinf({0})",
    "cos": "cosf({0})",
    "tan": "tanf({0})",
    "atan": "atanf({0})",
    "erf": "erff({0})",
    "floor": "floorf({0})",
    "ceil": "ceilf({0})",
    "round": "rintf({0})",
    "is_finite": "truth({0} - {0} == 0.f)",
    "single": "{0}",
    "bfloat16": "rounded_to<1>({0})",
    "half": "rounded_to<2>({0})",
    "pow": "powf({0}, {1})",
}
"""C++ of the operations on one number; a truth value is 1 or 0."""

OVER_UNITS = ("sum", "largest")
"""Operations over all numbers of a sequence, which end a phase."""

OPERATIONS = (*FORMS, *OVER_UNITS, "accumulate")
"""Names of the instructions that can be printed."""

MOST = 64
"""Most planes of one array: more would not stay in registers."""


@dataclasses.dataclass(frozen=True)
class Printed:
    """A program as C++; hashable.

    Attributes:
        source: the functions of the phases.
        units: U, the numbers of a plane.
        kept: numbers that a unit keeps from one phase to a later one.
        totals: the operations over units, in the order of their numbers.
        complete: for each phase, how many of them are known after it.
        arguments, results: elements in a row of each argument and result.
        summed: for each result whether it is a sum over the sequences.
    """

    source: str
    units: int
    kept: int
    totals: tuple[str, ...]
    complete: tuple[int, ...]
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    summed: tuple[bool, ...]


@functools.lru_cache(maxsize=1024)
def printed(program: Program, units: int) -> Printed:
    """Print a program for arrays of planes of `units` units.

    Raises:
        Untranslatable: an array is no number of whole planes.
    """
    return _Printer(program, units).whole()


def planes(n: int, units: int) -> int:
    """Number of values that a unit has of an array with n elements in a row."""
    if n != 1 and n % units:
        raise Untranslatable(f"an array of {n} numbers beside a state of {units}")
    if n > MOST * units:
        raise Untranslatable(f"an array of {n} numbers, more than {MOST} for each of {units} units")
    return 1 if n == 1 else n // units


class _Printer:
    """One pass over a program.

    Attributes:
        sizes: elements in a row of each register; of each argument and result.
        first: the place of the first plane of each argument, result or sum, among its kind.
        kept: the place of the first plane of each register that more than one phase touches.
        pending: (register, number) of the sums over units that the next phase begins with.
    """

    def __init__(self, program: Program, units: int):
        self.program, self.units = program, units
        self.constants = program.numbers()
        count = len(program.shapes)
        views = [view for _, view in program.arrays]
        self.given, self.made = views[:count], views[count:]
        self.sizes = {root: n for root, (n, _) in program.registers}
        self.wholes = {view.base: view.n for view in views}
        self.first: dict[int, int] = {}
        for kind in (self.given, *self._kinds()):
            ends = itertools.accumulate((planes(view.n, units) for view in kind), initial=0)
            self.first |= {view.base: end for view, end in zip(kind, ends, strict=False)}
        self.kept: dict[int, int] = {}
        self.totals: list[str] = []
        self.pending: list[tuple[View, int]] = []

    def _kinds(self) -> tuple[list[View], list[View]]:
        """Results with rows, and sums over the rows."""
        return [v for v in self.made if v.batched], [v for v in self.made if not v.batched]

    def whole(self) -> Printed:
        parts = list(self._parts())
        touched = [{root for it in part for root in self._registers(it)} for part in parts]
        for k in range(1, len(parts)):  # A phase begins with the sums of the one before.
            touched[k] |= {_written(it) for it in parts[k - 1] if self._is_total(it)}
        several = sorted({root for k, of in enumerate(touched) for root in of & _all(touched[:k])})
        ends = itertools.accumulate(map(self._planes_of, several), initial=0)
        self.kept = dict(zip(several, ends, strict=False))
        lines, complete = [], []
        for k, (part, roots) in enumerate(zip(parts, touched, strict=True)):
            lines.append(self._phase(k, part, sorted(roots - set(several))))
            complete.append(len(self.totals))
        return Printed(
            source="\n".join(lines),
            units=self.units,
            kept=sum(map(self._planes_of, several)),
            totals=tuple(self.totals),
            complete=tuple(complete),
            arguments=tuple(view.n for view in self.given),
            results=tuple(view.n for view in self.made),
            summed=tuple(not view.batched for view in self.made),
        )

    def _parts(self) -> Iterator[list[Instruction]]:
        """Cut the code into phases: before the first reader of a sum that is not complete."""
        part: list[Instruction] = []
        unknown: set[int | None] = set()
        for it in self.program.code:
            if unknown & set(it.reads()):
                yield part
                part, unknown = [], set()
            part.append(it)
            if self._is_total(it):
                unknown.add(it.out.root)
        yield part

    def _is_total(self, it: Instruction) -> bool:
        """True if the result takes other threads' terms: it is known in the next phase."""
        return it.op in OVER_UNITS and bool(it.inputs[0].elem) and it.n > 1 < self.units

    def _registers(self, it: Instruction) -> list[int]:
        """Registers that an instruction touches; of a sum over units those that it reads."""
        writes = it.out.root is not None and not self._is_total(it)
        return it.reads() + ([_written(it)] if writes else [])

    def _planes_of(self, root: int) -> int:
        return planes(self.sizes[root], self.units)

    def _phase(self, number: int, part: list[Instruction], own: list[int]) -> str:
        """Print the function of one phase; `own` registers are its variables."""
        names = [f"r{root}_{p}" for root in own for p in range(self._planes_of(root))]
        lines = [f"  float {', '.join(names)};"] if names else []
        lines += [f"  {self._value(out, 0)} = totals[{k}];" for out, k in self.pending]
        self.pending = []
        lines += [line for it in part for line in self._lines(it)]
        return "\n".join([f"PHASE({number}) {{", *lines, "}"])

    def _lines(self, it: Instruction) -> Iterator[str]:
        if it.op in OVER_UNITS:
            yield self._over_units(it)
            return
        whole = it.out.elem or it.op == "accumulate"
        for p in range(planes(it.n if whole else 1, self.units)):
            inputs = [self._value(view, p) for view in it.inputs]
            if it.op == "accumulate":
                yield f"  if (valid) sums[{self.first[it.out.base] + p}] += {inputs[0]};"
            else:
                yield f"  {self._value(it.out, p)} = {FORMS[it.op].format(*inputs)};"

    def _over_units(self, it: Instruction) -> str:
        """Print a unit's term of a sum or a maximum; or the whole, where a thread has it all."""
        (of,) = it.inputs
        count = planes(it.n, self.units) if of.elem else 1
        value = _combined(it.op, [self._value(of, p) for p in range(count)])
        if self._is_total(it):
            self.totals.append(it.op)
            self.pending.append((it.out, len(self.totals) - 1))
            return f"  terms[{len(self.totals) - 1}] = {value};"
        times = it.n if it.op == "sum" and not of.elem else 1
        return f"  {self._value(it.out, 0)} = {f'{times}.f * {value}' if times > 1 else value};"

    def _value(self, view: View, p: int) -> str:
        """Name of plane p of a view."""
        if view.base == CONSTANTS:
            return _literal(self._constant(view, p))
        if view.root is not None:
            return self._register(view.root, self._place(view, p, self.sizes[view.root]))
        of = "a" if view.base < FIRST + len(self.given) else "y"
        return f"{of}[{self.first[view.base] + self._place(view, p, self.wholes[view.base])}]"

    def _register(self, root: int, at: int) -> str:
        return f"kept[{self.kept[root] + at}]" if root in self.kept else f"r{root}_{at}"

    def _place(self, view: View, p: int, whole: int) -> int:
        """Number of the plane, within its array of `whole` elements, that plane p of a view is."""
        if self.units == 1:
            return view.offset + p * view.elem
        if whole == 1:
            return 0
        if not view.elem or view.offset % self.units:
            raise Untranslatable(f"a part of a state of {self.units} units")
        return view.offset // self.units + p

    def _constant(self, view: View, p: int) -> float:
        """The constant that all units share."""
        first = view.offset + p * self.units * view.elem
        all_units = self.constants[first : first + (self.units if view.elem else 1)]
        if len(np.unique(all_units.view(np.int64))) > 1:
            raise Untranslatable("constants that differ from unit to unit")
        return all_units[0]


def _written(it: Instruction) -> int:
    """The register that an instruction writes."""
    assert it.out.root is not None
    return it.out.root


def _all(sets: list[set[int]]) -> set[int]:
    return set().union(*sets)


def _combined(op: str, values: list[str]) -> str:
    join = {"sum": "({} + {})", "largest": "larger({}, {})"}[op]
    return functools.reduce(join.format, values)


def _literal(number: float) -> str:
    """Print a number in float32, exactly."""
    x = np.float32(number)
    if math.isnan(x):
        return "NOT_A_NUMBER"
    if math.isinf(x):
        return "INFINITE" if x > 0 else "(-INFINITE)"
    return (
        f"({float(x).hex()}f)"
        if x < 0 or (x == 0 and math.copysign(1, x) < 0)
        else f"{float(x).hex()}f"
    )
