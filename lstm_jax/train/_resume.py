"""The file of a sweep: the records of its programs so far, and what the sweep is of."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .. import checkpoint
from .._checks import fail
from .._files import check_target
from ._group import Record

__all__ = ["Kept", "kind", "named"]
__dir__ = __all__.copy

_REMEDY = "name another file, or give what the sweep in this one was given"


class Kept:
    """The file of a sweep; without a path nothing is kept.

    Args:
        path: the file, or None.
        identity: what the results depend on, in types of JSON.

    Raises:
        ValueError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, Any]):
        self._path = path
        if path is not None:
            check_target(path)
            self._identity = {name: json.dumps(value) for name, value in identity.items()}

    def write(self, records: Sequence[Record]) -> None:
        """Write the records, whole or not at all; errors are `checkpoint.save`'s."""
        if self._path is not None:
            parts = [{name: named(tree) for name, tree in r._asdict().items()} for r in records]
            description = {"sweep": self._identity, "updates": [r.updates for r in records]}
            checkpoint.save(self._path, parts, description)

    def read(self, likes: Sequence[Callable[[int], Record]]) -> list[Record]:
        """Read the records of the programs that have begun; [] if there is no file.

        Args:
            likes: for each program a function from the number of updates to the types of its
                record.

        Raises:
            ValueError: the file is damaged or of another sweep.
        """
        if self._path is None or not os.path.exists(self._path):
            return []
        parts, description = checkpoint.load(self._path)
        self._check(description)
        return [
            Record(*(self._filled(tree, part[name]) for name, tree in like(n)._asdict().items()))
            for like, part, n in zip(likes, parts, description["updates"], strict=False)
        ]

    def _check(self, description: dict[str, Any]) -> None:
        """Raise unless the file is of this sweep."""
        theirs = description.get("sweep")
        if not isinstance(theirs, dict):
            raise fail("path", repr(str(self._path)), "the file of a sweep", "name another file")
        for name, ours in self._identity.items():
            if theirs.get(name) != ours:
                seen = f"{str(self._path)!r}, a sweep with {_shown(name, theirs.get(name))}"
                raise fail("path", seen, _shown(name, ours), _REMEDY)

    def _filled(self, like: Any, found: dict[str, Any]) -> Any:
        """Fill a tree of types with the leaves of the file."""
        wanted = named(like)
        for name in wanted | found:
            ours, theirs = (kind(leaves.get(name)) for leaves in (wanted, found))
            if ours != theirs:
                seen = f"{str(self._path)!r} with {theirs} at {name}"
                raise fail("path", seen, f"{ours}, which these functions give", _REMEDY)
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])


def named(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by their paths."""
    return {jax.tree_util.keystr(k): leaf for k, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def kind(leaf: Any, outer: int = 0) -> str:
    """Dtype and shape of a leaf without its first axes, or "nothing"."""
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape[outer:])}"


def _shown(name: str, text: str | None) -> str:
    return f"{name} {text}" if text is not None and len(text) <= 60 else f"other {name}"
