"""Which implementation runs: the table of them, and the choice.

An implementation is a module with two functions:

    why_not(cell, platform) -> None if it can, or one line that says why it cannot
    unroll(cell, params, seq, *, reverse, wanted, asked) -> (final carry, (ys, all carries))

`wanted` is a `Wanted` of flags, and of the pair the results are None that are not.

A new one is a new file in this folder and a new row of `IMPLEMENTATIONS`; or, where it computes
what the recurrence primitive computes on one platform, a lowering rule of `primitive` in its file.
"""

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax

from .._cells.contract import Recurrent
from .._checks import check_choice
from . import associative, cpu, fused, reference
from .record import Asked, refusal

IMPLEMENTATIONS: dict[str, ModuleType] = {
    "associative": associative,
    "native": cpu,
    "fused": fused,
    "scan": reference,
}
"""Name to module, the fastest first: the order in which `implementation=None` tries them."""

SLOWER = {"associative": ("cpu",)}
"""Name to platforms on which it comes last: more work in fewer steps, of use where steps wait."""

PLATFORMS = ("cpu", "gpu", "tpu")
"""What `jax.default_backend` answers."""

Choice = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Which:
    """What `which` answers.

    Attributes:
        implementation: the name of the one that runs.
        platform: where.
        rejected: name -> why that one does not run.
    """

    implementation: str
    platform: str
    rejected: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.implementation} on {self.platform}"]
        return "\n".join(lines + [f"  not {name}: {why}" for name, why in self.rejected.items()])


def select(cell: Recurrent, implementation: Choice, platform: str | None = None) -> Which:
    """The first implementation of those asked for that can run `cell`.

    Raises:
        ValueError: an unknown name.
        NotImplementedError: the one that was asked for cannot; the message says why.
        ExceptionGroup: several were asked for and none can; it holds each one's reason.
    """
    platform = platform or jax.default_backend()
    names = _names(implementation, platform)
    rejected: dict[str, str] = {}
    for name in names:
        why = _why_not(name, cell, platform)
        if why is None:
            later = names[list(names).index(name) + 1 :]
            rejected |= {n: _why_not(n, cell, platform) or f"{name} comes first" for n in later}
            return Which(name, platform, rejected)
        rejected[name] = why
    errors = [refusal(name, why) for name, why in rejected.items()]
    if len(errors) == 1:
        raise errors[0]
    raise ExceptionGroup("implementation: none of those asked for can run this", errors)


def asked(cell: Recurrent, implementation: Choice) -> Asked:
    """What `unroll` has run; raises as `select`."""
    found, order = select(cell, implementation), _names(None, jax.default_backend())
    faster = order[: order.index(found.implementation)]
    because = {name: "another was asked for" for name in faster} | found.rejected
    why = "; ".join(f"{name}: {because[name]}" for name in faster) or None
    last = implementation is not None and _names(implementation, found.platform)[-1]
    return Asked(found.implementation, strict=found.implementation == last, why=why)


def _names(implementation: Choice, platform: str) -> Sequence[str]:
    if implementation is None:
        return sorted(IMPLEMENTATIONS, key=lambda name: platform in SLOWER.get(name, ()))
    names: Any = (implementation,)
    if isinstance(implementation, (tuple, list)):
        names = tuple(implementation)
    for name in names or (names,):
        check_choice("implementation", name, IMPLEMENTATIONS)
    return names


def _why_not(name: str, cell: Recurrent, platform: str) -> str | None:
    return IMPLEMENTATIONS[name].why_not(cell, platform)
