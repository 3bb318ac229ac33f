"""How much more memory a call has the process hold, at its peak. Linux alone; else None."""

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")


def watched(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """(what `call` returns, bytes of resident memory at the peak beyond those before it).

    Memory that the allocator has kept from earlier calls is handed back to the system first, or it
    would hide what the call takes.
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
    """Have the system count the peak from here on; False where it cannot."""
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
