"""Reading and writing of NumPy's `.npz` files; a file cannot demand more memory than its size."""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a `.npz` like `np.savez`, which could not name an array "file"."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Callable[[str], np.ndarray]]:
    """Open a file that `write` wrote, as a function from names to read-only arrays.

    Raises:
        ValueError: the parts claim to be larger than the file, or an array is not of numbers.
        Exception: of any other type, if the file is damaged or not a `.npz`.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        packed = any(
            entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
            for entry in entries.values()
        )
        if packed or sum(entry.file_size for entry in entries.values()) > os.path.getsize(path):
            raise ValueError("its parts are packed, or larger than the file")
        yield lambda name: _array(archive.read(entries[f"{name}.npy"]))


def _array(data: bytes) -> np.ndarray:
    """Decode an `.npy` file without a copy; raise if its header claims more bytes than it has."""
    file = io.BytesIO(data)
    shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.kind not in "biufcU":
        raise ValueError(f"an array of {dtype.name}")
    values = data[file.tell() :]
    if len(values) != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array that is not whole")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")
