"""Initial biases that depend on the role of each gate."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .._checks import fail, shown
from .._static import Static
from ._draw import Initializer, check_initializer, check_number, in_wide, wide

# A gate's name fixes its role: c = f*c_tm1 + i*g in LSTM-like cells, h = (1-z)*n + z*h_tm1 in
# GRU-like ones. So "f" and "z" are keep gates, and "i" is the gate opposite "f".
_KEEP_GATES = ("f", "z")
_OPPOSITE = {"f": "i"}


class GateBias(Static, abc.ABC):
    """Base class of initial biases that depend on a gate's role; for b only, not for a matrix."""

    @abc.abstractmethod
    def gates(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        """Draw the biases `[G*H]` of the gates called `names`, concatenated in that order."""

    def two(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> tuple[Array, Array]:
        """Draw (b, b_hh) for a cell that adds two biases; b_hh is zero."""
        b = self.gates(key, names, hidden_size, dtype)
        return b, jnp.zeros_like(b)


@dataclass(frozen=True)
class forget_bias(GateBias):
    """Bias `value` in the keep gate ("f" of an LSTM, "z" of a GRU), 0 in the other gates.

    At zero input and state, the state decays by the factor sigmoid(value) at each step (Gers et al.
    2000; Jozefowicz et al. 2015 take 1). `gate` names another gate, or demands one of the two.
    ValueError for a cell without that gate.
    """

    value: float = 1.0
    gate: str | None = None

    def __post_init__(self):
        check_number("value", self.value)
        if self.gate is not None and not isinstance(self.gate, str):
            raise fail(
                "gate", shown(self.gate), "the name of a gate, or None", 'pass for example "f"'
            )

    def gates(
        self, key: Array | None, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        del key
        b_keep = jnp.full(hidden_size, float(self.value), dtype)
        gate = _keep_gate(self, names, self.gate)
        return _concatenate({gate: b_keep}, names, hidden_size, dtype)


@dataclass(frozen=True)
class chrono(GateBias):
    """Chrono initialisation: b_f ~ log U[t_min - 1, t_max - 1], b_i = -b_f, other gates 0.

    With f = sigmoid(b_f) the timescale 1/(1-f) = 1 + exp(b_f), which the paper calls forgetting
    time, is uniform on [t_min, t_max], in steps; t_min = 2 gives the paper's log U[1, t_max - 1].
    Set t_max to the longest lag of the task. In a GRU, where 1-z takes the place of an input gate,
    only b_z is drawn. ValueError unless 1 < t_min <= t_max, and for a cell without a keep gate.

    Source: Tallec & Ollivier (2018), arXiv 1804.11188, equation 16.
    """

    t_max: float
    t_min: float = 2.0

    def __post_init__(self):
        check_number("t_min", self.t_min)
        check_number("t_max", self.t_max)
        if not self.t_min > 1:
            remedy = "1/(1-f) > 1 for every gate, pass t_min=2 for the paper's range"
            raise fail("t_min", self.t_min, "a number above 1", remedy)
        if not self.t_max >= self.t_min:
            wanted = f"at least t_min = {self.t_min} steps"
            raise fail("t_max", self.t_max, wanted, "pass the longest lag of the task")

    def gates(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        keep = _keep_gate(self, names)
        low, high = float(self.t_min) - 1, float(self.t_max) - 1
        b_keep = jnp.log(jax.random.uniform(key, (hidden_size,), wide(dtype), low, high))
        given = {keep: b_keep}
        if keep in _OPPOSITE:
            given[_OPPOSITE[keep]] = -b_keep
        return _concatenate(given, names, hidden_size, dtype)


@dataclass(frozen=True)
class power_law(GateBias):
    """Bias longest + (shortest - longest) * (k / (H-1))^exponent in unit k's keep gate, else 0.

    The units get timescales of all lengths, 1/(1-sigmoid(longest)) steps and shorter. xLSTM
    initialises its forget gates like this (Beck et al. 2024), with an exponent from 0.3 in the
    first block to 1.6 in the last. ValueError for a number that is not finite, an exponent below 0,
    and for a cell without a keep gate.
    """

    exponent: float = 0.3
    longest: float = 5.0
    shortest: float = -7.0

    def __post_init__(self):
        check_number("exponent", self.exponent, at_least=0)
        check_number("longest", self.longest)
        check_number("shortest", self.shortest)

    def gates(
        self, key: Array | None, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        del key
        k = jnp.arange(hidden_size, dtype=wide(dtype)) / max(hidden_size - 1, 1)
        spread = float(self.shortest) - float(self.longest)
        b_keep = float(self.longest) + spread * k ** float(self.exponent)
        return _concatenate({_keep_gate(self, names): b_keep}, names, hidden_size, dtype)


@dataclass(frozen=True)
class summed(GateBias):
    """Sum of two draws of `init`, like PyTorch's b_ih + b_hh; with two biases, one draw for each.

    The gate "n" is drawn once: its second bias is a separate parameter (b_hn).
    """

    init: Initializer

    def __post_init__(self):
        check_initializer("init", self.init)

    def gates(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        b, b_hh = self.two(key, names, hidden_size, wide(dtype))
        outside = jnp.repeat(jnp.asarray([name != "n" for name in names]), hidden_size)
        return jnp.where(outside, b + b_hh, b).astype(dtype)

    def two(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> tuple[Array, Array]:
        """Draw (b, b_hh), with another key for each gate of each bias."""
        keys = jax.random.split(key, 2 * len(names))
        b = jnp.concatenate([in_wide(self.init, k, (hidden_size,), dtype) for k in keys])
        return b[: len(names) * hidden_size], b[len(names) * hidden_size :]


def _keep_gate(init: GateBias, names: Sequence[str], gate: str | None = None) -> str:
    known = _KEEP_GATES if gate is None else (gate,)
    for keep in known:
        if keep in names:
            return keep
    seen = f"{init} for the gates {tuple(names)}"
    wanted = f"a cell with a keep gate, one of {known}"
    raise fail("init", seen, wanted, "pass zeros() or another plain initializer")


def _concatenate(
    given: dict[str, Array], names: Sequence[str], hidden_size: int, dtype: Any
) -> Array:
    b = [given.get(name, jnp.zeros(hidden_size, dtype)).astype(dtype) for name in names]
    return jnp.concatenate(b)
