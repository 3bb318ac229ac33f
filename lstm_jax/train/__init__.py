"""Training as pure functions: a step, a compiled loop of steps, truncated backpropagation.

    step = make_step(loss, tx)                        one update: jit it, scan it, vmap it
    run  = make_loop(loss, tx, sample, steps=100)     many updates in one compiled call
    run  = make_tbptt(apply, loss, tx, k1=50)         one update every k1 steps of long sequences
    runs = sweep(loss, tx, init, sample, configs, seeds, steps)

The first three take a `TrainState` and return (state, info). The state is all that the next update
needs; the info reports what the update did. `watch` looks into a network every n updates within a
loop, `fit` is a Python loop around compiled calls that reports between them, `evaluate` averages
metrics over batches, and `JsonLines`, `CsvLines` and `TensorBoard` write metrics to files. `Feed`
takes batches from any iterable, and pieces of long streams with their carry. `Best` keeps the best
parameters and stops a run that improves no more. `Checkpoints` keeps a run in a folder, from which
it goes on after the process was killed.
"""

from ._fitted import Fitted
from .best import Best, Improved
from .checkpoints import Checkpoints
from .csv_lines import CsvLines
from .evaluating import evaluate
from .feed import Fed, Feed
from .fit import fit
from .log import JsonLines
from .loop import Info, Loss, TrainState, create, make_loop, make_step
from .sweep import Runs, sweep
from .tbptt import Stream, make_tbptt
from .tensorboard import TensorBoard
from .watched import watch

__all__ = [
    "Best",
    "Checkpoints",
    "CsvLines",
    "Fed",
    "Feed",
    "Fitted",
    "Improved",
    "Info",
    "JsonLines",
    "Loss",
    "Runs",
    "Stream",
    "TensorBoard",
    "TrainState",
    "create",
    "evaluate",
    "fit",
    "make_loop",
    "make_step",
    "make_tbptt",
    "sweep",
    "watch",
]
__dir__ = __all__.copy
