"""Nets on several devices: shardings over a mesh, and nets split by units, time or layers.

    mesh = jax.make_mesh((8,), ("data",))
    state = jax.device_put(state, sharding.state(mesh, net, state))      # on all devices
    xs = jax.device_put(xs, sharding.batch(mesh, xs))                    # its batch split over them
    carry, ys = jax.jit(functools.partial(lj.unroll, net))(state.params, xs)

JAX distributes; here is only what it cannot know: which numbers of a parameter belong to one unit,
and what the devices of a recurrence have to tell each other.
"""

from .batches import by_batch
from .layers import by_layers
from .placing import batch, join_params, split_params, state
from .times import by_time
from .units import by_units

__all__ = [
    "batch",
    "by_batch",
    "by_layers",
    "by_time",
    "by_units",
    "join_params",
    "split_params",
    "state",
]
__dir__ = __all__.copy
