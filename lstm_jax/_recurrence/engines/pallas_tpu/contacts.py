"""Every contact with Pallas, whose names change between versions of JAX; and its interpreter.

Pallas is imported by the first kernel, as its import takes longer than that of the whole library.
"""

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ...._jax import one_device

INTERPRETED = os.environ.get("LSTM_JAX_INTERPRET", "0") not in ("", "0")
"""True if Pallas interprets kernels on a CPU: LSTM_JAX_INTERPRET=1, read at import."""

_lowering_alone = contextvars.ContextVar("lowering_alone", default=False)


@contextlib.contextmanager
def for_a_device() -> Iterator[None]:
    """Context in which kernels are not interpreted, as they are only lowered."""
    token = _lowering_alone.set(True)
    try:
        yield
    finally:
        _lowering_alone.reset(token)


def interpreting() -> bool:
    """True if a kernel that is made now will be interpreted."""
    return INTERPRETED and not _lowering_alone.get()


def rounds() -> bool:
    """True if matmuls of float32 round their operands to bfloat16: a TPU's default precision."""
    config: Any = jax.config
    default = (None, "default", "fastest", "bfloat16")
    return not interpreting() and config.jax_default_matmul_precision in default


def platforms() -> tuple[str, ...]:
    """JAX's names of the platforms on which kernels run."""
    return ("tpu", "cpu") if INTERPRETED else ("tpu",)


@functools.cache
def _pallas() -> tuple[Any, Any]:
    """Return (Pallas, its part for TPUs)."""
    # Imported here: see the module's docstring.
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    return pallas, tpu


def block(shape: Sequence[int | None], index: Callable[..., Any], fixed: bool = False) -> Any:
    """Describe a block of an operand or result. fixed: it is the same one all the time."""
    pallas, _ = _pallas()
    mode = {"pipeline_mode": pallas.Buffered(1)} if fixed else {}
    return pallas.BlockSpec(tuple(shape), index, **mode)


def call(
    kernel: Callable[..., None],
    results: Sequence[Any],
    grid: Sequence[int],
    given: Sequence[Any],
    made: Sequence[Any],
    memory: int,
    about: dict[str, str],
) -> Callable[..., Any]:
    """Make a call of a kernel for a grid of (independent blocks, consecutive blocks).

    Args:
        kernel: function of references to the blocks of operands and results.
        results: shapes and dtypes of the results.
        grid: the number of blocks along both axes.
        given, made: the blocks of operands and of results, as `block` returns them.
        memory: bytes of VMEM that the kernel may take.
        about: what the compiled program and a profile tell of the kernel.
    """
    pallas, tpu = _pallas()
    options = tpu.CompilerParams(
        dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=memory
    )
    function = pallas.pallas_call(
        kernel,
        out_shape=list(results),
        grid=tuple(grid),
        in_specs=list(given),
        out_specs=list(made),
        compiler_params=options,
        interpret=interpreting(),
        metadata=about,
    )

    def called(*operands: Any) -> Any:
        # Pallas mixes indices of 32 and 64 bits otherwise, and asks what varies over devices.
        with jax.enable_x64(False), one_device():
            return function(*operands)

    return called


def place(axis: int) -> Any:
    """The number of the block along an axis of the grid, inside a kernel."""
    return _pallas()[0].program_id(axis)


def when(condition: Any) -> Callable[[Callable[[], None]], None]:
    """Decorator that runs a function of no arguments if `condition` holds, inside a kernel."""
    return _pallas()[0].when(condition)


def halves(words: Any) -> Any:
    """Take 32-bit words [m, n] for bfloat16 numbers [2 * m, n], inside a kernel."""
    return _pallas()[1].bitcast(words, jnp.bfloat16)
