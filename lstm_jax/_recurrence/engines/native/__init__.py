"""`implementation="native"`: the whole recurrence in one call of a CPU kernel.

The kernel consists of a matmul and an interpreter of vector instructions, into which a cell's
`update` and its derivatives are translated from their jaxprs; `why_not` tries the translation of
`update`. XLA evaluates what the kernel cannot: a derivative that does not translate, the derivative
of a derivative, an export. If only "native" was asked for, these are errors.
"""

from ..kinds import Engine
from . import calls, library
from . import product as product
from .tried import why_not as why_not

library.register_early()

ENGINE = Engine(
    why_not=why_not,
    run=calls.run,
    linearized=calls.linearized,
    transposed=calls.transposed,
    platforms=("cpu",),
    projects=True,
    vmapped=True,
    # Each call packs the weights and wakes threads, which a single step does not repay.
    least_steps=2,
)
