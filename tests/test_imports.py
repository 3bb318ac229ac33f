"""Imports only go down: every module of the library stands on a floor and imports lower ones.

9  the command line      8  the comparison of cells      7  published studies
6  bridges, tools, charts      5  training     4  optimiser, losses, regularizers, data, files
3  layers     2  the engine     1  cells, initializers, sequences     0  small helpers
"""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import lstm_jax

ROOT = pathlib.Path(lstm_jax.__file__).parent
FLOORS = {
    0: {
        "_jax",
        "_linalg",
        "_typing",
        "_arguments",
        "_checks",
        "_clip",
        "_numerics",
        "_files",
        "_npz",
        "_outline",
        "_static",
    },
    1: {"_cells", "initializers", "_sequence"},
    2: {"_net", "_newton", "_remat", "_recurrence", "_restart", "_unroll", "_inspect"},
    3: {"_adjoints", "_decode", "_layers", "_pointwise", "_wrap"},
    4: {"optim", "losses", "regularizers", "data", "checkpoint"},
    5: {"train", "progress"},
    6: {"interop", "diagnostics", "charts", "export", "nn", "sharding"},
    7: {"studies"},
    8: {"comparison"},
    9: {"cli", "_commands", "__main__", "report", "pages", "plots"},
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}
FRONT_DOOR = ()
"""lstm_jax/__init__.py, which shows the library to those outside, and to the command line."""
STRANGERS = FLOORS[6]
"""None of these knows a neighbour."""
REQUIRED = {"jax", "jaxlib", "numpy", "optax"}
OPTIONAL = {"tyro", "rich", "matplotlib", "jinja2", "torch", "flax", "orbax", "keras", "haiku"}
OPTIONAL |= {"equinox", "onnx", "h5py", "tensorboardX", "safetensors", "hypothesis", "pytest"}


def module_name(path):
    """lstm_jax/_cells/base.py -> ("_cells", "base"); an __init__.py is its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def absolute(module, is_package, node):
    """The dotted names, from the library's root, that one import statement may name."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return [tuple(name[1:]) for name in names if name[0] == "lstm_jax"]
    if node.level:
        up = node.level - is_package
        base = module[: len(module) - up] + tuple(
            (node.module or "").split(".") if node.module else ()
        )
    elif node.module.split(".")[0] == "lstm_jax":
        base = tuple(node.module.split(".")[1:])
    else:
        return []
    return [(*base, alias.name) for alias in node.names]


def existing(name):
    """The module that a dotted name lies in: a function's name is its module's."""
    while name not in MODULES:
        name = name[:-1]
    return name


def imports(module):
    """The modules of the library that `module` imports, anywhere in it."""
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [n for node in nodes for n in absolute(module, path.name == "__init__.py", node)]
    return {existing(name) for name in names} - {module}


def ids(module):
    return ".".join(module) or "lstm_jax"


@pytest.mark.parametrize("module", [m for m in MODULES if m], ids=ids)
def test_every_module_stands_on_a_floor(module):
    assert module[0] in FLOOR, f"{ids(module)} has no floor: see CONTRIBUTING.md"


def test_every_part_with_a_floor_is_there():
    assert set(FLOOR) == {module[0] for module in MODULES if module}


@pytest.mark.parametrize("module", [m for m in MODULES if m], ids=ids)
def test_imports_go_down(module):
    for other in imports(module):
        if other == FRONT_DOOR:
            assert FLOOR[module[0]] == max(FLOORS), (
                f"{ids(module)} imports the library's front door"
            )
            continue
        assert FLOOR[other[0]] <= FLOOR[module[0]], f"{ids(module)} climbs to {ids(other)}"
        if module[0] in STRANGERS and FLOOR[other[0]] == FLOOR[module[0]]:
            assert other[0] == module[0], f"{ids(module)} knows its neighbour {ids(other)}"


def test_one_file_knows_the_insides_of_jax():
    """None of these is promised to stay: what changes is mended in one place, or seen there."""
    insides = ("jax.extend", "jax.interpreters", "jax._src", "jaxlib")
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            found = [
                name for name in names if f"{name}.".startswith(tuple(f"{i}." for i in insides))
            ]
            assert not found or module == ("_jax",), f"{ids(module)}: {found}"


def test_no_cycle():
    """Between files, on one floor too. A package's __init__ imports its files, not they it."""
    graph = {module: imports(module) for module in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(map(ids, error.args[1])))


def test_the_parser_sees_imports():
    """Relative and absolute, of modules and of names; so that the tests above can fail."""
    here = ("_cells", "lstm")

    def of(line, is_package=False, module=here):
        return [existing(n) for n in absolute(module, is_package, ast.parse(line).body[0])]

    assert of("from .base import Cell") == [("_cells", "base")]
    assert of("from . import base, rnn") == [("_cells", "base"), ("_cells", "rnn")]
    assert of("from ..initializers import zeros") == [("initializers",)]
    assert of("from .. import initializers") == [("initializers",)]
    assert of("import lstm_jax._unroll") == [("_unroll",)]
    assert of("from lstm_jax import unroll") == [()]
    assert of("from lstm_jax._recurrence.select import Which") == [("_recurrence", "select")]
    assert of("from ._unroll import unroll", True, ()) == [("_unroll",)]
    assert of("import jax") == of("from jax import lax") == []


def test_nothing_optional_comes_with_the_library():
    """In a process of its own: this one has imported pytest and more."""
    code = "import sys, lstm_jax; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    modules = run.stdout.split()
    assert not OPTIONAL & {name.split(".")[0] for name in modules}
    assert "jax.experimental.pallas" not in modules  # It takes longer than all of the library.


def test_what_is_required_is_what_the_core_imports():
    """A library that serves an extra, a test or a rival's trees alone is no requirement."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[^\w-]", name)[0] for name in project["dependencies"]} == REQUIRED


def test_outside_the_library_only_what_is_declared():
    """Top-level imports of other packages, per floor: the core needs what is required."""
    allowed = REQUIRED | set(sys.stdlib_module_names)
    for module, path in MODULES.items():
        if module and FLOOR[module[0]] > 5:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed, ids(module)
