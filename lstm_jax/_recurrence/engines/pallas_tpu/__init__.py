"""`implementation="pallas_tpu"`: the whole recurrence as one Pallas kernel for a TPU.

The recurrent matrix stays in the TPU's VMEM for all steps, with the carry; what all steps need or
make is moved in blocks of steps while others are computed. The kernel contains the cell's own
`update`, its jvp or its vjp, so that one source serves every cell that factors. `why_not` tries to
lower them. With LSTM_JAX_INTERPRET=1 in the environment Pallas interprets the kernel on a CPU: that
is slow, and meant for tests.
"""

from ..kinds import Engine
from . import calls, contacts
from .tried import why_not as why_not

ENGINE = Engine(
    why_not=why_not,
    run=calls.run,
    linearized=calls.linearized,
    transposed=calls.transposed,
    platforms=contacts.platforms(),
    by_name="a kernel for TPUs",
)
