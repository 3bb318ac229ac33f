"""S5, S6 and S11: closed forms of their starts, and each study at a size that teaches nothing."""

import json
import math
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax import initializers
from lstm_jax._static import compiled_for
from lstm_jax.studies import s05_identity_starts, s06_unitary_copying, s11_soft_orthogonality, table
from lstm_jax.studies.provenance import to_json
from lstm_jax.studies.record import Setting

TINY: dict[str, tuple[Any, Any]] = {
    "S5": (s05_identity_starts, s05_identity_starts.Sizes(6, 4, 100)),
    "S6": (s06_unitary_copying, s06_unitary_copying.Sizes(4, 2, 6, 200)),
    "S11": (s11_soft_orthogonality, s11_soft_orthogonality.Sizes(4, 2, 8, 50)),
}


def test_units_that_are_on_keep_their_gradient():
    start = initializers.identity(0.5)
    slope = s05_identity_starts._slope(jax.random.key(0), start, False)
    np.testing.assert_allclose(slope, math.log(0.5), atol=1e-5)


def test_cells_of_a_family_differ_only_in_their_starts():
    sizes = s06_unitary_copying.Sizes(4, 2, 6, 200)
    for families in (s05_identity_starts._families(6), s06_unitary_copying._families(sizes)):
        for starts in families.values():
            assert len({compiled_for(cell) for cell in starts.values()}) == 1


def test_a_run_is_lost_where_its_loss_was():
    losses = np.array([[0.9, 0.2], [1.1, 0.2], [0.2, np.nan]])
    assert s05_identity_starts._lost(losses).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "id",
    [
        pytest.param("S5", marks=pytest.mark.slow),
        pytest.param("S6", marks=pytest.mark.slow),
        pytest.param("S11", marks=pytest.mark.grid),
    ],
)
def test_a_small_run_measures_what_the_anchors_ask(id, monkeypatch):
    module, sizes = TINY[id]
    monkeypatch.setitem(module.SIZES, "ci", sizes)
    study = table.STUDIES[id]
    findings = study.run(Setting("ci", (0, 1)))
    judged = study.judge(findings, "ci")
    assert {anchor["reason"] for anchor in judged} <= {"needs 3 seeds", "not measured"} | {
        f"needs --scale {scale}" for scale in ("cpu", "gpu")
    }
    exact = {"identity", "scaled", "orthogonal", "flat", "beyond"}
    for anchor in study.anchors:
        if anchor.id in exact:
            assert all(map(anchor.accepts, findings.measured[anchor.id])), anchor.id
    for chart in study.draw(json.loads(json.dumps(to_json(findings.data)))):
        assert chart.title and all(len(line.values) == 2 for line in chart.lines)
