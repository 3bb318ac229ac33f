"""Random updates of cells, with what users may write besides plain arithmetic.

They have axes of size one from slices, splits, constants and reductions; parameters of rank 0, 1
and 2; comparisons and selections; concatenations and reshapes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax as lj


@dataclasses.dataclass(frozen=True)
class Drawn(lj.Cell):
    """A cell with a random f: h_t = tanh(f(h_{t-1}, wx_t, u_t, parameters) + (wx_t + u_t) / 2)."""

    seed: int = 0
    elementwise = ("p", "q", "r", "s")

    def init(self, key, input_size):
        params = super().init(key, input_size)
        sizes = {"p": (self.hidden_size,), "q": (1, self.hidden_size), "r": (1,), "s": ()}
        return params | {name: jnp.full(size, 0.5) for name, size in sizes.items()}

    def update(self, carry, wx, u, **parameters):
        rng = np.random.default_rng(self.seed)
        values = [carry.h, wx, u, wx + u, *parameters.values()]
        for _ in range(6):
            values.append(self._next(rng, values))
        total = (wx + u) / 2
        for value in values[-3:]:
            total = total + _sized(value, self.hidden_size)
        return lj.State(jnp.tanh(total))

    def _next(self, rng: np.random.Generator, values: list[Any]) -> Any:
        """Compute a random function of the values so far."""
        a = values[rng.integers(len(values))]
        fitting = [v for v in values if not np.ndim(v) or _size(v) in (1, _size(a))]
        b = fitting[rng.integers(len(fitting))]
        ops: list[Callable[[], Any]] = [
            lambda: a + b,
            lambda: a * b,
            lambda: a - 2 * b,
            lambda: jnp.maximum(a, b),
            lambda: jnp.where(a > b, a, 0.5 * b),
            lambda: jnp.where(a > 0.1, b, a),
            lambda: a * _constant(rng, a),
            lambda: jax.nn.relu(a) - jnp.sin(b),
        ]
        if np.ndim(a):
            k = int(rng.integers(_size(a)))
            ops += [
                lambda: a[..., k : k + 1],
                lambda: a[..., : k + 1],
                lambda: jnp.split(a, [k], axis=-1)[1],
                lambda: jnp.sum(a, axis=-1, keepdims=True),
                lambda: jnp.mean(a, axis=-1, keepdims=True) * b,
                lambda: jnp.max(a, axis=-1, keepdims=True),
                lambda: jnp.concatenate([a[..., k:], a[..., :k]], axis=-1),
                lambda: jnp.pad(a[..., k:], [(0, 0)] * (a.ndim - 1) + [(k, 0)]),
                lambda: jnp.squeeze(jnp.expand_dims(a, -2), -2),
                lambda: jnp.reshape(jnp.sin(jnp.reshape(a, (*a.shape, 1))), a.shape),
                lambda: jnp.clip(a, -0.5, 0.5 * jnp.ones_like(a)),
            ]
        return ops[rng.integers(len(ops))]()


def _size(value: Any) -> int:
    return np.shape(value)[-1] if np.ndim(value) else 1


def _constant(rng: np.random.Generator, like: Any) -> Any:
    size = _size(like)
    drawn = [np.full(size, 0.25), rng.standard_normal(size), np.array(0.5)]
    return jnp.asarray(drawn[rng.integers(3)], like.dtype)


def _sized(value: Any, size: int) -> Any:
    """Cut a value to one element unless it has `size` elements or one."""
    return value if _size(value) in (1, size) else value[..., :1]
