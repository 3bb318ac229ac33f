"""The tables of docs/support.md and docs/implementations.md are what is found: of support by
tracing, of who runs what by `inspect`."""

import pytest
import registry
import support

pytestmark = [registry.needs_kernel, pytest.mark.sampled]
REMEDY = "run: python tests/support.py --write"


def test_the_page_has_a_row_for_every_cell_and_no_other():
    rows = support.shown().splitlines()
    assert rows[:4] == support.head(), REMEDY
    assert len(rows[4:]) == len(registry.EVERY), REMEDY


@registry.cells(every=True)
def test_each_row_is_what_tracing_finds(case):
    """Of most cells without the entry of "newton", which is dear to trace."""
    for name, shown in support.shown_entries(case).items():
        if name != "newton" or case.name in registry.NEWTON:
            assert shown == support.found_entry(case, name), REMEDY


@pytest.mark.slow
@registry.cells(every=True)
def test_each_entry_of_newton_is_what_tracing_finds(case):
    assert support.shown_entries(case)["newton"] == support.found_entry(case, "newton"), REMEDY


def test_the_page_says_who_runs_every_mode_and_no_other():
    rows = support.shown("who").splitlines()
    assert rows[:2] == support.who_head(), REMEDY
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(support.WHO), REMEDY


@pytest.mark.parametrize("mode", support.WHO)
def test_each_mode_is_run_by_whom_inspect_finds(mode):
    assert support.who_row(mode) in support.shown("who").splitlines(), REMEDY
