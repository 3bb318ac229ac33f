"""Every contact with orbax: arrays by name, written beside the training and read back."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._checks import fail

__all__ = ["Writer", "read"]
__dir__ = __all__.copy

_ARRAYS = "default"
"""The folder of the arrays in that of a checkpoint."""
_UNNAMED = ".orbax-checkpoint-tmp"
"""What follows the number in the name of a folder that is being written."""
_NONE = {"none": np.zeros(1, np.int32)}
"""What stands for no arrays, which orbax refuses to write."""


class Writer:
    """Writing to numbered folders in one folder, each there whole or not at all.

    Args:
        folder: the folder, which exists; remains of unfinished writing in it are removed.
        keep: how many of the newest numbered folders stay.

    Raises:
        ImportError: orbax is not installed.
    """

    def __init__(self, folder: Path, keep: int):
        ocp = _library()
        self._folder, self._finish = folder, lambda: None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            lightweight_initialize=True,  # Reads no file of the checkpoints, which may be damaged.
            async_options=ocp.AsyncOptions(post_finalization_callback=lambda: self._finish()),
        )
        self._save = ocp.args.StandardSave
        self._manager = ocp.CheckpointManager(folder, options=options)

    def write(self, step: int, arrays: Mapping[str, Any], finish: Callable[[Path], None]) -> None:
        """Copy the arrays and begin to write them, after the writing before has ended.

        Args:
            step: the number of their folder, larger than those before.
            arrays: NumPy's or JAX's.
            finish: called with the folder once they are written, before it gets its number.

        Raises:
            Exception: this or the writing before has failed.
        """
        self.wait()

        def finish_unnamed() -> None:
            (unnamed,) = self._folder.glob(f"{step}{_UNNAMED}*")  # orbax does not hand it over.
            finish(unnamed)

        self._finish = finish_unnamed
        kept = {
            name: np.array(array) if _is_own(array) else array
            for name, array in arrays.items()
            if array.size
        }
        self._manager.save(step, args=self._save(kept or _NONE), force=True)

    def wait(self) -> None:
        """Wait until the arrays are written; raise if that fails."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Wait, end orbax's threads, and remove what could not be written."""
        try:
            self._manager.close()
        finally:
            for unnamed in self._folder.glob(f"[0-9]*{_UNNAMED}*"):
                shutil.rmtree(unnamed, ignore_errors=True)


def _is_own(array: Any) -> bool:
    """True for an array of this process alone; of several processes, the first writes its own."""
    if isinstance(array, np.ndarray):
        return True
    return jax.process_count() > 1 and array.is_fully_addressable


def read(
    folder: Path, leaves: Sequence[Mapping[str, Any]], shardings: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the arrays of a numbered folder: NumPy's, or JAX's where a sharding is given.

    Args:
        folder: the numbered folder.
        leaves: descriptions of its arrays, with "path", "entry", "dtype" and "shape".
        shardings: shardings by path.

    Raises:
        Exception: they cannot be read.
    """
    ocp = _library()
    targets = {leaf["entry"]: _target(leaf, shardings.get(leaf["path"])) for leaf in leaves}
    kept = {name: target for name, target in targets.items() if target.size}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        return targets | reader.restore(
            folder / _ARRAYS, args=ocp.args.StandardRestore(kept or _NONE)
        )


def _target(leaf: Mapping[str, Any], sharding: Any) -> Any:
    shape, dtype = tuple(leaf["shape"]), np.dtype(leaf["dtype"])
    if sharding is None or "key" in leaf:
        return np.empty(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _library() -> Any:
    try:
        import orbax.checkpoint as ocp  # Takes a second, and is not needed unless one writes runs.
    except ImportError as error:
        remedy = "pip install 'lstm-jax[orbax]'"
        raise fail("Checkpoints", str(error), "orbax-checkpoint", remedy, ImportError) from error
    return ocp
