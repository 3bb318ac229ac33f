"""`implementation="fused"`: the functions of `equations.py`, compiled by XLA.

The inputs are projected in one matmul before the loop, and the gradient of each weight is one
matmul after it. "fused" takes over whatever another engine cannot run.
"""

from ..._cells.contract import Recurrent
from .. import equations, inferred
from ..loops import Loop
from .kinds import Engine

GPUS = ("cuda", "rocm")

ROUND = 8
"""Steps in one iteration of XLA's loop on a GPU, where the host launches each kernel of it.

An iteration launches one kernel for the counter and one for each array that it writes, whatever
its number of steps. Compiled for an H100 (jax 0.12.0.1; LSTM, T 512, B 32, H 256, bfloat16) with
this number set to 1, 4, 8, 16: launches a step 4, 2.5, 2.25, 2.13 forward and 12, 6.75, 5.88, 5.44
with the gradient; seconds of one core to compile both 2.6, 4.2, 6.0, 10.1. On an H200 (jax 0.11.2,
LSTM, T 512, B 1, H 32, float32), before the loop was written for few launches, it was 2.69, 1.61
and 1.52 ms forward with 1, 4 and 8, and 6.79, 3.82 and 3.72 ms with the gradient.
"""


def loop_on(platform: str | None, exported: bool = False) -> Loop:
    """Return the way in which XLA's loop is written on a platform.

    exported: True for an exported program, in which JAX allows no layouts.
    """
    if platform in GPUS:
        return Loop(unroll=ROUND, launches=True)
    return Loop(time_major=platform == "tpu" and not exported)


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
