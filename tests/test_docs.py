"""The Python of the pages in docs/ runs, one page after the other, and shows what it says."""

import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import registry

import lstm_jax as lj

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


@functools.cache
def run(path):
    """The names that the page's Python fences, run in order, leave."""
    names = {"__name__": path.stem}
    for fence in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(fence, str(path), "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _as_for_a_reader():
    """JAX's own settings: the promotion of ranks and dtypes is not strict out there."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_python_of_a_page_runs(path, monkeypatch, tmp_path):
    """Somewhere else than in the repository."""
    monkeypatch.chdir(tmp_path)
    assert run(path).keys() > {"__name__"}


def test_your_own_cell_shows_what_it_says():
    names = run(next(path for path in PAGES if path.stem == "your-own-cell"))
    assert lj.which(names["cell"]).implementation == registry.FASTEST
    assert lj.which(names["noisy"]).implementation == "fused"
    assert {k: v.shape for k, v in names["params"].items()} == {
        "w_ih": (4, 24),
        "w_hh": (8, 24),
        "b": (24,),
    }
    ys, b = np.asarray(names["ys"]), np.asarray(names["params"]["b"])
    assert ys.shape == (50, 3, 8) and not ys[20:, 1].any() and not ys[:, 2].any()
    assert (b[:8] >= 0).all() and not b[8:].any()
    assert all(np.any(leaf) for leaf in jax.tree.leaves(names["grads"]))
    assert not np.allclose(names["loud"], names["quiet"])
