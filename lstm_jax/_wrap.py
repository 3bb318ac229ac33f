"""Wrappers by function: around a cell, or around every cell of a net.

    net = zoneout(stack(LSTM(128), LSTM(64)), h=0.1, c=0.05)

What they draw in training comes from `unroll`'s key; without a key they take the expectation.
"""

from typing import Any

from ._cells import wrappers
from ._cells.contract import Recurrent
from ._net import Net, check_net, map_cells


def zoneout(net: Recurrent | Net, h: float = 0.0, c: float = 0.0) -> Any:
    """A unit keeps its value with probability h (first leaf of the carry) or c (the others).

    Evaluation mixes old and new in that proportion. Source: Krueger et al. (2017), arXiv
    1606.01305.

    Raises:
        ValueError: a rate outside [0, 1), or a cell that is a whole `step`.
    """
    return _wrapped(lambda cell: wrappers.Zoneout(cell, h, c), net)


def recurrent_dropout(net: Recurrent | Net, rate: float, per_gate: bool = False) -> Any:
    """Dropout on h_{t-1} in front of w_hh, one mask for all time steps of a sequence.

    `per_gate`: a mask for each gate, as Keras has them. Source: Gal & Ghahramani (2016), arXiv
    1512.05287.

    Raises:
        ValueError: a rate outside [0, 1), or a cell that does not factor.
    """
    return _wrapped(lambda cell: wrappers.RecurrentDropout(cell, rate, per_gate), net)


def memory_dropout(net: Recurrent | Net, rate: float, variational: bool = False) -> Any:
    """Dropout on what is written to the memory, g of an LSTM or n of a GRU: nothing is forgotten.

    A new mask each step, or one for a whole sequence. Source: Semeniuta, Severyn & Barth (2016),
    arXiv 1603.05118.

    Raises:
        ValueError: a rate outside [0, 1), or a cell that is not an LSTM or GRU (a wrapper neither:
            put this one on first).
    """
    return _wrapped(lambda cell: wrappers.MemoryDropout(cell, rate, variational), net)


def input_dropout(net: Recurrent | Net, rate: float, variational: bool = True) -> Any:
    """Dropout on x_t, one mask for all time steps of a sequence, or a new one each step.

    Source: Gal & Ghahramani (2016), arXiv 1512.05287. Raises ValueError: a rate outside [0, 1).
    """
    return _wrapped(lambda cell: wrappers.InputDropout(cell, rate, variational), net)


def weight_drop(net: Recurrent | Net, rate: float, names: tuple[str, ...] = ("w_hh",)) -> Any:
    """DropConnect on the parameters called `names`, one draw for a whole sequence.

    Source: Merity, Keskar & Socher (2018), arXiv 1708.02182. Raises ValueError: a rate outside
    [0, 1), names that are no list of names, or (when it runs) one that the parameters lack.
    """
    return _wrapped(lambda cell: wrappers.WeightDrop(cell, rate, names), net)


def state_noise(net: Recurrent | Net, h: float = 0.0, c: float = 0.0) -> Any:
    """Normal noise of standard deviation h (first leaf of the carry) or c (the others), each step.

    In training alone: its expectation is zero. Raises ValueError: a negative deviation, or a cell
    that is a whole `step`.
    """
    return _wrapped(lambda cell: wrappers.StateNoise(cell, h, c), net)


def clip_state(net: Recurrent | Net, h: float | None = None, c: float | None = None) -> Any:
    """The carry kept in [-h, h] (first leaf) and [-c, c] (the others); None: as it is.

    Source: the cell clip of Sak, Senior & Beaufays (2014). Raises ValueError: a limit not above 0.
    """
    return _wrapped(lambda cell: wrappers.ClipState(cell, h, c), net)


def clip_cotangents(net: Recurrent | Net, limit: float) -> Any:
    """Backpropagation through time with each step's derivatives clipped to [-limit, limit].

    A biased gradient, on purpose. Source: Graves (2013), arXiv 1308.0850. Raises ValueError: a
    limit not above 0, or a cell that does not factor.
    """
    return _wrapped(lambda cell: wrappers.ClipCotangents(cell, limit), net)


def learned_start(net: Recurrent | Net) -> Any:
    """The carry before the first step, and after a reset, is a parameter ("start_h", ...)."""
    return _wrapped(wrappers.LearnedStart, net)


def _wrapped(change: Any, net: Any) -> Any:
    """`net` with every cell changed; raise unless it is a cell or a net."""
    check_net("net", net)
    return map_cells(change, net)
