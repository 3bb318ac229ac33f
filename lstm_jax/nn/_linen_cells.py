"""Cells of linen: any cell or net of this library as one, and Flax's own, run by this library."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cells.contract import param_shapes
from .._checks import fail, missing
from .._net import check_net
from .._static import compiled_for
from .._typing import Array, Carry, Key
from ._flax import Held, equation, joined
from ._running import Sharding, by_path, named

try:
    import flax.linen as nn
    from flax.core import FrozenDict
except ImportError as error:
    raise missing("flax", error, "flax") from error

KINDS = {
    nn.LSTMCell: "LSTM",
    nn.OptimizedLSTMCell: "LSTM",
    nn.GRUCell: "GRU",
    nn.MGUCell: "MGU",
    nn.SimpleCell: "RNN",
}


class Cell(nn.RNNCellBase):
    """A cell or net of this library as a module, for `RNN`, for Flax's `nn.RNN`, or step by step.

    Its parameters are those that `net.init` draws, in the collection `params`.

    Attributes:
        net: a cell or a net, such as `stack(LSTM(128), GRU(64), dropout=0.1)`.
        sharding: {"w_ih": (None, "model"), ...}: the names of mesh axes that a parameter gets, as
            by `nn.with_partitioning`; "0/w_ih" names that of layer 0.
    """

    net: Any
    sharding: Sharding = FrozenDict()

    @nn.compact
    def parameters(self, input_size: int) -> Any:
        """The parameters, plain arrays, for inputs of D = input_size."""
        check_net("net", self.net, "Cell(net)")
        shapes = param_shapes(compiled_for(self.net), input_size)
        drawn: dict[str, Any] = {}

        def draw(key: Key, name: str) -> Any:
            if not drawn:  # With the key of the first, all at once.
                size = input_size if self.net.input_ndim else None
                drawn.update(self._boxed(self.net.init(key, size)))
            return drawn[name]

        if all(self.has_variable("params", name) for name in shapes):
            return nn.meta.unbox({name: self.get_variable("params", name) for name in shapes})
        return {name: self.param(name, draw, name) for name in shapes}

    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """Run one step, in evaluation: inputs [*batch, D] -> (carry, y [*batch, H])."""
        return self.net.step(self.parameters(size_of(self, inputs.shape)), carry, inputs)

    @nn.nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> Carry:
        """The carry before the first step, for inputs of `input_shape` [*batch, D].

        Args:
            rng: without effect.
            input_shape: the shape of the inputs of one step.

        Raises:
            ValueError: the parameters hold the start (`learned_start`), which are not known here.
        """
        del rng
        shapes = param_shapes(compiled_for(self.net), size_of(self, input_shape))
        with jax.ensure_compile_time_eval():
            unknown = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)
            carry = self.net.initial_carry(unknown)
            learned = any(np.isnan(leaf).any() for leaf in jax.tree.leaves(carry))
        if learned:
            remedy = "leave initial_carry out in a call of RNN"
            raise fail("net", self.net, "one that starts with constants", remedy)
        batch = input_shape[: len(input_shape) - self.num_feature_axes]
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch, *leaf.shape)), carry)

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of one input."""
        return self.net.input_ndim

    @nn.nowrap
    def _boxed(self, params: Any) -> Any:
        axes = named(params, self.sharding)

        def boxed(path: str, leaf: Array) -> Any:
            return leaf if axes[path] is None else nn.Partitioned(leaf, tuple(axes[path]))

        return by_path(boxed, params)


def size_of(cell: Cell, shape: tuple[int, ...]) -> int:
    """D of inputs of this shape; 0 without a feature axis."""
    return shape[-1] if cell.num_feature_axes else 0


class LSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` run by this library: its arguments, its parameters, its carry (c, h)."""

    def __call__(self, carry: Any, inputs: Array) -> Any:
        return _stepped(self, super().__call__, carry, inputs)


class OptimizedLSTMCell(nn.OptimizedLSTMCell):
    """`nn.OptimizedLSTMCell` run by this library: its arguments, parameters and carry (c, h)."""

    def __call__(self, carry: Any, inputs: Array) -> Any:
        return _stepped(self, super().__call__, carry, inputs)


class GRUCell(nn.GRUCell):
    """`nn.GRUCell` run by this library: its arguments, its parameters, its carry h."""

    def __call__(self, carry: Any, inputs: Array) -> Any:
        return _stepped(self, super().__call__, carry, inputs)


class MGUCell(nn.MGUCell):
    """`nn.MGUCell` run by this library: its arguments, its parameters, its carry h."""

    def __call__(self, carry: Any, inputs: Array) -> Any:
        return _stepped(self, super().__call__, carry, inputs)


class SimpleCell(nn.SimpleCell):
    """`nn.SimpleCell` run by this library: its arguments, its parameters, its carry h."""

    def __call__(self, carry: Any, inputs: Array) -> Any:
        return _stepped(self, super().__call__, carry, inputs)


OURS = (LSTMCell, OptimizedLSTMCell, GRUCell, MGUCell, SimpleCell)


def _stepped(cell: Any, theirs: Any, carry: Any, inputs: Array) -> tuple[Any, Array]:
    """Run one step of a cell of Flax, by Flax itself if that is to make the parameters."""
    if "params" not in cell.variables:
        return theirs(carry, inputs)
    held = held_by(cell, kind_of(cell))
    final, y = held.net.step(held.params, held.enter(carry), inputs)
    return held.leave(final, carry), y


def kind_of(cell: Any) -> str:
    """The kind of one of Flax's cells; raise for another cell."""
    for kind, name in KINDS.items():
        calls = [kind.__call__, *(own.__call__ for own in OURS)]
        if isinstance(cell, kind) and type(cell).__call__ in calls:
            return name
    wanted = f"a Cell, or one of Flax's {', '.join(kind.__name__ for kind in KINDS)} as it is"
    raise fail("cell", f"a {type(cell).__name__}", wanted, "use nn.RNN for a cell of your own")


def held_by(cell: Any, kind: str) -> Held:
    """What a cell of Flax holds, in the words of this library."""
    net = equation(cell, kind, cell.features)
    tree = nn.meta.unbox(cell.variables["params"])
    params = joined(net, tree, getattr(cell, "residual", False))
    return Held(net, params, cell.param_dtype)
