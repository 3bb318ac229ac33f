"""Modules of flax.linen: `RNN` and `Bidirectional` in place of Flax's, `Cell` around any net.

    rnn = RNN(nn.LSTMCell(4))                    # Flax's cell and its parameters
    rnn = RNN(Cell(lstm_jax.GRU(4)))             # this library's cell
    variables = rnn.init(key, xs)                # xs [*batch, T, D]
    ys = rnn.apply(variables, xs, seq_lengths=lengths)

They compute what Flax's layers compute, with three differences: outputs at steps that are not valid
are zero, a sequence of length 0 returns its initial carry, and what the padding holds reaches no
gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cells.contract import param_shapes
from .._checks import fail, missing
from .._net import check_net
from .._static import compiled_for
from .._typing import Array, Carry, Key
from ._flax import Held, check_resets, equation, joined
from ._running import Sharding, by_path, named, run

try:
    import flax.linen as nn
    from flax.core import FrozenDict
except ImportError as error:
    raise missing("flax", error, "flax") from error

__all__ = [
    "RNN",
    "Bidirectional",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "MGUCell",
    "OptimizedLSTMCell",
    "SimpleCell",
]
__dir__ = __all__.copy

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
        return self.net.step(self.parameters(_size(self, inputs.shape)), carry, inputs)

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
        shapes = param_shapes(compiled_for(self.net), _size(self, input_shape))
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


def _size(cell: Cell, shape: tuple[int, ...]) -> int:
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


class RNN(nn.RNN):
    """A layer over sequences, with the arguments and the call of `nn.RNN`.

    Attributes:
        cell: a `Cell`, or Flax's LSTMCell, OptimizedLSTMCell, GRUCell, MGUCell or SimpleCell.
        time_major: True if inputs are [T, *batch, D]; False: [*batch, T, D].
        return_carry: return (carry, outputs), not the outputs alone.
        reverse: walk backwards in time.
        keep_order: with reverse: outputs aligned with the inputs; False: in the order of
            processing, with padding at the end.
        unroll, variable_axes, variable_broadcast, variable_carry, split_rngs: of Flax's scan;
            without effect.
        deterministic: True: evaluation; False: training, whose noise (of dropout or zoneout) is
            drawn from the stream `dropout`. Needed here or in the call, if the net draws noise.
        remat, implementation: as in `lstm_jax.unroll`.
    """

    deterministic: bool | None = None
    remat: Any = None
    implementation: Any = None

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Key | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Run the cell over sequences; what is None is as the attributes say.

        Args:
            inputs: [*batch, T, D], or [T, *batch, D] if time_major.
            initial_carry: the carry before the first step, as the cell's `initialize_carry` gives.
            init_key: what seeds a cell's `carry_init`; None: key 0.
            seq_lengths: [*batch]: steps t < seq_lengths are valid.
            return_carry, time_major, reverse, keep_order, deterministic: as the attributes.
            mask, resets: as in `lstm_jax.unroll`, with the axes of the inputs.

        Returns:
            ys [*batch, T, H], or (carry, ys) if return_carry: the carry after the last valid step.
        """
        timed: bool = _first(time_major, self.time_major)
        axis = 0 if timed else jnp.ndim(inputs) - self.cell.num_feature_axes - 1
        shape = inputs.shape[:axis] + inputs.shape[axis + 1 :]
        held, initial_carry = self._held(inputs.dtype, shape, initial_carry, init_key, resets)
        final, ys = run(
            held.net,
            held.params,
            inputs,
            held.enter(initial_carry),
            reverse=_first(reverse, self.reverse),
            keep_order=_first(keep_order, self.keep_order),
            time_major=timed,
            seq_lengths=seq_lengths,
            mask=mask,
            resets=resets,
            key=self._key(held.net, deterministic),
            remat=self.remat,
            implementation=self.implementation,
        )
        returned = _first(return_carry, self.return_carry)
        return (held.leave(final, initial_carry), ys) if returned else ys

    def _held(
        self, dtype: Any, shape: tuple[int, ...], carry: Any, init_key: Key | None, resets: Any
    ) -> tuple[Held, Any]:
        """What the cell holds, and the carry to start with; makes Flax's parameters in `init`."""
        cell = self.cell
        if isinstance(cell, Cell):
            return Held(cell.net, cell.parameters(_size(cell, shape))), carry
        kind = _kind(cell)
        check_resets(resets, cell.carry_init is not nn.initializers.zeros_init())
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = cell.initialize_carry(key, shape)
        if "params" not in cell.variables:
            cell(carry, jnp.zeros(shape, dtype))
        return _held(cell, kind), carry

    def _key(self, net: Any, deterministic: bool | None) -> Key | None:
        """The key of the noise, or None: in evaluation, or if the net draws none."""
        if not net.stochastic:
            return None
        chosen = nn.merge_param("deterministic", self.deterministic, deterministic)
        return None if chosen else self.make_rng("dropout")


class Bidirectional(nn.Bidirectional):
    """Two layers in opposite directions, with the arguments and the call of `nn.Bidirectional`.

    Its layers are two `RNN`s of this module; outputs are aligned with the inputs.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Key | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Run both layers and merge their outputs.

        Args:
            inputs, seq_lengths, return_carry, time_major, mask, resets, deterministic: as of `RNN`.
            initial_carry: (forward, backward), a carry for each.
            init_key: what seeds the `carry_init` of both cells.
            reverse, keep_order: without effect, as in Flax.

        Returns:
            ys, or ((forward, backward), ys) if return_carry.
        """
        given = {"seq_lengths": seq_lengths, "mask": mask, "resets": resets, "return_carry": True}
        given |= {"time_major": _first(time_major, self.time_major), "keep_order": True}
        given |= {"deterministic": deterministic}
        start = (None, None) if initial_carry is None else initial_carry
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        layers = self.forward_rnn, self.backward_rnn
        (ahead, ys), (back, zs) = (
            layer(inputs, initial_carry=start[n], init_key=keys[n], reverse=bool(n), **given)
            for n, layer in enumerate(layers)
        )
        merged = jax.tree.map(self.merge_fn, ys, zs)
        return ((ahead, back), merged) if _first(return_carry, self.return_carry) else merged


def _stepped(cell: Any, theirs: Any, carry: Any, inputs: Array) -> tuple[Any, Array]:
    """Run one step of a cell of Flax, by Flax itself if that is to make the parameters."""
    if "params" not in cell.variables:
        return theirs(carry, inputs)
    held = _held(cell, _kind(cell))
    final, y = held.net.step(held.params, held.enter(carry), inputs)
    return held.leave(final, carry), y


def _kind(cell: Any) -> str:
    for kind, name in KINDS.items():
        calls = [kind.__call__, *(own.__call__ for own in OURS)]
        if isinstance(cell, kind) and type(cell).__call__ in calls:
            return name
    wanted = f"a Cell, or one of Flax's {', '.join(kind.__name__ for kind in KINDS)} as it is"
    raise fail("cell", f"a {type(cell).__name__}", wanted, "use nn.RNN for a cell of your own")


def _held(cell: Any, kind: str) -> Held:
    net = equation(cell, kind, cell.features)
    tree = nn.meta.unbox(cell.variables["params"])
    params = joined(net, tree, getattr(cell, "residual", False))
    return Held(net, params, cell.param_dtype)


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value
