"""`Spread`, the base class of cells that run a sequence in parts on several devices."""

import dataclasses
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._cells.contract import Recurrent, param_shapes
from .._cells.wrappers import Wrapper
from .._checks import fail
from .._numerics import has_explicit_axes
from .._sequence import Sequence
from .._typing import Array, Carry, Key, Params
from ._mesh import divided, spec

__all__ = ["Spread", "check_unsplit", "mask_spec", "param_specs", "placed", "specs_of", "stacked"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Spread(Wrapper):
    """A cell that runs on the devices of a mesh.

    Attributes:
        mesh: the devices.
    """

    mesh: Any = dataclasses.field(repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_unsplit(self.cell)

    @property
    def part(self) -> Any:
        """The cell that runs on one device."""
        return self.cell

    @property
    def stochastic(self) -> bool:
        """True if the cell draws noise in training."""
        return self.cell.stochastic

    def places(self) -> dict[str | None, int]:
        """Where the axes of the mesh split a carry [*batch, ...]; None: an axis that there is not.

        The batch is split at 0.
        """
        raise NotImplementedError

    def started(self, carry: Carry, batch_shape: Any) -> Carry:
        """Split a first carry as `whole` returns one, where axes are explicit.

        A loop may then begin with it. Outside of `jax.set_mesh`, and for a batch that is not split,
        it stays.
        """
        if jax.sharding.get_abstract_mesh() != self.mesh.abstract_mesh:
            return carry
        places = {name: at for name, at in self.places().items() if name is not None}
        for name, at in places.items():
            if at == 0 and (not batch_shape or batch_shape[0] % self.mesh.shape[name]):
                return carry
        return placed(self.mesh, carry, jax.tree.map(lambda x: spec(x.ndim, places), carry))

    def initial_carry(self, params: Params, batch_shape: Any = ()) -> Carry:
        """The carry of the cell before the first step."""
        return self.started(self.cell.initial_carry(params, batch_shape), batch_shape)

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of the cell for all devices, as one device does."""
        return self.cell.training(key, params, xs)

    def mapped(self, function: Any, given: Any, out: Any, *operands: Any) -> Any:
        """Call a function on every device, with the parts of the operands that are given to it."""
        operands = placed(self.mesh, operands, given)
        return jax.shard_map(function, mesh=self.mesh, in_specs=given, out_specs=out)(*operands)


def check_unsplit(cell: Any) -> None:
    """Raise if a cell is split over devices already."""
    if isinstance(cell, Spread):
        remedy = "split it once: by_units, by_time and by_layers take the batch's axis too"
        raise fail("net", cell, "a cell that is not split over devices yet", remedy)


def placed(mesh: Mesh, tree: Any, specs: Any) -> Any:
    """Split arrays as `specs` say where the mesh has explicit axes; JAX itself splits others."""
    if not has_explicit_axes(mesh):
        return tree

    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))

    def put(leaf: Any, at: P) -> Any:
        typed = P(*[name if kinds.get(name) == AxisType.Explicit else None for name in at])
        return jax.sharding.reshard(leaf, NamedSharding(mesh, typed))

    return jax.tree.map(put, tree, specs)


def specs_of(
    mesh: Mesh,
    seq: Sequence,
    batch: str | None,
    *,
    units: str | None = None,
    time: str | None = None,
) -> Sequence:
    """Specs of a sequence whose parts are split over axes of a mesh.

    Args:
        batch: the axis for the first batch axis, or None.
        units: the axis for the units of the carry and of the noise, or None.
        time: the axis for the steps, or None.
    """
    shape = seq.xs.shape
    if batch is not None:
        if len(shape) < 3:
            raise fail("xs", f"shape {shape}", "[T, B, D], B split", "give the batch an axis")
        divided("xs", shape[1], mesh.shape[batch], f"shape {shape}, of which B")

    def at(batch_at: int, *, timed: bool, split: bool) -> Any:
        places = {batch: batch_at, units: -1 if split else None, time: 0 if timed else None}
        found: Any = {name: place for name, place in places.items() if None not in (name, place)}
        return lambda leaf: spec(leaf.ndim, found)

    xs, valid, restart = jax.tree.map(
        at(1, timed=True, split=False), (seq.xs, seq.valid, seq.restart)
    )
    carry, origin = jax.tree.map(at(0, timed=False, split=True), (seq.carry, seq.origin))
    noise = jax.tree.map(at(1, timed=True, split=True), seq.noise)
    return Sequence(xs, carry, origin, valid, restart, noise)


def param_specs(cell: Recurrent, params: Params, seq: Sequence, batch: str | None) -> Any:
    """Specs of parameters, which every device has whole, and of masks that training drew."""
    own = param_shapes(cell, seq.xs.shape[-1])

    def of(name: str, tree: Any) -> Any:
        return jax.tree.map(lambda x: P() if name in own else mask_spec(x, seq.carry, batch), tree)

    return {name: of(name, tree) for name, tree in params.items()}


def mask_spec(leaf: Any, carry: Any, batch: str | None) -> P:
    """Spec of a mask for `recur` that training drew into the parameters, [.., *batch, H]."""
    return P() if batch is None else spec(leaf.ndim, {batch: leaf.ndim - carry[0].ndim})


def stacked(specs: Any) -> Any:
    """Specs of the carries of all steps, from those of one."""
    return jax.tree.map(lambda s: P(None, *s), specs)
