"""Batches of sequences of like lengths, padded to a few lengths, so that little is padding."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from .._checks import as_array, check_bool, check_positive_int, counted, fail, shown
from ._lengths import best_lengths

__all__ = ["Buckets", "Padded"]
__dir__ = __all__.copy


class Padded(NamedTuple):
    """A batch of sequences of several lengths.

    Attributes:
        sequences: the tree of a sequence, each leaf [T, B, ...], zero beyond a sequence's end.
        labels: the tree of the labels, each leaf [B, ...]; None without labels.
        mask: [T, B] bool, True at the steps of a sequence.
        seq_lengths: [B] int32; 0 in a row that is there to have B rows: a loss of labels masks it.
    """

    sequences: Any
    labels: Any
    mask: np.ndarray
    seq_lengths: np.ndarray


jax.export.register_namedtuple_serialization(Padded, serialized_name="lstm_jax.Padded")


class Buckets:
    """Batches without end from a list of sequences, each batch of sequences of like lengths.

        batches = Buckets(sequences, batch_size=32, buckets=4)
        run = lstm_jax.train.Feed(lstm_jax.train.make_step(loss, tx), batches)

    A sequence is padded to the next of a few lengths T. The batches of one T have one shape,
    [T, B], so that an update is compiled once a bucket. An epoch, `per_epoch` batches, has each
    sequence once: batches are cut from the shuffled buckets, and come in shuffled order. What is
    left of a bucket makes a batch that is filled up with rows of length 0.

    `batches[n]` is the n-th batch of all epochs and depends on the sequences, the arguments and n
    alone. An iterator has `get_state` and `set_state`, by which the checkpoints of
    `lstm_jax.train.fit` go on at the same batch.

    Args:
        sequences: arrays [T_i, ...], T_i at least 1; or trees of such, tuples or dicts, with one
            T_i for all leaves, such as (inputs, targets). A list is an array.
        batch_size: B, the rows of a batch.
        buckets: the lengths T, the longest of which no sequence exceeds; or how many there are to
            be, at most, of the lengths that make an epoch's padding least.
        labels: a tree of arrays [N, ...] with a row for each sequence, such as its class.
        seed: the order of the sequences; None: as they are given, from short buckets to long ones.
        drop_remainder: drop what is left of a bucket, in each epoch other sequences.

    Attributes:
        lengths: the lengths T that are used.
        per_epoch: the number of batches of an epoch.

    Raises:
        ValueError: no sequences; sequences of different trees, dtypes or trailing axes; labels of
            another number; one that is longer than the longest bucket; nothing but remainders.
    """

    def __init__(
        self,
        sequences: Sequence[Any],
        batch_size: int,
        *,
        buckets: int | Sequence[int] = 4,
        labels: Any = None,
        seed: int | None = 0,
        drop_remainder: bool = False,
    ):
        check_positive_int("batch_size", batch_size)
        check_bool("drop_remainder", drop_remainder)
        if seed is not None:
            check_positive_int("seed", seed, least=0)
        self._leaves, self._tree = _flat(sequences)
        self._steps = np.asarray([len(leaves[0]) for leaves in self._leaves])
        self._labels = _labels(labels, len(self._steps))
        self._size, self._seed, self._drop = batch_size, seed, drop_remainder
        lengths = _lengths(self._steps, buckets)
        place = np.searchsorted(lengths, self._steps)
        members = {int(T): np.flatnonzero(place == n) for n, T in enumerate(lengths)}
        self._members = {T: found for T, found in members.items() if self._count(found)}
        self.lengths = tuple(self._members)
        if not self.lengths:
            seen, remedy = f"{batch_size} for buckets that have fewer", "pass a smaller one"
            raise fail("batch_size", seen, "a batch", remedy)
        self.per_epoch = sum(map(self._count, self._members.values()))
        self._epoch, self._plan = -1, []

    def __getitem__(self, n: int) -> Padded:
        check_positive_int("n", n, least=0)
        epoch, place = divmod(int(n), self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._planned(epoch)
        return self._batch(*self._plan[place])

    def __iter__(self) -> "_Place":
        return _Place(self)

    def report(self) -> dict[str, Any]:
        """Tell how much of the batches is padding.

        Returns:
            A dict: "padding", of the B T steps of all batches the share that is none of a sequence;
            "unbucketed", of all sequences padded to the longest; "buckets", a dict for each with
            "length", "sequences", "batches" and "padding".
        """
        rows = []
        for T, members in self._members.items():
            batches = self._count(members)
            # Of what is dropped in turn, each epoch has the mean.
            share = min(1.0, batches * self._size / len(members))
            used = share * self._steps[members].sum()
            row = {"length": T, "sequences": len(members), "batches": batches}
            rows.append(row | {"padding": float(1 - used / (batches * self._size * T))})
        steps = [row["batches"] * self._size * row["length"] for row in rows]
        padding = np.average([row["padding"] for row in rows], weights=steps)
        alone = 1 - self._steps.mean() / self._steps.max()
        return {"padding": float(padding), "unbucketed": float(alone), "buckets": rows}

    def _count(self, members: np.ndarray) -> int:
        whole, rest = divmod(len(members), self._size)
        return whole + (rest > 0 and not self._drop)

    def _planned(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The length and the sequences of each batch of an epoch."""
        rng = None if self._seed is None else np.random.default_rng([self._seed, epoch])
        plan = []
        for T, members in self._members.items():
            members = members if rng is None else rng.permutation(members)
            starts = range(0, self._count(members) * self._size, self._size)
            plan += [(T, members[start : start + self._size]) for start in starts]
        return plan if rng is None else [plan[n] for n in rng.permutation(len(plan))]

    def _batch(self, T: int, rows: np.ndarray) -> Padded:
        padded = []
        for k, first in enumerate(self._leaves[0]):
            leaf = np.zeros((T, self._size, *first.shape[1:]), first.dtype)
            for b, row in enumerate(rows):
                leaf[: self._steps[row], b] = self._leaves[row][k]
            padded.append(leaf)
        seq_lengths = np.zeros(self._size, np.int32)
        seq_lengths[: len(rows)] = self._steps[rows]
        labels = jax.tree.map(lambda leaf: _filled(leaf[rows], self._size), self._labels)
        mask = np.arange(T)[:, None] < seq_lengths[None]
        return Padded(jax.tree.unflatten(self._tree, padded), labels, mask, seq_lengths)

    def _identity(self) -> list[Any]:
        """What the order of the batches depends on."""
        counts = {T: len(members) for T, members in self._members.items()}
        return [self._seed, self._size, self._drop, sorted(counts.items())]


class _Place(Iterator[Padded]):
    """An iterator over the batches, which knows its place."""

    def __init__(self, batches: Buckets):
        self._batches, self._next = batches, 0

    def __next__(self) -> Padded:
        batch = self._batches[self._next]
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The number of batches so far, and what they are of, in types of JSON."""
        return {"next": self._next, "of": json.dumps(self._batches._identity())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: it is the place in other batches.
        """
        ours, remedy = self.get_state()["of"], "give the sequences and arguments it began with"
        if not isinstance(state, dict) or state.keys() != {"next", "of"}:
            raise fail("state", shown(state), "what get_state of `Buckets` gave", remedy)
        if state["of"] != ours:
            seen = f"the place in batches of {state['of']}"
            raise fail("state", seen, f"that of {ours}", remedy)
        self._next = state["next"]


# ---- what is given -------------------------------------------------------------------------------
def _flat(sequences: Any) -> tuple[list[list[np.ndarray]], Any]:
    """The leaves of every sequence, and the tree of one."""
    if not isinstance(sequences, (list, tuple)) or not len(sequences):
        remedy = "pass a list of arrays, or of (inputs, targets)"
        raise fail("sequences", shown(sequences), "a list of at least one", remedy)
    found: list[list[np.ndarray]] = []
    like: Any = None
    for n, sequence in enumerate(sequences):
        name = f"sequences[{n}]"
        leaves, its_tree = jax.tree.flatten(sequence, is_leaf=lambda x: isinstance(x, list))
        leaves = [np.asarray(as_array(name, leaf)) for leaf in leaves]
        steps = {leaf.shape[:1] for leaf in leaves}
        if len(steps) != 1 or steps & {(), (0,)}:
            seen = f"leaves of shapes {[leaf.shape for leaf in leaves]}"
            wanted = "one first axis [T_i] for all, of at least one step"
            raise fail(
                name, seen, wanted, "leave empty ones out; pass one row a sequence as labels"
            )
        its = its_tree, [(leaf.shape[1:], leaf.dtype.name) for leaf in leaves]
        like = like or its
        if its != like:
            what = 1 if its[1] != like[1] else 0
            seen, wanted = f"leaves {its[what]}", f"those of sequences[0], {like[what]}"
            raise fail(name, seen, wanted, "give all the same tree, dtypes and axes but the first")
        found.append(leaves)
    return found, like[0]


def _labels(labels: Any, count: int) -> Any:
    def checked(leaf: Any) -> np.ndarray:
        array = np.asarray(as_array("labels", leaf))
        if array.shape[:1] != (count,):
            seen = f"a leaf of shape {array.shape}"
            raise fail("labels", seen, f"{counted(count, 'row')}, one a sequence", "count them")
        return array

    return jax.tree.map(checked, labels, is_leaf=lambda x: isinstance(x, list))


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows of zeros up to `size`."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def _lengths(steps: np.ndarray, buckets: Any) -> np.ndarray:
    """The lengths of the buckets, rising; those given, or as many as are asked for."""
    if not isinstance(buckets, (list, tuple, np.ndarray)):
        check_positive_int("buckets", buckets)
        return best_lengths(steps, int(buckets))
    for length in buckets:
        check_positive_int("buckets", length)
    lengths = np.unique(np.asarray(buckets, np.int64))
    if not len(lengths) or lengths[-1] < steps.max():
        seen = f"{list(buckets)} for a sequence of {counted(int(steps.max()), 'step')}"
        raise fail("buckets", seen, "one at least as long", "add it, or cut the sequence")
    return lengths
