"""What made a result: versions, device, time, code; and results as JSON."""

import datetime
import functools
import hashlib
import math
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

__all__ = ["PACKAGES", "code_digest", "environment", "to_json", "version"]
__dir__ = __all__.copy

PACKAGES = ("lstm-jax", "jax", "jaxlib", "numpy", "optax", "matplotlib")


def environment(started: datetime.datetime) -> dict[str, Any]:
    """Versions, device and time, which a reader needs to judge or repeat the numbers."""
    device = jax.devices()[0]
    kind = [
        device.platform,
        *([] if device.device_kind == device.platform else [device.device_kind]),
    ]
    return {
        "started": started.isoformat(timespec="seconds"),
        "device": ": ".join(kind),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "command": " ".join(["lstm-jax", *sys.argv[1:]]),
    }


def version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def code_digest() -> str:
    """Digest of this library's source, which changes more often than its version."""
    root = Path(__file__).parents[1]
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cc", ".h"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def to_json(value: Any) -> Any:
    """Convert `value` to types of JSON: arrays to lists, numbers that are not finite to None."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
