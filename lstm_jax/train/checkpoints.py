"""Checkpoints of a whole run, written beside the training."""

import contextlib
import functools
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from .._checks import check_bool, check_named, check_path, check_positive_int, counted, fail, shown
from .._files import check_folder, only_writer
from .._outline import Refusal, decode, describe, fill, rebuild
from ._orbax import Writer, read
from ._seal import seal, unsealed

__all__ = ["Checkpoints"]
__dir__ = __all__.copy


class Checkpoints:
    """A folder of numbered checkpoints of one run, to use in a `with` statement.

        with Checkpoints("run", every=1000) as checkpoints:
            state, history = fit(run, state, key, 100_000, checkpoints=checkpoints)

    A checkpoint holds any pytree: a training state, the carry of a stream, a place in the data, a
    random key. It is written while training goes on, and is there whole or not at all, also when
    the process is killed or the disk is full. Each of its files has a digest, so that one which has
    changed is refused by name. Needs orbax-checkpoint, which the extra `orbax` installs.

    The processes of `jax.distributed` open one folder and make the same calls. Each writes its part
    of the arrays that are split over them; what each has for itself, the first one writes.

    Args:
        folder: the folder of this run alone, created on entering if missing.
        every: updates from one checkpoint of `fit` to the next; it is written after the chunk in
            which they are complete.
        keep: how many of the newest checkpoints stay.
        description: what the run depends on, a dict that JSON can hold, such as {"rate": 0.1}.
            Checkpoints with another one are refused.
        skip_damaged: if the newest checkpoint is damaged, go on from the newest whole one. The
            damaged ones are renamed, with a warning.

    Raises:
        ImportError: on entering, orbax is not installed.
        ValueError: on entering, the folder cannot be written, another process is writing to it, its
            newest checkpoint is damaged, or it is of another run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int = 1000,
        keep: int = 3,
        description: Mapping[str, Any] | None = None,
        skip_damaged: bool = False,
    ):
        check_path("folder", folder, "the name of a folder")
        check_positive_int("every", every)
        check_positive_int("keep", keep)
        check_bool("skip_damaged", skip_damaged)
        description = {} if description is None else description
        check_named("description", description, "pass for example {'rate': 0.1}")
        self.folder, self.every = Path(folder).absolute(), every
        self._keep, self._skip_damaged = keep, skip_damaged
        self._description = json.loads(json.dumps(dict(description)))
        self._writer: Writer | None = None
        self._newest = -1
        self._held = contextlib.ExitStack()

    @property
    def steps(self) -> list[int]:
        """Numbers of the checkpoints in the folder, in order."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))

    # ---- reading ---------------------------------------------------------------------------------
    def restore(self, like: Any = None, step: int | None = None) -> tuple[int, Any]:
        """Read a checkpoint, also outside a `with` statement: (its number, its tree).

        Dicts, lists and tuples keep their type and any other mapping becomes a dict. A NamedTuple
        keeps its type if the module of that type is imported.

        Args:
            like: a tree of the same structure with arrays or `jax.ShapeDtypeStruct`s. The restored
                tree gets its node types, and its shardings over a mesh, which may have other
                devices and processes than the one that was saved. A leaf `...` stands for a part
                as it was saved.
            step: the number of the checkpoint; None: the newest.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is damaged, or a newer version or another run wrote it, or its tree
                differs from `like`.
        """
        self.wait()  # What `save` has begun is there for who asks for it.
        step = self._chosen(step)
        with self._reading(step) as folder:
            record = self._of_this_run(unsealed(folder))
            shardings = _shardings(like, record)
            arrays = self._arrays(folder, record, shardings)
            leaves = decode(record, lambda leaf: arrays[leaf["entry"]])
            if like is None:
                return step, rebuild(record, leaves)
        tree = fill(like, record, leaves)
        return step, jax.tree_util.tree_map_with_path(functools.partial(_placed, shardings), tree)

    def _chosen(self, step: int | None) -> int:
        steps = self.steps
        if steps and step is None:
            return steps[-1]
        if not steps:
            seen, remedy = f"{str(self.folder)!r} without one", "save one first, or name another"
            raise fail("folder", seen, "a folder with checkpoints", remedy, FileNotFoundError)
        if step not in steps:
            remedy = f"these are in {str(self.folder)!r}"
            raise fail("step", step, f"one of {steps}", remedy, FileNotFoundError)
        return step

    def _arrays(
        self, folder: Path, record: dict[str, Any], shardings: dict[str, Any]
    ) -> dict[str, Any]:
        """Read the arrays; the files are as they were written, so that an error is orbax's."""
        try:
            return read(folder, [leaf for leaf in record["leaves"] if "entry" in leaf], shardings)
        except ImportError:
            raise
        except Exception as error:
            wanted = "a checkpoint that this orbax can read"
            raise fail("folder", _told(folder, error), wanted, "update orbax-checkpoint") from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[Path]:
        """Turn any error of reading a checkpoint into one that names it."""
        folder = self.folder / str(step)
        try:
            yield folder
        except Refusal as refusal:
            seen, wanted, remedy = refusal.args
            raise fail("folder", f"{str(folder)!r} with {seen}", wanted, remedy) from None

    def _of_this_run(self, record: dict[str, Any]) -> dict[str, Any]:
        """Raise unless the record has the description of this run."""
        theirs, ours = record["description"], self._description
        for name in [*ours, *theirs]:
            both = name in theirs and name in ours
            if not both or json.dumps(theirs[name]) != json.dumps(ours[name]):  # NaN is itself.
                seen, wanted = _entry(theirs, name), _entry(ours, name)
                seen = f"another {name}" if seen == wanted else seen
                remedy = "name another folder, or give the description with which this run began"
                raise Refusal(seen, wanted, remedy)
        return record

    # ---- writing ---------------------------------------------------------------------------------
    def save(self, step: int, tree: Any) -> None:
        """Copy a tree and begin to write it as a checkpoint, after the one before is written.

        Args:
            step: its number, larger than those before, such as the number of updates so far.
            tree: leaves are arrays of any dtype that JAX has, random keys, Python numbers and
                strings.

        Raises:
            ValueError: a leaf of another kind; a number that is too small; the disk has no room, or
                this checkpoint or the one before it cannot be written. Older ones stay.
        """
        if self._writer is None:
            remedy = "save inside `with Checkpoints(..)`"
            raise fail("step", "a closed folder", "an open one", remedy)
        check_positive_int("step", step, least=0)
        if step <= self._newest:
            wanted = f"a number above {self._newest}, the newest in {str(self.folder)!r}"
            raise fail("step", step, wanted, "restore that one first, or name another folder")
        description, arrays = describe(tree, "tree")
        self._check_room(sum(array.nbytes for array in arrays.values()))
        record = {"step": int(step), "description": self._description, **description}
        with self._writing():
            self._writer.write(step, arrays, functools.partial(seal, content=record))
        self._newest = int(step)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            ValueError: it cannot be written.
        """
        if self._writer is not None:
            with self._writing():
                self._writer.wait()

    def __enter__(self) -> "Checkpoints":
        check_folder(self.folder, argument="folder")
        with contextlib.ExitStack() as held:
            if jax.process_index() == 0:  # Of several processes of one run, it writes the records.
                held.enter_context(only_writer(self.folder, argument="folder"))
            self._check_newest()
            _wait_for_all("lstm_jax: the newest checkpoint is known")
            self._writer = Writer(self.folder, self._keep)
            held.callback(self._close, self._writer)
            self._newest = max(self.steps, default=-1)
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        with self._held:
            if kind is None:
                self.wait()

    def _close(self, writer: Writer) -> None:
        self._writer = None
        with contextlib.suppress(Exception):  # `wait` has told, or another error is on its way.
            writer.close()

    def _check_newest(self) -> None:
        """Raise unless the newest checkpoint is whole, or may be skipped, and of this run."""
        damaged: list[tuple[int, ValueError]] = []
        for step in reversed(self.steps):
            try:
                with self._reading(step) as folder:
                    record = unsealed(folder)
            except ValueError as error:
                damaged.append((step, error))
                if self._skip_damaged:
                    continue
                raise
            with self._reading(step):
                self._of_this_run(record)
            break
        else:
            if damaged:
                raise damaged[0][1]
        for step, error in damaged:
            self._set_aside(step, error)

    def _set_aside(self, step: int, error: ValueError) -> None:
        if jax.process_index() != 0:
            return
        name = f"{step}.damaged-{secrets.token_hex(4)}"
        (self.folder / str(step)).rename(self.folder / name)
        warnings.warn(f"{error}; skipped and renamed {name!r}", stacklevel=4)

    def _check_room(self, size: int) -> None:
        """Raise unless the disk has room for the checkpoints that are to stay."""
        free = shutil.disk_usage(self.folder).free
        more = max(1, self._keep + 1 - len(self.steps))  # The oldest goes when the newest is there.
        if free < more * size:
            seen = f"{str(self.folder)!r} on a disk with {free} bytes free"
            wanted = f"{more * size} for {counted(more, 'more checkpoint')}"
            raise fail("folder", seen, wanted, "make room, or name another")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn any error of writing into one that names the folder."""
        try:
            yield
        except Exception as error:
            wanted = "a folder that can be written, on a disk with room"
            remedy = f"the checkpoints {self.steps} stay: make room and go on from there"
            raise fail("folder", _told(self.folder, error), wanted, remedy) from error


def _wait_for_all(name: str) -> None:
    """Wait until all processes of the run are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils  # Of use to several processes alone.

        multihost_utils.sync_global_devices(name)


def _told(folder: Path, error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{str(folder)!r} ({type(error).__name__}: {first})"


def _entry(description: Mapping[str, Any], name: str) -> str:
    return f"{name} = {shown(description[name])}" if name in description else f"no {name}"


def _shardings(like: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """Shardings over a mesh, by the paths of their leaves, where the shapes agree."""
    # The shape of a random key is not that of its data: it is placed after it is read.
    shapes = {leaf["path"]: leaf.get("shape") for leaf in record["leaves"] if "key" not in leaf}
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(like):
        path, sharding = jax.tree_util.keystr(keys), getattr(leaf, "sharding", None)
        meshed = sharding is not None and not isinstance(sharding, SingleDeviceSharding)
        if meshed and (path not in shapes or shapes[path] == list(leaf.shape)):
            found[path] = sharding
    return found


def _placed(shardings: Mapping[str, Any], keys: Any, leaf: Any) -> Any:
    sharding = shardings.get(jax.tree_util.keystr(keys))
    return leaf if sharding is None else jax.device_put(leaf, sharding)
