"""Initial matrices that see all gates at once, or the sizes of the cell."""

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
    """An initial matrix drawn for all gates together; for a matrix alone, never for b."""

    @abc.abstractmethod
    def gates(
        self, key: Array, shape: Sequence[int], sizes: Sizes, dtype: Any = jnp.float32
    ) -> Array:
        """The matrix `[fan_in, G*H]` = `shape`, the gates side by side."""


@dataclass(frozen=True)
class whole(GateMatrix):
    """`init` of the whole matrix `[fan_in, G*H]`, as Keras: its fans count all gates.

    `whole(orthogonal())` has orthonormal rows (of G*H numbers) and is orthogonal in no gate.
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
    """Rows of `init` of one matrix `[D + H, G*H]` over the concatenation of x and h, as haiku's.

    For an `init` of independent numbers: w_ih and w_hh are not drawn together.
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
    """w ~ U[-1/sqrt(H), 1/sqrt(H)], H the cell's, whatever the matrix: PyTorch's."""

    def gates(
        self, key: Array, shape: Sequence[int], sizes: Sizes, dtype: Any = jnp.float32
    ) -> Array:
        bound = 1 / math.sqrt(sizes.hidden_size)
        return jax.random.uniform(key, tuple(shape), wide(dtype), -bound, bound).astype(dtype)
