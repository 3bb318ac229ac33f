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

from .._checks import check_bool, check_key, fail
from .._typing import Array
from ._flax import check_resets
from ._nnx_cells import (  # With Flax, or an error that names the extra.
    Cell,
    GRUCell,
    LSTMCell,
    OptimizedLSTMCell,
    SimpleCell,
    Streams,
    held_by,
    kind_of,
    nnx,
)
from ._running import first, run

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


class RNN(nnx.RNN):
    """A layer over sequences, with the arguments and the call of `nnx.RNN`.

    Training draws noise, of dropout or zoneout, from the stream `dropout`, as `nnx.Dropout` does:
    `model.train()` and `model.eval()` switch it.

    Args:
        cell: a `Cell`, or Flax's LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell.
        time_major: True if inputs are [T, *batch, D]; False: [*batch, T, D].
        return_carry: return (carry, outputs), not the outputs alone.
        reverse: walk backwards in time.
        keep_order: with reverse: outputs aligned with the inputs; False: in the order of
            processing, with padding at the end.
        unroll, state_axes, broadcast_rngs: of Flax's scan; without effect.
        rngs: its stream `carry` seeds a cell's `carry_init`, its stream `dropout` the noise.
        deterministic: True: evaluation; False: training.
        remat, implementation: as in `lstm_jax.unroll`.

    Raises:
        ValueError: a cell whose equation this library does not know.
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
        draws = kind_of(cell) is None and cell.net.stochastic
        noise = _stream(rngs, "dropout") if draws else None
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
        """Run the cell over sequences; what is None is as the layer was made.

        Args:
            inputs: [*batch, T, D], or [T, *batch, D] if time_major.
            initial_carry: the carry before the first step, as the cell's `initialize_carry` gives.
            seq_lengths: [*batch]: steps t < seq_lengths are valid.
            return_carry, time_major, reverse, keep_order, deterministic: as of the layer.
            rngs: in place of those of the layer.
            mask, resets: as in `lstm_jax.unroll`, with the axes of the inputs.

        Returns:
            ys [*batch, T, H], or (carry, ys) if return_carry: the carry after the last valid step.
        """
        held = held_by(self.cell)
        drawn_start = getattr(self.cell, "carry_init", None) is not None
        check_resets(resets, drawn_start)
        timed: bool = first(time_major, self.time_major)
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
            reverse=first(reverse, self.reverse),
            keep_order=first(keep_order, self.keep_order),
            time_major=timed,
            seq_lengths=seq_lengths,
            mask=mask,
            resets=resets,
            key=self._key(held.net, rngs, first(deterministic, self.deterministic)),
            remat=self.remat,
            implementation=self.implementation,
        )
        returned = first(return_carry, self.return_carry)
        return (held.leave(final, initial_carry), ys) if returned else ys

    def set_view(self, deterministic: bool | None = None) -> None:
        """Switch to evaluation (True) or training; for `nnx.view`."""
        self.deterministic = first(deterministic, self.deterministic)

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
        given |= {"time_major": first(time_major, self.time_major), "return_carry": True}
        given |= {"deterministic": deterministic, "keep_order": True}
        start = (None, None) if initial_carry is None else initial_carry
        ahead, ys = self.forward_rnn(inputs, initial_carry=start[0], reverse=False, **given)
        back, zs = self.backward_rnn(inputs, initial_carry=start[1], reverse=True, **given)
        merged = jax.tree.map(self.merge_fn, ys, zs)
        return ((ahead, back), merged) if first(return_carry, self.return_carry) else merged


def _stream(rngs: Any, name: str) -> Any:
    """The stream of Rngs with this name, or the default one; None if there is none."""
    known = isinstance(rngs, nnx.Rngs) and (name in rngs or "default" in rngs)
    return rngs[name] if known else None
