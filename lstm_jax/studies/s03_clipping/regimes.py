"""The networks and regimes of S3: SGD, clipped, and with Omega, on the temporal order problem.

Source: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063, and its authors' code.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ... import diagnostics, initializers, optim, regularizers, train
from ..._cells.rnn import RNN
from ..._layers import Readout
from ..._numerics import sigmoid
from ..._typing import Array, Key
from ..._unroll import unroll
from ...data import TemporalOrder
from ..record import Setting

__all__ = [
    "BATCH",
    "MAX_NORM",
    "RATE",
    "REGIMES",
    "STARTS",
    "Sizes",
    "Start",
    "network",
    "start",
    "trained",
]
__dir__ = __all__.copy

RATE, BATCH, MAX_NORM = 0.01, 20, 1.0
SMART = initializers.spectral_radius(0.95, nonzeros=15)
REGIMES = ("SGD", "SGD-C", "SGD-CR")


class Start(NamedTuple):
    """A start: activation, standard deviation of the weights, whether W_hh is `SMART`."""

    activation: str
    std: float
    smart: float


STARTS = {
    "sigmoid": Start("sigmoid", 0.01, 0.0),
    "basic tanh": Start("tanh", 0.1, 0.0),
    "smart tanh": Start("tanh", 0.01, 1.0),
}


class Sizes(NamedTuple):
    """Sizes of the training: lengths of the task, hidden size, updates, weight of Omega."""

    shortest: int
    length: int
    hidden_size: int
    updates: int
    omega: float


def network(activation: str, hidden_size: int, output_size: int) -> Readout:
    """An RNN with a readout; an RNN has no activation named "sigmoid"."""
    f = sigmoid if activation == "sigmoid" else activation
    return Readout(RNN(hidden_size, f), output_size)


def start(net: Readout, key: Key, input_size: int, config: Any) -> Any:
    """Draw the parameters of a start; the standard deviation may be traced."""
    keys = jax.random.split(key, 4)
    size = net.inner.hidden_size

    def normal(key: Key, *shape: int) -> Array:
        return config["std"] * jax.random.normal(key, shape)

    w_hh = normal(keys[1], size, size)
    if config["activation"] == "tanh":
        w_hh = jnp.where(config["smart"] > 0, SMART(keys[2], (size, size)), w_hh)
    w_ih = normal(keys[0], input_size, size)
    inner = {"w_ih": w_ih, "w_hh": w_hh, "b": jnp.zeros(size)}
    w = normal(keys[3], size, net.output_size)
    return {"inner": inner, "w": w, "b": jnp.zeros(net.output_size)}


def _configs(omega: float) -> list[dict[str, Any]]:
    """All starts, each in all regimes; a weight of 0 costs as much as any, but compiles once."""
    regimes = ((math.inf, 0.0), (MAX_NORM, 0.0), (MAX_NORM, omega))
    return [
        each._asdict() | {"max_norm": max_norm, "omega": weight}
        for each in STARTS.values()
        for max_norm, weight in regimes
    ]


def trained(setting: Setting, sizes: Sizes) -> Any:
    """The `train.sweep` over all starts and regimes; aux is (loss, share of errors).

    Probed is the spectral radius of W_hh.
    """
    task = TemporalOrder(sizes.length, shortest=sizes.shortest)

    def net(config: Any) -> Readout:
        return network(config["activation"], sizes.hidden_size, task.output_size)

    def loss(params: Any, batch: Any, config: Any) -> Any:
        of, lengths = net(config), batch.seq_lengths
        ys = unroll(of, params, batch.xs, seq_lengths=lengths)[1]
        penalty = regularizers.omega(
            of.inner,
            params["inner"],
            batch.xs,
            lambda hs: task.loss(of.after(params, batch.xs, hs), batch),
            seq_lengths=lengths,
        )
        value = task.loss(ys, batch)
        wrong = jnp.sum(batch.mask & (jnp.argmax(ys, axis=-1) != batch.targets)) / BATCH
        # The loss without the penalty, to compare with ln 4.
        return value + config["omega"] * penalty, (value, wrong)

    return train.sweep(
        loss,
        lambda config: optim.clipped_sgd(RATE, config["max_norm"]),
        lambda key, config: start(net(config), key, task.input_size, config),
        lambda key: task.sample(key, BATCH),
        _configs(sizes.omega),
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 50, 1),
        probe=lambda params, key, config: diagnostics.spectral_radius(params["inner"]["w_hh"]),
        path=setting.path("temporal-order"),
        has_aux=True,
    )
