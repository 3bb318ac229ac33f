"""`python -m bench report FILE...`: the comparison of a run, as Markdown and PNG.

A ratio is a rival's median over ours: above 1 we are faster. Ours is the default implementation.
Every case that was timed counts; those where we are slower are marked.
"""

from pathlib import Path
from typing import Any

from . import record, slope, table
from .ratios import Document, Quantity, best_of_jax, by_case, geometric_mean, modes, ratios

LOSS = "▼"


def main(files: list[Path], out: Path | None) -> list[Path]:
    """Write FILE.md and FILE.png beside each file, or to the folder `out`; return the paths."""
    from . import plots  # Not above: measuring must not need matplotlib.

    written = []
    for path in files:
        document = record.read(path)
        folder = out or path.parent
        folder.mkdir(parents=True, exist_ok=True)
        page, figure = folder / f"{path.stem}.md", folder / f"{path.stem}.png"
        plots.comparison(document).savefig(figure, dpi=120)
        page.write_text(markdown(document, figure.name), encoding="utf-8")
        written += [page, figure]
    return written


# ---- what else a call costs ----------------------------------------------------------------------
def _seconds_to_compile(row: dict[str, Any]) -> float | None:
    return row["lower_s"] + row["compile_s"] if row.get("compile_s") else None


def _memory(name: str) -> Quantity:
    return lambda row: (row.get("memory") or {}).get(name)


COSTS = {
    "compile: trace, lower, compile": _seconds_to_compile,
    "memory: XLA's temporary arrays": _memory("temp_size_in_bytes"),
    "memory: growth of the process": _memory("resident_peak_in_bytes"),
}
"""Quantities compared besides time; the growth of the process is that of the first call."""


# ---- Markdown ------------------------------------------------------------------------------------
def markdown(document: Document, figure: str) -> str:
    """Format the page of one run."""
    parts = [_head(document), f"![Ratio of medians by case]({figure})"]
    parts += [_comparison(document, mode) for mode in modes(document)]
    parts += [_busy(document), _untimed(document), _slopes(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document) -> str:
    given, ceilings = document["environment"], document["ceilings"]
    versions = ", ".join(f"{name} {value}" for name, value in given["versions"].items())
    return "\n".join(
        [
            f"# {given['command']}",
            "",
            f"- {record.machine(given)}",
            f"- commit {given['commit']}, {given['started']}, load {given['load']}",
            f"- {given['dtype']}, flags {given['flags']}",
            f"- {versions}, Python {given['python']}",
            f"- ceilings: {ceilings['flops_per_s'] / 1e9:.0f} GFLOP/s (matmul of "
            f"{ceilings['matmul']['rows']} rows), {ceilings['bytes_per_s'] / 1e9:.1f} GB/s "
            f"(copy of {ceilings['copy']['bytes'] / 1e6:.0f} MB)",
            "",
            "Ratios of medians, theirs over ours: above 1 we are faster; "
            f"{LOSS} where we are slower. Ours is the default implementation; beside its median, "
            "the share of it that the roofline's floor would take.",
        ]
    )


def _comparison(document: Document, mode: str) -> str:
    found, cases = ratios(document, mode), by_case(document)
    if best := best_of_jax(document, found):
        found["best of JAX"] = best
    timed = {case: ours for case, rows in cases.items() if (ours := table.base(rows, mode))}
    heads = ["case", "ours", "floor", *found]
    lines = [[case, *_ours(row), *(_cell(found[name].get(case)) for name in found)]
             for case, row in timed.items()]  # fmt: skip
    means = [_cell(geometric_mean(found[name].values())) for name in found]
    worst = [_cell(min(found[name].values())) for name in found]
    lost = [f"{sum(v < 1 for v in found[n].values())} of {len(found[n])}" for n in found]
    lines += [["**geometric mean**", "", "", *means], ["**worst case**", "", "", *worst]]
    lines += [["**cases lost**", "", "", *lost]]
    table_lines = [heads, ["---"] * len(heads), *lines]
    return "\n".join([f"## {mode}", "", *_rows(table_lines), "", *_costs(document, mode)])


def _rows(lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in lines]


def _costs(document: Document, mode: str) -> list[str]:
    """Table of other costs over ours: geometric mean and worst case."""
    found = {name: ratios(document, mode, quantity) for name, quantity in COSTS.items()}
    others = list(dict.fromkeys(other for ratio in found.values() for other in ratio))
    lines = [[name, *(_mean_and_worst(found[name].get(other)) for other in others)]
             for name in COSTS]  # fmt: skip
    if not others:
        return []
    return _rows([[f"{mode}: mean (worst)", *others], ["---"] * (len(others) + 1), *lines])


def _mean_and_worst(of_cases: dict[str, float] | None) -> str:
    if not of_cases:
        return "-"
    values = of_cases.values()
    return f"{_cell(geometric_mean(values))} ({min(values):.2f})"


def _ours(row: dict[str, Any]) -> list[str]:
    """Our median, and the floor of the roofline as a share of it."""
    return [table.duration(row["median"]), f"{row['floor_s'] / row['median']:.0%}"]


def _cell(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}** {LOSS}"


def _untimed(document: Document) -> str:
    """List what was not timed, one line for each contender and reason."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for case, rows in by_case(document).items():
        for row in (row for row in rows if row["status"] != "ok"):
            key = row["contender"], f"{row['status']}: {row['note']}"
            groups.setdefault(key, {}).setdefault(case, []).append(row["mode"])
    lines = [f"- {name}, {why} ({_where(found, document)})"
             for (name, why), found in groups.items()]  # fmt: skip
    return "\n".join(["## Not timed", "", *lines]) if lines else ""


def _where(found: dict[str, list[str]], document: Document) -> str:
    """Format cases, with their modes unless all modes are meant."""
    everywhere = len(by_case(document)), len(modes(document))
    if len(found) == everywhere[0] and all(len(m) == everywhere[1] for m in found.values()):
        return "every case"
    return "; ".join(case if len(m) == everywhere[1] else f"{case}, {', '.join(m)}"
                     for case, m in found.items())  # fmt: skip


def _busy(document: Document) -> str:
    """List the cases that were timed while others used the machine."""
    lines = [f"- {case}: {line[0].strip()}" for case, rows in by_case(document).items()
             if (line := table.busy(rows))]  # fmt: skip
    return "\n".join(["## Timed beside others", "", *lines]) if lines else ""


def _slopes(document: Document) -> str:
    lines = document.get("slopes")
    return "\n".join(["## Per step", "", "```", slope.text(lines), "```"]) if lines else ""
