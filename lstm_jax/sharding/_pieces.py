"""A cell of H units as several cells of H / m units, and the proof that a step of it is theirs.

Every device has all G gates of its own units. Parameters store gates side by side, [D, G*H]; split
by units they are viewed as [D, G, H], of which the last axis is split.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cells.contract import Recurrent, param_shapes
from .._cells.wrappers import Wrapper
from .._checks import fail
from .._static import compiled_for
from .._typing import Array, Carry, Params
from ._mesh import divided, unsplit

__all__ = [
    "Cut",
    "check_input_size",
    "check_pieces",
    "cuts_of",
    "gathers",
    "piece_of",
    "stored",
    "viewed",
    "with_first",
]
__dir__ = __all__.copy

INPUTS, BATCH, UNITS = 5, 3, 16
"""Sizes of the trial: D, B, and the units of each of two pieces."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one parameter is split.

    Attributes:
        axis: the axis of the stored array that is split; None: every device has all of it.
        gates: the number of gates that lie side by side along it.
        ndim: the number of axes of the stored array.
    """

    axis: int | None = None
    gates: int = 1
    ndim: int = 0


class _Unsplit(Exception):
    """Why the parameters of a cell are not split along its units."""


def piece_of(cell: Any, pieces: int) -> Any:
    """The cell with one of `pieces` equal parts of the hidden units."""
    if isinstance(cell, Wrapper):
        return dataclasses.replace(cell, cell=piece_of(cell.cell, pieces))
    size = divided("cell", cell.hidden_size, pieces, f"{type(cell).__name__} with H")
    heads = getattr(cell, "heads", 1)
    if heads == 1:
        return dataclasses.replace(cell, hidden_size=size)
    heads = divided("cell", heads, 2 * pieces, f"{type(cell).__name__} with heads") * 2
    return dataclasses.replace(cell, hidden_size=size, heads=heads)


def cuts_of(cell: Recurrent) -> Any:
    """The `Cut` of every parameter, by its name, whatever the number of devices.

    It shows in the shapes that the parameters of a cell with few units and of half of it have.
    `check_pieces` has refused a cell with a parameter that is not split along its units.
    """
    cell = _with_units(cell)
    whole, part = (param_shapes(compiled_for(c), INPUTS) for c in (cell, piece_of(cell, 2)))
    recurrent = {id(leaf) for leaf in jax.tree.leaves(cell.weights(whole))}

    def cut(path: Any, full: Any, own: Any) -> Cut:
        axes = [k for k in range(full.ndim) if full.shape[k] != own.shape[k]]
        last = full.ndim - 1
        if not axes:
            return Cut(ndim=full.ndim)
        if axes == [0] and full.ndim == 3:
            return Cut(0, ndim=3)  # Heads, each with its own recurrent matrix.
        if axes == [last] or (axes == [0, last] == [0, 1] and id(full) in recurrent):
            gates, rest = divmod(full.shape[last], cell.hidden_size)
            if not rest:
                return Cut(last, gates, full.ndim)
        name = jax.tree_util.keystr(path)
        shape = f"{list(full.shape)} for H = {cell.hidden_size}"
        raise _Unsplit(f"its parameter {name}, {shape}, is more than gates by units")

    cuts = jax.tree_util.tree_map_with_path(cut, whole, part)
    if not all(isinstance(each, Cut) for each in cuts.values()):
        raise _Unsplit("the parameters are not one array for each name")
    return cuts


def check_input_size(cuts: Any, cell: Recurrent, piece: Recurrent, input_size: int) -> None:
    """Raise unless a cell and a piece have the parameters of the trial for inputs of this size.

    A cell may have another equation where D = H, and this H is not that of a piece.
    """
    for each in (cell, piece):
        if jax.tree.structure(param_shapes(each, input_size)) != jax.tree.structure(cuts):
            raise _cannot(cell, f"the parameters are others for D = {input_size}")


def viewed(cuts: Any, params: Params) -> Params:
    """View stored parameters [.., G*H] as [.., G, H]; those that are so already stay."""

    def view(cut: Cut, leaf: Array) -> Array:
        if cut.gates == 1 or leaf.ndim != cut.ndim:
            return leaf
        shape = (*leaf.shape[:-1], cut.gates, leaf.shape[-1] // cut.gates)
        return unsplit(leaf).reshape(shape)

    return _each(view, cuts, params)


def stored(cuts: Any, params: Params) -> Params:
    """View parameters [.., G, H] as they are stored in a cell; those that are so already stay."""

    def flat(cut: Cut, leaf: Array) -> Array:
        if leaf.ndim == cut.ndim:
            return leaf
        return unsplit(leaf).reshape(*leaf.shape[:-2], -1)

    return _each(flat, cuts, params)


def _each(function: Any, cuts: Any, params: Params) -> Params:
    """Apply a function of (cut, leaf) to the parameters; masks that training drew stay."""

    def one(name: str, leaf: Array) -> Array:
        if name not in cuts:
            return leaf
        cut = cuts[name]
        stored = leaf.ndim == cut.ndim and not (cut.ndim and leaf.shape[-1] % cut.gates)
        split = cut.gates > 1 and leaf.ndim == cut.ndim + 1 and leaf.shape[-2] == cut.gates
        if not stored and not split:
            last = "[.., G*H] or [.., G, H]" if cut.gates > 1 else f"{cut.ndim} axes"
            remedy = "pass the parameters of this net; call vmap of it for a further axis"
            raise fail(f"params[{name!r}]", f"shape {leaf.shape}", last, remedy)
        return function(cut, leaf)

    return {name: one(name, leaf) for name, leaf in params.items()}


def gathers(cell: Recurrent) -> bool:
    """True if a unit's u takes the h of all units: not with a weight a unit, or with heads."""
    weights = cell.weights(param_shapes(compiled_for(cell), INPUTS))
    return any(leaf.ndim == 2 for leaf in jax.tree.leaves(weights))


def with_first(carry: Carry, leaf: Array) -> Carry:
    """Replace h, the first leaf of a carry."""
    return type(carry)(leaf, *carry[1:])


# ---- the proof -----------------------------------------------------------------------------------
@functools.lru_cache(maxsize=256)
def check_pieces(cell: Recurrent) -> None:
    """Raise unless a step of the cell is a step of each half of its units, given all of h.

    It is tried with random numbers, on a cell of these options with few units.
    """
    if not cell.factors:
        raise _cannot(cell, "it does not factor into matmuls and an elementwise update")
    try:
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
            apart = _largest_difference(_with_units(cell))
    except _Unsplit as error:
        raise _cannot(cell, str(error)) from None
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        why = f"a step of half its units fails ({type(error).__name__}: {first})"
        raise _cannot(cell, why) from error
    if not apart < 1e-4:
        raise _cannot(cell, "its units meet elsewhere than in h @ w_hh")


def _cannot(cell: Any, why: str) -> Exception:
    wanted = "a cell whose units meet in h @ w_hh alone"
    remedy = "split the batch, or use another cell"
    return fail("net", f"{cell}, of which {why}", wanted, remedy)


def _with_units(cell: Any) -> Any:
    """The cell with few units in float32, two pieces of which are compared with the whole."""
    if isinstance(cell, Wrapper):
        return dataclasses.replace(cell, cell=_with_units(cell.cell))
    changes: dict[str, Any] = {"hidden_size": 2 * UNITS}
    if getattr(cell, "heads", 1) > 1:
        changes["heads"] = 4
    dtypes = ("dtype", "param_dtype", "carry_dtype", "accumulation_dtype")
    named = {field.name for field in dataclasses.fields(cell)}
    changes |= {name: "float32" for name in dtypes if name in named}
    return dataclasses.replace(cell, **changes)


def _largest_difference(cell: Recurrent) -> float:
    """Largest difference between a step of a cell and the steps of its halves."""
    piece = piece_of(cell, 2)
    cuts, rng = cuts_of(cell), np.random.default_rng(0)

    def drawn(shapes: Any) -> Any:
        return jax.tree.map(
            lambda s: jnp.asarray(rng.standard_normal(s.shape) / 4, s.dtype), shapes
        )

    params = drawn(param_shapes(compiled_for(cell), INPUTS))
    carry = drawn(jax.eval_shape(lambda: cell.initial_carry(params, (BATCH,))))
    x = jnp.asarray(rng.standard_normal((BATCH, INPUTS)), jnp.float32)
    seen = [_half(piece, cuts, params, carry, x, k) for k in range(2)]
    joined = jax.tree.map(lambda *halves: jnp.concatenate(halves, -1), *seen)
    whole = jax.jit(cell.unchecked_step)(params, carry, x)
    apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b.astype(a.dtype))), joined, whole)
    return float(max(jax.tree.leaves(apart)))


def _half(piece: Any, cuts: Any, params: Params, carry: Carry, x: Array, k: int) -> Any:
    """A step of the k-th half of the units, with all of h for the recurrent matmul."""

    def of(leaf: Array, axis: int) -> Array:
        return jnp.split(leaf, 2, axis)[k]

    def part(cut: Cut, leaf: Array) -> Array:
        if cut.axis is None:
            return leaf
        return of(leaf, cut.axis if cut.gates == 1 else -1)

    def step(params: Params, carry: Carry, h: Array, x: Array) -> Any:
        params, x, carry = piece.prepare(params, x, carry)
        u = piece.recur(params, with_first(carry, h.astype(carry[0].dtype)))
        new = piece.advance(carry, piece.project(params, x), u, piece.extras(params))
        return new, piece.emit(params, new, x.dtype)

    own = stored(cuts, jax.tree.map(part, cuts, viewed(cuts, params)))
    mine = jax.tree.map(lambda leaf: of(leaf, -1), carry)
    return jax.jit(step)(own, mine, carry[0] if gathers(piece) else mine[0], x)
