"""Checks of arguments; errors name the argument, what was seen, what was wanted, and a remedy."""

import dataclasses
import functools
import inspect
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def fail(
    argument: str, seen: Any, wanted: str, remedy: str, kind: type[Exception] = ValueError
) -> Exception:
    """Build a caller's error, to be raised, in the wording that all share.

    kind: the class of the error, such as FileNotFoundError for a missing file.
    """
    return kind(f"{argument}: got {seen}, wanted {wanted}; {remedy}")


def missing(module: str, error: ImportError, extra: str) -> ImportError:
    """Build the error of a module that cannot be imported, which names the extra that brings it."""
    package = module.split(".")[0]
    return ImportError(f"{package}: {error}; it comes with: pip install 'lstm-jax[{extra}]'")


def counted(n: int, noun: str) -> str:
    """A number and its noun: 1 cell, 2 cells."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def shown(value: Any) -> str:
    """Describe `value` for an error: its repr if short, an array by dtype and shape."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of dtype {value.dtype} and shape {value.shape}"
    if type(value).__repr__ is object.__repr__:  # The default repr shows only an address.
        return f"a {_kind(value)}"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


_ARRAYS = (jax.Array, np.ndarray, np.generic)


def as_array(argument: str, value: Any) -> Any:
    """Return an array of JAX or NumPy as it is; convert nested lists of numbers to NumPy."""
    if not isinstance(value, _ARRAYS):
        value = unboxed(value)
    array = value if isinstance(value, _ARRAYS) else _listed(value)
    if array is None or not is_number(array.dtype):
        kind = shown(value) if isinstance(value, type) else f"a {_kind(value)}"
        kind = f"an array of dtype {value.dtype}" if array is value else kind
        remedy = f"pass jnp.asarray({argument})"
        if isinstance(value, Mapping):
            remedy = "check the order of the arguments"
        if hasattr(value, "detach"):
            remedy = f"pass jnp.asarray({argument}.detach().cpu().numpy())"
        raise fail(argument, kind, "an array of numbers", remedy)
    return array


def unboxed(params: Any) -> Any:
    """Remove Flax's boxes (nnx.Param, nn.Partitioned) from an array or nested dicts of arrays.

    They are recognised by their methods, so that Flax need not be installed.
    """
    for method in ("get_value", "unbox"):
        if hasattr(params, method):
            return getattr(params, method)()
    if isinstance(params, Mapping):
        return {name: unboxed(part) for name, part in params.items()}
    return params


@functools.lru_cache(maxsize=256)
def is_number(dtype: Any) -> bool:
    """True for dtypes of numbers and bools, not of objects, strings, dates or random keys."""
    return any(jnp.issubdtype(dtype, kind) for kind in (np.number, np.bool_))


@functools.lru_cache(maxsize=256)
def is_floating(dtype: Any) -> bool:
    """True for real floating-point dtypes."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _listed(value: Any) -> np.ndarray | None:
    """Convert nested lists to an array; None if they are ragged or another library's array."""
    if hasattr(value, "dtype"):  # Another library's array: conversion may copy it.
        return None
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return None


def _kind(value: Any) -> str:
    """Name the type of `value`, with its library unless it is a builtin."""
    kind = type(value)
    library = kind.__module__.split(".")[0]
    return kind.__name__ if library == "builtins" else f"{library} {kind.__name__}"


def check_shape(argument: str, array: Any, wanted: tuple[int, ...], letters: str, remedy: str):
    """Raise unless `array` has shape `wanted`; `letters` spells it, such as "[T, B, D]"."""
    if tuple(np.shape(array)) != tuple(wanted):
        raise fail(argument, f"shape {tuple(np.shape(array))}", f"{letters} = {wanted}", remedy)


def check_bool(argument: str, value: Any) -> None:
    """Raise unless `value` is True or False; "no" and 0 are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise fail(argument, shown(value), "True or False", f"pass {argument}=True or False")


def check_positive_int(argument: str, value: Any, least: int = 1) -> None:
    """Raise unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        wanted, remedy = f"an integer of at least {least}", f"pass {argument}={least} or more"
        raise fail(argument, shown(value), wanted, remedy)


def is_real(value: Any) -> bool:
    """True for Python's real numbers, which hash; False for arrays and bools."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def check_range(argument: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise unless `value` is a finite Python number in [low, high]; arrays do not hash."""
    if is_real(value) and low <= float(value) <= high and value != math.inf:
        return
    wanted = f"a Python number in [{low}, {high}{')' if high == math.inf else ']'}"
    raise fail(argument, shown(value), wanted, "convert an array with float()")


def check_above_zero(argument: str, value: Any) -> None:
    """Raise unless `value` is a Python number above zero, which may be infinite."""
    if not (is_real(value) and float(value) > 0):
        raise fail(argument, shown(value), "a number above 0", f"pass for example {argument}=1.0")


def check_floating(argument: str, array: Any, otherwise: str = "") -> None:
    """Raise unless `array` holds real floating-point numbers; `otherwise` adds to the remedy."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.floating):
        remedy = f"pass {argument}.astype(float32)" + otherwise
        raise fail(argument, f"dtype {dtype}", "a floating-point dtype", remedy)


def check_integers(argument: str, array: Any) -> None:
    """Raise unless `array` holds integers."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise fail(argument, f"dtype {dtype}", "an integer dtype", f"pass {argument}.astype(int32)")


def check_rate(argument: str, value: Any) -> None:
    """Raise unless `value` is a probability in [0, 1)."""
    if not is_real(value) or not 0 <= float(value) < 1:
        raise fail(argument, shown(value), "a number in [0, 1)", "it is a probability")


def check_choice(argument: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = list(choices)
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        names = ", ".join(repr(choice) for choice in choices)
        raise fail(argument, shown(value), f"one of {names}", "pick one of these")


def check_path(argument: str, path: Any, wanted: str = "the name of a file") -> None:
    """Raise unless `path` is a string or a path: to `os`, a number is an open file."""
    if not isinstance(path, (str, os.PathLike)):
        raise fail(argument, shown(path), wanted, "pass a string or a pathlib.Path")


def is_function(value: Any) -> bool:
    """True for a function, also a jitted or partial one; False for a class or a callable object."""
    named = hasattr(value, "__name__") or isinstance(value, functools.partial)
    return callable(value) and named and not isinstance(value, type)


def check_callable(
    argument: str, value: Any, wanted: str = "a function", takes: int | None = None
) -> None:
    """Raise unless `value` is a function or can be called like one; a class only makes one.

    takes: the number of arguments that it must take by place; None: any.
    """
    if not callable(value) or isinstance(value, type):
        raise fail(argument, shown(value), wanted, f"pass for example {argument}=lambda ...")
    if takes is not None and not _takes(value, takes):
        seen = f"a function that does not take {counted(takes, 'argument')}"
        raise fail(argument, seen, wanted, "give it these, whether it uses them or not")


def check_scalar(argument: str, value: Any) -> Any:
    """Convert what a function gave to an array; raise unless it is one real floating-point number.

    Args:
        argument: the name of the function.
    """
    value = as_array(argument, value)
    if value.shape != ():
        raise fail(argument, f"a function that gives {shown(value)}", "a scalar", "sum it")
    if not is_floating(value.dtype):
        seen = f"a function that gives dtype {value.dtype}"
        raise fail(argument, seen, "a real floating-point number", "convert it")
    return value


def misfits(error: TypeError) -> bool:
    """True if a TypeError of a call is of the arguments, which did not fit, not from within."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def _takes(function: Any, count: int) -> bool:
    """True if the function can be called with `count` arguments, or does not say."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # It has no signature.
        return True
    return True


def as_names(argument: str, value: Any) -> tuple[str, ...]:
    """Convert `value` to a tuple of names; raise for a single string."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not value or not all(isinstance(name, str) for name in value):
        example = f"({value!r},)" if isinstance(value, str) else "('w_hh',)"
        raise fail(argument, shown(value), "a tuple of names", f"pass for example {example}")
    return tuple(value)


def check_key(argument: str, key: Any, optional: bool = False) -> None:
    """Raise unless `key` is a single random key, typed or raw, or None if `optional`."""
    if key is None and optional:
        return
    remedy = "pass jax.random.key(0), or one of those that jax.random.split gives"
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise fail(argument, shown(key), "a random key", remedy)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != np.uint32:
        raise fail(argument, shown(key), "a random key", remedy)
    if key.ndim != (0 if typed else 1):
        remedy = f"index them, or jax.vmap over {argument}"
        raise fail(argument, f"keys of shape {key.shape}", "one random key", remedy)


def check_batch_shape(shape: Any) -> None:
    """Raise unless `shape` is a tuple or list of sizes."""
    listed = isinstance(shape, (tuple, list))
    if not listed or not all(_is_size(size) for size in shape):
        number = isinstance(shape, int) and not isinstance(shape, bool)
        remedy = f"pass ({shape},)" if number else "pass for example (32,), or () for no batch"
        raise fail("batch_shape", shown(shape), "a tuple of sizes", remedy)


def _is_size(size: Any) -> bool:
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        return bool(size >= 0)
    return jax.export.is_symbolic_dim(size)


def check_named(argument: str, value: Any, remedy: str) -> None:
    """Raise unless `value` is a dict or another mapping."""
    if not isinstance(value, Mapping):
        raise fail(argument, shown(value), "a dict of arrays", remedy)


def check_flag_fields(options: Any) -> None:
    """Raise unless every field of a dataclass that is declared bool holds True or False."""
    for field in dataclasses.fields(options):
        if field.type in (bool, "bool"):
            check_bool(field.name, getattr(options, field.name))


def concrete(array: Any) -> np.ndarray | None:
    """The values of `array` in NumPy, or None if it is traced."""
    return None if isinstance(array, Tracer) else np.asarray(array)


def check_flags(argument: str, value: Any, shape: tuple[int, ...], letters: str) -> Any:
    """Convert `value` to an array; raise unless it is bool and of `shape`. None stays None."""
    if value is None:
        return None
    value = as_array(argument, value)
    check_shape(argument, value, shape, letters, "pass one flag a step and sequence")
    if value.dtype != np.dtype(bool):
        seen = f"dtype {value.dtype}"
        raise fail(argument, seen, "dtype bool", f"pass {argument}.astype(bool)")
    return value
