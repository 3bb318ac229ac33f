"""Every example runs, and shows what it says."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

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


@pytest.mark.parametrize("beams", [64, 1, 4])
def test_beams_are_the_best_of_every_sequence_if_they_are_enough(beams):
    """One is greedy; 64 = 4 ** 3 hold all beginnings of 4 symbols; fewer are never better."""
    module, steps, size = example("beam_search"), 4, 4
    net = lj.embedding(lj.readout(lj.zoneout(lj.LSTM(3), 0.1), size), size, 2)
    params = registry.random_params(net, None, np.random.default_rng(beams))
    params = registry.cast(jax.tree.map(lambda leaf: 3 * leaf, params), "float32")
    start = params, net.initial_carry(params), jnp.asarray(2)
    symbols, scores = jax.jit(lambda: module.search(net, *start, steps, beams))()
    every = module.every(size, steps)
    score = jax.jit(jax.vmap(lambda one: module.log_probability(net, *start, one)))
    assert len(every) == 3**4 + sum(3**k for k in range(4)) == len(set(map(tuple, every.tolist())))
    assert len(set(map(tuple, symbols.tolist()))) == beams
    np.testing.assert_allclose(scores, score(symbols), rtol=1e-5)
    best = np.sort(score(every))[::-1][:beams]
    assert np.all(np.asarray(scores) <= best + 1e-5) and np.all(np.diff(scores) <= 0)
    if beams == 1:
        assert np.array_equal(symbols[0], module.greedy(net, *start, steps))
    if beams == 64:
        np.testing.assert_allclose(scores, best, rtol=1e-5)


def test_attention_looks_at_valid_symbols_alone_and_decodes_as_it_is_forced():
    module = example("attention")
    params = module.init(jax.random.key(0))
    source, lengths, _ = module.sample(jax.random.key(1), 4, 3)
    decode = jax.jit(module.decode, static_argnums=3)
    logits, weights = decode(params, source, lengths, 4)
    valid = np.arange(4)[:, None] < np.asarray(lengths)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1.0, rtol=1e-5)
    assert not np.any(np.asarray(weights)[:, ~valid]) and not np.all(valid)
    others = jnp.where(valid, source, 1 + source % 10)
    np.testing.assert_array_equal(decode(params, others, lengths, 4)[0], logits)
    forced, _ = decode(params, source, lengths, 4, jnp.argmax(logits, axis=-1))
    np.testing.assert_allclose(forced, logits, atol=1e-6)


@pytest.mark.slow
def test_attention_reverses_sequences():
    assert example("attention").main([]) > 0.9


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
