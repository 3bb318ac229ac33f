"""Modules of flax.nnx: `RNN` and `Bidirectional` in place of Flax's, `Cell` around any net.

    rnn = RNN(nnx.LSTMCell(3, 4, rngs=rngs))            # Flax's cell and its parameters
    rnn = RNN(Cell(lstm_jax.GRU(4), 3, rngs=rngs))      # this library's cell
    ys = rnn(xs, seq_lengths=lengths)                   # xs [*batch, T, D] -> ys [*batch, T, H]

They compute what Flax's layers compute, with three differences: outputs at steps that are not valid
are zero, a sequence of length 0 returns its initial carry, and what the padding holds reaches no
gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_bool, check_key, fail, missing, unboxed
from .._net import check_net
from .._typing import Array, Carry
from ._flax import Held, check_resets, equation, joined
from ._running import Sharding, by_path, named, run

try:
    from flax import nnx
    from flax.nnx.nn import dtypes
except ImportError as error:
    raise missing("flax", error, "flax") from error

__all__ = [
    "RNN",
    "Bidirectional",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "OptimizedLSTMCell",
    "SimpleCell",
]
__dir__ = __all__.copy

KINDS = {
    nnx.LSTMCell: "LSTM",
    nnx.OptimizedLSTMCell: "LSTM",
    nnx.GRUCell: "GRU",
    nnx.SimpleCell: "RNN",
}
Streams = nnx.Rngs | nnx.RngStream


class Cell(nnx.RNNCellBase):
    """A cell or net of this library as a module, for `RNN`, for Flax's `nnx.RNN`, or step by step.

    Attributes:
        net: the cell or net.
        params: its parameters, nested dicts of `nnx.Param`; functions of this library, such as
            `lstm_jax.unroll(cell.net, cell.params, xs)`, take them as they are.
    """

    def __init__(
        self,
        net: Any,
        in_features: int | None = None,
        *,
        rngs: nnx.Rngs,
        sharding: Sharding | None = None,
    ):
        """Draw the parameters.

        Args:
            net: a cell or a net, such as `stack(LSTM(128), GRU(64), dropout=0.1)`.
            in_features: D, the size of the inputs; None for a net over an `embedding`.
            rngs: its stream `params` seeds the parameters.
            sharding: {"w_ih": (None, "model"), ...}: the names of mesh axes that a parameter gets
                as its metadata, as by `nnx.with_partitioning`; "0/w_ih" names that of layer 0.

        Raises:
            ValueError: not a cell or net, or a name that is no parameter of it.
        """
        check_net("net", net, "Cell(net, in_features, rngs=rngs)")
        self.net = net
        drawn = net.init(rngs.params(), in_features)
        axes = named(drawn, sharding or {})

        def param(path: str, leaf: Array) -> nnx.Param:
            return nnx.Param(leaf, **({"out_sharding": axes[path]} if axes[path] else {}))

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


class RNN(nnx.RNN):
    """A layer over sequences, with the arguments and the call of `nnx.RNN`.

    Training draws noise, of dropout or zoneout, from the stream `dropout`, as `nnx.Dropout` does:
    `model.train()` and `model.eval()` switch it.

    Attributes:
        cell: a `Cell`, or Flax's LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell.
        deterministic: True: evaluation; False: training.
    """

    def __init__(
        self,
        cell: Any,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Any = None,
        broadcast_rngs: Any = None,
        rngs: Streams | bool = True,
        deterministic: bool = False,
        remat: Any = None,
        implementation: Any = None,
    ):
        """Hold a cell.

        Args:
            cell: what to run.
            time_major: True if inputs are [T, *batch, D]; False: [*batch, T, D].
            return_carry: return (carry, outputs), not the outputs alone.
            reverse: walk backwards in time.
            keep_order: with reverse: outputs aligned with the inputs; False: in the order of
                processing, with padding at the end.
            unroll, state_axes, broadcast_rngs: of Flax's scan; without effect.
            rngs: its stream `carry` seeds a cell's `carry_init`, its stream `dropout` the noise.
            deterministic: True: evaluation.
            remat, implementation: as in `lstm_jax.unroll`.

        Raises:
            ValueError: a cell whose equation this library does not know.
        """
        unseeded = isinstance(rngs, nnx.Rngs) and _stream(rngs, "carry") is None
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            state_axes=state_axes,
            broadcast_rngs=broadcast_rngs,
            rngs=True if unseeded else rngs,
        )
        noise = _stream(rngs, "dropout") if held_by(cell).net.stochastic else None
        self.noise = nnx.data(None if noise is None else noise.fork())
        self.deterministic = deterministic
        self.remat = remat
        self.implementation = implementation

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Streams | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Run the cell over sequences; what is None is as `__init__` was told.

        Args:
            inputs: [*batch, T, D], or [T, *batch, D] if time_major.
            initial_carry: the carry before the first step, as the cell's `initialize_carry` gives.
            seq_lengths: [*batch]: steps t < seq_lengths are valid.
            return_carry, time_major, reverse, keep_order, deterministic: as in `__init__`.
            rngs: in place of those of `__init__`.
            mask, resets: as in `lstm_jax.unroll`, with the axes of the inputs.

        Returns:
            ys [*batch, T, H], or (carry, ys) if return_carry: the carry after the last valid step.
        """
        held = held_by(self.cell)
        drawn_start = getattr(self.cell, "carry_init", None) is not None
        check_resets(resets, drawn_start)
        timed: bool = _first(time_major, self.time_major)
        if initial_carry is None and drawn_start:
            axis = 0 if timed else jnp.ndim(inputs) - self.cell.num_feature_axes - 1
            shape = inputs.shape[:axis] + inputs.shape[axis + 1 :]
            stream = self.rngs if rngs is None else rngs
            initial_carry = self.cell.initialize_carry(shape, stream)
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
            key=self._key(held.net, rngs, _first(deterministic, self.deterministic)),
            remat=self.remat,
            implementation=self.implementation,
        )
        returned = _first(return_carry, self.return_carry)
        return (held.leave(final, initial_carry), ys) if returned else ys

    def set_view(self, deterministic: bool | None = None) -> None:
        """Switch to evaluation (True) or training; for `nnx.view`."""
        self.deterministic = _first(deterministic, self.deterministic)

    def _key(self, net: Any, rngs: Any, deterministic: bool) -> Array | None:
        """The key of the noise, or None: in evaluation, or if the net draws none."""
        check_bool("deterministic", deterministic)
        if deterministic or not net.stochastic:
            return None
        given = _stream(rngs, "dropout") if isinstance(rngs, nnx.Rngs) else None
        stream = self.noise if given is None else given
        if stream is None:
            wanted = f"a stream `dropout`, from which the noise of {net} is drawn"
            remedy = "pass rngs=nnx.Rngs(dropout=0) to RNN or its call, or call model.eval()"
            raise fail("rngs", "none", wanted, remedy)
        key = stream()
        check_key("rngs", key)
        return key


class Bidirectional(nnx.Bidirectional):
    """Two layers in opposite directions, with the arguments and the call of `nnx.Bidirectional`.

    Its layers are two `RNN`s of this module; outputs are aligned with the inputs.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        rngs: Streams | None = None,
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
            rngs: in place of those of the layers.
            reverse, keep_order: without effect, as in Flax.

        Returns:
            ys, or ((forward, backward), ys) if return_carry.
        """
        given = {"rngs": rngs, "seq_lengths": seq_lengths, "mask": mask, "resets": resets}
        given |= {"time_major": _first(time_major, self.time_major), "return_carry": True}
        given |= {"deterministic": deterministic, "keep_order": True}
        start = (None, None) if initial_carry is None else initial_carry
        ahead, ys = self.forward_rnn(inputs, initial_carry=start[0], reverse=False, **given)
        back, zs = self.backward_rnn(inputs, initial_carry=start[1], reverse=True, **given)
        merged = jax.tree.map(self.merge_fn, ys, zs)
        return ((ahead, back), merged) if _first(return_carry, self.return_carry) else merged


def held_by(cell: Any) -> Held:
    """What a cell of this module or of Flax holds, in the words of this library."""
    if isinstance(cell, Cell):
        return Held(cell.net, unboxed(cell.params))
    for kind, name in KINDS.items():
        if isinstance(cell, kind) and type(cell).__call__ in (kind.__call__, _Stepped.__call__):
            return _held(cell, name)
    wanted = f"a Cell, or one of Flax's {', '.join(kind.__name__ for kind in KINDS)} as it is"
    raise fail("cell", f"a {type(cell).__name__}", wanted, "use nnx.RNN for a cell of your own")


def _held(cell: Any, kind: str) -> Held:
    if cell.promote_dtype is not dtypes.promote_dtype:
        raise fail("cell", f"promote_dtype={cell.promote_dtype}", "Flax's own", "leave it out")
    net = equation(cell, kind, cell.hidden_features)
    tree = {
        name.removeprefix("dense_").rstrip("_"): _arrays(f"cell.{name}", layer)
        for name, layer in vars(cell).items()
        if isinstance(layer, nnx.Module)
    }
    params = joined(net, tree, getattr(cell, "residual", False))
    return Held(net, params, cell.param_dtype)


def _arrays(name: str, layer: Any) -> dict[str, Array]:
    if type(layer) is not nnx.Linear:  # Another layer, such as LoRA's, computes something else.
        seen = f"a {type(layer).__name__}"
        raise fail(name, seen, "Flax's Linear", "use nnx.RNN, or merge it into the weights")
    bias = {} if layer.bias is None else {"bias": unboxed(layer.bias)}
    return {"kernel": unboxed(layer.kernel), **bias}


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _stream(rngs: Any, name: str) -> Any:
    """The stream of Rngs with this name, or the default one; None if there is none."""
    known = isinstance(rngs, nnx.Rngs) and (name in rngs or "default" in rngs)
    return rngs[name] if known else None
