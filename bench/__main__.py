"""`python -m bench` measures cases; `python -m bench report FILE...` compares the results.

`python -m bench launches --target TARGET` counts what is launched on a device that is not there.
`python -m bench accelerator --json FILE` tests and measures everything on a GPU or TPU.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax._checks import check_choice
from lstm_jax._recurrence import engines
from lstm_jax._recurrence.engines.native import library

from . import (
    accelerator,
    cases,
    ceilings,
    contender,
    launches,
    others,
    record,
    report,
    rivals,
    run,
    slope,
    table,
)
from .cases import Case
from .process import lenient, tell


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error of the caller is one line on standard error and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["report"]:
            _report(given[1:])
        elif given[:1] == ["launches"]:
            _launches(given[1:])
        elif given[:1] == ["accelerator"]:
            _accelerator(given[1:])
        else:
            measure(parser().parse_args(given), given)
    except (ValueError, OSError, ImportError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The options of a measurement."""
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = made.add_argument
    add("--suite", choices=cases.SUITES, help="a list of cases; see bench/cases.py")
    add("--case", action="append", default=[], metavar="T,B,D,H[,L]", help="one case; repeatable")
    add("--cell", choices=cases.CELLS, help="the cell of every case, instead of the suite's")
    add("--dtype", choices=cases.DTYPES, default="float32", help="dtype of weights and inputs")
    add("--bidirectional", action="store_true", help="run every case in both directions")
    add("--skip-input", action="store_true", help="leave out the inputs' matmul, as DeepBench")
    add("--modes", default="fwd,train", help="some of fwd,train,jvp")
    add("--implementations", help="those of lstm_jax, such as fused,scan (default: all)")
    add("--rivals", default="all", help=f"some of {','.join(rivals.NAMES)}; flax, all, none")
    add("--samples", type=int, default=20, help="samples of each contender")
    add("--budget", type=float, default=60.0, help="seconds of timing for each case")
    add("--seed", type=int, default=0, help="random seed of weights, data and orders")
    add("--slope", action="store_true", help="measure at T/4, T/2 and T; fit the time per step")
    add("--json", type=Path, metavar="FILE", help="write every sample to FILE, after each case")
    add("--overwrite", action="store_true", help="replace the file of --json if it exists")
    return made


def _report(arguments: Sequence[str]) -> None:
    made = argparse.ArgumentParser(prog="python -m bench report")
    made.add_argument("files", nargs="+", type=Path, metavar="FILE")
    made.add_argument("--out", type=Path, help="folder of the report (default: beside each FILE)")
    for path in report.main(**vars(made.parse_args(arguments))):
        print(path)


def _launches(arguments: Sequence[str]) -> None:
    given = launches.parser().parse_args(arguments)
    if given.json:
        check_json(given.json, given.overwrite)
    with lenient("float32"):
        launches.main(given, arguments)


def _accelerator(arguments: Sequence[str]) -> None:
    given = accelerator.parser().parse_args(arguments)
    check_json(given.json, given.overwrite)
    accelerator.main(given, arguments)


def measure(given: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Measure every case: print its table on standard output, and return the rows of all."""
    chosen, options = chosen_cases(given), options_of(given)
    check_kernel(options.implementations)
    if given.json:
        check_json(given.json, given.overwrite)
    # Otherwise JAX reserves three quarters of a GPU's memory, and the rivals get too little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    tell(record.package())
    with lenient(given.dtype):
        watch = others.Watch()
        document: dict[str, Any] = {
            "environment": record.environment(arguments, given.dtype),
            "ceilings": ceilings.measure(given.dtype, small=given.suite == "smoke"),
            "rows": [],
        }
        tell(others.warning(watch.share()) or "measured the ceilings")
        for number, case in enumerate(chosen, start=1):
            tell(f"{number}/{len(chosen)} {case}")
            rows = run.run(case, options, document["ceilings"], lambda line: tell("  " + line))
            document["rows"] += rows
            print(table.text(rows, document["ceilings"]), end="\n\n", flush=True)
            if given.slope:
                document["slopes"] = slope.slopes(document["rows"])
            if given.json:
                record.write(given.json, document)
    if given.slope:
        print(slope.text(document["slopes"]))
    return document


def check_json(path: Path, overwrite: bool) -> None:
    """Raise unless the file can be new, or may be replaced."""
    if not path.parent.is_dir():
        raise ValueError(f"--json: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise ValueError(f"--json: {path} exists; name another, or add --overwrite to replace it")


def check_kernel(implementations: Sequence[str] | None) -> None:
    """Raise if the current folder hides an installed package with a kernel, and "native" is wanted.

    Python imports from the current folder first: in a clone, the installed package does not run.
    """
    if implementations is None or "native" in implementations:
        hidden = library.shadowed()
        if hidden:
            here = library.PACKAGE
            build = "build it here (python setup.py build_ext --inplace)"
            others = "or name --implementations without it, such as fused,scan"
            raise ValueError(
                f"{here} has no kernel and hides {hidden}, which has: {build}, {others}"
            )


def chosen_cases(given: argparse.Namespace) -> list[Case]:
    """The cases that the options select."""
    chosen = [*map(cases.parse, given.case), *(cases.SUITES[given.suite]() if given.suite else [])]
    if not chosen:
        raise ValueError("--suite: got none, wanted a suite or a --case; such as --suite everyday")
    changes: dict[str, Any] = {"dtype": given.dtype}
    changes |= {"cell": given.cell, "published": ()} if given.cell else {}
    changes |= {"bidirectional": True, "published": ()} if given.bidirectional else {}
    changes |= {"inputs": "skip"} if given.skip_input else {}
    changed = [dataclasses.replace(case, **changes) for case in chosen]
    if given.skip_input and any(case.L > 1 or case.D != case.H for case in changed):
        raise ValueError("--skip-input: wanted cases of one layer with D = H; leave the option out")
    return list(dict.fromkeys(cases.at_three_lengths(changed) if given.slope else changed))


def options_of(given: argparse.Namespace) -> run.Options:
    """Read the options of a measurement."""
    if given.samples < 1 or given.budget < 0:
        raise ValueError("--samples, --budget: wanted one sample or more, and no negative time")
    unknown = set(modes := given.modes.split(",")) - set(contender.MODES)
    if unknown:
        raise ValueError(f"--modes: got {given.modes!r}, wanted some of {contender.MODES}")
    names = given.implementations and given.implementations.split(",")
    for name in names or ():
        check_choice("--implementations", name, engines.IMPLEMENTATIONS)
    return run.Options(
        modes, names, rivals.chosen(given.rivals), given.samples, given.budget, given.seed
    )


if __name__ == "__main__":
    main()
