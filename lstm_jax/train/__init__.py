"""Training as pure functions: a step, a compiled loop of steps, truncated backpropagation.

    step = make_step(loss, tx)                        one update: jit it, scan it, vmap it
    run  = make_loop(loss, tx, sample, steps=100)     many updates in one compiled call
    run  = make_tbptt(apply, loss, tx, k1=50)         one update every k1 steps of long sequences

All of them take a `TrainState` and return (state, info): the state is what goes on, the info is
what happened and is never needed to go on. Around them `fit` is a Python loop that reports between
compiled calls, `evaluate` averages metrics over batches, and `JsonLines` keeps them in a file.
"""

from .fit import evaluate as evaluate
from .fit import fit as fit
from .log import JsonLines as JsonLines
from .loop import Info as Info
from .loop import Loss as Loss
from .loop import TrainState as TrainState
from .loop import create as create
from .loop import make_loop as make_loop
from .loop import make_step as make_step
from .tbptt import Stream as Stream
from .tbptt import make_tbptt as make_tbptt
