"""Ceilings of the machine, measured in the same run: the speed of a large matmul and a large copy.

A ceiling is the best of several repeats by JAX and, on a CPU, by NumPy (with its BLAS, or a copy to
allocated memory). Every sample is kept.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

REPEATS = 7
SIZES = {"cpu": (2048, 2**28), "small": (128, 2**20)}
"""Rows of the square matrices and bytes of the copied array, by platform."""
LARGE = (8192, 2**30)


def measure(dtype: str, small: bool = False) -> dict[str, Any]:
    """Measure {"flops_per_s", "bytes_per_s", "matmul", "copy"}, the last two with all samples.

    Args:
        dtype: the dtype of the matrices.
        small: use small sizes, for a trial run only.
    """
    n, size = SIZES["small"] if small else SIZES.get(jax.default_backend(), LARGE)
    matmul = {name: seconds(call) for name, call in _matmuls(n, dtype).items()}
    copy = {name: seconds(call) for name, call in _copies(size).items()}
    return {
        "flops_per_s": 2.0 * n**3 / min(map(min, matmul.values())),
        "bytes_per_s": 2.0 * size / min(map(min, copy.values())),
        "matmul": {"rows": n, "dtype": dtype, "samples": matmul},
        "copy": {"bytes": size, "samples": copy},
    }


def seconds(call: Callable[[], Any]) -> list[float]:
    """Seconds of each repeat of `call`, after two warm-up calls."""
    samples = []
    for _ in range(2 + REPEATS):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return samples[2:]


def _matmuls(n: int, dtype: str) -> dict[str, Callable[[], Any]]:
    host = np.random.default_rng(0).standard_normal((n, n)).astype(np.dtype(dtype))
    a = jnp.asarray(host)
    product = jax.jit(jnp.matmul)
    calls = {"jax": lambda: jax.block_until_ready(product(a, a))}
    if jax.default_backend() == "cpu" and dtype != "bfloat16":  # BLAS lacks bfloat16.
        out = np.empty_like(host)
        calls["numpy"] = lambda: np.matmul(host, host, out=out)
    return calls


def _copies(size: int) -> dict[str, Callable[[], Any]]:
    """Calls that read and write `size` bytes; by a negation, as XLA would drop a copy."""
    host = np.ones(size // 4, np.float32)
    a = jnp.asarray(host)
    negative = jax.jit(jnp.negative)
    calls = {"jax": lambda: jax.block_until_ready(negative(a))}
    if jax.default_backend() == "cpu":
        out = np.ones_like(host)
        calls["numpy"] = lambda: np.copyto(out, host)
    return calls
