"""Functions that wrap a cell, or every cell of a net: regularisation, noise, clipping.

    net = zoneout(stack(LSTM(128), LSTM(64)), h=0.1, c=0.05)

In training the key of `unroll` seeds their noise; without a key they take the expectation.
"""

from typing import Any

from ._cells import wrappers
from ._cells.contract import Recurrent
from ._checks import fail, shown
from ._net import Net, cells_of, check_net, map_cells


def zoneout(net: Recurrent | Net, h: float = 0.0, c: float = 0.0) -> Any:
    """Zoneout: a unit keeps its value with probability h (first leaf of the carry) or c (others).

    Evaluation mixes old and new values in that proportion. Source: Krueger et al. (2017), arXiv
    1606.01305.

    Raises:
        ValueError: a rate outside [0, 1), or a cell that defines only `step`.
    """
    return _wrapped(lambda cell: wrappers.Zoneout(cell, h, c), net)


def recurrent_dropout(net: Recurrent | Net, rate: float, per_gate: bool = False) -> Any:
    """Dropout on h_{t-1} before it is multiplied by w_hh, one mask for all steps of a sequence.

    `per_gate` draws a mask for each gate, as Keras does. Source: Gal & Ghahramani (2016), arXiv
    1512.05287.

    Raises:
        ValueError: a rate outside [0, 1), or a cell that does not factor into project, recur and
            update.
    """
    return _wrapped(lambda cell: wrappers.RecurrentDropout(cell, rate, per_gate), net)


def memory_dropout(net: Recurrent | Net, rate: float, variational: bool = False) -> Any:
    """Dropout on the candidate, g of an LSTM or n of a GRU, which leaves the kept state alone.

    The mask is new at each step, or with `variational` one for a whole sequence. Source: Semeniuta,
    Severyn & Barth (2016), arXiv 1603.05118.

    Raises:
        ValueError: a rate outside [0, 1), or a cell without a candidate; apply this wrapper before
            any other.
    """
    return _wrapped(lambda cell: wrappers.MemoryDropout(cell, rate, variational), net)


def input_dropout(net: Recurrent | Net, rate: float, variational: bool = True) -> Any:
    """Dropout on x_t, one mask for all steps of a sequence, or without `variational` one per step.

    Source: Gal & Ghahramani (2016), arXiv 1512.05287. Raises ValueError: a rate outside [0, 1).
    """
    return _wrapped(lambda cell: wrappers.InputDropout(cell, rate, variational), net)


def weight_drop(net: Recurrent | Net, rate: float, names: tuple[str, ...] = ("w_hh",)) -> Any:
    """DropConnect on the parameters called `names`, one mask for a whole sequence.

    Source: Merity, Keskar & Socher (2018), arXiv 1708.02182. Raises ValueError: a rate outside
    [0, 1), `names` that is not a tuple of names, or (in training) a name that the parameters lack.
    """
    return _wrapped(lambda cell: wrappers.WeightDrop(cell, rate, names), net)


def state_noise(net: Recurrent | Net, h: float = 0.0, c: float = 0.0) -> Any:
    """Normal noise on the carry at each step, of deviation h (first leaf) or c (other leaves).

    It acts in training only, as its expectation is zero. Raises ValueError: a negative deviation,
    or a cell that defines only `step`.
    """
    return _wrapped(lambda cell: wrappers.StateNoise(cell, h, c), net)


def clip_state(net: Recurrent | Net, h: float | None = None, c: float | None = None) -> Any:
    """Clip the carry to [-h, h] (first leaf) and [-c, c] (other leaves); None: no clip.

    Source: the cell clip of Sak, Senior & Beaufays (2014). Raises ValueError: a limit not above 0.
    """
    return _wrapped(lambda cell: wrappers.ClipState(cell, h, c), net)


def clip_cotangents(net: Recurrent | Net, limit: float) -> Any:
    """Clip the cotangents of each step to [-limit, limit] in backpropagation through time.

    The gradient is biased, on purpose. Source: Graves (2013), arXiv 1308.0850. Raises ValueError: a
    limit not above 0, or a cell that does not factor into project, recur and update.
    """
    return _wrapped(lambda cell: wrappers.ClipCotangents(cell, limit), net)


def learned_start(net: Recurrent | Net) -> Any:
    """Learn the carry before the first step and after a reset, as parameters "start_h", ..."""
    return _wrapped(wrappers.LearnedStart, net)


def _wrapped(change: Any, net: Any) -> Any:
    """Apply `change` to every cell of `net`; raise unless it is a cell, or a net that has one."""
    check_net("net", net)
    if not cells_of(net):
        remedy = "wrap the cells beside it, or the whole net"
        raise fail("net", f"{shown(net)}, without a cell", "a cell, or a net with cells", remedy)
    return map_cells(change, net)
