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

from .._typing import Array, Key
from ._flax import Held, check_resets
from ._linen_cells import (  # With Flax, or an error that names the extra.
    Cell,
    GRUCell,
    LSTMCell,
    MGUCell,
    OptimizedLSTMCell,
    SimpleCell,
    held_by,
    kind_of,
    nn,
    size_of,
)
from ._running import first, run

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
        timed: bool = first(time_major, self.time_major)
        axis = 0 if timed else jnp.ndim(inputs) - self.cell.num_feature_axes - 1
        shape = inputs.shape[:axis] + inputs.shape[axis + 1 :]
        held, initial_carry = self._held(inputs.dtype, shape, initial_carry, init_key, resets)
        final, ys = run(
            held.net,
            held.params,
            inputs,
            held.enter(initial_carry),
            reverse=first(reverse, self.reverse),
            keep_order=first(keep_order, self.keep_order),
            time_major=timed,
            seq_lengths=seq_lengths,
            mask=mask,
            resets=resets,
            key=self._key(held.net, deterministic),
            remat=self.remat,
            implementation=self.implementation,
        )
        returned = first(return_carry, self.return_carry)
        return (held.leave(final, initial_carry), ys) if returned else ys

    def _held(
        self, dtype: Any, shape: tuple[int, ...], carry: Any, init_key: Key | None, resets: Any
    ) -> tuple[Held, Any]:
        """What the cell holds, and the carry to start with; makes Flax's parameters in `init`."""
        cell = self.cell
        if isinstance(cell, Cell):
            return Held(cell.net, cell.parameters(size_of(cell, shape))), carry
        kind = kind_of(cell)
        check_resets(resets, cell.carry_init is not nn.initializers.zeros_init())
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = cell.initialize_carry(key, shape)
        if "params" not in cell.variables:
            cell(carry, jnp.zeros(shape, dtype))
        return held_by(cell, kind), carry

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
        given |= {"time_major": first(time_major, self.time_major), "keep_order": True}
        given |= {"deterministic": deterministic}
        start = (None, None) if initial_carry is None else initial_carry
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        layers = self.forward_rnn, self.backward_rnn
        (ahead, ys), (back, zs) = (
            layer(inputs, initial_carry=start[n], init_key=keys[n], reverse=bool(n), **given)
            for n, layer in enumerate(layers)
        )
        merged = jax.tree.map(self.merge_fn, ys, zs)
        return ((ahead, back), merged) if first(return_carry, self.return_carry) else merged
