"""The CPU's kernel called by itself, without the primitive around it."""

from typing import Any

import jax

from lstm_jax._recurrence.engines import native


def evaluate(name: str, recurrence: Any, reverse: bool, operands: Any, results: Any) -> Any:
    """The flat results of "run", "linearized" or "transposed", of the types in `results`."""
    outs = jax.tree.leaves(getattr(native.ENGINE, name)(recurrence, reverse, *operands))
    return [x.reshape(r.shape).astype(r.dtype) for x, r in zip(outs, results, strict=True)]
