"""Learning a task: one model, one optimiser, all steps in one compiled call."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from .. import train
from .._typing import Array, Key
from ..data import Batch, Task
from .models import Model
from .settings import Training

CURVE_POINTS = 100


def task_loss(model: Model, task: Task) -> Callable[..., Array]:
    """loss(params, batch): the task's own loss of the model's outputs."""

    def loss(params, batch):
        _, outputs = model.apply(params, batch.xs, seq_lengths=batch.seq_lengths)
        return task.loss(outputs, batch)

    return loss


def draw(task: Task, batch_size: int, steps: int, key: Key) -> Batch:
    """`steps` batches, leaves [steps, ...]: drawn once, so that every cell learns from the same."""
    keys = jax.random.split(key, steps)
    return jax.jit(jax.vmap(lambda key: task.sample(key, batch_size)))(keys)


def learn_task(
    model: Model, task: Task, settings: Training, params: Any, batches: Batch
) -> tuple[Any, dict[str, Any]]:
    """(trained parameters, what training looked like) after one update for each batch."""
    tx = settings.optimizer()
    step = train.make_step(task_loss(model, task), tx)
    run = jax.jit(lambda state, batches: lax.scan(step, state, batches))
    state, history = run(train.create(params, tx), batches)
    return state.params, summary(history, task.baseline)


def summary(history: dict[str, Array], baseline: float) -> dict[str, Any]:
    """The learning curve and the clip's account; `final_loss` is the mean of the last tenth."""
    loss = np.asarray(history["loss"])
    tail = loss[-max(len(loss) // 10, 1) :]
    return {
        "baseline": baseline,
        "curve": curve(loss),
        "final_loss": float(tail.mean()),
        **clipping(history),
    }


def curve(values: np.ndarray) -> dict[str, np.ndarray]:
    """At most `CURVE_POINTS` means of equal stretches: {"step": end of each, "value": mean}."""
    pieces = np.array_split(values, min(len(values), CURVE_POINTS))
    ends = np.cumsum([len(piece) for piece in pieces])
    return {"step": ends, "value": np.array([piece.mean() for piece in pieces])}


def clipping(history: dict[str, Array]) -> dict[str, Any]:
    """What the clip did over a whole run."""
    norms = np.asarray(history["norm_before"])
    return {
        "clip_rate": float(history["clip_rate"][-1]),
        "skipped": int(history["skipped"][-1]),
        "gradient_norm_median": float(np.median(norms)),
        "gradient_norm_largest": float(norms.max()),
        "gradient_norm_first": float(norms[0]),
    }
