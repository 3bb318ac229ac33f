"""S18: shares of the gradient by hand, and a tiny run of the whole study."""

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.studies import s18_penalties
from lstm_jax.studies.provenance import to_json
from lstm_jax.studies.record import Setting
from lstm_jax.studies.s18_penalties import Sizes, early, log_masses


def test_shares_of_steps_are_of_the_sum_of_all_norms():
    norms = np.array([[1.0, 3.0], [2.0, 2.0], [8.0, 0.0], [16.0, 0.0]])
    with np.errstate(divide="ignore"):
        masses = np.asarray(log_masses(jnp.log(jnp.asarray(norms, jnp.float32))))
    np.testing.assert_allclose(np.exp(masses), np.array([4, 4, 8, 16]) / 32, rtol=1e-6)
    np.testing.assert_allclose(early(masses), 4 / 32, rtol=1e-6)
    np.testing.assert_allclose(log_masses(jnp.log(norms) - 300), masses, rtol=1e-5)


def test_one_regulariser_at_a_time():
    for name, config in zip(s18_penalties.NAMES, s18_penalties._configs(), strict=True):
        on = {key for key, weight in config.items() if key != "alone" and weight}
        assert on | ({config["alone"]} - {None}) == ({name.split(",")[0]} - {"none"})


@pytest.mark.slow
def test_a_tiny_run(monkeypatch):
    monkeypatch.setitem(s18_penalties.SIZES, "ci", Sizes(6, 20, 10))
    found = s18_penalties.STUDY.run(Setting("ci", (0, 1, 2)))
    assert all(np.isfinite(values).all() for values in found.measured.values())
    judged = s18_penalties.STUDY.judge(found, "ci")
    assert all(each["verdict"] != "UNVERIFIED" for each in judged)
    assert len(s18_penalties.STUDY.draw(to_json(found.data))) == 3
