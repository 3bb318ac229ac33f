"""Processes that measure: what is around one, and one that ends in time.

What runs on a device may hang where no exception reaches it, so it runs in a process of its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax

from . import record


def tell(line: str) -> None:
    """Print a line on standard error, as standard output is for the tables."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def lenient(dtype: str) -> Iterator[None]:
    """Allow promotion of ranks and dtypes, which rivals need, and float64 if `dtype` is that."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.enable_x64(dtype == "float64"))
        yield


# ---- in time -------------------------------------------------------------------------------------
def run(command: Sequence[str], seconds: float, variables: Mapping[str, str]) -> str:
    """Run a command in the checkout, and say how it ended: its exit code, or that it was ended.

    What it prints goes to standard error. It is ended, with its own processes, after `seconds` and
    when this process is.
    """
    given, group = environment(variables), os.name == "posix"
    # Otherwise this process would end at once, and leave the other one on the device.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(
        command, cwd=record.ROOT, env=given, stdout=2, start_new_session=group
    )
    try:
        return f"exit code {process.wait(seconds)}"
    except subprocess.TimeoutExpired:
        return f"ended after {seconds:.0f} s"
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, before)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process beside others on one device."""
    # Otherwise JAX reserves three quarters of a GPU's memory, and others get too little.
    found = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | dict(os.environ) | dict(variables)
    asked = found.get("JAX_PLATFORMS", "")
    if asked and "cpu" not in asked.split(","):  # The reference of the tests runs on the CPU.
        found["JAX_PLATFORMS"] = f"{asked},cpu"
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, unless all have ended."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
