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
from .._numerics import row
from .._typing import Array, Carry, Key
from .._unroll import unroll

CELL_NAMES = ("rnn-tanh", "rnn-relu", "lstm", "gru")


def make_cell(name: str, hidden_size: int) -> Cell:
    """The cell of a study by name, with the initialisation that its authors propose.

    "rnn-relu" starts W at the identity and its inputs small (Le, Jaitly & Hinton 2015); the others
    have the defaults of `RNN`, `LSTM` (forget bias 1) and `GRU`.
    """
    check_choice("cells", name, CELL_NAMES)
    if name == "rnn-relu":
        start = {"w_hh_init": initializers.identity(), "w_ih_init": initializers.normal(0.03)}
        return RNN(hidden_size, "relu", **start)
    return {"rnn-tanh": RNN, "lstm": LSTM, "gru": GRU}[name](hidden_size)


@dataclasses.dataclass(frozen=True)
class Model:
    """outputs_t = h_t @ w + b, with h_t the output of `cell`.

    Attributes:
        cell: the recurrent cell.
        input_size: D.
        output_size: the size of outputs_t.
    """

    cell: Cell
    input_size: int
    output_size: int

    def init(self, key: Key) -> dict[str, dict[str, Array]]:
        """{"cell": ..., "readout": {"w" [H, outputs], "b" [outputs]}}; the readout starts small."""
        key_cell, key_w = jax.random.split(key)
        shape = (self.cell.hidden_size, self.output_size)
        return {
            "cell": self.cell.init(key_cell, self.input_size),
            "readout": {
                "w": 0.1 * initializers.lecun_normal()(key_w, shape, jnp.float32),
                "b": jnp.zeros(self.output_size),
            },
        }

    def readout(self, params: dict[str, dict[str, Array]], ys: Array) -> Array:
        """ys [..., H] -> outputs [..., output_size]."""
        outputs = ys @ params["readout"]["w"]
        return outputs + row(params["readout"]["b"], outputs)

    def apply(
        self, params: dict[str, dict[str, Array]], xs: Array, carry: Carry | None = None, **options
    ) -> tuple[Carry, Array]:
        """(carry, outputs [T, B, output_size]) of inputs [T, B, D]; `options` are `unroll`'s."""
        carry, ys = unroll(self.cell, params["cell"], xs, carry, **options)
        return carry, self.readout(params, ys)

    def init_seeds(self, keys: Key) -> dict[str, dict[str, Array]]:
        """`init` for each of keys [S], stacked: leaves [S, ...]."""
        return jax.jit(jax.vmap(self.init))(keys)  # One program, in place of fifty operations.


def of_seed(tree: Any, seed: int) -> Any:
    """Entry `seed` of the first axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[seed], tree)
