"""The best parameters so far, and the end of a training that improves no more."""

import math
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .._checks import check_bool, check_positive_int, check_range, fail, shown

__all__ = ["Best", "Improved"]
__dir__ = __all__.copy


class Improved(NamedTuple):
    """What a checkpoint of `fit` holds of a `Best`.

    Attributes:
        params: the best parameters so far; those that training began with before the first value.
        value: float64 [], their metric; Inf, or -Inf if higher is better, before the first one.
        step: int64 [], the number of updates that made them.
        waited: int64 [], values since then, none of which was better.
        rule: what is best, such as "lowest loss".
    """

    params: Any
    value: np.ndarray
    step: np.ndarray
    waited: np.ndarray
    rule: str


jax.export.register_namedtuple_serialization(Improved, serialized_name="lstm_jax.Improved")


class Best:
    """The best parameters of a call of `fit`, and early stopping.

        best = Best("eval_loss", patience=5)
        state, history = fit(run, state, key, 100_000, evaluate=evaluate, best=best)
        best.params, best.value, best.step

    Args:
        metric: the entry of fit's record to go by, a number: "loss", the mean of a chunk, or
            "eval_" + a name that `evaluate` gives. Records without it do not count.
        patience: stop after so many values in a row that are not better; None: never. NaN is not
            better than anything.
        higher: a higher value is better, as of an accuracy; otherwise a lower one.
        min_delta: a value is better if it is so by more than this.

    Attributes:
        params: the best parameters, copied; None before `fit`.
        value: their metric, a float.
        step: the number of updates that made them.

    Raises:
        ValueError: patience below 1, min_delta below 0; within `fit`, an evaluation without the
            metric, or one that is not a number.
    """

    def __init__(
        self,
        metric: str,
        *,
        patience: int | None = None,
        higher: bool = False,
        min_delta: float = 0.0,
    ):
        if not isinstance(metric, str):
            raise fail("metric", shown(metric), "the name of an entry", 'pass for example "loss"')
        if patience is not None:
            check_positive_int("patience", patience)
        check_bool("higher", higher)
        check_range("min_delta", min_delta, 0.0)
        self.metric, self.patience = metric, patience
        self._sign, self._min_delta = (-1.0 if higher else 1.0), min_delta
        self._rule = f"{'highest' if higher else 'lowest'} {metric}"
        self.kept = self._improved(None, self._sign * math.inf, 0)

    params = property(lambda self: self.kept.params)
    value = property(lambda self: float(self.kept.value))
    step = property(lambda self: int(self.kept.step))

    def begun(self, params: Any) -> Improved:
        """What is kept before the first value."""
        return self._improved(params, self._sign * math.inf, 0)

    def see(self, record: dict[str, Any], params: Any, step: int) -> bool:
        """Take the metric of a record; return True if it is time to stop."""
        if self.metric not in record:
            remedy = "name one of these, or let evaluate give it"
            raise fail("best", f"no {self.metric!r} among {sorted(record)}", "it", remedy)
        value = record[self.metric]
        if not isinstance(value, (int, float)):
            remedy = "go by another entry, or evaluate to one number"
            raise fail("best", f"{self.metric!r}, {shown(value)}", "a number", remedy)
        if self._sign * (self.kept.value - value) > self._min_delta:
            self.kept = self._improved(params, value, step)
        else:
            self.kept = self.kept._replace(waited=self.kept.waited + 1)
        return self.patience is not None and bool(self.kept.waited >= self.patience)

    def _improved(self, params: Any, value: float, step: int) -> Improved:
        # A copy, since a loop may be allowed to use up the state that it is given.
        params = jax.tree.map(jnp.copy, params)
        numbers = np.asarray(float(value)), np.asarray(step), np.asarray(0)
        return Improved(params, *numbers, self._rule)
