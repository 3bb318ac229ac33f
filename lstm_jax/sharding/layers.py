"""`by_layers`: the layers of a stack on devices in a row, through which pieces of time pass."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from .._cells.contract import Recurrent
from .._checks import check_positive_int, fail
from .._layers import Stack
from .._net import output_size
from .._numerics import varying_as
from .._sequence import Sequence
from .._typing import Array, Carry, Key, Params
from ._mesh import check_axes, check_mesh, divided, spec, unsplit
from ._spread import Spread, specs_of
from ._wavefront import from_last, pieces_of, place_of, wavefront, whole_of

__all__ = ["ByLayers", "by_layers"]
__dir__ = __all__.copy


def by_layers(
    net: Any, mesh: Mesh, axis: str = "stage", *, chunks: int, batch: str | None = None
) -> Any:
    """Put the layers of a stack on the devices of one axis of a mesh, in a row.

        mesh = jax.make_mesh((4,), ("stage",))
        net = sharding.by_layers(lj.stack(*[lj.LSTM(512)] * 8), mesh, chunks=16)
        params = sharding.split_params(net, params)
        carry, ys = lj.unroll(net, params, xs)

    A device holds L / n layers, with their parameters and carries. The sequence is cut into k
    chunks of T / k steps; while a device works on one, the device before works on the next. Of
    k + n - 1 ticks each is at work in k; after each it hands its outputs on. The backward pass
    computes each chunk again, so that it keeps the inputs and the carry of each chunk alone.

    The result is one cell: its parameters have the layers as their first axis, [L, ...], and its
    carry has leaves [*batch, L, H]. XLA runs the layers, by "fused" or "scan".

    Args:
        net: a stack of equal cells whose inputs have the size of their outputs, D = H, without
            dropout and skip connections. For other sizes put layers before and after it.
        mesh: the devices; one of its axes has n of them.
        axis: the name of that axis.
        chunks: k, the number of chunks.
        batch: the name of an axis over which the first batch axis is split too; None: it is not.

    Raises:
        ValueError: no such axis; layers that differ, or draw noise; an L or, when the net runs, a T
            that is no multiple.
    """
    check_mesh(mesh)
    pieces = check_axes(mesh, axis, batch)
    check_positive_int("chunks", chunks)
    cell = _layer_of(net)
    divided("net", len(net.layers), pieces, "layers, L")
    return ByLayers(cell, mesh, axis, batch, chunks, len(net.layers))


def _layer_of(net: Any) -> Recurrent:
    """The cell that all layers of a stack are."""
    remedy = "pass for example stack(*[LSTM(512)] * 8)"
    if not isinstance(net, Stack) or net.dropout or net.skip:
        raise fail("net", net, "a stack without dropout and skip connections", remedy)
    first = net.layers[0]
    if not isinstance(first, Recurrent) or any(layer != first for layer in net.layers):
        raise fail("net", net, "a stack of equal cells", remedy)
    if output_size(first, first.hidden_size) != first.hidden_size:
        raise fail("net", net, "layers whose outputs have size H", remedy)
    if not first.factors or first.input_ndim != 1 or first.stochastic:
        wanted = "layers that factor into matmuls and an update, and draw no noise"
        raise fail("net", net, wanted, "split the batch instead")
    return first


@dataclasses.dataclass(frozen=True)
class ByLayers(Spread):
    """Layers on devices in a row, as `by_layers` builds them.

    Attributes:
        axis, batch, chunks: as of `by_layers`.
        depth: L, the number of layers.
    """

    axis: str
    batch: str | None
    chunks: int
    depth: int

    implementations = ("fused", "scan")

    def places(self) -> dict[str | None, int]:
        return {self.batch: 0, self.axis: -2}

    # ---- on the devices --------------------------------------------------------------------------
    def whole(self, run: Any, params: Params, seq: Sequence, reverse: bool) -> tuple[Carry, Any]:
        """Run a sequence by `shard_map`, in which `run` gets a chunk of it for one layer."""
        divided("xs", seq.xs.shape[0], self.chunks, f"shape {seq.xs.shape}, of which T")
        batched = {} if self.batch is None else {self.batch: 0}
        own = jax.tree.map(lambda x: spec(x.ndim, {self.axis: 0}), params)
        carry = jax.tree.map(lambda x: spec(x.ndim, {**batched, self.axis: -2}), seq.carry)
        specs = specs_of(self.mesh, seq, self.batch)._replace(
            carry=carry, origin=None if seq.origin is None else carry
        )
        carries = jax.tree.map(lambda at: P(None, *at), carry)

        def on_device(params: Params, seq: Sequence) -> tuple[Carry, Any]:
            # Of parameters that are each device's own, the gradient is summed after the loop.
            params, seq = varying_as(params, seq.xs), varying_as(seq, (seq.carry, seq.xs))
            final, (ys, carries) = self._run(run, params, seq, reverse)
            return final, (from_last(ys, self.axis, self.size), carries)

        return self.mapped(on_device, (own, specs), (carry, (specs.xs, carries)), params, seq)

    @property
    def size(self) -> int:
        """The number of devices in the row."""
        return self.mesh.shape[self.axis]

    def _run(
        self, run: Any, params: Params, seq: Sequence, reverse: bool
    ) -> tuple[Carry, tuple[Array, Carry]]:
        """Run the layers of this device over one chunk after another."""
        xs = seq.xs.astype(self.cell.compute_dtype(params, seq.xs))
        chunks = pieces_of((xs, seq.valid, seq.restart), self.chunks, 0)
        is_first = place_of(self.axis, self.size, False) == 0
        layers = range(self.depth // self.size)

        def work(carry: Carry, message: Array, item: Array) -> Any:
            item = self.chunks - 1 - item if reverse else item
            xs, valid, restart = jax.tree.map(lambda x: x[item], chunks)
            ys, finals, carries = jnp.where(is_first, xs, message), [], []
            for k in layers:
                start, origin = _at(carry, -2, k), _at(seq.origin, -2, k)
                given = Sequence(ys, start, origin, valid, restart)
                final, (ys, each) = run(self.cell, _at(params, 0, k), given)
                finals.append(final)
                carries.append(each)
            return _stacked(finals), ys, (ys, _stacked(carries))

        message = jnp.zeros_like(chunks[0][0])
        state, results = wavefront(work, seq.carry, message, self.chunks, self.axis, self.size)
        if reverse:
            results = jax.tree.map(lambda x: x[::-1], results)
        return state, whole_of(results, 0)

    # ---- as one cell -----------------------------------------------------------------------------
    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of the stack, leaves [L, ...]."""
        self._check_input(input_size)
        keys = jax.random.split(key, self.depth)
        return jax.tree.map(lambda *x: jnp.stack(x), *[self.cell.init(k, input_size) for k in keys])

    def _check_input(self, input_size: int) -> None:
        if input_size != self.hidden_size:
            remedy = "put a layer before it: stack(LSTM(512), by_layers(..))"
            raise fail("xs", f"D = {input_size}", f"D = H = {self.hidden_size}", remedy)

    def split_params(self, params: Params) -> Params:
        """Stack the parameters of the layers, {"0": ..., "1": ...}; stacked ones stay."""
        if not self._are_layers(params):
            return params
        return jax.tree.map(lambda *x: jnp.stack(x), *[params[str(k)] for k in range(self.depth)])

    def join_params(self, params: Params) -> Params:
        """Give each layer its parameters; those of layers stay."""
        if self._are_layers(params):
            return params
        return {str(k): _at(params, 0, k) for k in range(self.depth)}

    def _are_layers(self, params: Params) -> bool:
        """True for the parameters of a stack of L layers, False for those that are stacked."""
        depths = {leaf.shape[:1] for leaf in jax.tree.leaves(params)}
        if sorted(params) == sorted(map(str, range(self.depth))):
            return True
        if depths == {(self.depth,)}:
            return False
        wanted = f"those of {self.depth} layers, or leaves [{self.depth}, ...]"
        raise fail("params", sorted(params), wanted, "pass what init of the stack gives")

    def spec_of(self) -> dict[tuple[str, ...], Any]:
        """Functions from a parameter, or what is shaped like it, to its spec, by its name."""
        shapes = jax.eval_shape(lambda: self.cell.init(jax.random.key(0), self.hidden_size))
        return {
            (name,): functools.partial(self._spec, {x.ndim + 1 for x in jax.tree.leaves(tree)})
            for name, tree in shapes.items()
        }

    def _spec(self, ndims: set[int], leaf: Any) -> P:
        alike = leaf.ndim in ndims and leaf.shape[0] == self.depth
        return spec(leaf.ndim, {self.axis: 0}) if alike else P()

    def initial_carry(self, params: Params, batch_shape: Any = ()) -> Carry:
        """The carries of all layers before the first step, leaves [*batch_shape, L, H]."""
        layers = [
            self.cell.initial_carry(_at(params, 0, k), batch_shape) for k in range(self.depth)
        ]
        return self.started(_stacked(layers), batch_shape)

    def _derived_step(
        self, params: Params, carry: Carry, x: Array, noise: Any = None
    ) -> tuple[Carry, Array]:
        layers = []
        for k in range(self.depth):
            new, x = self.cell.unchecked_step(_at(params, 0, k), _at(carry, -2, k), x, noise)
            layers.append(new)
        return self.started(_stacked(layers), x.shape[:-1]), x


def _at(tree: Any, axis: int, k: int) -> Any:
    """The k-th layer of every array, the layers along an axis."""

    def at(x: Array) -> Array:
        return jax.lax.index_in_dim(unsplit(x), k, axis % x.ndim, keepdims=False)

    return jax.tree.map(at, tree)


def _stacked(layers: list[Any]) -> Any:
    """Stack the carries [.., H] of layers, to [.., L, H]."""
    return jax.tree.map(lambda *x: jnp.stack(x, -2), *layers)
