"""`by_units`: hidden units split over devices, which exchange h once a step."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from .._cells.contract import Recurrent
from .._cells.wrappers import Wrapper
from .._checks import fail
from .._net import Net, check_net, map_cells
from .._numerics import varying_as
from .._sequence import Sequence
from .._typing import Array, Carry, Key, Params, Pre
from ._mesh import check_axes, check_mesh, divided, spec
from ._pieces import (
    Cut,
    check_input_size,
    check_pieces,
    cuts_of,
    gathers,
    piece_of,
    stored,
    viewed,
    with_first,
)
from ._spread import Spread, check_unsplit, mask_spec, specs_of, stacked

__all__ = ["ByUnits", "by_units"]
__dir__ = __all__.copy


def by_units(
    net: Recurrent | Net, mesh: Mesh, axis: str = "model", *, batch: str | None = None
) -> Any:
    """Split the hidden units of every cell of a net over the devices of one axis of a mesh.

        mesh = jax.make_mesh((2, 4), ("data", "model"))
        net = sharding.by_units(lj.LSTM(1024), mesh, batch="data")
        params = sharding.split_params(net, params)
        carry, ys = lj.unroll(net, params, xs)

    Each device has all G gates of its own H / m units: its part of w_ih, w_hh and b, of the carry
    and of ys. A step needs the h of all units, which is one all-gather; backwards it is one
    reduce-scatter, and one all-gather of all h after the loop for the gradient of w_hh. Values and
    gradients are those of one device, up to the rounding of sums. Whatever else is in the net, such
    as a readout, is computed as JAX splits it. XLA runs the cells, by "fused" or "scan".

    Parameters are stored with the units as their last axis, w_ih as [D, G, H]: see `split_params`.

    Args:
        net: a cell or a net, with its wrappers. Every H is a multiple of m.
        mesh: the devices; one of its axes has m of them.
        axis: the name of that axis.
        batch: the name of an axis over which the first batch axis is split too; None: it is not.

    Raises:
        ValueError: no such axis; a size that is no multiple; a cell whose units meet elsewhere than
            in h @ w_hh (a layer normalisation, a projection). It is tried on numbers.
    """
    check_net("net", net)
    check_mesh(mesh)
    pieces = check_axes(mesh, axis, batch)

    def split(cell: Any) -> ByUnits:
        check_unsplit(cell)
        check_pieces(cell)
        piece = Gathering(piece_of(cell, pieces), axis, pieces)
        return ByUnits(cell, mesh, piece, tuple(cuts_of(cell).items()), axis, batch)

    return map_cells(split, net)


@dataclasses.dataclass(frozen=True)
class Gathering(Wrapper):
    """The cell of one device's units: inside `shard_map` its `recur` gathers the h of all.

    Attributes:
        axis: the name of the axis of the mesh.
        pieces: the number of devices along it.
    """

    axis: str
    pieces: int

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u of these units from the h of all."""
        return self.cell.recur(params, self.gathered(carry))

    def gathered(self, carry: Carry) -> Carry:
        """Replace h by that of all devices."""
        h = carry[0]
        if not gathers(self.cell):
            return carry
        if self.axis in jax.sharding.get_abstract_mesh().manual_axes:
            return with_first(carry, lax.all_gather(h, self.axis, axis=h.ndim - 1, tiled=True))
        return with_first(carry, jnp.concatenate([h] * self.pieces, -1))  # Where types alone count.


@dataclasses.dataclass(frozen=True)
class ByUnits(Spread):
    """A cell whose units are split over devices, as `by_units` builds it.

    Attributes:
        piece: the cell of one device's units.
        cut: (name, `Cut`) of every parameter.
        axis, batch: as of `by_units`.
    """

    piece: Any = dataclasses.field(repr=False)
    cut: tuple[tuple[str, Cut], ...] = dataclasses.field(repr=False)
    axis: str
    batch: str | None

    implementations = ("fused", "scan")

    def places(self) -> dict[str | None, int]:
        return {self.batch: 0, self.axis: -1}

    # ---- on the devices --------------------------------------------------------------------------
    def whole(self, run: Any, params: Params, seq: Sequence, reverse: bool) -> tuple[Carry, Any]:
        """Run a sequence by `shard_map`, in which `run` gets the units of one device."""
        del reverse
        check_input_size(self.cuts, self.cell, self.piece.cell, seq.xs.shape[-1])
        for leaf in jax.tree.leaves(seq.noise):
            if leaf.shape[-1] != self.hidden_size:
                seen = f"{self.cell}, which draws noise of shape {leaf.shape}"
                raise fail(
                    "net", seen, f"noise for H = {self.hidden_size}", "split the batch instead"
                )
        specs = specs_of(self.mesh, seq, self.batch, units=self.axis)
        ys = spec(seq.xs.ndim, self._at(1, units=True))

        def on_device(params: Params, seq: Sequence) -> tuple[Carry, Any]:
            return run(self.piece, varying_as(stored(self.cuts, params), seq.xs), seq)

        masks = {
            n: mask_spec(m, seq.carry, self.batch) for n, m in params.items() if n not in self.cuts
        }
        given = {**self._specs(params), **masks}, specs
        out = specs.carry, (ys, stacked(specs.carry))
        return self.mapped(on_device, given, out, params, seq)

    def _derived_step(
        self, params: Params, carry: Carry, x: Array, noise: Any = None
    ) -> tuple[Carry, Array]:
        check_input_size(self.cuts, self.cell, self.piece.cell, x.shape[-1])
        del noise  # A step is one of evaluation.
        if self.batch is not None:
            if x.ndim < 2:
                raise fail("x", f"shape {x.shape}", "[B, D], B split", "give the batch an axis")
            divided("x", x.shape[0], self.mesh.shape[self.batch], f"shape {x.shape}, of which B")
        own = jax.tree.map(lambda leaf: spec(leaf.ndim, self._at(0, units=True)), carry)
        xs, ys = (spec(x.ndim, self._at(0, units)) for units in (False, True))

        def on_device(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
            return self.piece.unchecked_step(stored(self.cuts, params), carry, x)

        given = (self._specs(params), own, xs)
        return self.mapped(on_device, given, (own, ys), params, carry, x)

    def _at(self, place: int, units: bool) -> dict[str, int]:
        """Places of the axes of the mesh in an array with the batch axis at `place`."""
        batched = {} if self.batch is None else {self.batch: place}
        return {**batched, self.axis: -1} if units else batched

    @property
    def cuts(self) -> dict[str, Cut]:
        """How each parameter is split."""
        return dict(self.cut)

    def spec_of(self) -> dict[tuple[str, ...], Any]:
        """Functions from a parameter, or what is shaped like it, to its spec, by its name."""
        return {(name,): functools.partial(self._spec, cut) for name, cut in self.cut}

    def _specs(self, params: Params) -> Any:
        return {name: self._spec(cut, params[name]) for name, cut in self.cut}

    def _spec(self, cut: Cut, leaf: Any) -> P:
        if cut.axis is None or leaf.ndim != cut.ndim + (cut.gates > 1):
            return P()
        axis = cut.axis if cut.gates == 1 else -1
        if leaf.shape[axis] % self.mesh.shape[self.axis]:
            return P()  # It is not shaped like the parameter: Adafactor has arrays [1].
        return spec(leaf.ndim, {self.axis: axis})

    # ---- with all units in one array -------------------------------------------------------------
    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of the cell, with the units as their last axis."""
        check_input_size(self.cuts, self.cell, self.piece.cell, input_size)
        return viewed(self.cuts, self.cell.init(key, input_size))

    def split_params(self, params: Params) -> Params:
        """View the parameters of the cell with the units as their last axis."""
        return viewed(self.cuts, params)

    def join_params(self, params: Params) -> Params:
        """View the parameters as those of the cell."""
        return stored(self.cuts, params)

    def initial_carry(self, params: Params, batch_shape: Any = ()) -> Carry:
        """The carry of the cell before the first step."""
        carry = self.cell.initial_carry(self.join_params(params), batch_shape)
        return self.started(carry, batch_shape)

    def project(self, params: Params, x: Array) -> Pre:
        """Project inputs as the cell does."""
        return self.cell.project(self.join_params(params), x)

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u as the cell does."""
        return self.cell.recur(self.join_params(params), carry)

    def extras(self, params: Params) -> Params:
        """The parameters that the cell's `update` takes as keywords."""
        return self.cell.extras(self.join_params(params))

    def weights(self, params: Params) -> Params:
        """The parameters that `recur` takes, as they are stored in the cell."""
        return self.cell.weights(self.join_params(params))

    def output(self, params: Params, carry: Carry) -> Array:
        """The output of the cell."""
        return self.cell.output(self.join_params(params), carry)

    def compute_dtype(self, params: Params, x: Array | None = None) -> Any:
        """The compute dtype of the cell."""
        return self.cell.compute_dtype(self.join_params(params), x)

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of all units, as one device does."""
        found, xs, noise = self.cell.training(key, self.join_params(params), xs)
        return self.split_params(found), xs, None if noise is None else (None, noise)
