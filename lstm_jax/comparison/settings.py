"""Settings of a study: sizes, lengths, numbers of updates, optimiser."""

import dataclasses

import jax.numpy as jnp
import optax

from .. import optim

__all__ = ["FULL", "QUICK", "Settings", "Training"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Training:
    """Sizes and optimiser (clipped SGD) for one problem, the same for every cell.

    Attributes:
        hidden_size: H.
        batch_size: B.
        steps: number of updates.
        learning_rate: peak learning rate; it rises linearly over the first fifth of the updates,
            then falls as a cosine.
        max_norm: largest global norm of a gradient.
        momentum: momentum of SGD.
    """

    hidden_size: int
    batch_size: int
    steps: int
    learning_rate: float
    max_norm: float
    momentum: float = 0.9

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser, `clipped_sgd` with these settings."""
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, max(self.steps // 5, 1), max(self.steps, 2)
        )
        # Optax would multiply its int32 count by floats, which strict dtype promotion refuses.
        return optim.clipped_sgd(
            lambda count: schedule(jnp.asarray(count, jnp.float32)), self.max_norm, self.momentum
        )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a whole study.

    Attributes:
        task_length: the `length` of the task.
        task, text: settings of training on the task and on the text.
        window: characters of one window of text, through which the gradient flows back.
        max_chars: read at most this many characters of the text.
        max_symbols: the size of the vocabulary; rarer characters share one symbol.
        penalised_length, penalised: the `length` of the task, and the settings of training, for
            the comparison of penalties on W.
        probe_batch: number of sequences for measurements of gradient flow.
        seeds: number of random seeds.
        side: number of updates that take about as long as the study of the cliff, for the
            progress bar.
    """

    task_length: int
    task: Training
    text: Training
    penalised_length: int
    penalised: Training
    window: int
    max_chars: int
    max_symbols: int = 128
    probe_batch: int = 16
    seeds: int = 3
    side: int = 1500


FULL = Settings(
    task_length=40,
    task=Training(32, 32, 4000, learning_rate=0.3, max_norm=0.05),
    text=Training(96, 32, 1200, learning_rate=3.0, max_norm=0.1),
    penalised_length=20,
    penalised=Training(32, 32, 800, learning_rate=0.3, max_norm=0.05),
    window=48,
    max_chars=1_000_000,
)
"""The default sizes, for some minutes on two cores."""

QUICK = Settings(
    task_length=30,
    task=Training(24, 16, 200, learning_rate=0.7, max_norm=0.05),
    text=Training(48, 16, 100, learning_rate=3.0, max_norm=0.1),
    penalised_length=20,
    penalised=Training(24, 16, 60, learning_rate=0.7, max_norm=0.05),
    window=32,
    max_chars=200_000,
    probe_batch=8,
    side=440,
)
"""Sizes of a short study: every figure, too little training to learn the task."""
