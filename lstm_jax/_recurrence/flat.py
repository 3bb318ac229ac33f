"""The flat form of a recurrence for kernels: one matrix, one elementwise function, one dtype.

A kernel has one batch axis and one recurrent matrix, and computes in the accumulation dtype alone.
That dtype holds narrower values (a carry in bfloat16) exactly, and the cell's own `advance` rounds
them where it always does. Cotangents are summed in the accumulation dtype and rounded when they
leave the kernel. Arrays of all steps stay in the narrow dtypes that the kernel knows, such as
bfloat16; it widens and rounds them step by step. So do matrices whose other factor is narrow
forwards; backwards that factor is a cotangent, which a kernel may round for the product.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._numerics import cast
from .._typing import Array, Carry, DType, Params, Pre
from . import equations
from .jaxprs import Untranslatable
from .matrix import Form, form, matrix
from .spec import Recurrence


class Rounded(NamedTuple):
    """A carry with h rounded for the matmul, placed before it."""

    h: Any
    carry: Carry


@dataclasses.dataclass(frozen=True)
class Flat:
    """Elementwise part of a recurrence, with operands in the accumulation dtype.

    Attributes:
        recurrence: the recurrence that it belongs to.
        types: (dtypes, tree structure) of (carry, wx, extras, noise) in the recurrence.
        u: shape and dtype of u for one sequence.
        rounded: narrower dtype to which h is rounded before the matmul; the carry is then a
            `Rounded`. None: h is not rounded, and is the first leaf of the carry.
        narrow: names of the narrow dtypes in which arrays may stay.
    """

    recurrence: Recurrence
    types: tuple[tuple[Any, ...], Any]
    u: Any
    rounded: DType | None
    narrow: tuple[str, ...]

    @property
    def additive(self) -> bool:
        """True if `update` depends on wx and u through wx + u alone; see `Recurrence`."""
        return self.recurrence.additive

    @property
    def stored(self) -> Any:
        """Dtypes in which the carries of all steps are stored, as a tree like the carry."""
        carry, *_ = self._dtypes()
        kept = jax.tree.map(lambda dtype: kept_dtype(dtype, self.u.dtype, self.narrow), carry)
        return kept if self.rounded is None else Rounded(np.dtype(self.u.dtype), kept)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any = None) -> Carry:
        """Apply `update` in the recurrence's own dtypes, and round h for the next matmul."""
        carry = carry if self.rounded is None else carry.carry
        given = (carry, wx, extras, noise)
        given = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), given, self._dtypes())
        carry, wx, extras, noise = given
        return self.beside(cast(self.recurrence.advance(carry, wx, u, extras, noise), u.dtype))

    def beside(self, carry: Any) -> Any:
        """Convert a carry to the kernel's form: a `Rounded` if h is rounded. None stays None."""
        if carry is None or self.rounded is None:
            return carry
        h = jax.tree.leaves(carry)[0]
        return Rounded(h.astype(self.rounded).astype(h.dtype), carry)

    def _dtypes(self) -> Any:
        leaves, tree = self.types
        return tree.unflatten(leaves)


SHARED = {"weights", "extras", "projection"}
"""Fields whose leaves have no batch axis."""

MOST = 2**30
"""Largest number of steps, and of sequences, that a kernel takes."""


def flattened(
    recurrence: Recurrence,
    operands: Sequence[Any],
    dtypes: Collection[str],
    narrow: tuple[str, ...] = ("bfloat16",),
) -> tuple[Flat, list[Any]]:
    """Convert a recurrence and its operands to the form for a kernel.

    h is rounded before the matmul in the forward run alone, not in its derivatives.

    Args:
        recurrence: a recurrence without members.
        operands: operands of a function of `equations`, with any number of batch axes.
        dtypes: names of the dtypes in which the kernel can compute.
        narrow: names of the dtypes that it reads, writes and multiplies beside float32.

    Raises:
        Untranslatable: there is no such form; the message is one line that says why.
    """
    point = operands[0]
    of = form(recurrence.cell, point.weights, point.carry)
    dtype, batch = np.dtype(of.u.dtype), jax.tree.leaves(point.carry)[0].shape[:-1]
    wx = jax.eval_shape(_wx, point)
    _check(operands, dtype, jax.tree.leaves(wx)[0].shape[: 1 + len(batch)], dtypes)
    weights = matrix(recurrence.cell, of, point.weights, point.carry)
    types = jax.tree.map(lambda leaf: leaf.dtype, (point.carry, wx, point.extras, point.noise))
    if recurrence.additive:  # The update then takes wx + u in place of wx.
        types = (types[0], dtype, *types[2:])
    flat = point._replace(weights=() if weights is None else (weights,))
    given = [_matrices(operand, batch, dtype, narrow) for operand in (flat, *operands[1:])]
    rounded = of.rounded if isinstance(point, equations.Operands) else None
    if str(of.rounded) in narrow:
        given[0] = _with_narrow_matrices(given[0], point, of)
    leaves, tree = jax.tree.flatten(types)
    return Flat(recurrence, (tuple(leaves), tree), of.u, rounded, narrow), given


def _with_narrow_matrices(wide: Any, given: Any, of: Form) -> Any:
    """Put back the matrices of operands that are as narrow as h as they were given."""

    def first(wide, given):
        return (given[0], *wide[1:]) if given and given[0].dtype == of.rounded else wide

    own = () if of.leaf is None else (jax.tree.leaves(given.weights)[of.leaf],)
    narrow = {"weights": first(wide.weights, own)}
    if isinstance(wide, equations.Operands):
        narrow["projection"] = first(wide.projection, given.projection)
    return wide._replace(**narrow)


def _wx(point: equations.Operands | equations.Residuals) -> Pre:
    return equations.projected(point).wx if isinstance(point, equations.Operands) else point.pre[0]


def kept_dtype(dtype: DType, computing: DType, narrow: Collection[str]) -> np.dtype:
    """Dtype in which a [T, ...] array is passed to a kernel that computes in `computing`."""
    dtype, computing = np.dtype(dtype), np.dtype(computing)
    stays = str(dtype) in narrow and computing == np.float32
    return dtype if stays or dtype == np.dtype(bool) else computing


def _check(operands: Any, dtype: np.dtype, axes: Sequence[int], dtypes: Collection[str]) -> None:
    if str(dtype) not in dtypes:
        raise Untranslatable(f"its sums are in {dtype}, the kernel's in {' or '.join(dtypes)}")
    for leaf in jax.tree.leaves(operands):
        if leaf.dtype.itemsize > dtype.itemsize:
            raise Untranslatable(f"it holds {leaf.dtype} beside sums in {dtype}")
    if not math.prod(axes):
        raise Untranslatable("there is no step or no sequence")
    if max(axes[0], math.prod(axes[1:])) > MOST:
        raise Untranslatable(f"there are more than {MOST} steps or sequences")


def _matrices(operand: Any, batch: Sequence[int], dtype: np.dtype, narrow: Collection[str]) -> Any:
    """Merge the batch axes of `operand` into one, and convert its numbers to `dtype`."""

    def flat(field: str, leaf: Array) -> Array:
        at = int(field in equations.TIMED)
        shape = (*leaf.shape[:at], math.prod(batch), *leaf.shape[at + len(batch) :])
        leaf = leaf if field in SHARED else leaf.reshape(shape)
        return leaf.astype(kept_dtype(leaf.dtype, dtype, narrow) if at else dtype)

    values = zip(operand._fields, operand, strict=True)
    return type(operand)(*[jax.tree.map(lambda x, f=f: flat(f, x), v) for f, v in values])
