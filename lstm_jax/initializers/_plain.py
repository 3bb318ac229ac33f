"""Initializers for any matrix: constants, normal and uniform numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from .._checks import fail
from .._static import Static
from ._draw import Initializer, check_matrix, check_number, in_wide, wide


@dataclass(frozen=True)
class zeros(Static):
    """Zeros, of any shape."""

    def __call__(self, key: Array | None, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        return jnp.zeros(tuple(shape), dtype)


@dataclass(frozen=True)
class constant(Static):
    """A constant array w = value, of any shape."""

    value: float

    def __post_init__(self):
        check_number("value", self.value)

    def __call__(self, key: Array | None, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        return jnp.full(tuple(shape), float(self.value), dtype)


@dataclass(frozen=True)
class normal(Static):
    """Normal w ~ N(0, std^2), of any shape."""

    std: float = 0.01

    def __post_init__(self):
        check_number("std", self.std, at_least=0)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        w = jax.random.normal(key, tuple(shape), wide(dtype))
        return (float(self.std) * w).astype(dtype)


@dataclass(frozen=True)
class uniform(Static):
    """Uniform w ~ U[low, bound]; bound=None is 1/sqrt(H), H = shape[-1], as in PyTorch.

    low=None is -bound. ValueError unless low <= bound, and for a low without a bound.
    """

    bound: float | None = None
    low: float | None = None

    def __post_init__(self):
        if self.low is not None:
            check_number("low", self.low)
            if self.bound is None:
                raise fail("bound", f"None beside low={self.low}", "a number", "pass both ends")
        if self.bound is not None:
            at_least = 0 if self.low is None else float(self.low)
            check_number("bound", self.bound, at_least=at_least)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        bound = 1 / math.sqrt(shape[-1]) if self.bound is None else float(self.bound)
        low = -bound if self.low is None else float(self.low)
        return jax.random.uniform(key, tuple(shape), wide(dtype), low, bound).astype(dtype)


class _OfFans(Static):
    """Base class of initializers that scale by the fans of one gate's matrix."""

    variance_scaling: ClassVar[Initializer]

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        check_matrix(self, shape)
        return in_wide(self.variance_scaling, key, shape, dtype)


@dataclass(frozen=True)
class glorot_uniform(_OfFans):
    """Uniform w ~ U[-a, a], a = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    variance_scaling = staticmethod(jax.nn.initializers.glorot_uniform())


@dataclass(frozen=True)
class glorot_normal(_OfFans):
    """Normal truncated at two deviations, variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    variance_scaling = staticmethod(jax.nn.initializers.glorot_normal())


@dataclass(frozen=True)
class lecun_normal(_OfFans):
    """Normal truncated at two deviations, of variance 1 / fan_in (LeCun et al. 1998).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    variance_scaling = staticmethod(jax.nn.initializers.lecun_normal())


@dataclass(frozen=True)
class truncated_normal(Static):
    """Normal of deviation std, truncated at two deviations, so its variance is 0.774 std^2.

    std=None is 1/sqrt(fan_in), as in haiku's linear layers, with shape `[fan_in, fan_out]`.
    """

    std: float | None = None

    def __post_init__(self):
        if self.std is not None:
            check_number("std", self.std, at_least=0)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        if self.std is None:
            check_matrix(self, shape)
        std = 1 / math.sqrt(shape[-2]) if self.std is None else float(self.std)
        w = jax.random.truncated_normal(key, -2.0, 2.0, tuple(shape), wide(dtype))
        return (std * w).astype(dtype)


@dataclass(frozen=True)
class small_normal(Static):
    """Normal w ~ N(0, 2 / (5 fan_in)) (Nguyen & Salazar 2019, arXiv 1910.05895).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        check_matrix(self, shape)
        w = jax.random.normal(key, tuple(shape), wide(dtype))
        return (math.sqrt(2 / (5 * shape[-2])) * w).astype(dtype)
