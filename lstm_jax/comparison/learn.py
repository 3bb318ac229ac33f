"""Training on a synthetic task, with all seeds in one compiled program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from .. import train
from .._typing import Array, Key
from .._unroll import unroll
from ..data import Batch, Task
from .jobs import advance
from .models import Model, of_seed
from .settings import Training

__all__ = [
    "CALLS",
    "CURVE_POINTS",
    "by_seed",
    "clipping",
    "curve",
    "draw",
    "draw_one",
    "final",
    "learn_task",
    "summary",
    "task_loss",
]
__dir__ = __all__.copy

CURVE_POINTS = 100
CALLS = 20
"""Number of compiled calls in a run; progress is reported between them."""


def task_loss(model: Model, task: Task) -> Callable[..., Array]:
    """Make loss(params, batch), the task's loss of the model's outputs."""

    def loss(params, batch):
        _, outputs = unroll(model.net, params, batch.xs, seq_lengths=batch.seq_lengths)
        return task.loss(outputs, batch)

    return loss


def draw(task: Task, batch_size: int, steps: int, keys: Key) -> Batch:
    """Draw `steps` batches for each of keys [S], leaves [S, steps, ...]."""

    @jax.jit
    @jax.vmap
    def sample(key):
        return jax.vmap(lambda key: task.sample(key, batch_size))(jax.random.split(key, steps))

    return sample(keys)


def draw_one(task: Task, batch_size: int, keys: Key) -> Batch:
    """Draw one batch for each of keys [S], leaves [S, ...]."""
    return jax.tree.map(lambda leaf: leaf[:, 0], draw(task, batch_size, 1, keys))


def learn_task(
    model: Model, task: Task, settings: Training, params: Any, batches: Batch
) -> tuple[Any, list[dict[str, Any]]]:
    """Train on a task: (trained parameters, report of each seed) after one update for each batch.

    Every leaf of `params` and `batches` has a first axis of S seeds, which are trained in one
    compiled program.
    """
    tx = settings.optimizer()
    step = train.make_step(task_loss(model, task), tx)
    run = jax.jit(jax.vmap(lambda state, batches: lax.scan(step, state, batches)))
    state = jax.vmap(lambda params: train.create(params, tx))(params)
    size = max(settings.steps // CALLS, 1)
    histories = []
    for start in range(0, settings.steps, size):
        part = jax.tree.map(lambda leaf, start=start: leaf[:, start : start + size], batches)
        state, history = run(state, part)
        histories.append(jax.device_get(history))
        advance(histories[-1]["loss"].shape[1])
    return state.params, [summary(history, task.baseline) for history in by_seed(histories)]


def by_seed(histories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join histories of calls, leaves [S, steps], to one history per seed, leaves [all steps]."""
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *histories)
    return [of_seed(joined, s) for s in range(len(joined["loss"]))]


def summary(history: dict[str, Array], baseline: float) -> dict[str, Any]:
    """Summarise training: the learning curve, the final loss and the clipping."""
    loss = np.asarray(history["loss"])
    return {
        "baseline": baseline,
        "curve": curve(loss),
        "final_loss": final(loss),
        **clipping(history),
    }


def final(loss: np.ndarray) -> float:
    """Final loss: the mean over the last tenth of the updates."""
    return float(loss[-max(len(loss) // 10, 1) :].mean())


def curve(values: np.ndarray) -> dict[str, np.ndarray]:
    """Average over at most `CURVE_POINTS` equal pieces: {"step": end of each, "value": mean}."""
    pieces = np.array_split(values, min(len(values), CURVE_POINTS))
    ends = np.cumsum([len(piece) for piece in pieces])
    return {"step": ends, "value": np.array([piece.mean() for piece in pieces])}


def clipping(history: dict[str, Array]) -> dict[str, Any]:
    """Summarise the clipping over a whole run."""
    norms = np.asarray(history["norm_before"])
    return {
        "clip_rate": float(history["clip_rate"][-1]),
        "skipped": int(history["skipped"][-1]),
        "gradient_norm_median": float(np.median(norms)),
        "gradient_norm_largest": float(norms.max()),
        "gradient_norm_first": float(norms[0]),
    }
