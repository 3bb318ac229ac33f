"""Initial matrices that are drawn for all gates together, or depend on the sizes of the cell."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .._static import Static
from ._draw import Initializer, check_initializer, in_wide, wide


class Sizes(NamedTuple):
    """The sizes D and H of the cell whose matrix is drawn."""

    input_size: int
    hidden_size: int


class GateMatrix(Static, abc.ABC):
    """Base class of initial matrices drawn for all gates together; for a matrix only, not for b."""

    @abc.abstractmethod
    def gates(
        self, key: Array, shape: Sequence[int], sizes: Sizes, dtype: Any = jnp.float32
    ) -> Array:
        """Draw the matrix of `shape` `[fan_in, G*H]`, the gates side by side."""


@dataclass(frozen=True)
class whole(GateMatrix):
    """`init` called on the whole matrix `[fan_in, G*H]`, as in Keras: its fans count all gates.

    `whole(orthogonal())` has orthonormal rows of G*H numbers; no single gate is orthogonal.
    """

    init: Initializer

    def __post_init__(self):
        check_initializer("init", self.init)

    def gates(
        self, key: Array, shape: Sequence[int], sizes: Sizes, dtype: Any = jnp.float32
    ) -> Array:
        del sizes
        return in_wide(self.init, key, shape, dtype)


@dataclass(frozen=True)
class stacked(GateMatrix):
    """Rows of one matrix `[D + H, G*H]` drawn by `init`, as haiku, whose cells concatenate x and h.

    Use an `init` with independent entries, as w_ih and w_hh are drawn one after the other.
    """

    init: Initializer

    def __post_init__(self):
        check_initializer("init", self.init)

    def gates(
        self, key: Array, shape: Sequence[int], sizes: Sizes, dtype: Any = jnp.float32
    ) -> Array:
        *window, rows, columns = shape
        both = in_wide(self.init, key, (*window, sum(sizes), columns), dtype)
        return both[..., :rows, :]


@dataclass(frozen=True)
class hidden_uniform(GateMatrix):
    """Uniform on [-1/sqrt(H), 1/sqrt(H)], H the hidden size, for every matrix, as in PyTorch."""

    def gates(
        self, key: Array, shape: Sequence[int], sizes: Sizes, dtype: Any = jnp.float32
    ) -> Array:
        bound = 1 / math.sqrt(sizes.hidden_size)
        return jax.random.uniform(key, tuple(shape), wide(dtype), -bound, bound).astype(dtype)
