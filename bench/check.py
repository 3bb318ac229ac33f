"""Check of every answer against a reference, before its contender is timed.

The reference is lstm_jax's "scan" in float32 or better at the highest matmul precision. The error
of an array is |seen - wanted| / |wanted| in the Euclidean norm; that of an answer is the largest.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from . import compiled, ours
from .contender import Answer
from .problem import Problem

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.3}
ON_DEVICE = {"float64": 1e-9, "float32": 0.03, "bfloat16": 0.3}
"""Tolerances on accelerators, where float32 matmuls have the precision of TF32."""


def tolerance(dtype: str) -> float:
    """The largest error that counts as rounding and not as a wrong formula."""
    return (TOLERANCES if jax.default_backend() == "cpu" else ON_DEVICE)[dtype]


def reference(problem: Problem, mode: str) -> Answer:
    """Compute the reference answer."""
    better = np.float64 if problem.case.dtype == "float64" else np.float32
    numbers = {name: getattr(problem, name) for name in ("params", "d_params", "xs", "d_xs")}
    raised = {name: _cast(tree, better) for name, tree in numbers.items()}
    problem = dataclasses.replace(problem, **raised, _kept={})
    with jax.default_matmul_precision("highest"):
        program = compiled.program(ours.model(problem, "scan"), problem, mode)
        return program.answer(program.call())


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def error(seen: Answer, wanted: Answer) -> tuple[str, float]:
    """Find (the array with the largest error, its error); infinite for a missing array or shape.

    The gradient of b_hn may be missing, as flax.nnx has no such bias.
    """
    a, b = _by_path(seen), _by_path(wanted)
    errors = {path: _distance(a.get(path), want) for path, want in b.items()
              if path in a or "b_hn" not in path}  # fmt: skip
    worst = max(errors, key=lambda path: errors[path])
    return worst, errors[worst]


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def _distance(a: np.ndarray | None, b: np.ndarray) -> float:
    if a is None or a.shape != b.shape:
        return float("inf")
    distance = np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30)
    return float("inf") if np.isnan(distance) else float(distance)
