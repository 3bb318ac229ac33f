"""Every example runs, and shows what it says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import registry

pytestmark = pytest.mark.sampled

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(name: str):
    return load(next(path for path in EXAMPLES if path.stem == name))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_smoke(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(path).main(["--smoke"]) is not None


@pytest.mark.grid
def test_user_cells_run_where_they_can(capsys):
    ran = example("user_cell").main(["--smoke"])
    assert ran == {"MinimalGatedUnit": registry.FASTEST, "MultiplicativeRNN": "scan"}
    assert "does not factor" in capsys.readouterr().out


@pytest.mark.grid
@pytest.mark.parametrize("there", [True, False], ids=["with torch", "without"])
def test_fault_26_bfloat16_compares_the_libraries_that_are_there(there, capsys, monkeypatch):
    if there:
        pytest.importorskip("torch")
    module, find = example("bfloat16"), importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util,
        "find_spec",
        lambda name: None if name == "torch" and not there else find(name),
    )
    errors = module.main(["--smoke"])
    assert list(errors) == ["lstm_jax", *["PyTorch"][:there], "Flax"]
    assert 0 < max(errors["lstm_jax"]) < 0.01
    assert capsys.readouterr().out.count("%") == 2 * len(errors)


@pytest.mark.grid
def test_gradient_flow_writes_its_figure(tmp_path):
    out = tmp_path / "figure.png"
    slopes = example("gradient_flow").main(["--smoke", "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    assert slopes["tanh RNN"] < slopes["ReLU RNN, identity"]
    assert np.isfinite(list(slopes.values())).all()


@pytest.mark.slow
def test_adding_is_learned():
    assert example("adding").main([]) < 0.05


@pytest.mark.slow
def test_what_does_not_learn_is_cured():
    found = example("does_not_learn").main([])
    assert found["before"] > 0.9 / 6 and found["after"] < 0.02 and found["horizon"] < 40
