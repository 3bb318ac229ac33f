"""The targets, and a compiler for each: XLA's own, as the wheels of the extra `aot` bring it.

A GPU is described by the text beside this file; libtpu knows its TPUs by name. The kernels of a GPU
are those of a compiler that cannot try them out: on a device, XLA may prefer cuBLAS.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

GPUS = ("h100", "h200", "a100")
TPUS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
"""Names of libtpu's topologies by target; one chip of each is compiled for."""

TARGETS = (*GPUS, *TPUS)

PLUGIN = "jax_plugins.xla_cuda13"
INSTALL = "pip install 'lstm-jax[aot]', with Python 3.12 or newer"

ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",  # Do not ask the cloud's metadata server what machine this is.
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Only one process may hold a TPU, but many may compile.
}
"""Environment in which libtpu neither looks for a TPU nor asks the network for one."""

WITHOUT_CUDA = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
"""Environment in which the plugin does not look for CUDA's libraries, which compiling needs not."""


def platform(target: str) -> str:
    """JAX's name of the target's kind of device: "gpu" or "tpu"."""
    return "tpu" if target in TPUS else "gpu"


def why_not(target: str) -> str | None:
    """Return None if the wheels for a target are installed, or which one is missing."""
    needed = "libtpu" if target in TPUS else PLUGIN
    wheel = "libtpu" if target in TPUS else "jax-cuda13-plugin"
    with contextlib.suppress(ModuleNotFoundError):  # That of the package around the plugin.
        if util.find_spec(needed) is not None:
            return None
    return f"{target}: needs {wheel}; {INSTALL}"


def compiled(function: Callable[..., Any], types: Sequence[Any], target: str) -> Any:
    """Compile a function for a target.

    Args:
        function: a function of arrays, not yet jitted.
        types: its arguments, as trees of arrays or of what has a shape and a dtype.
        target: a name in `TARGETS`.

    Returns:
        The `jax.stages.Compiled`; it cannot be called.

    Raises:
        ImportError: a wheel is missing; the message names the extra.
    """
    here = NamedSharding(Mesh(np.array([device(target)]), ("device",)), PartitionSpec())
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), types)
    with mock.patch.object(jax, "default_backend", lambda: platform(target)):
        return jax.jit(function).lower(*given).compile()  # Traced as the target's process would.


@lru_cache
def device(target: str) -> Any:
    """Make the description of one device."""
    missing = why_not(target)
    if missing:
        raise ImportError(missing)
    if target in TPUS:
        with _environment(ALONE):
            return topologies.get_topology_desc(TPUS[target], "tpu").devices[0]
    text = Path(__file__).with_name(f"{target}.txtpb").read_text(encoding="utf-8")
    options = {"target_config": text, "topology": "1x1x1"}
    jax.devices()  # JAX has now loaded the plugin, unless JAX_PLATFORMS names others alone.
    try:
        return topologies.get_topology_desc("", "cuda", **options).devices[0]
    except Exception:
        with _environment(WITHOUT_CUDA):
            importlib.import_module(PLUGIN).initialize()
        return topologies.get_topology_desc("", "cuda", **options).devices[0]


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update({name: value for name, value in changes.items() if before[name] is None})
    try:
        yield
    finally:
        for name in (name for name, value in before.items() if value is None):
            os.environ.pop(name, None)
