"""Equality of static jit arguments: two values are equal only if they compute the same.

For a static argument jit reuses the program compiled for an equal one. Python's equality is too
wide for that: 1, 1.0 and True are equal, as are 0.0 and -0.0; a dataclass compares only declared
fields, and a subclass that is not decorated inherits the comparison of its base. It is also too
narrow: two `functools.partial`s of the same function and arguments differ.
"""

import dataclasses
import functools
import types
from typing import Any, NoReturn, Self

import numpy as np

from ._arguments import check_taken
from ._checks import fail


class Static:
    """Base class of cells, nets, initializers, tasks: frozen, hashable, compared by all attributes.

    Two are equal if they have the same class and the same attributes, declared fields or not.
    Numbers are the same if type and bits are, functions if they are one object, partials if
    function and arguments are the same.

    Class attributes that a subclass may set:
        init_only: names of the fields that only `init` reads, such as initializers. `unroll` and
            `step` are compiled without them, and raise if something reads one.
    """

    init_only: tuple[str, ...] = ()

    def __new__(cls, *given: Any, **options: Any) -> Self:
        """Raise in words for an argument that the class does not take."""
        check_taken(cls, given, options)
        return super().__new__(cls)

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        for name in ("__eq__", "__hash__"):
            if name not in vars(cls):  # Otherwise `dataclass` would compare declared fields only.
                setattr(cls, name, vars(Static)[name])

    def __eq__(self, other: Any) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        try:
            return _contents(self) == _contents(other)
        except ValueError:  # An attribute does not hash: compare by identity.
            return False

    def __hash__(self) -> int:
        return hash(_contents(self))

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        kind = type(self).__name__
        remedy = f"declare {name} in {kind}, under @dataclasses.dataclass(frozen=True)"
        frozen = dataclasses.FrozenInstanceError  # As a frozen dataclass does.
        raise fail(f"{kind}.{name}", "an assignment", "a field of the dataclass", remedy, frozen)


def same(value: Any) -> Any:
    """A hashable key, equal for two values only if they compute the same.

    Raises:
        TypeError: the value does not hash.
        ValueError: an attribute of a `Static` inside it does not hash.
    """
    kind = type(value)
    if kind in _BY_VALUE:
        return kind, value
    if isinstance(value, float):
        return kind, value.hex()  # Distinguishes -0.0 from 0.0, and equates NaN with NaN.
    if isinstance(value, complex):
        return kind, value.real.hex(), value.imag.hex()
    if isinstance(value, np.generic):
        return kind, value.dtype, value.tobytes()
    if isinstance(value, tuple):
        return kind, *map(same, value)
    if isinstance(value, frozenset):
        return kind, frozenset(map(same, value))
    if isinstance(value, functools.partial):
        return kind, same(value.func), same(value.args), same(tuple(sorted(value.keywords.items())))
    if isinstance(value, Static) and kind.__eq__ is Static.__eq__:
        return kind, _contents(value)
    hash(value)
    if hasattr(kind, "__dataclass_fields__"):
        owner: Any = value
        fields = [getattr(owner, field.name) for field in dataclasses.fields(owner)]
        return kind, value, *map(same, fields)
    return kind, value


def compiled_for(value: Any) -> Any:
    """The cell or net for which `unroll` and `step` are compiled: one object for all equal ones.

    It lacks the fields that only `init` reads. The key includes the attributes of a user's classes,
    which may have been reassigned since the last call.
    """
    if type(value) is tuple:
        return tuple([compiled_for(each) for each in value])
    if not isinstance(value, Static) or _COMPILED in vars(value):
        return value
    key = _compiled_key(value)
    found = _KNOWN.get(key)
    return _KNOWN.setdefault(key, _compiled(value, key)) if found is None else found


def drawable(value: Any, initializer: Any) -> Any:
    """Put `initializer` in place of the initializers that `compiled_for` left out."""
    if type(value) is tuple:
        return tuple([drawable(each, initializer) for each in value])
    if type(value) is Unread:
        return initializer
    if not isinstance(value, Static):
        return value
    held = {name: drawable(each, initializer) for name, each in _attributes(value).items()}
    held.pop(_COMPILED, None)
    return _holding(type(value), held)


_COMPILED = "_compiled_key"
_KNOWN: dict[Any, Any] = {}


def _compiled(value: Static, key: Any) -> Any:
    if len(_KNOWN) >= 4096:
        _KNOWN.clear()
    held = {
        name: Unread(name) if name in type(value).init_only else compiled_for(each)
        for name, each in _attributes(value).items()
    }
    return _holding(type(value), held | {_COMPILED: _Hashed(key)})


def _holding(kind: type, held: dict[str, Any]) -> Any:
    new = object.__new__(kind)
    for name, each in held.items():
        object.__setattr__(new, name, each)
    return new


def _compiled_key(value: Any) -> Any:
    """Key of a value for `compiled_for`, like `same`."""
    kind = type(value)
    if kind in _BY_VALUE:
        return kind, value
    if kind is tuple:
        return tuple([_compiled_key(each) for each in value])
    if not isinstance(value, Static):
        return same(value)
    held, unread = _attributes(value).items(), kind.init_only
    try:
        key = [(name, None if name in unread else _compiled_key(each)) for name, each in held]
    except TypeError:
        _refuse_unhashable(value)
    return kind, tuple(key), _class_constants(kind)


class _Hashed:
    """A key with a stored hash."""

    def __init__(self, key: Any):
        self.key, self.hash = key, hash(key)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Hashed and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


class Unread:
    """Placeholder for a field that only `init` reads, in a compiled cell; any use raises."""

    def __init__(self, name: str):
        object.__setattr__(self, "name", name)

    def __getattribute__(self, name: str) -> NoReturn:
        field = object.__getattribute__(self, "name")
        remedy = "use another field in a step, or remove this one from `init_only`"
        raise fail(field, "a read of it in a step", "reads in `init` only", remedy)

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        self.__getattribute__("__call__")

    def __bool__(self) -> NoReturn:
        self.__getattribute__("__bool__")

    def __eq__(self, other: object) -> bool:
        if type(other) is not Unread:
            self.__getattribute__("__eq__")
        return True  # Comparisons always include the field's name.

    def __hash__(self) -> int:
        return hash(Unread)

    def __repr__(self) -> str:
        return "<unread>"


_BY_VALUE = {int, bool, str, bytes, type(None), Unread}


def _contents(value: Static) -> Any:
    """Key of all attributes of a `Static`."""
    held = _attributes(value)
    try:
        return held.get(_COMPILED) or tuple([(name, same(each)) for name, each in held.items()])
    except TypeError:
        _refuse_unhashable(value)


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes of an instance, in its `__dict__` and slots, without cached properties."""
    slots, computed = _layout(type(value))
    if not slots and not computed:
        return vars(value)
    held = vars(value) | {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {name: each for name, each in held.items() if name not in computed}


@functools.lru_cache(maxsize=1024)
def _layout(kind: type) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the slots and of the cached properties of a class."""
    members = [item for base in kind.__mro__ for item in vars(base).items()]
    slots = [name for name, x in members if isinstance(x, types.MemberDescriptorType)]
    computed = [name for name, x in members if isinstance(x, functools.cached_property)]
    return tuple(slots), frozenset(computed)


def _class_constants(kind: type) -> tuple[Any, ...]:
    """Key of the current methods and constants of a user's classes."""
    return tuple(
        [
            (name, _same_or_identity(value))
            for base in _classes_of_users(kind)
            for name, value in vars(base).items()
            if not name.startswith("__") and name != "_abc_impl"
        ]
    )


@functools.lru_cache(maxsize=1024)
def _classes_of_users(kind: type) -> tuple[type, ...]:
    home = __name__.partition(".")[0]
    bases = kind.__mro__[:-1]  # All but `object`.
    return tuple(base for base in bases if base.__module__.partition(".")[0] not in (home, "abc"))


def _same_or_identity(value: Any) -> Any:
    """Key of a value; if it does not hash, of its identity."""
    try:
        return same(value)
    except (TypeError, ValueError):
        return _Identity(value)


class _Identity:
    """An object compared by identity, and kept alive so that its id is not reused."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is _Identity and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _refuse_unhashable(value: Static) -> NoReturn:
    """Raise an error that names the attribute that does not hash."""
    for name, each in _attributes(value).items():
        try:
            same(each)
        except TypeError:
            seen, wanted = f"a {type(each).__name__}", "a value that hashes: a number, a tuple, ..."
            remedy = "pass a tuple for a list; an array is a parameter, so return it from `init`"
            raise fail(f"{type(value).__name__}.{name}", seen, wanted, remedy) from None
    raise AssertionError("everything hashes")
