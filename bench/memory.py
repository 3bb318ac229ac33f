"""Peak growth of the process's memory during a call, on Linux; elsewhere None."""

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")


def watched(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """Run `call`: (its result, peak growth of the resident memory in bytes).

    Memory that the allocator keeps from earlier calls is returned to the system first, as it would
    hide what the call needs.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    known = _forget_peak()
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    return result, max(0, peak - before) if known and before and peak else None


def _forget_peak() -> bool:
    """Reset the system's peak counter; False if that is impossible."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", (PROCESS / "status").read_text())
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0
