"""The command `lstm-jax info`."""

import dataclasses
import platform

import jax

from .. import GRU, LSTM, RNN, __version__, which
from .._recurrence.engines.native import library


@dataclasses.dataclass(frozen=True)
class Info:
    """Print versions, devices, and the implementations that run each cell on this machine."""

    def run(self) -> None:
        """Print the versions, the devices, and one line for each cell."""
        print(f"lstm_jax {__version__} {library.summary()}")
        print(f"jax {jax.__version__}, Python {platform.python_version()}")
        print("devices:", ", ".join(str(device) for device in jax.devices()))
        cells = {"RNN": RNN(1), "LSTM": LSTM(1), "GRU": GRU(1)}
        cells["GRU, reset before"] = GRU(1, reset_after=False)
        for name, cell in cells.items():
            print(f"{name}: {which(cell)}")
