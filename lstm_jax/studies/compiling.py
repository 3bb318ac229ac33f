"""Compilation in haste, where a program runs for a shorter time than it takes to optimise."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["compiling"]
__dir__ = __all__.copy


@contextlib.contextmanager
def compiling(quickly: bool) -> Iterator[None]:
    """Switch most of XLA's optimisations off if `quickly`.

    A quick study spends most of its time on compiling some forty programs.
    """
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, quickly or before)
    try:
        yield
    finally:
        jax.config.update(option, before)
