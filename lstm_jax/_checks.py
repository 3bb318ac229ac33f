"""Errors for callers: each names the argument, what was seen, what was wanted, the remedy."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def fail(argument: str, seen: Any, wanted: str, remedy: str) -> ValueError:
    """The one wording of a caller's error (raise what this returns)."""
    return ValueError(f"{argument}: got {seen}, wanted {wanted}; {remedy}")


def as_array(argument: str, value: Any) -> Any:
    """`value` if it is an array, else nested lists of numbers as a NumPy one."""
    if hasattr(value, "dtype"):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # Ragged.
        array = np.asarray(None)
    if array.dtype.kind not in "biufc":
        remedy = f"pass jnp.asarray({argument})"
        raise fail(argument, f"a {type(value).__name__}", "an array of numbers", remedy)
    return array


def check_shape(argument: str, array: Any, wanted: tuple[int, ...], letters: str, remedy: str):
    """Raise unless `array` has shape `wanted`; `letters` spells it, such as "[T, B, D]"."""
    if tuple(np.shape(array)) != tuple(wanted):
        raise fail(argument, f"shape {tuple(np.shape(array))}", f"{letters} = {wanted}", remedy)


def check_positive_int(argument: str, value: Any, least: int = 1) -> None:
    """Raise unless `value` is an integer of at least one, or as `least` says."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        wanted, remedy = f"an integer of at least {least}", f"pass {argument}={least} or more"
        raise fail(argument, repr(value), wanted, remedy)


def check_range(argument: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise unless `value` is a finite Python number in [low, high]: an array does not hash."""
    if isinstance(value, numbers.Real) and low <= float(value) <= high and value != math.inf:
        return
    wanted = f"a Python number in [{low}, {high}]"
    raise fail(argument, repr(value), wanted, "convert an array with float()")


def check_floating(argument: str, array: Any) -> None:
    """Raise unless `array` holds real floating-point numbers."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise fail(
            argument, f"dtype {dtype}", "a floating-point dtype", f"pass {argument}.astype(float32)"
        )


def check_integers(argument: str, array: Any) -> None:
    """Raise unless `array` holds integers."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise fail(argument, f"dtype {dtype}", "an integer dtype", f"pass {argument}.astype(int32)")


def check_rate(argument: str, value: Any) -> None:
    """Raise unless `value` is a probability below one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise fail(argument, repr(value), "a number in [0, 1)", "it is a probability")


def check_choice(argument: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise fail(argument, repr(value), f"one of {names}", "pick one of these")


def concrete(array: Any) -> np.ndarray | None:
    """The values of `array` when they are known now, None under a transformation."""
    return None if isinstance(array, Tracer) else np.asarray(array)


def check_flags(argument: str, value: Any, shape: tuple[int, ...], letters: str) -> Any:
    """`value` as an array; raise unless it is boolean of `shape`. None stays None."""
    if value is None:
        return None
    value = as_array(argument, value)
    check_shape(argument, value, shape, letters, "pass one flag a step and sequence")
    if value.dtype != np.dtype(bool):
        seen = f"dtype {value.dtype}"
        raise fail(argument, seen, "dtype bool", f"pass {argument}.astype(bool)")
    return value
