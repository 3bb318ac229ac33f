"""Two and four processes train as one: the same numbers, and checkpoints that change hands."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import process
import pytest

pytest.importorskip("orbax.checkpoint", reason="pip install lstm-jax[orbax]")

pytestmark = [
    pytest.mark.grid,
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="these processes have a CPU each"),
]

PROGRAM = pathlib.Path(process.__file__)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def trained(folder, count, updates):
    """Train in `count` processes to `updates` updates in all; the parameters and losses."""
    coordinator = f"localhost:{free_port()}"
    # Of flags that are given twice the last counts: a process has one device.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, coordinator, str(count), str(n), folder, str(updates)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(count)
    ]
    try:
        told = [each.communicate(timeout=240)[0] for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0] * count, "\n".join(told)
    return read(folder, count)


def read(folder, count):
    with np.load(folder / f"{count}.npz") as file:
        return dict(file)


def test_two_processes_write_checkpoints_and_four_read_them(tmp_path):
    """Units are split over two devices, in the four processes the batch too."""
    process.main("", 1, 0, tmp_path / "alone", 6)
    wanted = read(tmp_path / "alone", 1)
    two = trained(tmp_path / "together", 2, 4)
    four = trained(tmp_path / "together", 4, 6)
    np.testing.assert_allclose(two["loss"], wanted["loss"][:4], rtol=1e-5)
    assert len(four["loss"]) == 6  # Those of the two processes are in their checkpoint.
    np.testing.assert_array_equal(four["loss"][:4], two["loss"])
    assert four.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_allclose(four[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)
