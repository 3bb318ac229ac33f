"""`implementation="cuda"`: the whole recurrence as one launch of a kernel for an NVIDIA GPU.

A cell's `update` and its derivatives are printed as C++ from their elementwise programs
(`printed.py`), into loops over time that keep the recurrent matrix in registers or shared memory
(`plan.py`, *.cuh). NVRTC compiles the source at the first call. With LSTM_JAX_EMULATE_CUDA=1 in the
environment the same source runs on a CPU: that is slow, and meant for tests.
"""

from ..kinds import Engine
from . import calls, device, launcher
from .tried import why_not as why_not

launcher.register()

ENGINE = Engine(
    why_not=why_not,
    run=calls.run,
    linearized=calls.linearized,
    transposed=calls.transposed,
    platforms=device.platforms(),
    vmapped=True,
    by_name="a kernel for NVIDIA's GPUs",
)
