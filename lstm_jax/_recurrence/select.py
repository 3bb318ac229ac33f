"""Selection of the implementation that runs a cell, from the table of implementations."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._cells.contract import Recurrent
from .._checks import check_choice
from . import factored
from .engines import IMPLEMENTATIONS, Engine, Walk
from .record import Asked, refusal

PLATFORMS = ("cpu", "gpu", "tpu")
"""Names of platforms, as `jax.default_backend` returns them."""

Choice = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Which:
    """Result of `which`: the implementation that runs a cell, and why the others do not.

    Attributes:
        implementation: name of the implementation that runs the cell.
        platform: "cpu", "gpu" or "tpu".
        rejected: for each other implementation, by name, the reason why it does not run.
    """

    implementation: str
    platform: str
    rejected: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.implementation} on {self.platform}"]
        return "\n".join(lines + [f"  not {name}: {why}" for name, why in self.rejected.items()])


class WhichOfNet(tuple[Which, ...]):
    """The answers for the cells of a net, in the order in which they run; prints as a list."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def select(cell: Recurrent, implementation: Choice, platform: str | None = None) -> Which:
    """Return the first implementation of those asked for that can run `cell`.

    Raises:
        ValueError: an unknown name.
        NotImplementedError: the one asked for cannot run the cell; the message says why.
        ExceptionGroup: several were asked for and none can run the cell; it holds every reason.
    """
    platform = platform or jax.default_backend()
    names, automatic = _names(implementation, platform), implementation is None
    rejected: dict[str, str] = {}
    for name in names:
        why = _why_not(name, cell, platform, automatic)
        if why is None:
            later = names[list(names).index(name) + 1 :]
            whys = {n: _why_not(n, cell, platform, automatic) for n in later}
            rejected |= {n: why or f"{name} comes first" for n, why in whys.items()}
            return Which(name, platform, rejected)
        rejected[name] = why
    errors = [refusal(name, why) for name, why in rejected.items()]
    if len(errors) == 1:
        raise errors[0]
    raise ExceptionGroup("implementation: none of those asked for can run this", errors)


def unroll_of(implementation: str) -> Callable[..., Any]:
    """Return the function by which the implementation of this name unrolls one cell."""
    row = IMPLEMENTATIONS[implementation]
    return row.unroll if isinstance(row, Walk) else factored.unroll


def asked(cell: Recurrent, implementation: Choice) -> Asked:
    """Select the implementation for `unroll`, as an `Asked`; raises the errors of `select`."""
    found, order = select(cell, implementation), _names(None, jax.default_backend())
    faster = order[: order.index(found.implementation)]
    because = {name: "another was asked for" for name in faster} | found.rejected
    why = "; ".join(f"{name}: {because[name]}" for name in faster) or None
    last = implementation is not None and _names(implementation, found.platform)[-1]
    return Asked(found.implementation, strict=found.implementation == last, why=why)


def _names(implementation: Choice, platform: str) -> Sequence[str]:
    if implementation is None:

        def last(name: str) -> tuple[bool, bool]:
            return _by_name(name) is not None, platform in IMPLEMENTATIONS[name].slower_on

        return sorted(IMPLEMENTATIONS, key=last)
    names: Any = (implementation,)
    if isinstance(implementation, (tuple, list)):
        names = tuple(implementation)
    for name in names or (names,):
        check_choice("implementation", name, IMPLEMENTATIONS)
    return names


def _why_not(name: str, cell: Recurrent, platform: str, automatic: bool) -> str | None:
    """Reason why an implementation cannot run, or may not be chosen automatically; or None."""
    of_name = _by_name(name) if automatic else None
    return of_name or IMPLEMENTATIONS[name].why_not(cell, platform)


def _by_name(name: str) -> str | None:
    """Reason why an implementation is only chosen by its name; None: it is chosen without."""
    row = IMPLEMENTATIONS[name]
    return row.by_name if isinstance(row, Engine) else None
