"""Modules of Equinox: `RNN` over sequences, `Cell` around any cell or net, and Equinox's own cells.

    rnn = RNN(eqx.nn.LSTMCell(3, 4, key=key))           # Equinox's cell and its parameters
    rnn = RNN(Cell(lstm_jax.GRU(4), 3, key=key))        # this library's cell
    carry, ys = rnn(xs)                                 # xs [T, *batch, D] -> ys [T, *batch, H]

A call takes any number of batch axes, none included, and `jax.vmap` works too.
"""

from typing import Any

import jax

from .._cells.gru import GRU, GRUState
from .._cells.lstm import LSTM, LSTMState
from .._checks import check_bool, check_key, fail, missing
from .._net import check_net
from .._typing import Array, Carry, Key, Params
from .._unroll import unroll

try:
    import equinox as eqx
except ImportError as error:
    raise missing("equinox", error, "equinox") from error

__all__ = ["RNN", "Cell", "GRUCell", "LSTMCell"]
__dir__ = __all__.copy


class Cell(eqx.Module):
    """A cell or net of this library as a module, for `RNN` or step by step.

    Args:
        net: a cell or a net, such as `stack(LSTM(128), GRU(64), dropout=0.1)`.
        input_size: D, the size of the inputs; None for a net over an `embedding`.
        key: seeds the parameters.

    Attributes:
        net: the cell or net; static.
        params: its parameters, as `net.init` draws them.

    Raises:
        ValueError: not a cell or net, or not a key.
    """

    net: Any = eqx.field(static=True)
    params: Params

    def __init__(self, net: Any, input_size: int | None = None, *, key: Key):
        check_net("net", net, "Cell(net, input_size, key=key)")
        self.net = net
        self.params = net.init(key, input_size)

    def __call__(self, input: Array, hidden: Carry, *, key: Key | None = None) -> Carry:
        """Run one step, in evaluation: (input [*batch, D], carry) -> carry, as Equinox's cells do.

        `key` is without effect, as in Equinox.
        """
        del key
        return self.net.step(self.params, hidden, input)[0]

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step."""
        return self.net.initial_carry(self.params, batch_shape)


class LSTMCell(eqx.nn.LSTMCell):
    """`eqx.nn.LSTMCell` run by this library: its arguments and parameters; its state is (h, c)."""

    def __call__(self, input: Array, hidden: Any, *, key: Key | None = None) -> Any:
        """Run one step: (input [*batch, D], (h, c)) -> (h, c)."""
        return _stepped(self, input, hidden)


class GRUCell(eqx.nn.GRUCell):
    """`eqx.nn.GRUCell` run by this library: its arguments and parameters; its state is h."""

    def __call__(self, input: Array, hidden: Array, *, key: Key | None = None) -> Array:
        """Run one step: (input [*batch, D], h) -> h."""
        return _stepped(self, input, hidden)


class RNN(eqx.Module):
    """A layer over sequences.

    In training the call takes a key, from which noise (of dropout or zoneout) is drawn.

    Attributes:
        cell: a `Cell`, or Equinox's LSTMCell or GRUCell.
        reverse: walk backwards in time; outputs stay aligned with the inputs.
        inference: True: evaluation; `eqx.nn.inference_mode(model)` sets it.
        remat, implementation: as in `lstm_jax.unroll`; static.
    """

    cell: Any
    reverse: bool = eqx.field(static=True, default=False)
    inference: bool = False
    remat: Any = eqx.field(static=True, default=None)
    implementation: Any = eqx.field(static=True, default=None)

    def __check_init__(self):
        held_by(self.cell)

    def __call__(
        self,
        xs: Array,
        carry: Any = None,
        *,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        time_major: bool = True,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[Any, Any]:
        """Run the cell over sequences.

        Args:
            xs: [T, *batch, D].
            carry: the carry before the first step: (h, c) of an LSTMCell, h of a GRUCell, the net's
                own of a `Cell`; None: its start.
            seq_lengths, mask, resets, time_major: as in `lstm_jax.unroll`.
            key: seeds the noise of training; needed there, if the net draws any.
            inference: in place of the attribute.

        Returns:
            (carry, ys): the carry after the last valid step, and ys [T, *batch, H].
        """
        net, params = held_by(self.cell)
        own = isinstance(self.cell, Cell)
        final, ys = unroll(
            net,
            params,
            xs,
            carry if own or carry is None else _enter(net, carry),
            seq_lengths=seq_lengths,
            mask=mask,
            resets=resets,
            reverse=self.reverse,
            time_major=time_major,
            key=self._key(net, key, self.inference if inference is None else inference),
            remat=self.remat,
            implementation=self.implementation,
        )
        return final if own else _leave(final, carry), ys

    def _key(self, net: Any, key: Key | None, inference: bool) -> Key | None:
        """The key of the noise, or None: in evaluation, or if the net draws none."""
        check_bool("inference", inference)
        check_key("key", key, optional=True)
        if inference or not net.stochastic:
            return None
        if key is None:
            remedy = "pass key=, or inference=True, or call eqx.nn.inference_mode(model)"
            raise fail("key", "None", f"a key, from which the noise of {net} is drawn", remedy)
        return key


def held_by(cell: Any) -> tuple[Any, Params]:
    """The cell or net and the parameters that a cell of this module or of Equinox holds."""
    if isinstance(cell, Cell):
        return cell.net, cell.params
    for kind, own in ((eqx.nn.LSTMCell, LSTMCell), (eqx.nn.GRUCell, GRUCell)):
        if isinstance(cell, kind) and type(cell).__call__ in (kind.__call__, own.__call__):
            return _held(cell)
    wanted = "a Cell, or Equinox's LSTMCell or GRUCell as it is"
    raise fail(
        "cell", f"a {type(cell).__name__}", wanted, "use jax.lax.scan for a cell of your own"
    )


def _held(cell: Any) -> tuple[Any, Params]:
    """Equinox stores the gates in the same order, and matrices transposed."""
    params = {"w_ih": cell.weight_ih.T, "w_hh": cell.weight_hh.T}
    if cell.use_bias:
        params["b"] = cell.bias
    if isinstance(cell, eqx.nn.LSTMCell):
        return LSTM(cell.hidden_size, bias=cell.use_bias), params
    if cell.use_bias:
        params["b_hn"] = cell.bias_n
    return GRU(cell.hidden_size, bias=cell.use_bias), params


def _enter(net: Any, hidden: Any) -> Carry:
    """Convert the state of Equinox's cell, h or (h, c), to the carry of the net."""
    if not isinstance(net, LSTM):
        return GRUState(hidden)
    if not isinstance(hidden, (tuple, list)) or len(hidden) != 2:
        raise fail("carry", f"a {type(hidden).__name__}", "(h, c)", "pass a pair of arrays")
    return LSTMState(*hidden)


def _leave(final: Carry, like: Any) -> Any:
    """Convert the carry of the net to Equinox's, of the type and dtypes of the one that came in."""
    if like is None:
        return final.h if isinstance(final, GRUState) else tuple(final)
    leaves = [
        leaf.astype(old.dtype) for leaf, old in zip(final, jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _stepped(cell: Any, x: Array, hidden: Any) -> Any:
    """Run one step of a cell of Equinox."""
    net, params = held_by(cell)
    final, _ = net.step(params, _enter(net, hidden), x)
    return _leave(final, hidden)
