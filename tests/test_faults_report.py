"""What the study's report said wrongly, each fault with a test of its own number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.data import TASKS
from lstm_jax.studies import flow, learn
from lstm_jax.studies.models import Model, make_cell


def _probed(name, seeds=1):
    """(model, params [seeds], probe batch [seeds]) of an untrained tanh RNN on a task."""
    task = TASKS[name](40)
    model = Model(make_cell("rnn-tanh", 32), task.input_size, task.output_size)
    keys = jax.random.split(jax.random.key(0), seeds)
    batch = jax.tree.map(lambda leaf: leaf[:, 0], learn.draw(task, 16, 1, keys))
    return task, model, model.init_seeds(keys), batch


@pytest.mark.parametrize("name", TASKS)
def test_fault_6_probe_differentiates_the_last_scored_step(name):
    task, model, params, batch = _probed(name)
    (report,) = flow.make_probe(model, task.loss)(params, batch)
    assert -0.3 < report["slope"]["h"] < -0.05
    logs = np.log(report["norms"]["h"])
    assert np.corrcoef(np.arange(len(logs)), logs)[0, 1] ** 2 > 0.95


def test_fault_6_last_scored_leaves_one_step_of_each_sequence():
    _, _, _, batch = _probed("copy")
    mask = jnp.array([[False, True], [True, True], [True, False], [False, False]])
    kept = flow.last_scored(batch._replace(mask=mask)).mask
    assert kept.tolist() == [[False, False], [False, True], [True, False], [False, False]]
