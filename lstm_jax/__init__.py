"""Recurrent networks for JAX: cells as pure functions, scanned over time.

cell = lstm_jax.LSTM(128)
params = cell.init(jax.random.key(0), input_size=64)
carry, ys = lstm_jax.unroll(cell, params, xs)      # xs [T, B, 64] -> ys [T, B, 128]
"""

from . import (
    checkpoint,
    data,
    diagnostics,
    export,
    initializers,
    interop,
    losses,
    nn,
    optim,
    progress,
    regularizers,
    sharding,
    train,
)
from ._cells.antisymmetric import AntisymmetricRNN
from ._cells.base import Cell, State
from ._cells.contract import Recurrent
from ._cells.conv import ConvLSTM
from ._cells.gru import GRU, GRUState
from ._cells.independent import IndRNN
from ._cells.layer_norm import LayerNormGRU, LayerNormLSTM, LayerNormRNN
from ._cells.leaky import CTRNN, CTRNNState, LeakyRNN
from ._cells.linear import MinGRU, MinLSTM
from ._cells.lstm import LSTM, LSTMState
from ._cells.minimal import JANET, MGU, UGRNN, MinimalRNN
from ._cells.modrelu import ModReLURNN
from ._cells.nas import NASCell, NASState
from ._cells.rnn import RNN, RNNState
from ._cells.slstm import SLSTM, SLSTMState
from ._cells.sru import SRU, SRUState
from ._decode import Decoded, decode
from ._inspect import Inspection, inspect
from ._layers import Directions, bidirectional, embedding, readout, residual, stack
from ._net import Net
from ._newton import unroll_newton
from ._pointwise import dense
from ._recurrence.engines.newton import Certificate
from ._recurrence.record import Inspected
from ._recurrence.select import Which
from ._restart import reset_carry
from ._sequence import resets_from_dones
from ._unroll import unroll, which
from ._wrap import (
    clip_cotangents,
    clip_state,
    input_dropout,
    learned_start,
    memory_dropout,
    recurrent_dropout,
    state_noise,
    weight_drop,
    zoneout,
)
from .optim import clipped_sgd

__all__ = [
    "CTRNN",
    "GRU",
    "JANET",
    "LSTM",
    "MGU",
    "RNN",
    "SLSTM",
    "SRU",
    "UGRNN",
    "AntisymmetricRNN",
    "CTRNNState",
    "Cell",
    "Certificate",
    "ConvLSTM",
    "Decoded",
    "Directions",
    "GRUState",
    "IndRNN",
    "Inspected",
    "Inspection",
    "LSTMState",
    "LayerNormGRU",
    "LayerNormLSTM",
    "LayerNormRNN",
    "LeakyRNN",
    "MinGRU",
    "MinLSTM",
    "MinimalRNN",
    "ModReLURNN",
    "NASCell",
    "NASState",
    "Net",
    "RNNState",
    "Recurrent",
    "SLSTMState",
    "SRUState",
    "State",
    "Which",
    "bidirectional",
    "checkpoint",
    "clip_cotangents",
    "clip_state",
    "clipped_sgd",
    "data",
    "decode",
    "dense",
    "diagnostics",
    "export",
    "embedding",
    "initializers",
    "input_dropout",
    "inspect",
    "interop",
    "learned_start",
    "losses",
    "memory_dropout",
    "nn",
    "optim",
    "progress",
    "readout",
    "recurrent_dropout",
    "regularizers",
    "reset_carry",
    "resets_from_dones",
    "residual",
    "sharding",
    "stack",
    "state_noise",
    "train",
    "unroll",
    "unroll_newton",
    "weight_drop",
    "which",
    "zoneout",
]

__version__ = "0.1.0"


def __dir__() -> list[str]:
    """The public names alone, without what they are made with."""
    return [*__all__, "__version__"]
