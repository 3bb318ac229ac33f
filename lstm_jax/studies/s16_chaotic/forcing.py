"""Training by sparsely forced BPTT, and by clipped BPTT, on trajectories of the Lorenz system.

Every tau steps the state of the network is put onto the data, so that no gradient goes further:

    h = x pinv(B),  c = 0        x_t = h_t B the readout, no inputs

Source: Mikhaeil, Monfared & Durstewitz (2022), arXiv 2110.07238, and its authors' code.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ... import optim, train
from ..._layers import Readout
from ..._typing import Array, Carry, Key
from ..._unroll import unroll
from ..record import Setting
from .lorenz import no_inputs

__all__ = [
    "CLIPPED",
    "FORCED",
    "GOOD",
    "LENGTH",
    "MAX_NORM",
    "Network",
    "Sizes",
    "forced",
    "loss",
    "trained",
    "windows",
]
__dir__ = __all__.copy

LENGTH = 600
"""Steps of a sequence, a multiple of every interval."""
MAX_NORM = 1.0
"""The norm to which the gradients of the network are clipped that is never forced."""


class Network(NamedTuple):
    """A way of training: steps between two forcings, and the largest norm of a gradient."""

    interval: int
    max_norm: float

    @property
    def name(self) -> str:
        """Its name in results and figures."""
        return "clipped, not forced" if self == CLIPPED else f"forced every {self.interval}"


FORCED = tuple(Network(interval, math.inf) for interval in (5, 30, 200))
CLIPPED = Network(LENGTH, MAX_NORM)
GOOD = FORCED[1]
"""The interval is nearest to the time in which the system forgets."""


class Sizes(NamedTuple):
    """Sizes of the training: networks, hidden size, updates, batch size, learning rate."""

    networks: tuple[Network, ...]
    hidden_size: int
    updates: int
    batch: int
    rate: float


def forced(net: Readout, params: Any, x: Array) -> Carry:
    """The carry that shows the state x [*batch, 3] at the readout."""
    carry = net.inner.initial_carry(params["inner"], x.shape[:-1])
    return carry._replace(h=x @ jnp.linalg.pinv(params["w"]))


def loss(net: Readout, params: Any, states: Array, interval: int) -> Array:
    """Mean squared error over states [LENGTH + 1, B, 3], forced every `interval` steps."""
    steps, batch = states.shape[0] - 1, states.shape[1]
    first = states[:-1:interval].reshape(-1, 3)  # One sequence for each interval of each.
    wanted = states[1:].reshape(steps // interval, interval, batch, 3)
    wanted = jnp.moveaxis(wanted, 1, 0).reshape(interval, -1, 3)
    carry = forced(net, params, first)
    ys = unroll(net, params, no_inputs(interval, len(first)), carry)[1]
    return jnp.mean((ys - wanted) ** 2)


def windows(data: Array, key: Key, count: int) -> Array:
    """Draw sequences of states, [LENGTH + 1, count, 3], from data [steps, trajectories, 3]."""
    key_of, key_at = jax.random.split(key)
    of = jax.random.randint(key_of, (count,), 0, data.shape[1])
    at = jax.random.randint(key_at, (count,), 0, data.shape[0] - LENGTH)
    return data[at[None] + jnp.arange(LENGTH + 1)[:, None], of[None]]


def trained(setting: Setting, sizes: Sizes, net: Readout, data: Array) -> Any:
    """The `train.sweep` over all networks."""
    return train.sweep(
        lambda params, states, config: loss(net, params, states, config["interval"]),
        lambda config: optax.chain(
            optim.clip_by_global_norm(config["max_norm"]), optax.adam(sizes.rate)
        ),
        lambda key, config: net.init(key, 1),
        lambda key: windows(data, key, sizes.batch),
        [network._asdict() for network in sizes.networks],
        setting.seeds,
        sizes.updates,
        chunk=max(sizes.updates // 10, 1),
        path=setting.path("lorenz"),
    )
