"""The record of a checkpoint, in its folder: what it holds, and a digest of each of its files."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._outline import Refusal

__all__ = ["RECORD", "read_record", "seal", "unsealed"]
__dir__ = __all__.copy

RECORD = "lstm_jax"
"""The file of the record: a line with format, version and digest of the rest; the rest in JSON."""
_FORMAT = "lstm-jax checkpoint"
_VERSION = 1
_TIMES = {"_CHECKPOINT_METADATA", "commit_success.txt"}
"""Where orbax notes times, also after the record is written. What is restored does not use them."""
_OLDER = "restore an older checkpoint, or enter Checkpoints(..., skip_damaged=True)"


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Write the record, after all other files; what is in the folder is then on the disk."""
    files = {str(path.relative_to(folder)): _digest(path, sync=True) for path in _files(folder)}
    data = json.dumps({**content, "files": files}).encode()
    head = f"{_FORMAT} {_VERSION} {hashlib.sha256(data).hexdigest()}\n"
    with open(folder / RECORD, "xb") as file:
        file.write(head.encode() + data)
        file.flush()
        os.fsync(file.fileno())


def unsealed(folder: Path) -> dict[str, Any]:
    """Read the record; raise unless every file is as it was when the record was written.

    Raises:
        Refusal: a file is missing, damaged or another, or a newer version wrote the checkpoint.
    """
    record = read_record(folder)
    for name, digest in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise Refusal(f"no file {name}", "all files of a checkpoint", _OLDER)
        if _digest(path) != digest:
            raise Refusal(f"{name}, which has changed", "files as they were written", _OLDER)
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record, without the files that it is of.

    Raises:
        Refusal: it is missing or damaged, or of a newer version or another checkpoint.
    """
    try:
        head, _, data = (folder / RECORD).read_bytes().partition(b"\n")
    except OSError:
        raise Refusal(f"no file {RECORD}", "what Checkpoints.save wrote", _OLDER) from None
    name, version, digest = ["", "", *head.decode(errors="replace").rsplit(" ", 2)][-3:]
    if name == _FORMAT and version.isdecimal() and int(version) > _VERSION:
        newer = f"{RECORD} of version {version}"
        raise Refusal(newer, f"up to {_VERSION}", "update lstm_jax: a newer version wrote it")
    found = name, version, digest
    if found != (_FORMAT, str(_VERSION), hashlib.sha256(data).hexdigest()):
        raise Refusal(f"{RECORD}, which has changed", "files as they were written", _OLDER)
    record = json.loads(data)
    if str(record["step"]) != folder.name:
        seen = f"{RECORD} of checkpoint {record['step']}"
        raise Refusal(seen, f"that of {folder.name}", "give the folder its number back")
    return record


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in _TIMES:
            yield path


def _digest(path: Path, sync: bool = False) -> str:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
