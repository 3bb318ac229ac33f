"""Cells of nnx: any cell or net of this library as one, and Flax's own, run by this library."""

from typing import Any

import jax

from .._checks import fail, missing, unboxed
from .._net import check_net
from .._typing import Array, Carry
from ._flax import Held, equation, joined
from ._running import Sharding, by_path, named

try:
    from flax import nnx
    from flax.nnx.nn import dtypes
except ImportError as error:
    raise missing("flax", error, "flax") from error

KINDS = {
    nnx.LSTMCell: "LSTM",
    nnx.OptimizedLSTMCell: "LSTM",
    nnx.GRUCell: "GRU",
    nnx.SimpleCell: "RNN",
}
Streams = nnx.Rngs | nnx.RngStream


class Cell(nnx.RNNCellBase):
    """A cell or net of this library as a module, for `RNN`, for Flax's `nnx.RNN`, or step by step.

    Args:
        net: a cell or a net, such as `stack(LSTM(128), GRU(64), dropout=0.1)`.
        in_features: D, the size of the inputs; None for a net over an `embedding`.
        rngs: its stream `params` seeds the parameters.
        sharding: {"w_ih": (None, "model"), ...}: the names of mesh axes that a parameter gets as
            its metadata, as by `nnx.with_partitioning`; "0/w_ih" names that of layer 0.

    Attributes:
        net: the cell or net.
        params: its parameters, nested dicts of `nnx.Param`; functions of this library, such as
            `lstm_jax.unroll(cell.net, cell.params, xs)`, take them as they are.

    Raises:
        ValueError: not a cell or net, or a name that is no parameter of it.
    """

    def __init__(
        self,
        net: Any,
        in_features: int | None = None,
        *,
        rngs: nnx.Rngs,
        sharding: Sharding | None = None,
    ):
        check_net("net", net, "Cell(net, in_features, rngs=rngs)")
        self.net = net
        drawn = net.init(rngs.params(), in_features)
        axes = named(drawn, sharding or {})

        def param(path: str, leaf: Array) -> nnx.Param:
            if axes[path] is None:
                return nnx.Param(leaf)
            return nnx.Param(nnx.with_partitioning(lambda: leaf, axes[path])())

        self.params = nnx.data(by_path(param, drawn))

    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """Run one step, in evaluation: inputs [*batch, D] -> (carry, y [*batch, H])."""
        return self.net.step(unboxed(self.params), carry, inputs)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: Streams | None = None,
        carry_init: Any = None,
    ) -> Carry:
        """The carry before the first step, for inputs of `input_shape` [*batch, D].

        Args:
            input_shape: the shape of the inputs of one step.
            rngs: what seeds `carry_init`.
            carry_init: an initializer for each leaf of the carry; None: the net's own start.
        """
        batch = input_shape[: len(input_shape) - self.num_feature_axes]
        carry = self.net.initial_carry(unboxed(self.params), batch)
        if carry_init is None:
            return carry
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        if stream is None:
            raise fail("rngs", "None", "a stream that seeds carry_init", "pass nnx.Rngs(carry=0)")
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), carry)

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of one input."""
        return self.net.input_ndim


class _Stepped:
    """The call of Flax's cell, run by this library."""

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        held = held_by(self)
        final, y = held.net.step(held.params, held.enter(carry), inputs)
        return held.leave(final, carry), y


class LSTMCell(_Stepped, nnx.LSTMCell):
    """`nnx.LSTMCell` run by this library: its arguments, its parameters, its carry (c, h)."""


class OptimizedLSTMCell(_Stepped, nnx.OptimizedLSTMCell):
    """`nnx.OptimizedLSTMCell` run by this library: its arguments, parameters and carry (c, h)."""


class GRUCell(_Stepped, nnx.GRUCell):
    """`nnx.GRUCell` run by this library: its arguments, its parameters, its carry h."""


class SimpleCell(_Stepped, nnx.SimpleCell):
    """`nnx.SimpleCell` run by this library: its arguments, its parameters, its carry h."""


def held_by(cell: Any) -> Held:
    """What a cell of this module or of Flax holds, in the words of this library."""
    kind = kind_of(cell)
    if kind is None:
        return Held(cell.net, unboxed(cell.params))
    net = equation(cell, kind, cell.hidden_features)
    tree = {
        name.removeprefix("dense_").rstrip("_"): _arrays(f"cell.{name}", layer)
        for name, layer in vars(cell).items()
        if isinstance(layer, nnx.Module)
    }
    params = joined(net, tree, getattr(cell, "residual", False))
    return Held(net, params, cell.param_dtype)


def kind_of(cell: Any) -> str | None:
    """The kind of one of Flax's cells, None of a `Cell`; raise for another cell."""
    if isinstance(cell, Cell):
        return None
    if getattr(cell, "promote_dtype", dtypes.promote_dtype) is not dtypes.promote_dtype:
        raise fail("cell", f"promote_dtype={cell.promote_dtype}", "Flax's own", "leave it out")
    for kind, name in KINDS.items():
        if isinstance(cell, kind) and type(cell).__call__ in (kind.__call__, _Stepped.__call__):
            return name
    wanted = f"a Cell, or one of Flax's {', '.join(kind.__name__ for kind in KINDS)} as it is"
    raise fail("cell", f"a {type(cell).__name__}", wanted, "use nnx.RNN for a cell of your own")


def _arrays(name: str, layer: Any) -> dict[str, Array]:
    if type(layer) is not nnx.Linear:  # Another layer, such as LoRA's, computes something else.
        seen = f"a {type(layer).__name__}"
        raise fail(name, seen, "Flax's Linear", "use nnx.RNN, or merge it into the weights")
    bias = {} if layer.bias is None else {"bias": unboxed(layer.bias)}
    return {"kernel": unboxed(layer.kernel), **bias}
