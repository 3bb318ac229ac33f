"""`by_batch`: sequences split over devices, each of which runs its own by any implementation."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from .._cells.contract import Recurrent
from .._net import Net, check_net, map_cells
from .._numerics import varying_as
from .._sequence import Sequence
from .._typing import Carry, Params
from ._mesh import check_axes, check_mesh
from ._spread import Spread, param_specs, specs_of, stacked

__all__ = ["ByBatch", "by_batch"]
__dir__ = __all__.copy


def by_batch(net: Recurrent | Net, mesh: Mesh, axis: str = "data") -> Any:
    """Split the sequences of a batch over the devices of one axis of a mesh.

        mesh = jax.make_mesh((8,), ("data",))
        net = sharding.by_batch(net, mesh)
        carry, ys = lj.unroll(net, params, xs)

    Every device has all parameters and B / n sequences, the first batch axis. JAX splits an
    ordinary net in the same way if its inputs are split (`batch`). Here the devices run their
    recurrences apart, under `shard_map`: by every implementation, the CPU's kernel too, and with
    all sums over devices after the loop. XLA by itself has some of them in each step: those of
    "scan", and those of parameters inside `update`, such as the b_hn of a GRU. Parameters are those
    of the net.

    Args:
        net: a cell or a net, with its wrappers.
        mesh: the devices.
        axis: the name of one of its axes.

    Raises:
        ValueError: no such axis; when the net runs, a B that is no multiple of n.
    """
    check_net("net", net)
    check_mesh(mesh)
    check_axes(mesh, axis, None)
    return map_cells(lambda cell: ByBatch(cell, mesh, axis), net)


@dataclasses.dataclass(frozen=True)
class ByBatch(Spread):
    """A cell whose sequences are split over devices, as `by_batch` builds it.

    Attributes:
        axis: the name of the axis of the mesh.
    """

    axis: str

    def places(self) -> dict[str | None, int]:
        return {self.axis: 0}

    def whole(self, run: Any, params: Params, seq: Sequence, reverse: bool) -> tuple[Carry, Any]:
        """Run a sequence by `shard_map`, in which `run` gets the sequences of one device."""
        del reverse
        specs = specs_of(self.mesh, seq, self.axis)
        given = param_specs(self.cell, params, seq, self.axis), specs
        carries = specs.carry
        out = carries, (specs.xs, stacked(carries))

        def on_device(params: Params, seq: Sequence) -> tuple[Carry, Any]:
            # Of parameters that are each device's own, the gradient is summed after the loop.
            return run(self.cell, varying_as(params, seq.xs), seq)

        return self.mapped(on_device, given, out, params, seq)
