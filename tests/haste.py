"""XLA flags for fast compilation, as tests run each program once."""

from importlib import metadata

FLAGS = {
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
    "--xla_cpu_parallel_codegen_split_count": "1",
    "--xla_force_host_platform_device_count": "8",
}

OLD = {"--xla_cpu_use_fusion_emitters": "false"}
"""Flags of jaxlib 0.10 only; an unknown flag would end the process."""


def flags(given: str) -> str:
    """Append to `given` the flags above that it does not set."""
    old = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11)
    wanted = FLAGS | (OLD if old else {})
    return " ".join([given, *(f"{name}={wanted[name]}" for name in wanted if name not in given)])
