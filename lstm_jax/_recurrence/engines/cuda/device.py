"""The GPU that kernels are for, and what a program carries of a kernel."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import numpy as np

from . import emulation, launcher, nvrtc
from .emulation import FOLDER
from .plan import H100, Device

SHARED = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99}
"""Kilobytes of shared memory that a block may take, by compute capability (CUDA's programming
guide, "Technical Specifications per Compute Capability")."""

_described: contextvars.ContextVar[Device | None] = contextvars.ContextVar("device", default=None)
_trying = contextvars.ContextVar("trying", default=False)


def platforms() -> tuple[str, ...]:
    """JAX's names of the platforms on which kernels run."""
    return ("cuda", "cpu") if emulation.EMULATED else ("cuda",)


def why_not(platform: str) -> str | None:
    """Return None if kernels can run on a platform, or one line that says why not."""
    if platform == "cpu" and emulation.EMULATED:
        return None
    if platform not in ("gpu", "cuda"):
        return f"it runs on an NVIDIA GPU, and the platform is {platform}"
    capability = here().capability
    if capability not in SHARED:
        known = ", ".join(map(_dotted, SHARED))
        return f"it needs a GPU of compute capability {known}, not {_dotted(capability)}"
    return nvrtc.why_not() or launcher.why_not()


def here() -> Device:
    """Describe the GPU that kernels are for: that of `of`, or the first there is, or an H100."""
    return _described.get() or _first() or H100


@contextlib.contextmanager
def of(device: Device) -> Iterator[None]:
    """Context in which kernels are made for a GPU that need not be there."""
    token = _described.set(device)
    try:
        yield
    finally:
        _described.reset(token)


@contextlib.contextmanager
def trying() -> Iterator[None]:
    """Context in which kernels are only written, and nothing is compiled."""
    token = _trying.set(True)
    try:
        yield
    finally:
        _trying.reset(token)


def is_trying() -> bool:
    """True in the context `trying`."""
    return _trying.get()


def program(source: str) -> tuple[np.ndarray, bool]:
    """Bytes that the call carries, and whether the kernel has too few registers.

    The bytes are a binary, or where it lies compiled for this CPU.
    """
    if is_trying():
        return np.zeros(1, np.uint8), False
    if emulation.EMULATED:
        return _bytes(emulation.compiled(source)), False
    launcher.register()
    made = nvrtc.kept(whole(source), f"sm_{here().capability}")
    return _bytes(made.cubin), made.spilled > 0


def whole(source: str) -> str:
    """The source of a kernel with the words of the machine before it."""
    return (FOLDER / "machine.cuh").read_text() + source


@functools.cache
def _first() -> Device | None:
    try:
        gpu = jax.devices("cuda")[0]
    except RuntimeError:
        return None
    major, minor = str(gpu.compute_capability).split(".")
    capability = 10 * int(major) + int(minor)
    return Device(capability, int(gpu.core_count), 1024 * SHARED.get(capability, 48))


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
