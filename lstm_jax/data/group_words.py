"""Words of a finite group: the product of all elements so far, which is state tracking."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import losses
from .._checks import check_choice, fail, shown
from .._static import Static
from .._typing import Array, Key
from ._base import Batch, check_length, sample_batch, uniform_int

__all__ = ["GroupWords"]
__dir__ = __all__.copy

_LARGEST = {"S": 5, "A": 5, "Z": 120}
_VARIANTS = ("all", "swaps")


@functools.cache
def _permutations(group: str) -> np.ndarray:
    """The elements as permutations of 0 .. n-1, [G, n], the identity first."""
    kind, n = group[0], int(group[1:])
    if kind == "Z":
        return np.array([np.roll(np.arange(n), -k) for k in range(n)])
    everything = np.array(list(itertools.permutations(range(n))))
    return everything if kind == "S" else everything[_signs(everything) > 0]


def _signs(permutations: np.ndarray) -> np.ndarray:
    """The signs of permutations [G, n]: 1 for an even number of swaps, else -1."""
    n = permutations.shape[1]
    pairs = itertools.combinations(range(n), 2)
    orders = [np.sign(permutations[:, j] - permutations[:, i]) for i, j in pairs]
    return np.prod(np.array(orders, int).reshape(-1, len(permutations)), axis=0)


@functools.cache
def _table(group: str) -> np.ndarray:
    """The product of each two elements, int32 [G, G]: row first, then column."""
    elements = _permutations(group)
    number = {tuple(p): k for k, p in enumerate(elements)}
    # The first maps i to p[i], the second that to q[p[i]].
    products = [[number[tuple(q[p])] for q in elements] for p in elements]
    return np.array(products, np.int32)


@functools.cache
def _letters(group: str, variant: str) -> np.ndarray:
    """The numbers of the elements that words are made of, int32 [A]."""
    elements = _permutations(group)
    moved = np.sum(elements != np.arange(elements.shape[1]), axis=1)
    most = 2 if variant == "swaps" else elements.shape[1]
    return np.flatnonzero(moved <= most).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class GroupWords(Static):
    """Word problem of a finite group: name the product of all elements seen so far.

    One-hot elements x_t, drawn uniformly from the letters, and at every step

        target_t = x_1 x_2 ... x_t          x_1 is applied first

        variant     letters
        "all"       every element of the group
        "swaps"     the identity and the permutations that swap two

    Groups by name: "S2" to "S5", all permutations of n; "A3" to "A5", the even ones; "Z2" to
    "Z120", addition modulo n. Element 0 is the identity; `permutations` says which is which and
    `products` how they multiply. Z2 is parity. Of these groups A5 and S5 are not solvable: their
    word problems are as hard as any in the class NC1 (Barrington 1989).

    Sources: Merrill, Petty & Sabharwal (2024), "The illusion of state in state-space models",
    arXiv 2404.08819, "all" of Z60, A4 x Z5 and A5; Grazzi et al. (2025), arXiv 2411.12537,
    appendix E.2, S5 with "all" and with "swaps", and Z60.

    Raises:
        ValueError: for an unknown group or variant, "swaps" of a group without any, a length
            below 1.
    """

    length: int
    variant: str = "all"
    group: str = "S3"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, _VARIANTS)
        _check_group(self.group)
        check_length(self.length, 1, "a word has a letter")
        if len(self.letters) < 2:
            remedy = 'pass variant="all" or a symmetric group'
            raise fail("variant", f"'swaps' of {self.group}", "a group with swaps", remedy)

    @property
    def permutations(self) -> np.ndarray:
        """The elements as permutations, int [G, n]; element g maps i to permutations[g, i]."""
        return _permutations(self.group).copy()

    @property
    def products(self) -> np.ndarray:
        """The multiplication table, int32 [G, G]: products[g, h] is g and then h."""
        return _table(self.group).copy()

    @property
    def letters(self) -> np.ndarray:
        """The elements that words are made of, int32 [A]."""
        return _letters(self.group, self.variant).copy()

    @property
    def input_size(self) -> int:
        """D, the number of elements of the group."""
        return len(_permutations(self.group))

    @property
    def output_size(self) -> int:
        """The number of classes: that of elements."""
        return self.input_size

    @property
    def kind(self) -> str:
        """The kind of loss, "classification": in nats."""
        return "classification"

    @property
    def total_length(self) -> int:
        """T: every word fills it."""
        return self.length

    @property
    def baseline(self) -> float:
        """The loss of who knows how products are distributed at each step; "all": ln G, in nats."""
        table, letters = _table(self.group), self.letters
        p, entropies = np.eye(len(table))[0], []
        for _ in range(self.length):
            # p(h) = mean over the letters x of p_before(g), where g x = h.
            after = [np.bincount(table[:, x], weights=p, minlength=len(p)) for x in letters]
            p = np.mean(after, axis=0)
            entropies.append(-np.sum(p[p > 0] * np.log(p[p > 0])))
        return float(np.mean(entropies))

    def sample(self, key: Key, batch_size: int) -> Batch:
        """Draw one-hot xs [T, B, G], targets [T, B] and a mask that is True everywhere."""
        return sample_batch(self._sample_one, key, batch_size)

    def loss(self, ys: Array, batch: Batch) -> Array:
        """Softmax cross entropy of ys [T, B, G], mean over all steps, nats."""
        return losses.softmax_cross_entropy(ys, batch.targets, batch.mask)

    def _sample_one(self, key: Key) -> Batch:
        """Draw one word: xs [T, G], targets [T], mask [T], None."""
        table, letters = jnp.asarray(_table(self.group)), jnp.asarray(self.letters)
        word = letters[uniform_int(key, 0, len(letters), (self.length,))]
        return Batch(
            xs=jax.nn.one_hot(word, self.input_size, dtype=jnp.float32),
            targets=lax.associative_scan(lambda g, h: table[g, h], word),
            mask=jnp.ones(self.length, bool),
            seq_lengths=None,
        )


def _check_group(group: object) -> None:
    """Raise unless the group is S, A or Z and a size that there is."""
    found = re.fullmatch(r"([SAZ])(\d{1,3})", group) if isinstance(group, str) else None
    least = {"S": 2, "A": 3, "Z": 2}
    if found is None or not least[found[1]] <= int(found[2]) <= _LARGEST[found[1]]:
        wanted = "one of S2 to S5, A3 to A5, Z2 to Z120"
        raise fail("group", shown(group), wanted, 'pass for example group="A5"')
