"""Errors of the kernel's elementary functions, over the whole range of float32.

python tests/ulps.py            prints {function: the largest error in units in the last place}

LSTM_JAX_INSTRUCTIONS chooses the instruction set. The arguments are every 2^10-th float32 of either
sign, and all around points where a function changes its formula.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax as lj
from lstm_jax._recurrence import equations
from lstm_jax._recurrence.engines.native import calls
from lstm_jax._recurrence.inferred import recurrence_of

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "tanh": (jnp.tanh, np.tanh),
    "sigmoid": (jax.nn.sigmoid, lambda x: np.where(x < 0, np.exp(x), 1.0) / (1 + np.exp(-abs(x)))),
    "exp": (jnp.exp, np.exp),
}
"""Functions by name: the kernel's, and the reference in float64."""

TURNS = (1e-4, 1 / 64, 0.1, np.log(2) / 2, np.log(2), 0.5, 0.625, 1, 9, 10, 20, 40, 87.3, 88.7, 104)
"""Absolute values at which a function may change its formula."""

SIZE = 1001
"""Numbers per row: a size that leaves a remainder for every vector width."""

SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan)


@dataclasses.dataclass(frozen=True)
class Elementwise(lj.Cell):
    """A cell that applies a function elementwise: h_t = f(wx_t)."""

    function: str = "tanh"

    def update(self, carry: Any, wx: Any, u: Any) -> Any:
        """Apply the function to wx."""
        del carry, u
        return lj.State(FUNCTIONS[self.function][0](wx))


def by_kernel(name: str, x: np.ndarray) -> np.ndarray:
    """Compute f(x) by the kernel, for a flat float32 array."""
    rows = jnp.asarray(np.resize(x, (1, -(-len(x) // SIZE), SIZE)))
    weights = {"w_hh": jnp.zeros((SIZE, SIZE), jnp.float32)}
    start = lj.State(jnp.zeros(rows.shape[1:], jnp.float32))
    ops = equations.Operands(weights, {}, start, None, rows, None, None)
    cell = recurrence_of(Elementwise(SIZE, function=name), ops)
    ran = jax.jit(lambda ops: calls.run(cell, False, ops))(ops)
    return np.asarray(ran.carries.h).reshape(-1)[: len(x)]


def arguments() -> np.ndarray:
    """The arguments to test: all exponents, densely around `TURNS`, and special values."""
    bits = np.arange(0, 1 << 32, 1 << 10, dtype=np.uint32).view(np.float32)
    parts = [bits[np.isfinite(bits)]]
    for turn in TURNS:
        near = np.float32(turn).view(np.int32) + np.arange(-2000, 2000, dtype=np.int32)
        parts += [near.view(np.float32), -near.view(np.float32)]
    return np.concatenate([*parts, np.float32(SPECIAL)])


def errors(name: str, x: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of float32; denormal numbers count as zero."""
    seen = by_kernel(name, x)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][1](x.astype(np.float64))
        wanted = exact.astype(np.float32)
        distance = np.abs(seen.astype(np.float64) - exact) / np.spacing(np.abs(wanted))
    tiny = np.finfo(np.float32).tiny
    below = (np.abs(wanted) < tiny) & (np.abs(seen) <= tiny)
    same = (seen == wanted) | (np.isnan(seen) & np.isnan(wanted)) | below
    wrong = np.signbit(seen) != np.signbit(wanted)  # Signs of zeros too.
    wrong &= ~np.isnan(wanted)
    return np.where(wrong, np.inf, np.where(same, 0, np.nan_to_num(distance, nan=np.inf)))


def worst() -> Iterator[tuple[str, float]]:
    """Yield (function, largest error)."""
    x = arguments()
    for name in FUNCTIONS:
        yield name, float(errors(name, x).max())


if __name__ == "__main__":
    print(json.dumps(dict(worst())))
