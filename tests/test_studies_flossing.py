"""S15: the task by hand, and a tiny run of the whole study."""

import jax
import numpy as np
import pytest

from lstm_jax.studies import s15_flossing
from lstm_jax.studies.provenance import to_json
from lstm_jax.studies.record import Setting
from lstm_jax.studies.s15_flossing import Flossing, Sizes


def test_delayed_xor_of_two_past_bits():
    batch = jax.jit(s15_flossing.delayed_xor, static_argnums=2)(jax.random.key(0), 3, 20)
    bits = np.asarray(batch.xs)
    assert set(np.unique(bits)) == {0.0, 1.0} and bits.shape == (20, s15_flossing.BATCH, 1)
    np.testing.assert_array_equal(batch.counts[:, 0, 0], np.arange(20) >= 6)
    for t in range(6, 20):
        np.testing.assert_array_equal(batch.targets[t], np.abs(bits[t - 3] - bits[t - 6]))


def test_updates_to_the_wanted_share():
    shares = np.array([[0.5, 0.96, 0.97], [0.5, 0.6, 0.95]])
    np.testing.assert_array_equal(s15_flossing._updates(shares), [2 * s15_flossing.WIDTH, np.inf])


def test_a_gain_in_steps_where_one_never_learns():
    never, soon = np.full((1, 3), 0.5), np.array([[0.6, 0.99, 1.0]])
    shares = {
        (when, delay): rows
        for when, rows in (("not flossed", never), ("flossed before", soon))
        for delay in (s15_flossing.SHORT, s15_flossing.PUBLISHED)
    }
    shares |= {("not flossed", 15): never, ("flossed before and while", 15): soon}
    gains = s15_flossing._gains(shares, 15)
    assert gains["short"] == [np.inf] and gains["before"] == gains["while"] == [0.5]
    shares["flossed before", s15_flossing.SHORT] = never
    assert s15_flossing._gains(shares, 15)["short"] == [0.0]


@pytest.mark.grid
def test_a_tiny_run(monkeypatch):
    sizes = Sizes(6, Flossing(3, 6, 10), Flossing(3, 6, 10), 5, 12, 40, 40)
    monkeypatch.setitem(s15_flossing.SIZES, "ci", sizes)
    monkeypatch.setattr(s15_flossing, "PAUSES", (20,))
    found = s15_flossing.STUDY.run(Setting("ci", (0, 1, 2)))
    judged = s15_flossing.STUDY.judge(found, "ci")
    assert all(each["verdict"] != "UNVERIFIED" for each in judged)
    assert all(np.isfinite(found.measured[f"size {gain:g}"]).all() for gain in s15_flossing.GAINS)
    titles = [chart.title for chart in s15_flossing.STUDY.draw(to_json(found.data))]
    assert len(titles) == 5
