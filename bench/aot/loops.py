"""The loops of a compiled program, read from its optimised HLO.

A launch is an operation that a device is asked for by itself: a kernel (of one operation or of a
fusion), a call of a library, a copy. So the kernel counts that only increases the loop's counter.
What is no more than a name for memory does not count, nor the end of what was started before.
"""

import re
from collections import Counter
from typing import NamedTuple

NAMES_FOR_MEMORY = {
    "parameter", "get-tuple-element", "tuple", "constant", "bitcast", "after-all", "opt-barrier",
    "add-dependency", "while", "conditional", "partition-id", "replica-id",
}  # fmt: skip


class Operation(NamedTuple):
    """An operation of a loop's body: its name, and the name of its kind in HLO."""

    name: str
    kind: str


class Loop(NamedTuple):
    """A loop of a program.

    Attributes:
        name: name of the `while` operation.
        trips: number of its iterations; None if the compiler does not know it.
        body: the operations of its body.
    """

    name: str
    trips: int | None
    body: list[Operation]

    @property
    def launches(self) -> Counter[str]:
        """The launches of one iteration, by name without its number."""
        own = [each for each in self.body if _launched(each.kind)]
        return Counter(re.sub(r"(\.\d+|\.clone)+$", "", each.name) for each in own)


def loops(text: str) -> list[Loop]:
    """List the loops of a program, in the order in which its text has them; text: its HLO."""
    bodies = _computations(text)
    found: dict[str, Loop] = {}
    for line in text.splitlines():
        match = WHILE.match(line)
        if match:
            name, condition, body = match.groups()
            trips = _trips(line, bodies[condition])
            found[body] = Loop(name, trips, _operations(bodies[body], bodies))
    return list(found.values())


WHILE = re.compile(
    r"\s*(?:ROOT )?%?([\w.\-]+) = .* while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)"
)


def _trips(line: str, condition: str) -> int | None:
    """The number of iterations: as the compiler notes it, or N of a condition "counter < N"."""
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line)
    if known:
        return int(known[1])
    numbers = re.findall(r" = s32\[\]\S* constant\((\d+)\)", condition)
    return int(numbers[0]) if len(numbers) == 1 and "direction=LT" in condition else None


def _computations(text: str) -> dict[str, str]:
    """The lines of every computation, by its name."""
    pattern = r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}"
    return dict(re.findall(pattern, text, re.MULTILINE | re.DOTALL))


def _operations(body: str, bodies: dict[str, str]) -> list[Operation]:
    """The operations of a computation, with those that it calls in place of the call."""
    found = []
    for line in body.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(", line)
        if match is None:
            continue
        called = re.search(r"to_apply=%?([\w.\-]+)", line) if match[2] == "call" else None
        inner = bodies.get(called[1]) if called else None
        found += [Operation(*match.groups())] if inner is None else _operations(inner, bodies)
    return found


def _launched(kind: str) -> bool:
    return kind not in NAMES_FOR_MEMORY and not kind.endswith("-done")
