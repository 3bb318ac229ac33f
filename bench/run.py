"""The run of one case: all contenders compile, are checked, and are timed in turns.

A row is one mode of one contender:

    case, contender, mode, ours, default, status, note      its identity, and whether it was timed
    lower_s, compile_s, first_s, memory                     before the timing
    error, tolerance                                        compared with the reference
    inner, samples, q1, median, q3                          seconds per call
    flops_per_s, bytes_per_s, floor_s                       compared with the ceilings
    others                                                  share of the machine that others used

The status is "ok", or the reason why there are no samples: "cannot" (the library has no such
network or mode), "wrong" (another result than the reference), "failed" (an error), "missing" (not
installed).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import check, measure, memory, others, ours, problem, rivals, roofline
from .cases import APART, OWN, Case
from .contender import MODES, Cannot, Program
from .problem import Problem

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a measurement.

    Attributes:
        modes: names in `contender.MODES`.
        implementations: implementations of lstm_jax; None: all that can run the case.
        rivals: names in `rivals.NAMES`.
        samples: number of samples of each program.
        budget: seconds of timing for a case, over all programs.
        seed: random seed of weights, data and orders.
    """

    modes: Sequence[str] = MODES[:2]
    implementations: Sequence[str] | None = None
    rivals: Sequence[str] = rivals.NAMES
    samples: int = 20
    budget: float = 60.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Missing:
    """A rival whose library is not installed."""

    NAME: str
    reason: str


def run(
    case: Case, options: Options, ceilings: Any, tell: Callable[[str], None] = lambda line: None
) -> list[Row]:
    """Measure one case and return its rows; `tell` gets lines about the progress."""
    given = problem.make(case, options.seed)
    rows: list[Row] = []
    programs: dict[int, Program] = {}
    for mode in options.modes:
        wanted = _reference(given, mode)
        for contender in contenders(case, options):
            row, program = attempt(contender, given, mode, wanted)
            if program is not None:
                programs[len(rows)] = program
            rows.append(row)
            why = f" ({row['note']})" if row["note"] else ""
            tell(f"{row['contender']} {mode}: {row['status']}{why}")
    watch = others.Watch()
    samples = measure.interleave(programs, options.samples, options.budget, options.seed)
    busy = watch.share()
    for n, taken in samples.items():
        rows[n] |= taken.summary() | {"others": busy}
        rows[n] |= _rates(rows[n], given, ceilings)
    return rows


def _reference(given: Problem, mode: str) -> Any:
    """The reference answer, or the error that prevents it (too little memory, perhaps)."""
    try:
        return check.reference(given, mode)
    except Exception as error:
        return error


def contenders(case: Case, options: Options) -> list[Any]:
    """All contenders of a case: ours, then the rivals."""
    found: list[Any] = list(ours.contenders(case, options.implementations))
    for name in options.rivals:
        try:
            found.append(rivals.load(name))
        except ImportError as error:
            found.append(Missing(name, f"{error}; {rivals.INSTALL}"))
    return found


def attempt(contender: Any, given: Problem, mode: str, wanted: Any) -> tuple[Row, Program | None]:
    """Compile and check one contender: (its row, its program if it may be timed)."""
    row: Row = {
        "case": dataclasses.asdict(given.case),
        "contender": contender.NAME,
        "mode": mode,
        "ours": isinstance(contender, ours.Ours),
        "default": contender.NAME == ours.default(given.case),
    }
    if isinstance(contender, Missing):
        return row | {"status": "missing", "note": contender.reason}, None
    if isinstance(wanted, Exception):
        return row | {"status": "failed", "note": f"no reference: {_brief(wanted)}"}, None
    if given.case.cell in OWN | APART and not row["ours"]:
        return row | {"status": "cannot", "note": "has no such cell"}, None
    try:
        program = contender.program(given, mode)
        row |= _first_call(program, given.case.dtype, wanted)
    except (Cannot, NotImplementedError) as error:
        return row | {"status": "cannot", "note": str(error).strip().split("\n")[0]}, None
    except Exception as error:  # An error of a rival ends its row, not the run.
        return row | {"status": "failed", "note": _brief(error)}, None
    return row, program if row["status"] == "ok" else None


def _first_call(program: Program, dtype: str, wanted: Any) -> Row:
    """Run a program once: time, memory and error of the first call, and status "ok" or "wrong"."""
    (out, first), resident = memory.watched(lambda: _finished(program))
    place, error = check.error(program.answer(out), wanted)
    right = error <= check.tolerance(dtype)
    return {
        "status": "ok" if right else "wrong",
        "note": "" if right else f"{place} is off by {error:.2g}",
        "error": error,
        "tolerance": check.tolerance(dtype),
        "lower_s": program.lower_s,
        "compile_s": program.compile_s,
        "first_s": first,
        "memory": _memory(program, resident),
    }


def _finished(program: Program) -> tuple[Any, float]:
    """Run a program once: (its result, seconds)."""
    start = time.perf_counter()
    out = program.call()
    program.wait(out)
    return out, time.perf_counter() - start


def _memory(program: Program, resident: int | None) -> dict[str, int | None]:
    peak = None if program.device_peak is None else program.device_peak()
    return {**program.memory, "resident_peak_in_bytes": resident, "device_peak_in_bytes": peak}


def _rates(row: Row, given: Problem, ceilings: Any) -> Row:
    least = roofline.floor(given, row["mode"], ceilings)
    return {
        "flops_per_s": least["flops"] / row["median"],
        "bytes_per_s": least["bytes"] / row["median"],
        "floor_s": least["seconds"],
    }


def _brief(error: Exception) -> str:
    """Type and first line of an error, shortened."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
