"""Configurations and seeds of a sweep: what is a traced number, what is static, what is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._checks import fail, is_floating, is_number, shown
from .._static import same
from .._typing import Key

__all__ = [
    "OUTSIDE",
    "Config",
    "by_static",
    "check_configs",
    "check_seeds",
    "in_json",
    "keys_of",
    "numbers_of",
]
__dir__ = __all__.copy

Config = dict[str, Any]
"""A configuration by name: a float is a traced number, any other value is static."""

OUTSIDE = "call sweep outside of jit, vmap and grad: it compiles itself"
_REMEDY = "pass for example [{'rate': 0.1}, {'rate': 0.3}]"


def check_configs(configs: Any) -> list[Config]:
    """Convert to a list of dicts with the same names, every floating-point number a float."""
    listed = isinstance(configs, Sequence) and not isinstance(configs, str)
    given: list[Any] = list(configs) if listed else []
    if not given or not all(isinstance(each, Mapping) for each in given):
        raise fail("configs", shown(configs), "a list of dicts, at least one", _REMEDY)
    for c, config in enumerate(given):
        for name in sorted(config.keys() ^ given[0].keys(), key=str):
            seen = f"no {name!r}" if name in given[0] else repr(name)
            remedy = "pass None where it has no value"
            raise fail(f"configs[{c}]", seen, "the names of configs[0]", remedy)
    return [
        {_name(c, name): _value(f"configs[{c}][{name!r}]", value) for name, value in each.items()}
        for c, each in enumerate(given)
    ]


def _name(c: int, name: Any) -> str:
    if not isinstance(name, str):
        raise fail(f"configs[{c}]", f"the name {name!r}", "strings as names", _REMEDY)
    return name


def _value(argument: str, value: Any) -> Any:
    """A float, or a static value, which hashes."""
    if isinstance(value, Tracer):
        raise fail(argument, "a traced value", "a number", OUTSIDE)
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        if value.shape or not is_number(value.dtype):
            remedy = "give each number a name of its own"
            raise fail(argument, shown(value), "a number, not an array", remedy)
        value = float(value) if is_floating(value.dtype) else value.item()
    if isinstance(value, float):
        if value != value:
            raise fail(argument, "NaN", "a number", "pass math.inf for no limit, None for none")
        return float(value)
    try:
        same(value)
    except (TypeError, ValueError):
        remedy = "pass a string, and choose by it in the function that uses it"
        raise fail(argument, shown(value), "a number, or a value that hashes", remedy) from None
    return value


def check_seeds(seeds: Any) -> list[int]:
    """Convert to a list of different integers."""
    remedy = "pass for example range(5)"
    listed = isinstance(seeds, Iterable) and not isinstance(seeds, (str, Mapping))
    seeds = np.asarray(seeds) if isinstance(seeds, jax.Array) else seeds
    drawn: list[Any] = list(seeds) if listed else []
    for seed in drawn:
        integer = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
        if not integer or not 0 <= seed < 2**32:
            raise fail("seeds", shown(seed), "integers in [0, 2**32)", remedy)
    if not drawn or len(set(drawn)) < len(drawn):
        seen = shown(drawn if drawn else seeds)
        raise fail("seeds", seen, "different integers, at least one", remedy)
    return [int(seed) for seed in drawn]


def keys_of(seeds: Sequence[int]) -> Key:
    """The random keys of each seed, [S, 3]: for `init`, for the batches, for `probe`.

    Raises:
        ValueError: they are traced.
    """
    keys = [jax.random.split(jax.random.key(seed, impl="threefry2x32"), 3) for seed in seeds]
    stacked = jnp.stack(keys)
    if isinstance(stacked, Tracer):
        raise fail("sweep", "a call within a function that is traced", "a call of its own", OUTSIDE)
    return stacked


def numbers_of(config: Config) -> dict[str, float]:
    """The traced numbers of a configuration."""
    return {name: value for name, value in config.items() if type(value) is float}


def by_static(configs: Sequence[Config]) -> list[tuple[tuple[tuple[str, Any], ...], list[int]]]:
    """The places of the configurations with equal static entries: [(static entries, places)]."""
    found: dict[Any, Any] = {}
    for c, config in enumerate(configs):
        numbers = numbers_of(config)
        static = tuple((name, config[name]) for name in sorted(config) if name not in numbers)
        found.setdefault((tuple(sorted(numbers)), same(static)), (static, []))[1].append(c)
    return list(found.values())


def in_json(configs: Sequence[Config]) -> list[Config]:
    """The configurations in types of JSON, the same in every process.

    Raises:
        ValueError: a static value whose text holds its address.
    """
    return [
        {name: _in_json(f"configs[{c}][{name!r}]", value) for name, value in sorted(config.items())}
        for c, config in enumerate(configs)
    ]


def _in_json(argument: str, value: Any) -> Any:
    if value is None or type(value) in (str, bool, int, float):
        return value
    text = repr(value)
    if " at 0x" in text:
        wanted = "with a path, a value that is known by its text"
        remedy = "pass a string, and choose by it in the function that uses it"
        raise fail(argument, shown(value), wanted, remedy)
    return [type(value).__qualname__, text]
