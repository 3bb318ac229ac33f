"""Any cell and its operands as the kernel takes them: matrices, and one dtype to compute in.

The kernel knows one axis of the batch, one recurrent matrix, and computes in the accumulation dtype
alone. What is narrower (a carry in bfloat16) lies in that exactly, and the cell's own `advance`
rounds where it rounds elsewhere too. Cotangents are summed in it, and rounded where they leave the
kernel. Arrays of all steps in bfloat16 stay that, as the kernel widens and rounds a step at a time,
and so do the matrices that multiply what is in bfloat16.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._numerics import cast
from ..._typing import Array, Carry, DType, Params, Pre
from .. import base
from . import library, lowering
from .jaxprs import Untranslatable
from .matrix import form, matrix


def run(cell: Any, reverse: bool, ops: base.Operands, kept: base.Ran | None = None) -> base.Ran:
    """`base.run` but for the shapes and dtypes of the results. Raises as `evaluate`."""
    flat, (ops,), rounded = _flattened(cell, (ops,))
    kept = kept or base.Ran(*jax.tree.map(lambda _: True, (ops.carry, ops.carry, 0)))
    if rounded is None:
        return lowering.run(flat, reverse, ops, kept)
    given = {"carry": _beside(ops.carry, rounded), "origin": _beside(ops.origin, rounded)}
    rounding: Any = Rounding(flat, rounded)
    kept = base.Ran(Pair(False, kept.final), Pair(False, kept.carries), kept.u)
    ran = lowering.run(rounding, reverse, ops._replace(**given), kept)
    return ran._replace(final=ran.final.carry, carries=ran.carries.carry)


def linearized(
    cell: Any, reverse: bool, res: base.Residuals, tangents: base.Tangents
) -> base.Outputs:
    """`base.linearized` but for the shapes and dtypes of the results. Raises as `evaluate`."""
    flat, operands, _ = _flattened(cell, (res, tangents))
    return lowering.linearized(flat, reverse, *operands)


def transposed(cell: Any, reverse: bool, res: base.Residuals, cts: base.Outputs) -> base.Tangents:
    """`base.transposed` but for the shapes and dtypes of the results. Raises as `evaluate`."""
    flat, operands, _ = _flattened(cell, (res, cts))
    return lowering.transposed(flat, reverse, *operands)


FUNCTIONS = {function.__name__: function for function in (run, linearized, transposed)}


def evaluate(name: str, cell: Any, reverse: bool, operands: Any, results: Any) -> list[Array]:
    """One of `base`'s functions by the kernel.

    Args:
        name: "run", "linearized" or "transposed".
        cell, reverse, operands: the function's own; any number of batch axes.
        results: the types of the flat results.

    Returns:
        The flat results.

    Raises:
        Untranslatable: the kernel cannot; the message is one line that says why.
    """
    leaves = jax.tree.leaves(FUNCTIONS[name](cell, reverse, *operands))
    return [x.reshape(r.shape).astype(r.dtype) for x, r in zip(leaves, results, strict=True)]


# ---- cells ---------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Flat:
    """A cell whose carry, inputs and parameters are all in the accumulation dtype.

    types: the dtypes of (carry, wx, extras, noise) as the cell has them, flat, and their structure;
    u: its type for one row.
    """

    cell: Any
    types: tuple[tuple[Any, ...], Any]
    u: Any

    @property
    def additive(self) -> bool:
        return self.cell.additive

    @property
    def stored(self) -> Any:
        """The dtypes that the carries of all steps lie in."""
        carry, *_ = self._dtypes()
        return jax.tree.map(lambda dtype: kept_dtype(dtype, self.u.dtype), carry)

    def _dtypes(self) -> Any:
        leaves, tree = self.types
        return tree.unflatten(leaves)

    def recur(self, weights: tuple[Array, ...], carry: Carry) -> Array:
        """u = h @ matrix."""
        h = jax.tree.leaves(carry)[0]
        if weights:
            return h @ weights[0].astype(h.dtype)
        return jnp.zeros((*h.shape[:-1], *self.u.shape), self.u.dtype)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any = None) -> Carry:
        """The cell's own, of its own dtypes."""
        given = jax.tree.map(
            lambda leaf, dtype: leaf.astype(dtype), (carry, wx, extras, noise), self._dtypes()
        )
        carry, wx, extras, noise = given
        return cast(self.cell.advance(carry, wx, u, extras, noise), u.dtype)


class Pair(NamedTuple):
    """A carry, and before it h as the matmul takes it."""

    rounded: Any
    carry: Carry


@dataclasses.dataclass(frozen=True)
class Rounding:
    """A cell that rounds h to a narrower dtype before the matmul; its carry is a `Pair`."""

    cell: Flat
    dtype: DType

    @property
    def additive(self) -> bool:
        return self.cell.additive

    @property
    def stored(self) -> Pair:
        """As `Flat.stored`."""
        return Pair(self.cell.u.dtype, self.cell.stored)

    def recur(self, weights: tuple[Array, ...], carry: Carry) -> Array:
        """The cell's own."""
        return self.cell.recur(weights, carry)

    def advance(self, carry: Pair, *arguments: Any) -> Pair:
        """The cell's own, and its h rounded."""
        return _beside(self.cell.advance(carry.carry, *arguments), self.dtype)


def _beside(carry: Any, dtype: DType) -> Any:
    if carry is None:
        return None
    h = jax.tree.leaves(carry)[0]
    return Pair(h.astype(dtype).astype(h.dtype), carry)


# ---- operands ------------------------------------------------------------------------------------
SHARED = {"weights", "extras", "projection"}
"""The fields whose leaves have no axis of the batch."""


def _flattened(cell: Any, operands: Any) -> tuple[Any, list[Any], np.dtype | None]:
    """The cell and its operands for the kernel, and the dtype that h is rounded to, if any."""
    point = operands[0]
    of = form(cell, point.weights, point.carry)
    dtype, batch = np.dtype(of.u.dtype), jax.tree.leaves(point.carry)[0].shape[:-1]
    wx = jax.eval_shape(_wx, point)
    _check(operands, dtype, jax.tree.leaves(wx)[0].shape[: 1 + len(batch)])
    weights = matrix(cell, of, point.weights, point.carry)
    point = point._replace(weights=() if weights is None else (weights,))
    types = jax.tree.map(lambda leaf: leaf.dtype, (point.carry, wx, point.extras, point.noise))
    if cell.additive:  # Its update sees wx + u in the place of wx.
        types = (types[0], dtype, *types[2:])
    given = [_matrices(operand, batch, dtype) for operand in (point, *operands[1:])]
    if isinstance(point, base.Operands) and of.rounded == jnp.bfloat16:
        given[0] = _with_narrow_matrices(given[0], point)
    leaves, tree = jax.tree.flatten(types)
    return Flat(cell, (tuple(leaves), tree), of.u), given, of.rounded


def _with_narrow_matrices(wide: base.Operands, ops: base.Operands) -> base.Operands:
    """`wide`, with the matrices that `ops` has in bfloat16, as what they multiply is in it too."""

    def first(wide, given):
        return (given[0], *wide[1:]) if given and given[0].dtype == jnp.bfloat16 else wide

    return wide._replace(
        weights=first(wide.weights, ops.weights), projection=first(wide.projection, ops.projection)
    )


def _wx(point: base.Operands | base.Residuals) -> Pre:
    return base.projected(point).wx if isinstance(point, base.Operands) else point.pre[0]


def kept_dtype(dtype: DType, computing: DType) -> np.dtype:
    """In which an array of all steps is handed over, for a kernel that computes in `computing`."""
    dtype, computing = np.dtype(dtype), np.dtype(computing)
    narrow = dtype == jnp.bfloat16 and computing == np.float32
    return dtype if narrow or dtype == np.dtype(bool) else computing


MOST = 2**30
"""Steps and sequences that the kernel counts."""


def _check(operands: Any, dtype: np.dtype, axes: Sequence[int]) -> None:
    if str(dtype) not in library.TYPES:
        raise Untranslatable(
            f"its sums are in {dtype}, the kernel's in {' or '.join(library.TYPES)}"
        )
    for leaf in jax.tree.leaves(operands):
        if leaf.dtype.itemsize > dtype.itemsize:
            raise Untranslatable(f"it holds {leaf.dtype} beside sums in {dtype}")
    if not math.prod(axes):
        raise Untranslatable("there is no step or no sequence")
    if max(axes[0], math.prod(axes[1:])) > MOST:
        raise Untranslatable(f"there are more than {MOST} steps or sequences")


def _matrices(operand: Any, batch: Sequence[int], dtype: np.dtype) -> Any:
    """`operand` with one axis of the batch, and all numbers of one dtype."""

    def flat(field: str, leaf: Array) -> Array:
        at = int(field in base.TIMED)
        shape = (*leaf.shape[:at], math.prod(batch), *leaf.shape[at + len(batch) :])
        leaf = leaf if field in SHARED else leaf.reshape(shape)
        return leaf.astype(kept_dtype(leaf.dtype, dtype) if at else dtype)

    values = zip(operand._fields, operand, strict=True)
    return type(operand)(*[jax.tree.map(lambda x, f=f: flat(f, x), v) for f, v in values])
