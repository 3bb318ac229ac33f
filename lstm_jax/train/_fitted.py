"""What `fit` writes to a checkpoint, and how it goes on from one."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .._checks import counted, fail
from .._typing import Key
from .best import Improved
from .checkpoints import Checkpoints
from .loop import Info, TrainState

__all__ = ["Fitted", "continued", "count"]
__dir__ = __all__.copy


class Fitted(NamedTuple):
    """What `fit` writes to a checkpoint.

    Attributes:
        state: the training state.
        key: the random key of the run.
        history: the info of all updates so far, in NumPy arrays; {} before the first.
        best: what `Best` keeps; None without one.
        stopped: `best`, a callback or a guarded optimiser has ended the run.
        run: what the `get_state` of the run gave, such as how far a `Feed` has come; None without.
    """

    state: TrainState
    key: Key
    history: Info
    best: Improved | None
    stopped: bool
    run: Any


jax.export.register_namedtuple_serialization(Fitted, serialized_name="lstm_jax.Fitted")


def count(history: Info) -> int:
    """The number of updates in a history."""
    return len(history["loss"]) if history else 0


def continued(checkpoints: Checkpoints, now: Fitted, steps: int) -> Fitted:
    """Read the newest checkpoint, or write the first, so that what cannot be written fails early.

    Raises:
        ValueError: the checkpoints are not of a call of `fit` with this state, key and steps.
    """
    begin = int(np.max(now.state.step))
    if not checkpoints.steps:
        checkpoints.save(begin, now)
        checkpoints.wait()
        return now
    step, found = checkpoints.restore(now._replace(history=..., run=...))
    done = count(found.history)
    if step - done != begin:
        raise _other(checkpoints, f"that begin at update {step - done}", f"that begin at {begin}")
    if _bits(found.key) != _bits(now.key):
        raise _other(checkpoints, "of another random key", "of the key given")
    ours, theirs = (fitted.best and fitted.best.rule for fitted in (now, found))
    if ours != theirs:
        raise _other(checkpoints, f"with the {theirs} as the best", f"with the {ours}")
    if (found.run is None) != (now.run is None):
        kinds = ["of a run without a state of its own", "of one with one, as a Feed has"]
        raise _other(checkpoints, kinds[found.run is not None], kinds[now.run is not None])
    if done > steps:
        raise _other(checkpoints, f"of {counted(done, 'update')}", f"of at most {steps}")
    return found


def _bits(key: Key) -> bytes:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key).tobytes()


def _other(checkpoints: Checkpoints, seen: str, wanted: str) -> Exception:
    remedy = "give each call of fit a folder of its own"
    return fail("checkpoints", f"{str(checkpoints.folder)!r}, {seen}", f"those {wanted}", remedy)
