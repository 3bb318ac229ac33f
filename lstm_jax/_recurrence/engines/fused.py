"""`implementation="fused"`: the functions of `equations.py`, compiled by XLA.

The inputs are projected in one matmul before the loop, and the gradient of each weight is one
matmul after it. "fused" takes over whatever another engine cannot run.
"""

from ..._cells.contract import Recurrent
from .. import equations, inferred
from .kinds import Engine

GPUS = ("cuda", "rocm")

ROUND = 4
"""Steps in one iteration of XLA's loop on a GPU, where the host launches each iteration.

Measured on an H200 (jax 0.11.2, float32) by jitted `unroll`s with this number set to 1, 2, 4, 8,
medians of 7 loops of 5 calls; LSTM, T 512, B 1, H 32, forward and gradient: 2.69 and 6.79 ms, 1.98
and 4.78, 1.61 and 3.82, 1.52 and 3.72. Compiling both took 1.4, 0.9, 1.5 and 3.1 s.
"""


def round_of(platform: str | None) -> int:
    """Return the number of steps in one iteration of the loop on a platform."""
    return ROUND if platform in GPUS else 1


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None if the cell factors into matmuls and an elementwise update, or why it cannot."""
    del platform
    return inferred.why_not(cell)


ENGINE = Engine(
    why_not=why_not,
    run=equations.run,
    linearized=equations.linearized,
    transposed=equations.transposed,
    platforms=("cpu", *GPUS, "tpu"),
)
