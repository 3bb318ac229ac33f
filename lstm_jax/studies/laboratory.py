"""Running a study: seeds and scale in, one JSON file out, from which a second run reads it."""

import datetime
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .._checks import fail
from .._files import write_whole
from .provenance import PACKAGES, code_digest, environment, to_json, version
from .record import Setting, Study, verdict_of_study

__all__ = ["SEEDS", "check_free", "complete", "read", "read_all", "seeds_from"]
__dir__ = __all__.copy

SEEDS = {"ci": 3, "cpu": 3, "gpu": 5}
"""Number of seeds by scale."""


def seeds_from(first: int, scale: str) -> tuple[int, ...]:
    """The consecutive seeds of a scale."""
    return tuple(range(first, first + SEEDS[scale]))


def complete(study: Study, scale: str, seeds: tuple[int, ...], out: Path) -> dict[str, Any]:
    """Run a study and write OUT/ID.json, or read that file if it is of the same run.

    An interrupted study goes on from the files of its sweeps in OUT/ID-parts, which end with it.
    Only one process at a time may work on a study in a folder: see `locked`.
    """
    found = read(out / f"{study.id}.json")
    key = _key(study, scale, seeds)
    if found is not None and found["key"] == key:
        return found
    parts = out / f"{study.id}-parts"
    setting = Setting(scale, seeds, functools.partial(_part, parts, key))
    started = datetime.datetime.now(datetime.UTC)
    findings = study.run(setting)
    anchors = study.judge(findings, scale)
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    result = to_json(
        {
            "id": study.id,
            "title": study.title,
            "question": study.question,
            "scale": scale,
            "seeds": seeds,
            "verdict": verdict_of_study(anchors),
            "anchors": anchors,
            "notes": dict(findings.notes),
            "data": findings.data,
            "environment": environment(started) | {"seconds": round(seconds, 1)},
            "key": key,
        }
    )
    content = (json.dumps(result, indent=1) + "\n").encode()
    write_whole(out / f"{study.id}.json", content, argument="out")
    _clear(parts)
    return result


def read(path: Path) -> dict[str, Any] | None:
    """Read a study's file; None if there is none, or it is no study's."""
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return result if _is_whole(result) else None


_READ = {"id", "key", "title", "scale", "seeds", "verdict", "anchors", "data", "environment"}
"""Entries of a study's file that the index, or the check of a rerun, reads."""


def _is_whole(result: Any) -> bool:
    """True for what a study wrote; one by other hands, or by much older code, may lack a part."""
    if not isinstance(result, dict) or not set(result) >= _READ:
        return False
    listed = all(isinstance(result[name], list) for name in ("seeds", "anchors"))
    named = isinstance(result["environment"], dict)
    return listed and named and all("verdict" in _dict(each) for each in result["anchors"])


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def read_all(out: Path, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Read the files of finished studies, in the order of the ids."""
    found = [read(out / f"{id}.json") for id in ids]
    return [result for result in found if result is not None]


def check_free(study: Study, scale: str, seeds: tuple[int, ...], out: Path, argument: str) -> None:
    """Raise if OUT/ID.json exists and is not of this very run.

    Raises:
        ValueError: it is of other code, another scale, other seeds or versions, or no study's.
    """
    path = out / f"{study.id}.json"
    found = read(path)
    if not path.exists() or (found is not None and found["key"] == _key(study, scale, seeds)):
        return
    of = "of no study" if found is None else f"of scale {found['scale']}, seeds {found['seeds']}"
    seen = f"{str(path)!r}, which exists, {of}"
    if found is not None and (found["scale"], tuple(found["seeds"])) == (scale, seeds):
        seen = f"{str(path)!r}, which exists, of other code or versions"
    remedy = "name another, or add --overwrite to replace it"
    raise fail(argument, seen, "a name that is free, or a file of the same run", remedy)


def _key(study: Study, scale: str, seeds: tuple[int, ...]) -> str:
    """Digest of everything that a result depends on."""
    device = jax.devices()[0].device_kind
    versions = {name: version(name) for name in PACKAGES}
    all_of = [study.id, scale, list(seeds), versions, code_digest(), device]
    # Neither an argument nor code: with 64 bits, other numbers.
    all_of += [str(jnp.zeros(()).dtype)]
    return hashlib.sha256(json.dumps(all_of).encode()).hexdigest()


def _part(parts: Path, key: str, name: str) -> Path:
    """The file of a sweep of a study."""
    parts.mkdir(parents=True, exist_ok=True)
    return parts / f"{name}-{key[:12]}.npz"


def _clear(parts: Path) -> None:
    """Remove the files of a study's sweeps, and the folder if nothing is left in it."""
    if parts.is_dir():
        for path in parts.glob("*.npz"):
            path.unlink()
        if not any(parts.iterdir()):
            parts.rmdir()
