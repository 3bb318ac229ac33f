"""Type aliases, and the letters for sizes in shapes.

Every shape in a docstring is written with these letters:

    T  time steps       B  batch (any number of batch axes where a docstring says so)
    D  input size       H  hidden size
    G  gates            L  layers          K  lag, in steps
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Array = jax.Array
Key = jax.Array
"""A typed key (`jax.random.key`) or a raw uint32 key."""
DType = Any
"""Anything that `numpy.dtype` accepts: `jnp.bfloat16`, "float32", ..."""
Params = dict[str, Array]
"""A cell's parameters: {"w_ih" [D, G*H], "w_hh" [H, G*H], "b" [G*H], ...}."""
Carry = Any
"""A NamedTuple of arrays, such as `LSTMState(h, c)`, each [*batch, H]."""
Pre = Any
"""A cell's projected input of one step, usually one array [*batch, G*H]."""
Initializer = Callable[..., Array]
"""`init(key, shape, dtype) -> Array`, the form of `jax.nn.initializers`."""
ArrayLike = Array | np.ndarray
ParamsLike = Mapping[str, Array]
