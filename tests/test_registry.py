"""The registry leaves nothing out: every public cell, every implementation."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import pytest
import registry

import lstm_jax as lj
from lstm_jax._cells.rnn import ACTIVATIONS
from lstm_jax._recurrence import engines

PUBLIC = [
    value
    for value in vars(lj).values()
    if inspect.isclass(value) and issubclass(value, lj.Cell) and value is not lj.Cell
]


@pytest.mark.parametrize("cell", PUBLIC)
def test_every_public_cell_is_registered(cell):
    cases = (*registry.CASES.values(), *registry.SPATIAL.values())
    made = {type(case.make(1)) for case in cases}
    assert cell in made, f"add {cell.__name__} to tests/registry.py"


@pytest.mark.parametrize("field", ["activation", "reset_after"])
def test_every_choice_of_a_cell_is_registered(field):
    """A named activation and each form of the GRU is a case of its own."""
    seen = {
        value if isinstance(value, (str, bool)) else "callable"
        for case in registry.CASES.values()
        if (value := getattr(case.make(1), field, None)) is not None
    }
    wanted = {"activation": {*ACTIVATIONS, "callable"}, "reset_after": {True, False}}
    assert seen == wanted[field]


COMMON = ("bias", "double_bias", "heads")


@pytest.mark.parametrize("cell", [lj.LSTM, lj.GRU, lj.LayerNormLSTM])
def test_every_option_of_the_classic_cells_is_registered(cell):
    """Each at another value than its default, in one case or more."""
    fields = {f.name: f.default for f in dataclasses.fields(cell)}
    own = [name for name in fields if name in vars(cell)["__annotations__"]]
    made = [c for case in registry.CASES.values() if type(c := case.make(registry.GROUPS)) is cell]
    for name in (*own, *(COMMON if cell is not lj.LayerNormLSTM else ())):
        if not name.endswith(("_init", "eps")):
            assert any(getattr(c, name) != fields[name] for c in made), f"register one with {name}"


@pytest.mark.parametrize("name", engines.IMPLEMENTATIONS)
def test_every_implementation_is_exercised(name):
    if name == "native" and registry.NO_KERNEL:
        pytest.skip(registry.NO_KERNEL)
    if name == "pallas_tpu" and jax.default_backend() != "tpu":
        pytest.skip("Pallas interprets it in test_pallas_tpu.py")
    if name == "cuda" and jax.default_backend() != "gpu":
        pytest.skip("an emulator runs it in test_cuda.py")
    assert any(implementation == name for _, implementation in registry.GRID)


@registry.cells(every=True)
def test_the_engine_runs_what_the_registry_says(case):
    """Each implementation can or refuses by name, and the first that can is the default."""
    cell = case.make(registry.GROUPS)
    seen = tuple(name for name in engines.IMPLEMENTATIONS if registry.runs(cell, name))
    assert seen == case.implementations
    found = lj.which(cell)
    first = found if isinstance(found, lj.Which) else found[0]
    assert first.implementation == case.default


@registry.cells(every=True)
def test_a_cell_is_a_value(case):
    """Equal fields make equal cells, which is what keeps jit from compiling twice."""
    assert case.make(3) == case.make(3) and hash(case.make(3)) == hash(case.make(3))
    assert case.make(3) != case.make(4)


@pytest.mark.parametrize("field", ["dtype", "param_dtype", "carry_dtype", "accumulation_dtype"])
@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16", "float16"])
@registry.cells()
def test_a_dtype_is_a_part_of_the_value(case, field, name):
    """However it is spelled; float64 too, whose NumPy dtype equals None."""
    cell = case.make(3, **{field: name})
    assert cell != case.make(3)
    for spelled in (jnp.dtype(name), jnp.dtype(name).type):
        other = case.make(3, **{field: spelled})
        assert cell == other and hash(cell) == hash(other)
