"""What was measured on accelerators: which implementation is right there, and faster than "fused".

`python -m bench accelerator` measures on a device; `python -m bench.choice --write` puts what the
committed results say into the table below. A row tells of one kind of device and one type of cell;
`implementation=None` goes by it on such a device, and nowhere else.
"""

from typing import Any, NamedTuple

import jax


class Measured(NamedTuple):
    """What one kind of device showed of an implementation and a type of cell.

    Attributes:
        implementation: name of the implementation.
        device: the kind of device, as `jax.Device.device_kind` names it, such as "TPU v5 lite".
        cell: name of the cell's class, one of this library's.
        why_not: None if the implementation is right and faster than "fused" there; else one line
            that says why it is not chosen.
    """

    implementation: str
    device: str
    cell: str
    why_not: str | None


MEASURED: tuple[Measured, ...] = (
    # results: begin
    # results: end
)
"""Every row; none as long as there is no result of a device."""


def row_of(implementation: str, cell: Any, platform: str) -> Measured | None:
    """Return the row of an implementation and a cell on this process's device, if there is one."""
    if not MEASURED:
        return None
    wanted = implementation, device_kind(platform), _kind(cell)
    return next((row for row in MEASURED if row[:3] == wanted), None)


def why_no_row(implementation: str, cell: Any, platform: str) -> str:
    """Say in a few words why there is no row."""
    devices = dict.fromkeys(row.device for row in MEASURED if row.implementation == implementation)
    if not devices:
        return "not yet run on a device"
    kind = device_kind(platform)
    if kind not in devices:
        here = "the kind of device is not known here" if kind is None else f"this is a {kind}"
        return f"measured on {', '.join(devices)} alone, and {here}"
    return f"not measured for {type(cell).__name__} on a {kind}"


def device_kind(platform: str) -> str | None:
    """Return the kind of this process's first device; None if that is of another platform.

    A program that is lowered for a device which is not here is therefore one of "fused".
    """
    return jax.local_devices()[0].device_kind if platform == jax.default_backend() else None


def _kind(cell: Any) -> str | None:
    """Name of the class of one of this library's cells; None for a user's."""
    kind = type(cell)
    return kind.__name__ if kind.__module__.split(".")[0] == __name__.split(".")[0] else None
