"""Selection of the implementation that runs a cell, from the table of implementations."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export

from .._cells.contract import Recurrent
from .._checks import check_choice, counted
from . import factored, measured
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
    names, automatic = _names(implementation, cell, platform), implementation is None
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
    found = select(cell, implementation)
    order = _names(None, cell, found.platform)
    faster = order[: order.index(found.implementation)]
    because = {name: "another was asked for" for name in faster} | found.rejected
    why = "; ".join(f"{name}: {because[name]}" for name in faster) or None
    last = implementation is not None and _names(implementation, cell, found.platform)[-1]
    name, automatic = found.implementation, implementation is None
    return Asked(name, strict=name == last, automatic=automatic, why=why)


def for_steps(asked: Asked, cell: Recurrent, steps: Any) -> Asked:
    """Return `asked`, or what runs T steps in its place.

    That is where T is symbolic and a parallel scan was chosen, or where T is too small for an
    engine that nobody asked for.

    Raises:
        NotImplementedError: no other may run.
    """
    row, name = IMPLEMENTATIONS[asked.implementation], asked.implementation
    symbolic = jax.export.is_symbolic_dim(steps)
    if isinstance(row, Engine) and asked.automatic and not symbolic and steps < row.least_steps:
        why = f"{name}: its call costs more than what it saves in {counted(steps, 'step')}"
        return dataclasses.replace(asked, implementation="fused", why=why)
    if not (symbolic and isinstance(row, Walk) and row.parallel):
        return asked
    why = "T is symbolic, and a parallel scan over time needs a number"
    if asked.strict:
        raise refusal(name, why)
    instead = "fused" if cell.factors else "scan"
    return dataclasses.replace(asked, implementation=instead, why=f"{name}: {why}")


def named(implementation: Choice) -> Sequence[str]:
    """Names that were asked for, in order; raise unless there are such. None: no names."""
    if implementation is None:
        return ()
    names: Any = (implementation,)
    if isinstance(implementation, (tuple, list)):
        names = tuple(implementation)
    for name in names or (names,):
        check_choice("implementation", name, IMPLEMENTATIONS)
    return names


def _names(implementation: Choice, cell: Recurrent, platform: str) -> Sequence[str]:
    """Names that were asked for, in order; for None all, the last those that are not chosen."""
    if implementation is None:

        def last(name: str) -> tuple[bool, bool]:
            slower = platform in IMPLEMENTATIONS[name].slower_on
            return not _is_chosen(name, cell, platform), slower

        return sorted(IMPLEMENTATIONS, key=last)
    return named(implementation)


def _why_not(name: str, cell: Recurrent, platform: str, automatic: bool) -> str | None:
    """Reason why an implementation cannot run, or may not be chosen automatically; or None."""
    if automatic and not _is_chosen(name, cell, platform):
        return _why_unchosen(name, cell, platform)
    if cell.implementations is not None and name not in cell.implementations:
        return f"{type(cell).__name__} runs by {' or '.join(cell.implementations)}"
    return IMPLEMENTATIONS[name].why_not(cell.part, platform)


def _is_chosen(name: str, cell: Recurrent, platform: str) -> bool:
    """True if an implementation is chosen without being named.

    A measurement on this kind of device decides; without one, the row of the implementation does.
    """
    found = measured.row_of(name, cell, platform)
    return _by_name(name) is None if found is None else found.why_not is None


def _why_unchosen(name: str, cell: Recurrent, platform: str) -> str:
    """Reason why an implementation is not chosen without being named."""
    found = measured.row_of(name, cell, platform)
    why = found.why_not if found else measured.why_no_row(name, cell, platform)
    what = _by_name(name)
    return f"{what + ', ' if what else ''}{why}; ask for it by name"


def _by_name(name: str) -> str | None:
    """What an implementation is that is chosen only where it was measured; None: any other."""
    row = IMPLEMENTATIONS[name]
    return row.by_name if isinstance(row, Engine) else None
