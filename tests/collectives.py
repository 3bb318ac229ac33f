"""Collectives of a compiled program: what its devices tell each other, once or in every step."""

import collections
import re
from typing import Any

import jax

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_OPERATION = re.compile(rf"= .*?\b({'|'.join(KINDS)})(?:-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|branch_computations)=\{?([^,)}]+(?:, %[^,)}]+)*)"
)


def collectives(function: Any, *args: Any) -> dict[str, int]:
    """Count the collectives of a compiled function: {"all-gather each step": 1, "all-reduce": 1}.

    XLA joins several sums into one operation on a tuple, which counts as one.
    """
    return counted(jax.jit(function).lower(*args).compile().as_text())


def counted(text: str) -> dict[str, int]:
    """Count the collectives in the text of a compiled program."""
    computations, name = collections.defaultdict(list), ""
    entry = ""
    for line in text.splitlines():
        found = _COMPUTATION.match(line)
        if found:
            name = found[1]
            entry = name if line.startswith("ENTRY") else entry
        computations[name].append(line.strip())
    seen: collections.Counter[str] = collections.Counter()

    def visit(name: str, repeated: bool) -> None:
        for line in computations[name]:
            operation = _OPERATION.search(line)
            if operation:
                seen[operation[1] + (" each step" if repeated else "")] += 1
                continue
            loops = repeated or " while(" in line
            for called in _CALLED.findall(line):
                for each in called.split(","):
                    visit(each.strip().lstrip("%"), loops)

    visit(entry, False)
    return dict(seen)
