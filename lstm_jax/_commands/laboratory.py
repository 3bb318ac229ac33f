"""Studies of `lstm-jax study` by their ids: a table of them, and running some."""

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .._checks import fail
from .._files import check_folder, locked
from ..progress import progress
from ..studies import laboratory
from ..studies.record import Study
from ..studies.table import NOT_BUILT, STUDIES
from . import options

ARGUMENT = "IDS"
SCALE = "cpu"
ALL = "all"
"""In place of ids."""


def show() -> None:
    """Print every study, by id and title."""
    known = {id: study.title for id, study in STUDIES.items()}
    for id in sorted(known | NOT_BUILT, key=_number):
        title = known.get(id) or f"{NOT_BUILT[id]} (not built)"
        print(f"{id:4} {title}")


def find(ids: Sequence[str]) -> list[Study]:
    """The studies of these ids, in capitals or not; of "all" alone, every one that is built.

    Raises:
        ValueError: there is no such study, it is not built, or it is named twice.
    """
    if [id.lower() for id in ids] == [ALL]:
        return list(STUDIES.values())
    for id in ids:
        if id.upper() in NOT_BUILT:
            seen = f"{id!r}, {NOT_BUILT[id.upper()]}, which is not built"
            raise fail(ARGUMENT, seen, _known(), "pick of these")
        if id.upper() not in STUDIES:
            remedy = "pick of these; `lstm-jax study --list` has their titles"
            raise fail(ARGUMENT, repr(id), _known(), remedy)
    ids = [id.upper() for id in ids]
    twice = sorted({id for id in ids if ids.count(id) > 1}, key=_number)
    if twice:
        raise fail(ARGUMENT, f"{', '.join(twice)} twice", "each once", "leave one out")
    return [STUDIES[id] for id in ids]


def run(ids: Sequence[str], scale: str, seed: int, out: Path, overwrite: bool, jobs: int) -> None:
    """Run the studies, `jobs` at once, write their pages and an index, print verdicts."""
    from .. import pages  # Not above: matplotlib takes half a second to import.

    studies = find(ids)
    seeds = laboratory.seeds_from(seed, scale)
    check_folder(out, argument="--out")
    with _alone(studies, out):
        if not overwrite:
            for study in studies:
                laboratory.check_free(study, scale, seeds, out, "--out")
        with progress(len(studies), "studies", patience=0.0) as bar, options.named_as(out="--out"):
            run_one = functools.partial(_complete, scale=scale, seeds=seeds, out=out)
            for result in _results([study.id for study in studies], run_one, jobs, bar.tick):
                pages.write_study(STUDIES[result["id"]], result, out)
                list_all(out)
                bar.advance()
                _print(result, pages.ours)
    print(f"open {out / pages.INDEX}")


def _results(
    ids: Sequence[str], run_one: Callable[[str], Any], jobs: int, tick: Callable[[str], None]
) -> Iterator[Any]:
    """What each study found, as soon as it is known: in this process, or in several.

    tick: called with the ids of those that run, whenever others do.
    """
    if jobs == 1 or len(ids) == 1:
        for id in ids:
            tick(id)
            yield run_one(id)
        return
    with _workers(min(jobs, len(ids))) as pool:
        try:
            futures = {pool.submit(run_one, id): id for id in ids}
            left = list(ids)
            tick(" ".join(left[:jobs]))
            for future in as_completed(futures):
                left.remove(futures[future])
                tick(" ".join(left[:jobs]))  # They start in this order.
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # If one fails the rest never starts.


def _workers(count: int) -> Executor:
    """Processes that begin afresh: a copy of one in which JAX has threads can hang."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def _complete(id: str, *, scale: str, seeds: tuple[int, ...], out: Path) -> dict[str, Any]:
    """Run the study of that id, or read what it found."""
    return laboratory.complete(STUDIES[id], scale, seeds, out)


@contextlib.contextmanager
def _alone(studies: Sequence[Study], out: Path) -> Iterator[None]:
    """Keep other processes from these studies in this folder; they may run others there.

    Raises:
        ValueError: another process runs one of them.
    """
    with contextlib.ExitStack() as stack:
        # In one order, so that of two processes that want the same studies one gets them all.
        for id in sorted((study.id for study in studies), key=_number):
            stack.enter_context(locked(out, id, argument="--out"))
        yield


def list_all(out: Path) -> None:
    """Write the index of what is in a folder; of several processes one after the other."""
    from .. import pages  # Not above: matplotlib takes half a second to import.

    with locked(out, "index", argument="--out", wait=True):
        pages.write_index(STUDIES, laboratory.read_all(out, STUDIES), NOT_BUILT, out)


def _print(result, said) -> None:
    """Print a study's verdict, and its anchors below."""
    print(f"{result['id']:4} {result['verdict']:10}  {result['title']}")
    for anchor in result["anchors"]:
        numbers = f"wanted {anchor['wanted']}; ours {said(anchor['measured'])}; {anchor['reason']}"
        print(f"     {anchor['verdict']:10}  {anchor['quantity']}: {numbers}")


def _known() -> str:
    return f"some of {', '.join(sorted(STUDIES, key=_number))}, or all"


def _number(id: str) -> int:
    return int(id[1:])
