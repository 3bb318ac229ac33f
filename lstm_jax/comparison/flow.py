"""Measurement of the gradient flow of a model: norms by lag, Lyapunov exponent, gates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import diagnostics
from .._typing import Array, Carry
from ..data import Batch
from .models import Model, of_seed

__all__ = [
    "LYAPUNOV_STEPS",
    "LYAPUNOV_WARMUP",
    "Probe",
    "by_lag",
    "keep_product",
    "last_scored",
    "make_probe",
    "norms_by_lag",
    "slope",
]
__dir__ = __all__.copy

LYAPUNOV_STEPS = 400
LYAPUNOV_WARMUP = 50

Probe = Callable[[Any, Batch], list[dict[str, Any]]]


def make_probe(model: Model, loss: Callable[[Array, Batch], Array]) -> Probe:
    """Make a compiled measurement of gradient flow, for use before and after training.

    L is the loss of the last scored step of each sequence only, see `last_scored`.

    Args:
        model: the model.
        loss: (outputs [T, B, output_size], batch) -> scalar, such as a task's `loss`, over the
            steps of `batch.mask`.

    Returns:
        probe(params, batch), every leaf with a first axis of S seeds -> for each seed a dict:
        "norms" {field of the carry: geometric mean over the sequences of |dL/ds_t|, [T] by lag, so
        entry k is k steps before the last}; "zero_share" {field: share of sequences whose gradient
        is exactly zero at the first step}; "slope" {field: slope of ln(norm) against the lag, in
        nats per step}; "lyapunov": the largest exponent along the inputs, in nats per step;
        "gates" {gate: means over the units}; "keep_product": see `keep_product`;
        "spectral_radius" {gate: that of its block of w_hh}.
    """
    cell = model.cell

    def run(params, batch):
        blocks = diagnostics.gate_blocks(cell, params["inner"])
        return {
            "norms": norms_by_lag(model, loss, params, batch)._asdict(),
            "lyapunov": _lyapunov(model, params, batch.xs),
            "gates": diagnostics.gate_statistics(cell, params["inner"], batch.xs),
            "spectral_radius": jax.tree.map(diagnostics.spectral_radius, blocks),
        }

    compiled = jax.jit(jax.vmap(run))

    def probe(params, batch):
        raw = jax.device_get(compiled(params, batch))
        return [_report(of_seed(raw, s)) for s in range(len(batch.xs))]

    return probe


def norms_by_lag(
    model: Model, loss: Callable[[Array, Batch], Array], params: Any, batch: Batch
) -> Carry:
    """Compute ln |dL/ds_t| [T, B] for each field of the carry, L the loss at last scored steps."""
    scored = last_scored(batch)

    def last_loss(ys):
        return loss(model.readout(params, ys), scored)

    return diagnostics.gradient_norms_by_lag(model.cell, params["inner"], batch.xs, last_loss)


def last_scored(batch: Batch) -> Batch:
    """Restrict the mask of `batch` to the last scored step of each sequence.

    The lag is defined for a loss at one step only: the gradient of a loss at many steps is a sum
    over different lags, which hides its decay.
    """
    left = lax.cumsum(batch.mask.astype(jnp.int32), axis=0, reverse=True)
    return batch._replace(mask=batch.mask & (left == 1))


def _lyapunov(model: Model, params: Any, xs: Array) -> Array:
    """Largest Lyapunov exponent along the sequences of a batch, one after another."""
    steps = jnp.swapaxes(xs, 0, 1).reshape(-1, xs.shape[-1])[:LYAPUNOV_STEPS]
    warmup = min(LYAPUNOV_WARMUP, len(steps) // 4)
    spectrum = diagnostics.lyapunov_spectrum(
        model.cell, params["inner"], steps, exponents=1, warmup=warmup
    )
    return spectrum.exponents[0]


def _report(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert the raw results of one measurement to its report."""
    norms = {name: by_lag(values) for name, values in raw["norms"].items()}
    return {
        "norms": norms,
        "zero_share": {
            name: float(np.mean(values[0] == -np.inf)) for name, values in raw["norms"].items()
        },
        "slope": {name: slope(values) for name, values in norms.items()},
        "lyapunov": float(raw["lyapunov"]),
        "gates": {name: _gate_means(stats) for name, stats in raw["gates"].items()},
        "keep_product": keep_product(_keep_times(raw["gates"]), len(raw["norms"]["h"])),
        "spectral_radius": {gate: float(rho) for gate, rho in raw["spectral_radius"].items()},
    }


def _gate_means(stats: diagnostics.GateStatistics) -> dict[str, float]:
    """Mean of each statistic of a gate over the units; the median for time scales."""
    means = {name: value for name, value in stats._asdict().items() if value is not None}
    times = ("forgetting_time", "timescale")
    return {
        name: float(np.median(value) if name in times else np.mean(value))
        for name, value in means.items()
    }


def _keep_times(gates: dict[str, diagnostics.GateStatistics]) -> np.ndarray | None:
    """Forgetting times of the units' keep gates (f of an LSTM, z of a GRU); None without any."""
    times = [s.forgetting_time for s in gates.values() if s.forgetting_time is not None]
    return np.asarray(times[0]) if times else None


def keep_product(forgetting_time: Array | np.ndarray | None, steps: int) -> np.ndarray | None:
    """Gradient norm through the keep gates alone: sqrt(mean_j exp(-2 k / tau_j)), [T] by lag k.

    tau_j is the forgetting time of unit j, [H], so exp(-k / tau_j) is the product of k of its keep
    gates at their geometric mean. None without such a gate.
    """
    if forgetting_time is None:
        return None
    lag, tau = np.arange(steps)[:, None], np.asarray(forgetting_time, np.float64)
    return np.sqrt(np.mean(np.exp(-2.0 * lag / tau), axis=1))


def by_lag(log_norms: np.ndarray) -> np.ndarray:
    """Convert ln of norms, [T, B] in the order of time, to geometric means over the batch, by lag.

    The result is [T]. Examples with a zero gradient (dead units) are left out; NaN if all are.
    """
    alive = np.isfinite(log_norms)
    logs = np.where(alive, log_norms, 0.0).sum(axis=1, dtype=np.float64)
    count = alive.sum(axis=1)
    means = np.exp(logs / np.maximum(count, 1))
    return np.where(count > 0, means, np.nan)[::-1]


def slope(norms_by_lag: np.ndarray) -> float:
    """Slope of ln of norms by lag, in nats per step: `diagnostics.slope_per_step`."""
    with np.errstate(divide="ignore"):
        logs = np.log(norms_by_lag[::-1])
    return float(diagnostics.slope_per_step(jnp.asarray(logs)))
