"""The record of a run: JSON with every sample, and with the environment that a reader needs."""

import datetime
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

import lstm_jax
from lstm_jax._recurrence.engines.native import library
from lstm_jax.studies.provenance import version

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "lstm-jax", "jax", "jaxlib", "numpy", "torch", "flax", "dm-haiku", "equinox", "keras",
    "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "libtpu",
)  # fmt: skip
FLAGS = (
    "XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION", "XLA_PYTHON_CLIENT_PREALLOCATE", "NPROC",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KERAS_BACKEND",
)  # fmt: skip


def environment(arguments: list[str], dtype: str) -> dict[str, Any]:
    """Describe device, versions, flags, commit, command, time and the load of the machine.

    The entry "instructions" is the instruction set of "native"; None if its kernel is not built.
    """
    device = jax.devices()[0]
    return {
        "command": " ".join(["python -m bench", *arguments]),
        "commit": commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{device.platform}: {device.device_kind}",
        "processor": processor(),
        "instructions": library.instructions() if library.why_not() is None else None,
        "cpus": threads(),
        "load": load(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := version(name))},
        "dtype": dtype,
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
    }


def machine(environment: dict[str, Any]) -> str:
    """The device that an environment describes, its processor and its CPUs, in words."""
    device = environment["device"].removeprefix("cpu: cpu").removeprefix("gpu: ")
    cpus = f"{environment['cpus']} CPUs"
    parts = [device, environment["processor"], environment.get("instructions"), cpus]
    return ", ".join(filter(None, parts))


def package() -> str:
    """First line of a measurement: the version of lstm_jax, and whether it has the kernel."""
    return f"lstm_jax {lstm_jax.__version__} {library.summary()}"


def threads() -> int:
    """Number of threads of XLA's pool on a CPU: the CPUs of this process, or NPROC."""
    available = getattr(os, "sched_getaffinity", None)
    cpus = len(available(0)) if available else os.cpu_count() or 1
    return int(os.environ.get("NPROC", 0)) or cpus


def load() -> float | None:
    """Load of the machine: the average number of runnable processes over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def commit() -> str | None:
    """Commit of the checkout, with "+" if files differ from it; None outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD").strip()
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def processor() -> str:
    """Model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a document as JSON, atomically; a number that is not finite becomes null."""
    part = path.with_name(path.name + ".part")
    part.write_text(_text(_finite(document)), encoding="utf-8")
    os.replace(part, path)


def _text(document: dict[str, Any]) -> str:
    """Format a document as JSON, with one line per row."""
    parts = []
    for name, value in document.items():
        lines = ",\n".join(map(json.dumps, value)) if isinstance(value, list) else ""
        parts.append(f"{json.dumps(name)}: " + (f"[\n{lines}\n]" if lines else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read(path: Path) -> dict[str, Any]:
    """Read a document that `write` wrote.

    Raises:
        ValueError: any other file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict) or not {"environment", "ceilings", "rows"} <= set(document):
        raise ValueError(f"{path}: not a file that `python -m bench --json` wrote")
    return document


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
