"""Figures as data, from which come a drawing, a table and a description."""

from .bars import Bars
from .figures import Figure, alone, table
from .lines import Chart, Line, Point, counted, line, middle
from .surface import Surface

__all__ = [
    "CELLS",
    "Bars",
    "Chart",
    "Figure",
    "Line",
    "Point",
    "Surface",
    "alone",
    "counted",
    "line",
    "middle",
    "table",
]
__dir__ = __all__.copy

CELLS = {"rnn-tanh": "tanh RNN", "rnn-relu": "ReLU RNN", "lstm": "LSTM", "gru": "GRU"}
"""What a cell is called wherever it is shown; a line or bar with that name has its colour."""
