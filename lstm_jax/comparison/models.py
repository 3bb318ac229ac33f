"""The networks that the studies train: one cell and a linear readout."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .. import initializers
from .._cells.base import Cell
from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import check_choice
from .._layers import Readout
from .._typing import Array, Key

__all__ = ["CELL_NAMES", "Model", "make_cell", "of_seed"]
__dir__ = __all__.copy

CELL_NAMES = ("rnn-tanh", "rnn-relu", "lstm", "gru")


def make_cell(name: str, hidden_size: int) -> Cell:
    """Make a cell by name, with the initialisation that its authors propose.

    "rnn-relu" has W = I and small input weights (Le, Jaitly & Hinton 2015); the others have the
    defaults of `RNN`, `LSTM` (forget bias 1) and `GRU`.
    """
    check_choice("cells", name, CELL_NAMES)
    if name == "rnn-relu":
        start = {"w_hh_init": initializers.identity(), "w_ih_init": initializers.normal(0.03)}
        return RNN(hidden_size, "relu", **start)
    return {"rnn-tanh": RNN, "lstm": LSTM, "gru": GRU}[name](hidden_size)


@dataclasses.dataclass(frozen=True)
class Model:
    """A cell with a linear readout, `net`, for inputs of one size.

    Attributes:
        cell: the recurrent cell.
        input_size: D.
        output_size: the size of the net's outputs.
    """

    cell: Cell
    input_size: int
    output_size: int

    @property
    def net(self) -> Readout:
        """The net that is trained: outputs_t = h_t @ w + b, with h_t the output of `cell`."""
        return Readout(self.cell, self.output_size)

    def init(self, key: Key) -> dict[str, Any]:
        """Parameters of `net`, {"inner": the cell's, "w", "b"}; the readout starts small."""
        key_cell, key_w = jax.random.split(key)
        shape = (self.cell.hidden_size, self.output_size)
        return {
            "inner": self.cell.init(key_cell, self.input_size),
            "w": 0.1 * initializers.lecun_normal()(key_w, shape, jnp.float32),
            "b": jnp.zeros(self.output_size),
        }

    def init_seeds(self, keys: Key) -> dict[str, Any]:
        """Draw parameters for each of keys [S], stacked: leaves [S, ...]."""
        return jax.jit(jax.vmap(self.init))(keys)  # One program, not fifty operations.

    def readout(self, params: dict[str, Any], ys: Array) -> Array:
        """Outputs [..., output_size] of the cell's ys [..., H]."""
        return self.net.after(params, ys, ys)


def of_seed(tree: Any, seed: int) -> Any:
    """Select entry `seed` of the first axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[seed], tree)
