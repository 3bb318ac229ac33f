"""Comparisons of initialisations of W, of forget biases, and of penalties on W."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import diagnostics, initializers, regularizers, train
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._typing import Array, Initializer, Key
from ..data import Task
from .flow import by_lag, keep_product, slope
from .jobs import advance_share
from .learn import CALLS, curve, final, task_loss
from .models import Model
from .settings import Training

__all__ = [
    "FORGET_BIASES",
    "PENALTIES",
    "STARTS",
    "compare_forget_biases",
    "compare_penalties",
    "compare_starts",
]
__dir__ = __all__.copy

STARTS: dict[str, Initializer] = {
    "gaussian, rho 0.5": initializers.spectral_radius(0.5),
    "gaussian, rho 1.0": initializers.spectral_radius(1.0),
    "gaussian, rho 2.0": initializers.spectral_radius(2.0),
    "orthogonal": initializers.orthogonal(),
    "identity": initializers.identity(),
}
"""Initializers of W by their names in the report."""

PENALTIES: dict[str, dict[str, float | None]] = {
    "none": {"l2": 0.0, "orthogonality": 0.0, "omega": None},
    "L2": {"l2": 0.001, "orthogonality": 0.0, "omega": None},
    "orthogonality": {"l2": 0.0, "orthogonality": 0.1, "omega": None},
    "Omega": {"l2": 0.0, "orthogonality": 0.0, "omega": 1.0},
}
"""Weights of the penalties sum W^2, |W^T W - I|^2 and Omega, by name. Omega needs second
derivatives; None leaves it out of the program of the others."""


def compare_starts(task: Task, hidden_size: int, xs: Array, keys: Key) -> list[dict[str, Any]]:
    """Compare untrained RNNs by the initialisation of W, for each seed.

    xs is [S, T, B, D], keys [S]; within a seed only W differs. Returns for each seed
    {activation: {start: {"norms" by lag, "slope"}}}.
    """
    compared: list[dict[str, Any]] = [{} for _ in xs]
    w_hh = _started(keys, hidden_size)
    for activation in ("tanh", "relu"):
        model = Model(RNN(hidden_size, activation), task.input_size, task.output_size)

        def of_start(params, w_hh, xs, start, model=model):
            started = {**params, "inner": {**params["inner"], "w_hh": w_hh[start]}}
            return _norms(model, started, xs).h

        seeded = (model.init_seeds(keys), w_hh, xs)
        norms = _crossed(of_start, seeded, jnp.arange(len(STARTS)))
        for found, of_one in zip(compared, norms, strict=True):
            found[activation] = _by_name(STARTS, of_one)
    return compared


@functools.partial(jax.jit, static_argnums=1)
def _started(keys: Key, hidden_size: int) -> Array:
    """Draw W by each initializer for each key: [S, starts, H, H]."""
    shape = (hidden_size, hidden_size)

    def of_seed(key):
        return jnp.stack([start(key, shape, jnp.float32) for start in STARTS.values()])

    return jax.vmap(of_seed)(keys)


def _norms(model: Model, params: Any, xs: Array) -> Any:
    """Compute ln |dL/ds_t| [T, B] for each field of the carry, L the sum of the last outputs."""

    def loss(ys):
        return jnp.sum(model.readout(params, ys[-1]))

    norms = diagnostics.gradient_norms_by_lag(model.cell, params["inner"], xs, loss)
    return norms


FORGET_BIASES = (0.0, 1.0, 3.0, 5.0)


def compare_forget_biases(
    task: Task, hidden_size: int, xs: Array, keys: Key
) -> list[dict[str, Any]]:
    """Compare untrained LSTMs by the forget bias, for each seed.

    xs is [S, T, B, D], keys [S]. Returns for each seed {forget bias: {"norms" of dL/dc by lag,
    "slope", "keep_product", "keep_slope"}}; see `flow.keep_product`.
    """
    model = Model(LSTM(hidden_size), task.input_size, task.output_size)

    def of_bias(params, xs, bias):
        b = params["inner"]["b"].at[hidden_size : 2 * hidden_size].set(bias)
        started = {**params, "inner": {**params["inner"], "b": b}}
        gates = diagnostics.gate_statistics(model.cell, started["inner"], xs)
        return _norms(model, started, xs).c, gates["f"].forgetting_time

    raw = _crossed(of_bias, (model.init_seeds(keys), xs), jnp.asarray(FORGET_BIASES))
    return [_of_biases(*of_one) for of_one in zip(*raw, strict=True)]


def _of_biases(norms: np.ndarray, times: np.ndarray) -> dict[str, Any]:
    """Comparison of one seed, from norms [biases, T, B] and forgetting times [biases, H]."""
    compared = _by_name([f"{bias:g}" for bias in FORGET_BIASES], norms)
    for started, tau in zip(compared.values(), times, strict=True):
        product = keep_product(tau, norms.shape[1])
        assert product is not None  # The LSTM has a keep gate.
        started |= {"keep_product": product, "keep_slope": slope(product)}
    return compared


def compare_penalties(
    task: Task, settings: Training, seeds: Sequence[int], probe_batch: int
) -> list[dict[str, Any]]:
    """Compare tanh RNNs trained with different penalties on W, for each seed.

    Within a seed all have the same initial parameters and batches. Returns for each seed {penalty:
    {"norms", "slope", "spectral_radius", "final_loss", "curve"}}, the norms those of `probe_batch`
    sequences.
    """
    model = Model(RNN(settings.hidden_size), task.input_size, task.output_size)
    runs = train.sweep(
        loss=_penalised(model, task),
        tx=lambda config: settings.optimizer(),
        init=lambda key, config: model.init(key),
        sample=lambda key: task.sample(key, settings.batch_size),
        configs=list(PENALTIES.values()),
        seeds=seeds,
        steps=settings.steps,
        chunk=max(settings.steps // CALLS, 1),
        probe=lambda params, key, config: _norms(model, params, task.sample(key, probe_batch).xs).h,
        has_aux=True,
        progress=lambda n: advance_share(n / (settings.steps * len(PENALTIES))),
    )
    norms, w_hh = runs.probes[:, :, -1], np.asarray(runs.params["inner"]["w_hh"])
    return [
        _of_penalties(norms[:, s], w_hh[:, s], runs.history["aux"][:, s])
        for s in range(len(runs.seeds))
    ]


def _of_penalties(norms: np.ndarray, w_hh: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    """Comparison of one seed, from norms [penalties, T, B], W and losses [penalties, steps]."""
    compared = _by_name(PENALTIES, norms)
    for found, w, loss in zip(compared.values(), w_hh, losses, strict=True):
        found |= {
            "spectral_radius": float(np.max(np.abs(np.linalg.eigvals(w)))),
            "final_loss": final(loss),
            "curve": curve(loss),
        }
    return compared


def _crossed(function: Callable[..., Any], seeded: tuple[Any, ...], options: Array) -> Any:
    """Call function(*one seed's leaves, option) for all seeds and options: [S, options, ...]."""
    seeds, count = len(jax.tree.leaves(seeded)[0]), len(options)

    @jax.jit
    def run(seeded, options):
        # One axis for both, as the kernel supports a single `vmap`.
        each = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), seeded)
        given = jnp.concatenate([options] * seeds)
        found = jax.vmap(lambda of_one, option: function(*of_one, option))(each, given)
        return jax.tree.map(lambda leaf: leaf.reshape(seeds, count, *leaf.shape[1:]), found)

    return jax.device_get(run(seeded, options))


def _penalised(model: Model, task: Task) -> Callable[..., Any]:
    """Make loss(params, batch, penalties) -> (the task's loss + the penalties, the task's loss)."""
    plain = task_loss(model, task)

    def loss(params, batch, penalties):
        def outputs_loss(ys):
            return task.loss(model.readout(params, ys), batch)

        value, inner = plain(params, batch), params["inner"]
        penalised = value + penalties["l2"] * regularizers.l2(inner["w_hh"])
        penalised += penalties["orthogonality"] * regularizers.orthogonality(inner["w_hh"])
        if penalties["omega"] is not None:
            omega = regularizers.omega(model.cell, inner, batch.xs, outputs_loss)
            penalised += penalties["omega"] * omega
        return penalised, value

    return loss


def _by_name(names: Any, norms: np.ndarray) -> dict[str, Any]:
    return {
        name: {"norms": by_lag(values), "slope": slope(by_lag(values))}
        for name, values in zip(names, norms, strict=True)
    }
