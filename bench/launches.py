"""`python -m bench launches`: what the loops of an RNN launch on a device that is not there.

Every program is compiled for the target, and its loops are read, those inside a TPU's kernels too:
launches a time step, cycles a time step on a TPU, and the temporary memory of the program. Needs
the extra `aot`.
"""

import argparse
import contextlib
import datetime
import itertools
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from lstm_jax._checks import check_choice
from lstm_jax._recurrence import engines

from . import compiled, ours, problem, record, rivals
from .aot import devices, kernels, loops, schedule
from .cases import CELLS, Case
from .compiled import Model
from .contender import Cannot
from .problem import Problem

MODES = {"fwd": "forward", "train": "forward and gradient"}
RIVALS = ("linen", "nnx", "haiku")
"""Rivals whose loops are XLA's."""

Row = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m bench launches", description=__doc__)
    add = made.add_argument
    add("--target", required=True, choices=devices.TARGETS, help="the device to compile for")
    add("--cells", default="lstm,gru,rnn", help=f"some of {','.join(CELLS)}")
    add("--dtypes", default="float32,bfloat16", help="dtypes of weights and inputs")
    add("--modes", default="fwd,train", help="some of fwd,train")
    add("--shapes", default="512,32,256,256", metavar="T,B,D,H", nargs="+", help="some shapes")
    add("--implementations", default="fused,scan", help="those of lstm_jax")
    add("--rivals", default="linen,nnx,haiku", help="some of linen,nnx,haiku; none")
    add("--json", type=Path, metavar="FILE", help="write the rows to FILE, and a page beside it")
    add("--overwrite", action="store_true", help="replace the file of --json if it exists")
    return made


def main(given: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Run the command: print the table and write the files."""
    programs = list(_programs(given))
    document: dict[str, Any] = {"environment": _environment(given.target, arguments), "rows": []}
    with _schedules(given.target) as folder:
        devices.device(given.target)
        for case, name, mode in programs:
            document["rows"].append(row(case, name, mode, given.target, folder))
            print(_line(document["rows"][-1]), flush=True)
            if given.json:
                record.write(given.json, document)
                given.json.with_suffix(".md").write_text(page(document), encoding="utf-8")


def _programs(given: argparse.Namespace) -> Iterator[tuple[Case, str, str]]:
    """The case, the contender and the mode of each program."""
    names = [ours.PREFIX + name for name in given.implementations.split(",") if name]
    for name in names:
        check_choice("--implementations", name.removeprefix(ours.PREFIX), engines.IMPLEMENTATIONS)
    for name in filter(None, given.rivals.split(",")):
        if name != "none":
            check_choice("--rivals", name, RIVALS)
            names.append(name)
    shapes = [given.shapes] if isinstance(given.shapes, str) else given.shapes
    options = given.cells.split(","), given.dtypes.split(","), given.modes.split(",")
    every: Any = itertools.product(map(_sizes, shapes), *options, names)
    for (T, B, D, H), cell, dtype, mode, name in every:
        check_choice("--cells", cell, CELLS)
        check_choice("--modes", mode, MODES)
        yield Case(cell, T, B, D, H, dtype=dtype), name, mode


def _sizes(shape: str) -> list[int]:
    """T, B, D and H of a shape."""
    with contextlib.suppress(ValueError):
        sizes = [int(word) for word in shape.split(",")]
        if len(sizes) == 4 and min(sizes) > 0:
            return sizes
    raise ValueError(f"--shapes: got {shape!r}, wanted T,B,D,H; such as 512,32,256,256")


@contextlib.contextmanager
def _schedules(target: str) -> Iterator[Path | None]:
    """The folder to which libtpu writes its schedules; None for a GPU."""
    if devices.platform(target) != "tpu":
        yield None
        return
    with schedule.written() as folder:
        yield folder


# ---- one program ---------------------------------------------------------------------------------
def row(case: Case, name: str, mode: str, target: str, folder: Path | None = None) -> Row:
    """Compile one program and count what its loops launch.

    Args:
        name: "lstm_jax fused", ..., or a rival.
        folder: where libtpu writes its schedules; None: cycles are unknown.
    """
    found: Row = {"cell": case.cell, "shape": [case.T, case.B, case.D, case.H]}
    found |= {"dtype": case.dtype, "mode": mode, "contender": name}
    given = problem.make(case)
    try:
        program = devices.compiled(*compiled.traceable(_model(given, name), given, mode), target)
    except (Cannot, NotImplementedError) as error:
        return found | {"note": f"cannot: {str(error).split(chr(10))[0]}"}
    except Exception as error:  # An error of a rival ends its row, not the run.
        if name.startswith(ours.PREFIX):
            raise
        return found | {"note": f"failed: {str(error).split(chr(10))[0]}"}
    text, bundles = program.as_text(), dict[str, str]()
    looping = kernels.kernels(text)
    if folder is not None:
        bundles = kernels.bundles(folder, [kernel.name for kernel in looping])
    schedules = {} if folder is None else schedule.taken(folder)
    counted = [_counted(loop, case.T, schedules) for loop in loops.loops(text)]
    counted += [_inside(kernel, case.T, bundles.get(kernel.name)) for kernel in looping]
    memory = compiled.memory(program).get("temp_size_in_bytes")
    return found | {"loops": counted, "temp_size_in_bytes": memory}


def _model(given: Problem, name: str) -> Model:
    if name.startswith(ours.PREFIX):
        return ours.model(given, name.removeprefix(ours.PREFIX))
    return rivals.load(name).model(given)


def _counted(loop: loops.Loop, T: int, schedules: dict[str, str]) -> Row:
    """The launches and cycles of an iteration of a loop, and its number of steps if T is known."""
    return {
        "steps": T / loop.trips if loop.trips else None,
        "launches": dict(loop.launches),
        "cycles": schedule.cycles(loop, schedules),
    }


def _inside(kernel: kernels.Kernel, T: int, bundles: str | None) -> Row:
    """The same of a kernel that loops over all steps; bundles: None if libtpu wrote none of it."""
    found = {"steps": float(T), "launches": {kernel.name: 1}, "cycles": None}
    step = None if bundles is None else kernels.step(kernel, bundles)
    if step is None:
        return found
    return found | {"cycles": T * step.cycles, "moved": T * step.memory, "pushes": T * step.pushes}


# ---- the table -----------------------------------------------------------------------------------
HEADINGS = ["cell", "T,B,D,H", "dtype", "mode", "who"]
HEADINGS += ["launches a step", "cycles a step", "kernel's bytes a step", "temporary MB"]


def page(document: dict[str, Any]) -> str:
    """Format the rows as a page of Markdown."""
    given, rows = document["environment"], document["rows"]
    versions = ", ".join(f"{name} {value}" for name, value in given["versions"].items())
    lines = [HEADINGS, ["---"] * len(HEADINGS), *map(_cells, rows)]
    return "\n".join(
        [
            f"# {given['command']}",
            "",
            f"- compiled for {given['target']}, which was not there; nothing ran",
            f"- commit {given['commit']}, {given['started']}",
            f"- {versions}, Python {given['python']}",
            "",
            "One number for each loop over the steps, the forward one first, and their sum. A",
            "launch is a kernel, a library's call or a copy, the counter included; a loop of",
            "several steps an iteration is divided by them. On a TPU launches are the operations",
            "that the compiler schedules apart, and cycles the bundles of their schedule. A kernel",
            "that loops over the steps itself is one launch for all of them; its bytes are those",
            "that it moves between the TPU's HBM and VMEM, beside the cycles and not in them.",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
        ]
    )


def _line(found: Row) -> str:
    return "  ".join(_cells(found))


def _cells(found: Row) -> list[str]:
    """Format one row as the cells of the table."""
    shape = ",".join(map(str, found["shape"]))
    start = [found["cell"], shape, found["dtype"], MODES[found["mode"]], found["contender"]]
    if "note" in found:
        return [*start, found["note"], "", "", ""]
    each = found["loops"]
    launches = _sums([(sum(loop["launches"].values()), loop["steps"]) for loop in each], "{:.4g}")
    cycles = _sums([(loop["cycles"], loop["steps"]) for loop in each], "{:.0f}")
    moved = _sums([(loop.get("moved"), loop["steps"]) for loop in each], "{:.0f}")
    return [*start, launches, cycles, moved, f"{found['temp_size_in_bytes'] / 1e6:.1f}"]


def _sums(pairs: Sequence[tuple[float | None, float | None]], form: str) -> str:
    """Format numbers a step, from numbers an iteration, and their sum; "-" where unknown."""
    if not pairs:
        return "no loop"
    if any(value is None or steps is None for value, steps in pairs):
        return "-"
    values = [value / steps for value, steps in pairs if value is not None and steps is not None]
    texts = [form.format(value) for value in values]
    return " + ".join(texts) + (f" = {form.format(sum(values))}" if len(values) > 1 else "")


def _environment(target: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    return {
        "command": " ".join(["python -m bench launches", *arguments]),
        "target": target,
        "commit": record.commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in record.PACKAGES if (found := record.version(name))},
        "jax": jax.__version__,
    }
