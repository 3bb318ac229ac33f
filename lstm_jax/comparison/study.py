"""The whole study: every cell on a task and on text, further experiments, the seven claims."""

import dataclasses
import datetime
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .._typing import Key
from ..data import TASKS, Batch, Task
from ..progress import progress
from ..studies.compiling import compiling
from ..studies.provenance import PACKAGES, code_digest, environment, version
from . import characters, claims, cliff, flow, learn, sentence, starts, verdicts
from .jobs import Parts, run_jobs
from .models import CELL_NAMES, Model, make_cell
from .settings import FULL, QUICK, Settings

__all__ = [
    "Config",
    "Jobs",
    "read",
    "run",
    "study_penalties",
    "study_task",
    "study_text",
]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Config:
    """Configuration of a study.

    Attributes:
        text: a UTF-8 file or folder; None: the source of Python's standard library.
        task: a name of `data.TASKS`.
        cells: names of `models.CELL_NAMES`.
        seed: the first of `settings.seeds` consecutive seeds.
        quick: use the sizes `settings.QUICK`, not `settings.FULL`.
    """

    text: Path | None = None
    task: str = "adding"
    cells: tuple[str, ...] = CELL_NAMES
    seed: int = 0
    quick: bool = False

    @property
    def settings(self) -> Settings:
        """The sizes of the study."""
        return QUICK if self.quick else FULL

    @property
    def seeds(self) -> tuple[int, ...]:
        """The random seeds, one for each run."""
        return tuple(range(self.seed, self.seed + self.settings.seeds))


def run(config: Config, parts: Path | None = None) -> dict[str, Any]:
    """Run a study: {"config", "environment", "cells", "claims", "text", "task", ...}.

    Args:
        config: the configuration.
        parts: a folder for the results of finished jobs: if this run is interrupted, a run with the
            same settings and code reuses them. `Parts(parts).clear()` removes them.

    Raises:
        ValueError, FileNotFoundError: an unknown name, or a text that cannot be read or is too
            short; raised before any work.
    """
    started = datetime.datetime.now(datetime.UTC)
    sizes = config.settings
    task = TASKS[config.task](sizes.task_length)
    corpus = read(config)
    kept = Parts(parts, _key(config, corpus))
    with compiling(quickly=config.quick), progress(None, "study", patience=0.0) as bar:
        bar.tick("preparing")
        jobs = _jobs(config, task, corpus)
        bar.total = sum(updates for updates, _ in jobs.values())
        results = run_jobs(jobs, bar, kept)
    study = {
        "config": _describe(config),
        "environment": environment(started),
        "task": {
            "name": config.task,
            "baseline": task.baseline,
            "penalised_baseline": TASKS[config.task](sizes.penalised_length).baseline,
            "repr": repr(task),
        },
        "text": corpus.describe() | _sentence(corpus),
        "cells": {
            name: {"task": results["task", name], "text": results["text", name]}
            for name in config.cells
        },
        "cliff": results["cliff", ""],
        "starts": results["starts", ""],
        "forget_biases": results["forget_biases", ""],
        "penalties": results["penalties", ""],
    }
    study["claims"] = claims.judge(study)
    study["rule"] = verdicts.RULE
    elapsed = datetime.datetime.now(datetime.UTC) - started
    study["environment"]["seconds"] = round(elapsed.total_seconds(), 1)
    return study


Jobs = dict[tuple[str, str], tuple[int, Callable[[], Any]]]


def _jobs(config: Config, task: Task, corpus: characters.Corpus) -> Jobs:
    """The jobs of a study: {(experiment, cell): (updates, work)}, the longest first."""
    sizes = config.settings
    keys, keys_batches, keys_probe = _keys(config)
    batches = learn.draw(task, sizes.task.batch_size, sizes.task.steps, keys_batches)
    probe = learn.draw_one(task, sizes.probe_batch, keys_probe)
    side = (task, sizes.task.hidden_size, probe.xs, keys)
    jobs: Jobs = {}
    for name in reversed(config.cells):
        jobs["text", name] = sizes.text.steps, lambda n=name: study_text(n, corpus, sizes, keys)
    jobs["penalties", ""] = (
        sizes.penalised.steps,
        lambda: study_penalties(config),
    )
    jobs["cliff", ""] = sizes.side, cliff.study
    for name in reversed(config.cells):
        work = functools.partial(study_task, name, task, sizes, batches, probe, keys)
        jobs["task", name] = sizes.task.steps, work
    jobs["starts", ""] = sizes.side // 4, lambda: starts.compare_starts(*side)
    jobs["forget_biases", ""] = sizes.side // 6, lambda: starts.compare_forget_biases(*side)
    return jobs


def read(config: Config) -> characters.Corpus:
    """Load the text; errors as in `characters.load`."""
    sizes = config.settings
    return characters.load(config.text, sizes.max_chars, sizes.max_symbols, sizes.window)


def _key(config: Config, corpus: characters.Corpus) -> dict[str, Any]:
    """Everything that a result depends on."""
    return {
        "config": _describe(config),
        "text": corpus.digest,
        "versions": {name: version(name) for name in PACKAGES},
        "code": code_digest(),
        "device": str(jax.devices()[0].device_kind),
    }


def _keys(config: Config) -> jax.Array:
    """Random keys [3, S] for the parameters, the batches and the probe of each seed.

    They depend on each seed separately, so that the run of one seed can be repeated alone.
    """
    # Keys of "rbg", where that is JAX's default, would draw other numbers under `vmap`.
    keys = [jax.random.key(seed, impl="threefry2x32") for seed in config.seeds]
    return jnp.stack([jax.random.split(key, 3) for key in keys], axis=1)


def study_task(
    name: str, task: Task, sizes: Settings, batches: Batch, probe_batch: Batch, keys: Key
) -> list[dict[str, Any]]:
    """Study one cell on the task: training, and gradient flow before and after it, for each seed.

    Leaves of `batches` and `probe_batch` have a first axis of S seeds; keys is [S].
    """
    model = Model(make_cell(name, sizes.task.hidden_size), task.input_size, task.output_size)
    probe = flow.make_probe(model, task.loss)
    params = model.init_seeds(keys)
    before = probe(params, probe_batch)
    params, training = learn.learn_task(model, task, sizes.task, params, batches)
    return _joined(before, probe(params, probe_batch), training)


def study_penalties(config: Config) -> list[dict[str, Any]]:
    """Compare penalties on W, on a task short enough to be learned with each of them."""
    sizes = config.settings
    task = TASKS[config.task](sizes.penalised_length)
    return starts.compare_penalties(task, sizes.penalised, config.seeds, sizes.probe_batch)


def study_text(
    name: str, corpus: characters.Corpus, sizes: Settings, keys: Key
) -> list[dict[str, Any]]:
    """Study one cell on text: training, and gradient flow before and after it, for each seed."""
    model = characters.make_model(name, sizes.text.hidden_size, corpus.vocabulary.size)
    probe = flow.make_probe(model, characters.loss)
    batch = characters.probe_batch(corpus, sizes.probe_batch, sizes.window, len(keys))
    params = model.init_seeds(keys)
    before = probe(params, batch)
    params, training = characters.learn_text(model, corpus, sizes.text, sizes.window, params)
    found = sentence.find(corpus)
    reads = sentence.read(model, corpus, found, params, training)
    runs = _joined(before, probe(params, batch), training)
    return [run | {"reads": at} for run, at in zip(runs, reads, strict=True)]


def _sentence(corpus: characters.Corpus) -> dict[str, Any]:
    """The sentence at which the networks are watched, for a report."""
    found = sentence.find(corpus)
    temperature = {"temperature": sentence.TEMPERATURE}
    return {"sentence": found.text, "prompt": found.prompt} | temperature


def _joined(before: list[Any], after: list[Any], training: list[Any]) -> list[dict[str, Any]]:
    """Join the measurements of each seed."""
    return [{"before": b, "after": a, **t} for b, a, t in zip(before, after, training, strict=True)]


def _describe(config: Config) -> dict[str, Any]:
    described = dataclasses.asdict(config) | {"seeds": config.seeds}
    described |= {"settings": dataclasses.asdict(config.settings)}
    return described | {"text": None if config.text is None else str(config.text)}
