"""`by_time`: the steps of long sequences split over devices, which hand the carry on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from .._cells.contract import Recurrent, param_shapes
from .._checks import check_positive_int, fail
from .._net import Net, check_net, map_cells
from .._numerics import choose, expand_to, varying_as
from .._recurrence.engines import associative
from .._sequence import Sequence
from .._typing import Carry, Params
from ._mesh import check_axes, check_mesh, divided
from ._spread import Spread, param_specs, specs_of
from ._wavefront import from_last, pieces_of, place_of, wavefront, whole_of

__all__ = ["ByTime", "by_time"]
__dir__ = __all__.copy


def by_time(
    net: Recurrent | Net,
    mesh: Mesh,
    axis: str = "time",
    *,
    batch: str | None = None,
    pieces: int = 1,
) -> Any:
    """Split the steps of a sequence over the devices of one axis of a mesh.

        mesh = jax.make_mesh((8,), ("time",))
        net = sharding.by_time(lj.MinGRU(256), mesh)
        carry, ys = lj.unroll(net, params, xs)

    Every device has all parameters, and T / n steps: of xs, of ys, and of what the backward pass
    keeps. So sequences fit that no device could hold. How much faster it is depends on the cell:

    * One that is affine in its state (`MinGRU`, `MinLSTM`) is a parallel scan. Each device composes
      its steps to one map; one all-gather of these maps, and each starts from its own carry.
    * Any other has to wait for the carry of the device before. With `pieces` the sequences of the
      batch are cut into k parts that follow each other: of k + n - 1 ticks a device works in k.
      With k = 1 the devices work one after another, and nothing is gained but the memory. The
      backward pass runs each part again.

    Args:
        net: a cell or a net, with its wrappers.
        mesh: the devices.
        axis: the name of one of its axes.
        batch: the name of an axis over which the first batch axis is split too; None: it is not.
        pieces: k, the number of parts of a device's B sequences.

    Raises:
        ValueError: no such axis; when the net runs, a T or B that is no multiple.
    """
    check_net("net", net)
    check_mesh(mesh)
    check_axes(mesh, axis, batch)
    check_positive_int("pieces", pieces)
    return map_cells(lambda cell: ByTime(cell, mesh, axis, batch, pieces), net)


@dataclasses.dataclass(frozen=True)
class ByTime(Spread):
    """A cell whose steps are split over devices, as `by_time` builds it.

    Attributes:
        axis, batch, pieces: as of `by_time`.
    """

    axis: str
    batch: str | None
    pieces: int

    def places(self) -> dict[str | None, int]:
        return {self.batch: 0}

    def whole(self, run: Any, params: Params, seq: Sequence, reverse: bool) -> tuple[Carry, Any]:
        """Run a sequence by `shard_map`, in which `run` gets the steps of one device."""
        divided("xs", seq.xs.shape[0], self.size, f"shape {seq.xs.shape}, of which T")
        specs = specs_of(self.mesh, seq, self.batch, time=self.axis)
        self._check_masks(params, seq)
        given = param_specs(self.cell, params, seq, self.batch), specs
        timed = jax.tree.map(lambda s: P(self.axis, *s), specs.carry)
        affine = associative.why_not(self.cell, "") is None and seq.xs.shape[0] > 0
        inner = self._run_affine if affine else self._run_any

        def on_device(params: Params, seq: Sequence) -> tuple[Carry, Any]:
            # Of parameters that are each device's own, the gradient is summed after the loop.
            params, carry, origin = varying_as((params, seq.carry, seq.origin), seq.xs)
            seq = seq._replace(carry=carry, origin=origin)
            final, results = inner(run, params, seq, reverse)
            return from_last(final, self.axis, self.size, reverse), results

        return self.mapped(on_device, given, (specs.carry, (specs.xs, timed)), params, seq)

    @property
    def size(self) -> int:
        """The number of devices in the row."""
        return self.mesh.shape[self.axis]

    def _check_masks(self, params: Params, seq: Sequence) -> None:
        """Raise if training drew a mask for sequences that come in pieces."""
        if self.pieces > 1 and params.keys() - param_shapes(self.cell, seq.xs.shape[-1]).keys():
            seen = f"{self.pieces}, for a mask that is drawn for each sequence"
            raise fail("pieces", seen, "1 in training with recurrent dropout", "leave one out")

    def _run_affine(
        self, run: Any, params: Params, seq: Sequence, reverse: bool
    ) -> tuple[Carry, Any]:
        """Find the carry before the steps of this device from the maps of those before it."""
        own = associative.stretch_of(self.cell, params, seq, reverse)
        flags = () if own.restarted is None else (expand_to(own.restarted, own.b),)
        leaves = [jnp.broadcast_to(x, own.b.shape).astype(own.b.dtype) for x in (*own[:2], *flags)]
        maps = lax.all_gather(jnp.stack(leaves), self.axis)
        place, h = place_of(self.axis, self.size, reverse), seq.carry[0]
        origin: Any = seq.origin
        for s in range(self.size):
            a, b, *restarted = maps[self.size - 1 - s if reverse else s]
            start = jnp.where(restarted[0] != 0, origin[0], h) if restarted else h
            after = (a * start.astype(a.dtype) + b).astype(h.dtype)
            h = jnp.where(s < place, after, h)
        return run(self.cell, params, seq._replace(carry=self.cell.state(h)))

    def _run_any(self, run: Any, params: Params, seq: Sequence, reverse: bool) -> tuple[Carry, Any]:
        """Hand the carry on, for one piece of the batch after another."""
        at = 1 if seq.xs.ndim > 2 else None
        if self.pieces > 1:
            divided("xs", seq.xs.shape[1] if at else 1, self.pieces, "of a device B")
        timed = seq._replace(carry=None, origin=None)
        pieces = pieces_of(timed, self.pieces, 1) if at else jax.tree.map(lambda x: x[None], timed)
        starts, origins = (
            pieces_of(x, self.pieces, 0) if at else jax.tree.map(lambda x: x[None], x)
            for x in (seq.carry, seq.origin)
        )
        first = place_of(self.axis, self.size, reverse) == 0

        def work(state: Any, message: Carry, item: Any) -> Any:
            own, start, origin = jax.tree.map(lambda x: x[item], (pieces, starts, origins))
            carry = choose(first, start, message)
            final, results = run(self.cell, params, own._replace(carry=carry, origin=origin))
            return state, final, (final, results)

        message = jax.tree.map(lambda x: x[0], starts)
        _, (finals, results) = wavefront(
            work, (), message, self.pieces, self.axis, self.size, reverse
        )
        if not at:
            return jax.tree.map(lambda x: x[0], (finals, results))
        return whole_of(finals, 0), whole_of(results, 1)
