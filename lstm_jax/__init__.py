"""Recurrent networks for JAX: cells as pure functions, scanned over time.

cell = lstm_jax.LSTM(128)
params = cell.init(jax.random.key(0), input_size=64)
carry, ys = lstm_jax.unroll(cell, params, xs)      # xs [T, B, 64] -> ys [T, B, 128]
"""

from . import data as data
from . import diagnostics as diagnostics
from . import initializers as initializers
from . import interop as interop
from . import losses as losses
from . import regularizers as regularizers
from . import train as train
from ._cells.antisymmetric import AntisymmetricRNN as AntisymmetricRNN
from ._cells.base import Cell as Cell
from ._cells.base import State as State
from ._cells.conv import ConvLSTM as ConvLSTM
from ._cells.gru import GRU as GRU
from ._cells.gru import GRUState as GRUState
from ._cells.independent import IndRNN as IndRNN
from ._cells.layer_norm import LayerNormGRU as LayerNormGRU
from ._cells.layer_norm import LayerNormLSTM as LayerNormLSTM
from ._cells.layer_norm import LayerNormRNN as LayerNormRNN
from ._cells.leaky import CTRNN as CTRNN
from ._cells.leaky import CTRNNState as CTRNNState
from ._cells.leaky import LeakyRNN as LeakyRNN
from ._cells.linear import MinGRU as MinGRU
from ._cells.linear import MinLSTM as MinLSTM
from ._cells.lstm import LSTM as LSTM
from ._cells.lstm import LSTMState as LSTMState
from ._cells.minimal import JANET as JANET
from ._cells.minimal import MGU as MGU
from ._cells.minimal import UGRNN as UGRNN
from ._cells.minimal import MinimalRNN as MinimalRNN
from ._cells.nas import NASCell as NASCell
from ._cells.nas import NASState as NASState
from ._cells.rnn import RNN as RNN
from ._cells.rnn import RNNState as RNNState
from ._cells.slstm import SLSTM as SLSTM
from ._cells.slstm import SLSTMState as SLSTMState
from ._cells.sru import SRU as SRU
from ._cells.sru import SRUState as SRUState
from ._inspect import Inspection as Inspection
from ._inspect import inspect as inspect
from ._layers import Directions as Directions
from ._layers import bidirectional as bidirectional
from ._layers import embedding as embedding
from ._layers import readout as readout
from ._layers import residual as residual
from ._layers import stack as stack
from ._net import Net as Net
from ._recurrence.record import Inspected as Inspected
from ._recurrence.select import Which as Which
from ._sequence import resets_from_dones as resets_from_dones
from ._unroll import unroll as unroll
from ._unroll import which as which
from ._wrap import clip_cotangents as clip_cotangents
from ._wrap import clip_state as clip_state
from ._wrap import input_dropout as input_dropout
from ._wrap import learned_start as learned_start
from ._wrap import memory_dropout as memory_dropout
from ._wrap import recurrent_dropout as recurrent_dropout
from ._wrap import state_noise as state_noise
from ._wrap import weight_drop as weight_drop
from ._wrap import zoneout as zoneout
from .optim import clipped_sgd as clipped_sgd

__version__ = "0.1.0"
