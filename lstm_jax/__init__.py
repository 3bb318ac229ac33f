"""Recurrent networks for JAX: cells as pure functions, scanned over time."""

from . import initializers as initializers
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

__version__ = "0.1.0"
