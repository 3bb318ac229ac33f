"""The rows of a case as a table in plain text."""

from typing import Any

from . import others
from .cases import Case

HEADINGS = (
    "mode", "contender", "median", "quartiles", "vs ours", "GFLOP/s", "GB/s", "x floor",
    "compile", "planned", "resident", "error",
)  # fmt: skip

Rows = list[dict[str, Any]]


def text(rows: Rows, ceilings: Any) -> str:
    """Format the table of one case, with its heading and a list of what was not timed.

    Columns: seconds per call; the ratio of the median to ours (marked by an asterisk); the rates
    and their share of the ceilings; the median over the floor; the compile time; the memory that
    XLA plans, and the growth of the process in its first call; the error against the reference.
    """
    case = Case(**rows[0]["case"])
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    lines = [cells(row, base(rows, mode), ceilings) for mode in modes
             for row in by_speed(rows, mode)]  # fmt: skip
    head = [str(case), *(f"  {what}: {ms} ms (published)" for what, ms in case.published)]
    notes = [*busy(rows), *untimed(rows)]
    return "\n".join([*head, *aligned([list(HEADINGS), *lines]), *notes])


def by_speed(rows: Rows, mode: str) -> Rows:
    """Rows of a mode that were timed, the fastest first."""
    chosen = [row for row in rows if row["mode"] == mode and row["status"] == "ok"]
    return sorted(chosen, key=lambda row: row["median"])


def busy(rows: Rows) -> list[str]:
    """A warning if others used the machine while the rows were timed."""
    shares = [row["others"] for row in rows if row.get("others") is not None]
    line = others.warning(max(shares, default=None))
    return [f"  {line}"] if line else []


def untimed(rows: Rows) -> list[str]:
    """One line for each contender that was not timed, with the reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in (row for row in rows if row["status"] != "ok"):
        why = f"{row['status']}: {row['note']}"
        groups.setdefault((row["contender"], why), []).append(row["mode"])
    return [f"  {name} ({', '.join(modes)}) {why[:120]}" for (name, why), modes in groups.items()]


def base(rows: Rows, mode: str) -> dict[str, Any] | None:
    """Our row with which others are compared: that of the default implementation.

    If that was not measured, the first of ours; None if none of ours was timed.
    """
    own = [r for r in rows if r["mode"] == mode and r["ours"] and r["status"] == "ok"]
    return next((row for row in own if row["default"]), own[0] if own else None)


def cells(row: dict[str, Any], ours: dict[str, Any] | None, ceilings: Any) -> list[str]:
    """Format one row as the cells of the table."""
    name = row["contender"] + " *" * row["default"]
    flops, moved = row["flops_per_s"], row["bytes_per_s"]
    ratio = f"{row['median'] / ours['median']:.2f}" if ours else ""
    return [
        row["mode"],
        name,
        duration(row["median"]),
        f"{duration(row['q1'])}-{duration(row['q3'])}",
        ratio,
        f"{flops / 1e9:.1f} ({flops / ceilings['flops_per_s']:.0%})",
        f"{moved / 1e9:.2f} ({moved / ceilings['bytes_per_s']:.0%})",
        f"{row['median'] / row['floor_s']:.1f}",
        "" if row["compile_s"] is None else duration(row["lower_s"] + row["compile_s"]),
        size(planned(row["memory"])),
        size(row["memory"].get("resident_peak_in_bytes")),
        f"{row['error']:.0e}",
    ]


def planned(memory: dict[str, Any]) -> float | None:
    """Bytes that the compiler plans for arguments, outputs, temporaries; else the device's peak."""
    parts = [memory.get(f"{part}_size_in_bytes") for part in ("argument", "output", "temp")]
    if None in parts:
        return memory.get("device_peak_in_bytes")
    return float(sum(part or 0 for part in parts))


def duration(seconds: float) -> str:
    """Format seconds with three digits and a unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def size(count: float | None) -> str:
    """Format a number of bytes in megabytes."""
    return "" if count is None else f"{count / 1e6:.3g} MB"


def aligned(lines: list[list[str]]) -> list[str]:
    """Align the columns of a table."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
