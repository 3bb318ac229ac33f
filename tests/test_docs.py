"""The Python of the pages in docs/ runs, one page after the other, and shows what it says; the
reference has every public name; and Sphinx builds the site without a warning."""

import functools
import os
import re
import subprocess
import sys
import types
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import registry

import lstm_jax as lj

os.environ.setdefault("KERAS_BACKEND", "jax")

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
DEAR = {
    "decoding": (),
    "export": ("flatbuffers",),
    "faq": (),
    "long-runs": ("orbax.checkpoint",),
    "migration": ("torch", "keras", "flax", "haiku", "equinox"),
    "modules": ("flax", "equinox"),
    "newton": (),
    "pipeline": ("flax", "equinox", "orbax.checkpoint"),
    "reinforcement-learning": ("flax",),
    "sharding": (),
    "sweeps": (),
    "tutorial": (),
}
"""Pages for the grid, and the libraries that they need."""


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


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.grid] * (path.stem in DEAR))
        for path in PAGES
    ],
)
def test_the_python_of_a_page_runs(path, monkeypatch, tmp_path):
    """Somewhere else than in the repository."""
    for name in DEAR.get(path.stem, ()):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    assert run(path).keys() > {"__name__"} or "```python" not in path.read_text()


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


# ---- the reference -------------------------------------------------------------------------------
def public_names(module=lj):
    """Of every public name the full one, modules before what is in them."""
    for name in module.__all__:
        value = getattr(module, name)
        yield f"{module.__name__}.{name}", value
        if isinstance(value, types.ModuleType):
            yield from public_names(value)


def test_the_reference_lists_every_module_and_every_name_of_the_top():
    pages = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    listed = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (\S+)", pages, re.MULTILINE))
    modules = {name for name, value in public_names() if isinstance(value, types.ModuleType)}
    assert modules - listed == set()
    assert set(lj.__all__) - {name.removeprefix("lstm_jax.") for name in modules} - listed == set()


@pytest.mark.grid
def test_the_site_builds_without_warnings_and_has_every_name(tmp_path):
    """-W: a warning is an error, a link to a page or a heading that is not there too."""
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name, reason="pip install lstm-jax[docs]")
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", tmp_path / "trees", "-b", "html"]
    done = subprocess.run([*build, DOCS, tmp_path / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "html" / "objects.inv").read_bytes()
    names = _inventory(index)
    assert [name for name, _ in public_names() if name not in names] == []


def _inventory(data):
    """The names in Sphinx's index of a site: four lines of head, and the rest compressed."""
    body = zlib.decompress(data.split(b"\n", 4)[4]).decode()
    return {line.split(" ")[0] for line in body.splitlines()}
