"""The public interface: what a cell is called, who is refused at a door, what a module shows."""

import ast
import importlib
import pathlib
import pkgutil
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from flax import nnx

import lstm_jax as lj
from lstm_jax import diagnostics as dg
from lstm_jax import interop, regularizers, train

H, D, T, B = 4, 3, 3, 2
KEY = jax.random.key(0)
CELL = lj.LSTM(H)
PARAMS = registry.cast(registry.random_params(CELL, D, np.random.default_rng(0)), jnp.float32)
XS = jnp.asarray(np.ones((T, B, D), np.float32))

WRAPPERS = {
    "zoneout": lambda net: lj.zoneout(net, 0.1),
    "recurrent_dropout": lambda net: lj.recurrent_dropout(net, 0.1),
    "memory_dropout": lambda net: lj.memory_dropout(net, 0.1),
    "input_dropout": lambda net: lj.input_dropout(net, 0.1),
    "weight_drop": lambda net: lj.weight_drop(net, 0.1),
    "state_noise": lambda net: lj.state_noise(net, 0.1),
    "clip_state": lambda net: lj.clip_state(net, 1.0),
    "clip_cotangents": lambda net: lj.clip_cotangents(net, 1.0),
    "learned_start": lj.learned_start,
}
NETS = {
    "stack": lambda net: lj.stack(net),
    "bidirectional": lambda net: lj.bidirectional(net),
    "bidirectional's second": lambda net: lj.bidirectional(CELL, net),
    "residual": lj.residual,
    "readout": lambda net: lj.readout(net, 2),
    "embedding": lambda net: lj.embedding(net, 5, D),
}


# ---- one type for what `unroll` scans ------------------------------------------------------------
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_cell_has_a_public_type(name):
    assert isinstance(WRAPPERS[name](CELL), lj.Recurrent)
    assert isinstance(WRAPPERS[name](lj.stack(CELL)), lj.Net)


def test_every_cell_and_every_net_has_a_public_type():
    for name, case in registry.EVERY.items():
        kinds = [isinstance(case.make(4), kind) for kind in (lj.Recurrent, lj.Net)]
        assert kinds == [name not in registry.NETS, name in registry.NETS], name


# ---- one wording of errors -----------------------------------------------------------------------
ROOT = pathlib.Path(lj.__file__).parent
REASONS = {"checkpoint.py", "_npz.py"}
"""Where an error is a reason that `checkpoint.load` puts into the house's error."""


def test_every_mistake_of_a_caller_is_told_in_one_wording():
    """No ValueError but by `_checks.fail`, and no other error that spells its wording out."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            text = ast.unparse(node.exc)
            if path.name not in REASONS:
                assert not text.startswith("ValueError("), (path, text)
            assert text.startswith("fail(") or ", wanted " not in text, (path, text)


# ---- 25: what a module shows ---------------------------------------------------------------------
def public_modules():
    """Every module of the library that has no underscore in its name and is no mere folder."""
    found = [lj]
    for part in pkgutil.walk_packages(lj.__path__, "lstm_jax."):
        hidden = any(name.startswith("_") for name in part.name.split("."))
        folder = part.ispkg and part.name.startswith(("lstm_jax.studies", "lstm_jax.comparison"))
        if not (hidden or folder):
            found.append(importlib.import_module(part.name))
    return found


def test_fault_25_every_public_module_shows_its_own_names_and_no_other():
    modules = public_modules()
    assert len(modules) > 50
    for module in modules:
        shown = [name for name in dir(module) if name != "__version__"]
        assert shown == sorted(set(module.__all__)), module.__name__
        for name in shown:
            value = getattr(module, name)
            owner = getattr(value, "__module__", None) or getattr(value, "__name__", "lstm_jax")
            assert isinstance(owner, str) and owner.split(".")[0] in LIBRARIES, (module, name)


LIBRARIES = {"lstm_jax", "builtins", "typing", "collections"}
"""Whose things are shown: the library's own, its constants, and its aliases of types."""


# ---- 24: the first argument, and parameters in boxes ---------------------------------------------
ONE = XS[:, 0]
FILE = "net.safetensors"


def last(ys):
    return jnp.sum(ys[-1])


SEQUENCES = {
    "unroll": lambda cell, params: lj.unroll(cell, params, XS),
    "gradients_by_lag": lambda cell, params: dg.gradients_by_lag(cell, params, XS, last),
    "gradient_norms_by_lag": lambda cell, params: dg.gradient_norms_by_lag(cell, params, XS, last),
    "weight_gradient_by_lag": lambda cell, params: dg.weight_gradient_by_lag(
        cell, params, XS, last
    ),
    "weight_gradient_norms_by_lag": lambda cell, params: dg.weight_gradient_norms_by_lag(
        cell, params, XS, last
    ),
    "gate_statistics": lambda cell, params: dg.gate_statistics(cell, params, XS),
    "step_jacobian": lambda cell, params: dg.step_jacobian(
        cell, params, CELL.initial_carry(PARAMS), ONE[0]
    ),
    "lyapunov_spectrum": lambda cell, params: dg.lyapunov_spectrum(cell, params, ONE),
    "jacobian_product_singular_values": lambda cell, params: dg.jacobian_product_singular_values(
        cell, params, ONE
    ),
    "fixed_points": lambda cell, params: dg.fixed_points(
        cell, params, ONE[0], CELL.initial_carry(PARAMS, (2,)), steps=2
    ),
    "omega": lambda cell, params: regularizers.omega(cell, params, XS, last),
}
EXPORTS = {
    **{
        f"to_{name}": getattr(interop, f"to_{name}")
        for name in ("torch", "keras", "linen", "nnx", "haiku", "equinox", "cudnn")
    },
    "to_onnx": lambda net, params: interop.to_onnx(net, params).SerializeToString(),
    "to_safetensors": lambda net, params: interop.to_safetensors(net, params, FILE),
    "to_safetensors, ours": lambda net, params: interop.to_safetensors(
        net, params, FILE, names="lstm_jax"
    ),
    "files.summary": interop.files.summary,
}
DOORS = {
    **SEQUENCES,
    **EXPORTS,
    "gate_blocks": dg.gate_blocks,
    "which": lambda cell, params: lj.which(cell),
    "inspect": lambda cell, params: lj.inspect(cell, params, XS),
    "files.describe": lambda net, params: interop.files.describe(net),
    **{n: lambda net, params, make=make: make(net) for n, make in (WRAPPERS | NETS).items()},
}


class Foreign:
    """A layer of another library."""

    def __call__(self, xs):
        return xs


@pytest.mark.parametrize("door", DOORS)
def test_fault_24_a_wrong_first_argument_gets_the_houses_error(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remedies = {
        "the class LSTM": (lj.LSTM, r"make one: LSTM\(128\)"),
        "a dict": (PARAMS, "order|for example LSTM"),
        "None": (None, ""),
        "'LSTM'": ("LSTM", ""),
        "4": (4, ""),
        "an array of dtype key<fry>": (KEY, ""),
        "a test_faults_api Foreign": (Foreign(), "subclass of Cell"),
        "a nnx State": (nnx.State(jax.tree.map(nnx.Param, PARAMS)), ""),
    }
    if door == "bidirectional's second":
        del remedies["None"]
    for seen, (wrong, remedy) in remedies.items():
        if door == "inspect":
            if callable(wrong) and not isinstance(wrong, type):
                continue
            remedy = "inspect"
        with pytest.raises(ValueError) as caught:
            DOORS[door](wrong, CELL if wrong is PARAMS else PARAMS)
        found = str(caught.value)
        argument = "function|cell|net|layers|forward|backward"
        assert re.match(rf"^({argument}): got .+, wanted .+; .+", found, re.DOTALL), found
        assert f"got {seen}" in found or "State" in found, found
        assert re.search(remedy, found), found


@pytest.mark.parametrize("door", [*SEQUENCES, *EXPORTS, "gate_blocks"])
def test_fault_24_wrong_parameters_get_the_houses_error(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in (XS, None, 3, CELL, [XS], "params", {}, {"w_ih": 3.0}, PARAMS | {"w_hh": None}):
        with pytest.raises(ValueError) as caught:
            DOORS[door](CELL, wrong)
        found = str(caught.value)
        assert re.match(r"^params.*: got .+, wanted .+; .+", found, re.DOTALL), (wrong, found)


BOXES = {
    "nnx.Param": lambda params: jax.tree.map(nnx.Param, params),
    "nnx.Variable": lambda params: jax.tree.map(nnx.Variable, params),
    "nnx.State": lambda params: nnx.State(jax.tree.map(nnx.Param, params)),
    "nn.Partitioned": lambda params: jax.tree.map(
        lambda x: nn.Partitioned(x, names=(None,) * x.ndim), params
    ),
}


TX = lj.clipped_sgd(0.1)
OTHERS = {
    "create": lambda wrong: train.create(wrong, TX),
    "make_step": lambda wrong: train.make_step(wrong, TX),
    "make_loop": lambda wrong: train.make_loop(wrong, TX, last, 1),
    "make_tbptt": lambda wrong: train.make_tbptt(wrong, last, TX, k1=2),
    "evaluate": lambda wrong: train.evaluate(wrong, PARAMS, XS),
    "fit": lambda wrong: train.fit(wrong, train.create(PARAMS, TX), KEY, 1),
    "checkpoint.save": lambda wrong: lj.checkpoint.save(wrong, PARAMS),
    "checkpoint.load": lj.checkpoint.load,
    "from_safetensors": interop.from_safetensors,
    "JsonLines": train.JsonLines,
    "text.read": lj.data.text.read,
}


@pytest.mark.parametrize("door", OTHERS)
def test_fault_24_a_class_a_cell_or_a_number_is_no_loss_and_no_file(door):
    for wrong in (lj.LSTM, CELL, 3 if door != "create" else object()):
        with pytest.raises(ValueError, match=r"^[^:]+: got .+, wanted .+; .+"):
            OTHERS[door](wrong)


EACH_BOX = [pytest.param(box, marks=pytest.mark.grid) for box in BOXES]
EACH_BOX[-1] = "nn.Partitioned"


@pytest.mark.parametrize("box", EACH_BOX)
@pytest.mark.parametrize("door", SEQUENCES)
def test_fault_24_boxes_are_taken_off_parameters_at_the_door(door, box):
    """Behind it the program is the same, to the letter."""
    jax.eval_shape(lambda: lj.unroll(CELL, PARAMS, XS))  # Asks for the shapes, once and for all.
    program = jax.make_jaxpr(lambda params: SEQUENCES[door](CELL, params))
    assert str(program(BOXES[box](PARAMS))) == str(program(PARAMS))


@pytest.mark.parametrize("box", BOXES)
def test_fault_24_boxes_are_taken_off_what_is_exported(box, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for door, export in {**EXPORTS, "gate_blocks": dg.gate_blocks}.items():
        results = []
        for params in (PARAMS, BOXES[box](PARAMS)):
            found = export(CELL, params)
            if "safetensors" in door:  # The bytes of its metadata are in any order.
                _, found = interop.from_safetensors(FILE)
            results.append(found)
        same(*results)


@pytest.mark.parametrize("box", EACH_BOX)
def test_fault_24_boxes_are_taken_off_a_nets_parameters_too(box):
    net = lj.stack(lj.bidirectional(CELL), lj.learned_start(CELL))
    params = net.init(KEY, D)
    boxed = BOXES[box](params)
    same(lj.unroll(net, boxed, XS), lj.unroll(net, params, XS))
    same(net.initial_carry(boxed, (B,)), net.initial_carry(params, (B,)))
    narrow = CELL.init(KEY, D) | {"w_ih": PARAMS["w_ih"].astype(jnp.bfloat16)}
    same(CELL.initial_carry(BOXES[box](narrow)), CELL.initial_carry(narrow))
    deep = lj.stack(lj.LSTM(H), lj.LSTM(H))
    params = deep.init(KEY, D)
    carry = deep.initial_carry(params, (B,))
    same(deep.step(BOXES[box](params), carry, XS[0]), deep.step(params, carry, XS[0]))
    same(interop.to_torch(deep, BOXES[box](params)), interop.to_torch(deep, params))


def test_fault_24_one_boxed_matrix_is_an_array():
    boxes = (nnx.Param(PARAMS["w_hh"]), nn.Partitioned(PARAMS["w_hh"], names=(None, None)))
    for w in boxes:
        same(dg.spectral_norm(w), dg.spectral_norm(PARAMS["w_hh"]))
        same(regularizers.orthogonality(w), regularizers.orthogonality(PARAMS["w_hh"]))
        same(regularizers.l2({"w": w}), regularizers.l2(PARAMS["w_hh"]))


@pytest.mark.parametrize("box", BOXES)
def test_fault_24_a_checkpoint_keeps_boxes(box, tmp_path):
    boxed = BOXES[box](PARAMS)
    lj.checkpoint.save(tmp_path / "boxed.npz", boxed)
    loaded, _ = lj.checkpoint.load(tmp_path / "boxed.npz", like=boxed)
    assert jax.tree.structure(loaded) == jax.tree.structure(boxed)
    same(jax.tree.leaves(loaded), jax.tree.leaves(boxed))


def same(seen, wanted):
    """The two trees are of one structure and equal bit by bit."""
    assert jax.tree.structure(seen) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
