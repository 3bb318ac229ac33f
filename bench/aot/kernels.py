"""Kernels that loop over the steps themselves, as `implementation="pallas_tpu"` makes them.

Such a kernel is one operation of the program, so its loops are read from the bundles that libtpu
writes for it. How often they run is told by its `kernel_metadata` in HLO. The cycles of a step are
its share of those of a block of steps: of the loops, and of what runs once for the block.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Kernel(NamedTuple):
    """A kernel of a program.

    Attributes:
        name: name of its operation.
        blocks: number of blocks of sequences, which run one after the other.
        steps: time steps in a block.
        trips: iterations of each loop over the steps of a block, in the order of the text.
    """

    name: str
    blocks: int
    steps: int
    trips: tuple[int, ...]


class Step(NamedTuple):
    """What a time step of all sequences takes in a kernel.

    Attributes:
        cycles: bundles.
        memory: bytes that are moved between HBM and VMEM.
        pushes: registers of weights that are loaded into the matrix units.
    """

    cycles: float
    memory: float
    pushes: float


def kernels(text: str) -> list[Kernel]:
    """List the kernels of a program that tell their steps; text: its HLO."""
    pattern = r"^\s*(?:ROOT )?%?([\w.\-]+) = .* custom-call\(.*kernel_metadata=(\{[^{}]+\})"
    found = re.findall(pattern, text, re.MULTILINE)
    told = [(name, json.loads(about)) for name, about in found]
    return [
        _kernel(name, about) for name, about in told if {"blocks", "steps", "trips"} <= {*about}
    ]


def _kernel(name: str, about: dict[str, str]) -> Kernel:
    trips = tuple(int(word) for word in about["trips"].split(",") if word)
    return Kernel(name, int(about["blocks"]), int(about["steps"]), trips)


def bundles(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Read the bundles of some operations of the program that was compiled last, by operation."""
    found = {}
    for name in names:
        for path in folder.iterdir():
            if re.fullmatch(rf"\d+-{re.escape(name)}-\d+-final_bundles\.txt", path.name):
                found[name] = path.read_text(encoding="utf-8", errors="replace")
    return found


def step(kernel: Kernel, text: str) -> Step | None:
    """What a step takes; text: the bundles of the kernel. None: a loop is missing in them."""
    every = _bundles(text)
    loops = _loops(every)  # Those that copy what is no whole block come after those of the steps.
    if len(loops) < len(kernel.trips):
        return None
    runs = [(1, every), *((-1, loop) for loop in loops), *zip(kernel.trips, loops, strict=False)]
    share = kernel.blocks / kernel.steps
    return Step(
        cycles=share * sum(times * len(part) for times, part in runs),
        memory=share * _moved(text),
        pushes=share * sum(times * _pushes(part) for times, part in runs),
    )


def _pushes(bundles: list[str]) -> int:
    return sum(bundle.count("vmatpush") for bundle in bundles)


# ---- loops ---------------------------------------------------------------------------------------
BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(?:([A-Z]{2})\s*)?\s*:[> ]*\{", re.MULTILINE)
BRANCH = re.compile(r"sbr\.rel [^$]*\$region(\d+)")


def _bundles(text: str) -> list[str]:
    """The text of each bundle."""
    starts = [match.start() for match in BUNDLE.finditer(text)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def _loops(bundles: list[str]) -> list[list[str]]:
    """The bundles of each innermost loop: from its first to where its branch takes effect.

    That is some bundles after the branch, where regions end: the loop's own if it goes back.
    """
    found, start, target = [], None, None
    for n, bundle in enumerate(bundles):
        head = BUNDLE.match(bundle)
        if head and head[1] == "LB":
            start, target = n, None
        branch = BRANCH.search(bundle)
        target = branch[1] if branch else target
        if start is not None and target and "End region" in bundle:
            if re.search(rf"End region {target}\b", bundle):
                found.append(bundles[start : n + 1])
                start = None
            target = None
    return found


# ---- memory --------------------------------------------------------------------------------------
WINDOW = re.compile(
    r"inlined_call_operand\.hbm \[shape: [^/]*/\* (?:in|out)put window allocation .*?"
    r" window shape is (\w+)\[([\d,]+)\], while the full shape is \w+\[([\d,]+)\]"
)


def _moved(text: str) -> int:
    """Bytes that are moved for a block of steps: the windows that move over an array in HBM."""
    return sum(
        _itemsize(dtype) * math.prod(int(size) for size in window.split(","))
        for dtype, window, full in WINDOW.findall(text)
        if window != full
    )


def _itemsize(dtype: str) -> int:
    """Bytes of an element by HLO's name of its dtype, such as bf16; a pred takes one."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
