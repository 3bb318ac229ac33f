"""Recurrent networks for JAX: cells as pure functions, scanned over time.

cell = lstm_jax.LSTM(128)
params = cell.init(jax.random.key(0), input_size=64)
carry, ys = lstm_jax.unroll(cell, params, xs)      # xs [T, B, 64] -> ys [T, B, 128]
"""

from . import data as data
from . import diagnostics as diagnostics
from . import initializers as initializers
from . import losses as losses
from . import regularizers as regularizers
from . import train as train
from ._cells.base import Cell as Cell
from ._cells.base import State as State
from ._cells.gru import GRU as GRU
from ._cells.gru import GRUState as GRUState
from ._cells.lstm import LSTM as LSTM
from ._cells.lstm import LSTMState as LSTMState
from ._cells.rnn import RNN as RNN
from ._cells.rnn import RNNState as RNNState
from ._sequence import resets_from_dones as resets_from_dones
from ._unroll import unroll as unroll
from ._unroll import which as which
from .optim import clipped_sgd as clipped_sgd

__version__ = "0.1.0"
