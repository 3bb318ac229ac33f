"""Errors for arguments that a class or function does not take, as other libraries spell them."""

import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from ._checks import counted, fail, shown

HERE = {
    "activation_fn": "activation, or output_activation of an LSTM",
    "batch_first": "time_major=False in unroll",
    "bidirectional": "bidirectional(cell)",
    "device": "jax.device_put(params, device)",
    "dropout": "stack(..., dropout=0.1), or recurrent_dropout(cell, 0.1)",
    "features": "hidden_size",
    "gate_fn": "gate_activation",
    "go_backwards": "reverse=True in unroll",
    "hidden_features": "hidden_size",
    "hx": "carry in unroll",
    "in_features": "init(key, input_size)",
    "initial_carry": "carry in unroll",
    "initial_state": "carry in unroll",
    "input_size": "init(key, input_size)",
    "kernel_init": "w_ih_init",
    "kernel_initializer": "w_ih_init",
    "key": "init(key, input_size), or key in unroll for training",
    "merge_fn": "merge",
    "merge_mode": "merge",
    "nonlinearity": "activation",
    "num_layers": "stack(LSTM(128), LSTM(128))",
    "proj_size": "projection_size",
    "recurrent_activation": "gate_activation",
    "recurrent_dropout": "recurrent_dropout(cell, 0.1)",
    "recurrent_initializer": "w_hh_init",
    "recurrent_kernel_init": "w_hh_init",
    "return_carry": "(carry, ys), which unroll always returns",
    "return_sequences": "(carry, ys), which unroll always returns",
    "return_state": "(carry, ys), which unroll always returns",
    "rngs": "init(key, input_size), or key in unroll for training",
    "stateful": "carry in unroll: pass on what the last call returned",
    "time_major": "time_major=False in unroll",
    "training": "a key in unroll, or none",
    "units": "hidden_size",
    "use_bias": "bias",
}
"""What this library has in place of an argument of another one."""


class Parameters(NamedTuple):
    """The parameters of a class or function.

    Attributes:
        placed: names of those that may be given by place; None: any number of arguments.
        names: names of those that may be given by name, in order; None: any name.
    """

    placed: tuple[str, ...] | None
    names: dict[str, None] | None


Function = TypeVar("Function")


def explained(function: Function) -> Function:
    """Decorate a function: arguments that it does not take are errors that say what to write."""

    run: Any = function

    @functools.wraps(run)
    def called(*given: Any, **options: Any) -> Any:
        check_taken(run, given, options)
        return run(*given, **options)

    return called  # type: ignore[return-value]


def check_taken(called: Any, given: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise if `called`, a class or function, does not take such arguments.

    Raises:
        TypeError: as Python does, with a remedy.
    """
    placed, names = _parameters(called)
    if placed is not None and len(given) > len(placed):
        raise _misplaced(called, given, placed, names == {})
    if names is not None and not options.keys() <= names.keys():
        name = min(options.keys() - names.keys())
        raise _unknown(called, name, options[name], names)


@functools.lru_cache(maxsize=1024)
def _parameters(called: Any) -> Parameters:
    """The parameters of a class's `__init__`, or of a function."""
    first = isinstance(called, type)
    found = [*inspect.signature(called.__init__ if first else called).parameters.values()][first:]
    kinds = {p.kind for p in found}
    placed = tuple(p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD)
    by_name = (*placed, *(p.name for p in found if p.kind is p.KEYWORD_ONLY))
    return Parameters(
        None if inspect.Parameter.VAR_POSITIONAL in kinds else placed,
        None if inspect.Parameter.VAR_KEYWORD in kinds else dict.fromkeys(by_name),
    )


def _misplaced(
    called: Any, given: tuple[Any, ...], placed: tuple[str, ...], none: bool
) -> Exception:
    seen = f"{counted(len(given), 'argument')} by place"
    wanted = f"{', '.join(placed)} alone" if placed else "none"
    remedy = f"write {called.__name__}()" if none else "pass the others by name"
    if placed == ("hidden_size",):
        remedy += "; the input size goes to init(key, input_size)"
    return fail(called.__name__, seen, wanted, remedy, TypeError)


def _unknown(called: Any, name: str, value: Any, names: Iterable[str]) -> Exception:
    wanted, near = f"an argument of {called.__name__}", difflib.get_close_matches(name, names, 1)
    if name in HERE and (HERE[name] in names or not HERE[name].isidentifier()):
        remedy = f"here that is {HERE[name]}"
    elif near:
        remedy = f"did you mean {near[0]}?"
    else:
        remedy = f"it takes {', '.join(names) or 'none by name'}"
    return fail(name, shown(value), wanted, remedy, TypeError)
