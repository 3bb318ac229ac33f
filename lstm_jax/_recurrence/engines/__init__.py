"""The table of implementations of `unroll`, by name.

There are two kinds. A `Walk` runs a whole sequence in its own way. An `Engine` computes the
recurrence primitive and its derivatives; the code around the primitive is the same for all engines
(`factored.py`). Each implementation is a file or folder here, which imports none of the others.
"""

from . import associative, cuda, fused, native, newton, pallas_tpu, scan
from .kinds import Engine as Engine
from .kinds import Walk as Walk

IMPLEMENTATIONS: dict[str, Engine | Walk] = {
    "associative": associative.WALK,
    "native": native.ENGINE,
    "pallas_tpu": pallas_tpu.ENGINE,
    "cuda": cuda.ENGINE,
    "fused": fused.ENGINE,
    "scan": scan.WALK,
    "newton": newton.WALK,
}
"""Implementations by name, fastest first: `implementation=None` tries them in this order."""


def engine_of(name: str) -> Engine:
    """Return the engine of this name, which a bound primitive carries."""
    engine = IMPLEMENTATIONS[name]
    assert isinstance(engine, Engine), f"{name} does not run the primitive"
    return engine
