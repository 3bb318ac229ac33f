"""Division of a recurrence among the blocks of a GPU, and the place of W.

A group of `blocks` blocks has all units of a tile of `rows` sequences, each block `own` units with
all their gates; groups have different sequences. W stays in the blocks' registers or shared memory
if their parts of it fit, and groups as large as fit are those that read least of it at each step.

One block needs no exchange of h; a cluster (up to 16 blocks, from sm_90 on) exchanges it through
its shared memory, and a larger group through global memory.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

CLUSTERS = (2, 4, 8, 16)
"""Numbers of blocks of a cluster; more than 8 must be asked for."""

IN_REGISTERS, IN_SHARED, IN_GLOBAL = range(3)
ALONE, CLUSTER, GRID = range(3)

HELD = 16
"""Fragments of W, of four registers each, that a thread should hold."""

WARPS = (16, 8)
"""Numbers of warps that a block may be limited to."""

REGISTERS, MOST_REGISTERS = 65536, 255
"""Registers of a multiprocessor, and most of a thread."""

OTHERS = 52
"""Registers that a thread needs beside W, the sums of a tile and the numbers of its units."""


class Device(NamedTuple):
    """What a plan needs to know of a GPU.

    Attributes:
        capability: ten times its compute capability, such as 90.
        blocks: number of its multiprocessors: that many blocks run at a time.
        shared: bytes of shared memory that a block may take.
    """

    capability: int
    blocks: int
    shared: int

    @property
    def clusters(self) -> tuple[int, ...]:
        """Sizes of clusters that it has."""
        return CLUSTERS if self.capability >= 90 else ()

    def groups(self, blocks: int) -> int:
        """Number of groups of so many blocks that surely run at a time.

        The blocks of a cluster lie in one part of the GPU (a GPC), where some of its
        multiprocessors may be left over.
        """
        return (self.blocks if blocks < 8 else self.blocks * 7 // 8) // blocks


H100 = Device(90, 132, 227 * 1024)


class Problem(NamedTuple):
    """What is to be divided.

    Attributes:
        units: U, the numbers of a plane.
        x_planes, m_planes: planes of the vector that is multiplied by W, and of the product.
        narrow: 1 if the product is one of bfloat16 numbers, 2 of float16; 0 of float32.
        batch: number of sequences.
        values: numbers that a thread has of a unit.
        terms: number of sums over units.
        summed: True if there are sums over the sequences.
    """

    units: int
    x_planes: int
    m_planes: int
    narrow: int
    batch: int
    values: int
    terms: int
    summed: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """A division.

    Attributes:
        problem: what is divided.
        blocks: number of blocks of a group.
        rows: number of sequences of a tile.
        most_groups: most groups that run at a time, for a group that must not wait for another.
        meeting: ALONE, CLUSTER or GRID: how the blocks of a group exchange h.
        place: IN_REGISTERS, IN_SHARED or IN_GLOBAL: where W stays.
        most_warps: most warps of a block: of fewer each thread has more registers.
    """

    problem: Problem
    blocks: int
    rows: int
    most_groups: int
    meeting: int
    place: int
    most_warps: int = WARPS[0]

    @property
    def own(self) -> int:
        """Number of units of a block; of several blocks they fill whole 16-byte words."""
        own = -(-self.problem.units // self.blocks)
        return own if self.blocks == 1 else -(-own // 8) * 8

    @property
    def groups(self) -> int:
        """Number of groups; where they are fewer than the tiles, each takes several in turn."""
        return min(-(-self.problem.batch // self.rows), self.most_groups)

    @property
    def threads(self) -> int:
        """Number of threads of a block: for two units each, and for W in their registers."""
        by_units = -(-self.rows * self.own // 64)
        by_weights = -(-self.fragments // HELD)
        return 32 * min(self.most_warps, max(2, by_units, by_weights))

    @property
    def fragments(self) -> int:
        """Groups of four numbers of W, one for each thread of a warp, of a block."""
        return self.columns // self.tile * (self.depth // self.deep)

    @property
    def tile(self) -> int:
        """Columns of W that a warp multiplies by at a time."""
        return 16 if self.problem.narrow else 32

    @property
    def deep(self) -> int:
        """Rows of W of a fragment."""
        return 16 if self.problem.narrow else 4

    @property
    def columns(self) -> int:
        """Columns of W that a block multiplies by, in whole tiles."""
        return -(-self.own * self.problem.m_planes // self.tile) * self.tile

    @property
    def depth(self) -> int:
        """Rows of W, in the order of blocks, planes, units, filled up to whole tiles."""
        return -(-self.blocks * self.own * self.problem.x_planes // self.deep) * self.deep

    @property
    def parts(self) -> int:
        """Number of parts of the depth, whose sums different warps compute."""
        return max(1, self.threads // 32 // max(1, self.columns // self.tile))

    @property
    def words(self) -> int:
        """Groups of four numbers of W that a thread of a warp reads at each step."""
        warps = self.threads // 32 // self.parts
        return -(-self.columns // self.tile // warps) * -(-self.depth // self.deep // self.parts)

    @property
    def most_held(self) -> int:
        """Fragments of W that a thread has registers for."""
        items = -(-self.rows * self.own // self.threads)
        needed = OTHERS + self.rows + items * self.problem.values
        return (min(MOST_REGISTERS, REGISTERS // self.threads) - needed) // 4

    @property
    def bytes_of_weights(self) -> int:
        """Bytes of a block's part of W."""
        return self.columns * self.depth * (2 if self.problem.narrow else 4)

    @property
    def x_row(self) -> int:
        """Numbers from one sequence's x to the next, such that eight lie in different banks."""
        if not self.problem.narrow:
            return self.depth + 4
        return (-(-self.depth // 64) * 64) + 8

    @property
    def buffers(self) -> int:
        """Number of x in shared memory: another block of a cluster may write the next one early."""
        return 2 if self.meeting == CLUSTER else 1

    @property
    def sums_row(self) -> int:
        """Numbers from one sequence's sums to the next, such that they lie in different banks."""
        return self.columns + 4

    @functools.cached_property
    def layout(self) -> Mapping[str, int]:
        """Offsets in shared memory by name, and "all": the bytes of all of it."""
        bytes_of_x = 2 if self.problem.narrow else 4
        terms = max(self.problem.terms, int(self.problem.summed))
        sizes = {
            "x": self.buffers * self.rows * self.x_row * bytes_of_x,
            "sums": self.parts * self.rows * self.sums_row * 4,
            "terms": terms * self.rows * self.own * 4,
            "totals": 2 * self.blocks * self.problem.terms * self.rows * 4,
            "w": self.bytes_of_weights if self.place == IN_SHARED else 0,
        }
        offsets, at = {}, 0
        for name, size in sizes.items():
            offsets[name], at = at, at + -(-size // 16) * 16
        return {**offsets, "all": at}

    @property
    def bytes_of_meeting(self) -> int:
        """Bytes of global memory in which the blocks of a group meet."""
        if self.meeting != GRID:
            return 0
        bytes_of_x = 2 if self.problem.narrow else 4
        x = 2 * self.rows * self.blocks * self.own * self.problem.x_planes * bytes_of_x
        return -(-(x + 2 * self.blocks * self.problem.terms * self.rows * 4) // 16) * 16

    @property
    def scratch(self) -> int:
        """Bytes of global memory of all groups, with a counter of 16 bytes each."""
        return self.groups * (16 + self.bytes_of_meeting) if self.meeting == GRID else 16


def plans(problem: Problem, device: Device) -> Iterator[Plan]:
    """List the divisions to be considered, the best first.

    Of those whose blocks all run at once, that with the most blocks: each then reads least of W at
    a step. Where not all do, the smallest groups; where W does not fit, the largest.
    """
    clusters = [c for c in (1, *device.clusters) if c == 1 or problem.units >= 16 * c]
    fitting = [p for c in clusters for p in _fitting(problem, c, device)]
    at_once = [p for p in fitting if -(-problem.batch // p.rows) <= device.groups(p.blocks)]
    yield from sorted(at_once, key=lambda p: (-p.blocks, p.rows))
    others = [p for p in fitting if p not in at_once]
    yield from sorted(others, key=lambda p: (p.blocks, -p.rows))
    largest = max(1, min(device.blocks, -(-problem.units // 8)))
    sizes = [2**k for k in range(1, 16) if 2**k < largest]
    for blocks in (*sizes, largest):
        yield from _fitting(problem, blocks, device, GRID)
    groups = max(1, device.blocks // largest)
    for rows, warps in itertools.product(reversed(_tiles(problem)), WARPS):
        last = Plan(problem, largest, rows, groups, GRID, IN_GLOBAL, warps)
        if last.layout["all"] <= device.shared:
            yield last


def _fitting(
    problem: Problem, blocks: int, device: Device, meeting: int = CLUSTER
) -> Iterator[Plan]:
    """List the divisions among so many blocks whose parts of W fit."""
    meeting = ALONE if blocks == 1 else meeting
    groups = device.blocks // blocks if meeting == GRID else 2**30
    ways = itertools.product(_tiles(problem), (IN_REGISTERS, IN_SHARED), WARPS)
    plans = [Plan(problem, blocks, rows, groups, meeting, *way) for rows, *way in ways]
    for plan in plans:
        fits = plan.place == IN_SHARED or plan.words <= plan.most_held
        same = plan.most_warps != WARPS[0] and plan.threads < 32 * plan.most_warps
        if fits and not same and plan.layout["all"] <= device.shared:
            yield plan


def _tiles(problem: Problem) -> list[int]:
    """Numbers of sequences of a tile, no more than twice the batch but for the least."""
    least = 8 if problem.narrow else 4
    tiles = [rows for rows in (4, 8, 16, 32) if rows >= least]
    return [rows for rows in tiles if rows == least or rows < 2 * problem.batch]
