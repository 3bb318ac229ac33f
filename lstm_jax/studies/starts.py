"""Starts and penalties side by side: W of the RNN, the forget bias of the LSTM, holds on W."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import diagnostics, initializers, regularizers, train
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._typing import Array, Initializer, Key
from ..data import Batch, Task
from .flow import by_lag, keep_product, slope
from .learn import curve, task_loss
from .models import Model
from .settings import Training

STARTS: dict[str, Initializer] = {
    "gaussian, rho 0.5": initializers.spectral_radius(0.5),
    "gaussian, rho 1.0": initializers.spectral_radius(1.0),
    "gaussian, rho 2.0": initializers.spectral_radius(2.0),
    "orthogonal": initializers.orthogonal(),
    "identity": initializers.identity(),
}
"""Initialisers of W by the name that the report shows."""

PENALTIES: dict[str, tuple[float, float, float]] = {
    "none": (0.0, 0.0, 0.0),
    "L2": (0.001, 0.0, 0.0),
    "orthogonality": (0.0, 0.1, 0.0),
    "Omega": (0.0, 0.0, 1.0),
}
"""Strengths of (sum W^2, |W^T W - I|^2, Omega)."""


def compare_starts(task: Task, hidden_size: int, xs: Array, key: Key) -> dict[str, Any]:
    """{activation: {start: {"norms" by lag, "slope"}}} of untrained RNNs on xs."""
    compared = {}
    for activation in ("tanh", "relu"):
        stacked, model = _stacked_starts(task, hidden_size, activation, key)
        norms = jax.jit(jax.vmap(lambda params, model=model: _norms(model, params, xs).h))(stacked)
        compared[activation] = _by_name(STARTS, norms)
    return compared


def _stacked_starts(task: Task, hidden_size: int, activation: str, key: Key) -> tuple[Any, Model]:
    """Parameters that differ in w_hh alone, stacked along a first axis."""
    model = Model(RNN(hidden_size, activation), task.input_size, task.output_size)
    shape = (hidden_size, hidden_size)

    @jax.jit
    def init(key):
        params = model.init(key)
        repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(STARTS), axis=0), params)
        w_hh = jnp.stack([start(key, shape, jnp.float32) for start in STARTS.values()])
        return {**repeated, "cell": {**repeated["cell"], "w_hh": w_hh}}

    return init(key), model


def _norms(model: Model, params: Any, xs: Array) -> Any:
    """|dL/ds_t| [T, B] for each field of the carry, L the sum of the last outputs."""

    def loss(ys):
        return jnp.sum(model.readout(params, ys[-1]))

    norms = diagnostics.gradient_norms_by_lag(model.cell, params["cell"], xs, loss)
    return norms


FORGET_BIASES = (0.0, 1.0, 3.0, 5.0)


def compare_forget_biases(task: Task, hidden_size: int, xs: Array, key: Key) -> dict[str, Any]:
    """{forget bias: {"norms" of dL/dc by lag, "slope", "keep_product", "keep_slope"}}, untrained.

    `keep_product` is what the forget gates alone would let through (`flow.keep_product`).
    """
    model = Model(LSTM(hidden_size), task.input_size, task.output_size)
    params = jax.jit(model.init)(key)

    @jax.jit
    @jax.vmap
    def run(bias):
        b = params["cell"]["b"].at[hidden_size : 2 * hidden_size].set(bias)
        started = {**params, "cell": {**params["cell"], "b": b}}
        gates = diagnostics.gate_statistics(model.cell, started["cell"], xs)
        return _norms(model, started, xs).c, gates["f"].forgetting_time

    norms, times = jax.device_get(run(jnp.asarray(FORGET_BIASES)))
    compared = _by_name([f"{bias:g}" for bias in FORGET_BIASES], norms)
    for started, tau in zip(compared.values(), times, strict=True):
        product = keep_product(tau, norms.shape[1])
        assert product is not None  # The LSTM has a keep gate.
        started |= {"keep_product": product, "keep_slope": slope(product)}
    return compared


def compare_penalties(
    task: Task, settings: Training, batches: Batch, xs: Array, key: Key
) -> dict[str, Any]:
    """{penalty: {"norms", "slope", "spectral_radius", "final_loss", "curve"}} of trained tanh RNNs.

    All start from the same parameters and see the same batches; they train side by side under
    `vmap`, so that one compiled program serves them all.
    """
    model = Model(RNN(settings.hidden_size), task.input_size, task.output_size)
    params = jax.jit(model.init)(key)
    strengths = jnp.asarray(list(PENALTIES.values()), jnp.float32)

    @jax.jit
    @jax.vmap
    def run(strength):
        trained, history = _train(model, task, settings, params, strength, batches)
        return _norms(model, trained, xs).h, trained["cell"]["w_hh"], history["aux"]

    norms, w_hh, losses = jax.device_get(run(strengths))
    compared = _by_name(PENALTIES, norms)
    for name, w, loss in zip(PENALTIES, w_hh, losses, strict=True):
        compared[name] |= {
            "spectral_radius": float(np.max(np.abs(np.linalg.eigvals(w)))),
            "final_loss": float(loss[-max(len(loss) // 10, 1) :].mean()),
            "curve": curve(loss),
        }
    return compared


def _train(
    model: Model, task: Task, settings: Training, params: Any, strength: Array, batches: Batch
) -> tuple[Any, dict[str, Array]]:
    """Clipped SGD on the task's loss + strength . (L2, orthogonality, Omega); aux: the loss."""
    plain = task_loss(model, task)

    def loss(params, batch):
        def outputs_loss(ys):
            return task.loss(model.readout(params, ys), batch)

        cell_params = params["cell"]
        penalties = jnp.stack(
            [
                regularizers.l2(cell_params["w_hh"]),
                regularizers.orthogonality(cell_params["w_hh"]),
                regularizers.omega(model.cell, cell_params, batch.xs, outputs_loss),
            ]
        )
        value = plain(params, batch)
        return value + jnp.dot(strength, penalties), value

    tx = settings.optimizer()
    step = train.make_step(loss, tx, has_aux=True)
    state, history = lax.scan(step, train.create(params, tx), batches)
    return state.params, history


def _by_name(names: Any, norms: Array) -> dict[str, Any]:
    return {
        name: {"norms": by_lag(values), "slope": slope(by_lag(values))}
        for name, values in zip(names, np.asarray(norms), strict=True)
    }
