"""The README's table of support is what tracing finds."""

import pytest
import registry
import support

pytestmark = [registry.needs_kernel, pytest.mark.sampled]
REMEDY = "run: python tests/support.py --write"


def test_the_readme_has_a_row_for_every_cell_and_no_other():
    rows = support.shown().splitlines()
    assert rows[:4] == support.head(), REMEDY
    assert len(rows[4:]) == len(registry.EVERY), REMEDY


@registry.cells(every=True)
def test_each_row_is_what_tracing_finds(case):
    assert support.row(case) in support.shown().splitlines(), REMEDY
