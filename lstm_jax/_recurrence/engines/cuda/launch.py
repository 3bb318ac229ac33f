"""One launch of a kernel: its operands by name, its source, and XLA's call of it."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...elementwise.program import Program
from ...flat import Flat
from ...jaxprs import Untranslatable
from . import device
from .launcher import TARGET
from .packed import packed
from .plan import Plan, Problem, plans
from .printed import Printed, planes, printed
from .sources import KINDS, Kernel, Leaf, source

MOST_TRIED = 8
"""Most divisions of which the kernels are compiled, to find one that fits the registers."""


class Field(NamedTuple):
    """Arrays of one name: their leaves, the arrays (or types) of those that are there, a function.

    accessor: name of the function that loads or stores them; "" where another field's serves.
    """

    name: str
    leaves: tuple[Leaf, ...]
    arrays: tuple[Any, ...]
    accessor: str = ""


def field(name: str, tree: Any, axes: int, accessor: str = "", there: Any = None) -> Field:
    """Make a field of a tree of arrays with `axes` axes before those of a row.

    there: a flag for each leaf; None: all are there.
    """
    leaves = jax.tree.leaves(tree)
    flags = [True] * len(leaves) if there is None else jax.tree.leaves(there)
    rows = [math.prod(leaf.shape[axes:]) for leaf in leaves]
    types = [KINDS[str(leaf.dtype)] for leaf in leaves]
    described = tuple(map(Leaf, rows, types, flags))
    arrays = tuple(leaf for leaf, is_there in zip(leaves, flags, strict=True) if is_there)
    return Field(name, described, arrays, accessor)


class Launch(NamedTuple):
    """A kernel, and what it is launched with.

    numbers: values of the macros that the kernel of this name needs.
    """

    name: str
    cell: Flat
    reverse: bool
    point: Any  # operands or residuals, for the fields that all kernels need
    program: Program
    steps: int
    batch: int
    given: tuple[Field, ...]
    made: tuple[Field, ...]
    numbers: dict[str, int]

    def __call__(self) -> list[Any]:
        """Launch the kernel, and return the results of `made` that are there."""
        plan, program = self._chosen()
        fields = [Field("w", (), tuple(self._weights(plan))), *self.given]
        groups = (plan.groups, plan.blocks, plan.threads, plan.layout["all"], plan.meeting)
        # Under `vmap`, each member has groups of its own; their number is read from the results.
        outs = jax.ffi.ffi_call(TARGET, self._results(plan), vmap_method="broadcast_all")(
            *[array for f in fields for array in f.arrays],
            program=program,
            numbers=np.asarray(
                (self.steps, self.batch, self.reverse, *groups, *_digest(program)), np.int32
            ),
        )
        return self._finished(outs[:-1])

    def _chosen(self) -> tuple[Plan, np.ndarray]:
        """The first division whose kernel keeps all its numbers in registers, and that kernel.

        Raises:
            Untranslatable: the memory of a block is too small for x and the sums over units.
        """
        units = self._units()
        code = printed(self.program, units)
        problems = [self._problem(units, code, kind) for kind in self._kinds()]
        all_plans = itertools.chain(*(plans(problem, device.here()) for problem in problems))
        tried = []
        for plan in itertools.islice(all_plans, MOST_TRIED):
            program, spilled = device.program(source(self._kernel(plan, code, units)))
            if not spilled:
                return plan, program
            tried.append((plan, program))
        if not tried:
            wide = units * problems[0].x_planes
            raise Untranslatable(f"{wide} numbers a sequence do not fit a block's shared memory")
        return tried[0]

    def _kinds(self) -> tuple[int, ...]:
        """Kind of the numbers in the product; in a trial both, as parameters may be cast later."""
        weights = jax.tree.leaves(self.point.weights)
        given = KINDS[str(weights[0].dtype)] if weights else 0
        return (given, KINDS["bfloat16"]) if weights and device.is_trying() else (given,)

    def _kernel(self, plan: Plan, code: Printed, units: int) -> Kernel:
        weights = jax.tree.leaves(self.point.weights)
        fields = (("w", len(weights)), *((f.name, len(f.arrays)) for f in self.given))
        return Kernel(
            self.name,
            plan,
            code,
            tuple((self._planes(units) | self.numbers).items()),
            fields,
            (*((f.name, len(f.arrays)) for f in self.made), ("scratch", 1)),
            tuple((f.accessor, f.leaves) for f in (*self.given, *self.made) if f.accessor),
        )

    def _units(self) -> int:
        """U: all arrays have a number of planes of so many numbers, or one number."""
        carry = next(f for f in self.given if f.name == "carry")
        if all(leaf.n == 1 for leaf in carry.leaves):
            return 1
        sizes = [leaf.n for f in (*self.given, *self.made) for leaf in f.leaves]
        return math.gcd(*[n for n in sizes if n > 1])

    def _problem(self, units: int, code: Printed, narrow: int) -> Problem:
        weights = jax.tree.leaves(self.point.weights)
        rows, columns = weights[0].shape if weights else (0, 0)
        x, m = planes(rows, units) if rows else 0, planes(columns, units) if rows else 0
        if rows and (rows % units or columns % units):
            raise Untranslatable(f"a matrix [{rows}, {columns}] beside a state of {units} units")
        x, m = (m, x) if self.name == "transposed" else (x, m)
        given, made = sum(planes(n, units) for n in code.arguments), code.results
        values = given + sum(planes(n, units) for n in made) + code.kept
        sums = len(code.totals), any(code.summed)
        return Problem(units, x, m, narrow, self.batch, values, *sums)

    def _planes(self, units: int) -> dict[str, int]:
        """Numbers of planes of the trees of a cell, by their names in the sources."""
        by_name = {f.name: sum(planes(leaf.n, units) for leaf in f.leaves) for f in self.given}
        wx, pre = by_name.get("wx", 0), by_name.get("pre", 0)
        weights = jax.tree.leaves(self.point.weights)
        u = planes(weights[0].shape[1], units) if weights else 0
        return {
            "CARRY": by_name["carry"],
            "WX": wx,
            "PRE": pre or (wx if self.cell.additive else wx + u),
            "EXTRAS": by_name["extras"],
            "NOISE": by_name["noise"],
            "VALID": int(self.point.valid is not None),
            "RESTART": int(self.point.restart is not None),
        }

    def _weights(self, plan: Plan) -> list[Any]:
        weights = jax.tree.leaves(self.point.weights)
        return [packed(plan, w, self.name == "transposed") for w in weights]

    def _results(self, plan: Plan) -> list[Any]:
        """Types of the results: sums over the sequences are of each group, and added up later."""
        types = []
        for f in self.made:
            for leaf in f.arrays:
                shape = (plan.groups, *leaf.shape) if f.name == "sums" else leaf.shape
                types.append(jax.ShapeDtypeStruct(shape, leaf.dtype))
        return [*types, jax.ShapeDtypeStruct((plan.scratch,), jnp.uint8)]

    def _finished(self, outs: Sequence[Any]) -> list[Any]:
        names = [f.name for f in self.made for _ in f.arrays]
        return [
            jnp.sum(out, 0) if name == "sums" else out
            for name, out in zip(names, outs, strict=True)
        ]


def flags(point: Any) -> tuple[Field, ...]:
    """The fields of the flags of a point, which may have none."""
    given = {"valid": point.valid, "restart": point.restart}
    return tuple(Field(name, (), () if of is None else (of,)) for name, of in given.items())


def _digest(program: np.ndarray) -> np.ndarray:
    """Two numbers by which the launcher knows a kernel that it has loaded."""
    return np.frombuffer(hashlib.sha256(program.tobytes()).digest()[:8], np.int32)
