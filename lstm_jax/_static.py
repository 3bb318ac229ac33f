"""Values that are static under jit: equal only where they compute the same.

For an argument that is static, jit runs what it compiled for an equal one. Python's equality is too
wide for that: 1, 1.0 and True are equal, 0.0 and -0.0 too; a dataclass compares the fields that it
declares, and inherits the comparison of its base where it is not decorated. And it is too narrow:
two `functools.partial`s of the same function and arguments differ.
"""

import dataclasses
import functools
import types
from typing import Any, NoReturn

import numpy as np

from ._checks import fail


class Static:
    """Base of cells, nets, initializers and tasks: frozen, hashable, equal by all that they hold.

    Two are equal where they are of one class and every attribute is the same, whether or not it is
    a declared field. Numbers are the same if their types and bits are, functions if they are one
    object, partials if what they call and its arguments are the same.

    Class attributes that a subclass may set:
        init_only: names of the fields that `init` alone reads, such as initializers. `unroll` and
            `step` are compiled without them, and raise where something does read one.
    """

    init_only: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        for name in ("__eq__", "__hash__"):
            if name not in vars(cls):  # Or `dataclass` would write one of the declared fields.
                setattr(cls, name, vars(Static)[name])

    def __eq__(self, other: Any) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        try:
            return _contents(self) == _contents(other)
        except ValueError:  # Something does not hash; two of such are equal if they are one.
            return False

    def __hash__(self) -> int:
        return hash(_contents(self))

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        kind = type(self).__name__
        remedy = f"declare {name} in {kind}, under @dataclasses.dataclass(frozen=True)"
        frozen = dataclasses.FrozenInstanceError  # What a frozen dataclass raises too.
        raise fail(f"{kind}.{name}", "an assignment", "a field of the dataclass", remedy, frozen)


def same(value: Any) -> Any:
    """A key that is equal for two values only where they compute the same.

    Raises:
        TypeError: the value does not hash.
        ValueError: nor does what a `Static` in it holds.
    """
    kind = type(value)
    if kind in _BY_VALUE:
        return kind, value
    if isinstance(value, float):
        return kind, value.hex()  # Tells -0.0 from 0.0; NaN is NaN.
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
    """A cell or net as `unroll` and `step` are compiled for it: one object for all that are alike.

    Without what `init` alone reads; with what a user's class holds, which may have been set since.
    """
    if type(value) is tuple:
        return tuple([compiled_for(each) for each in value])
    if not isinstance(value, Static) or _COMPILED in vars(value):
        return value
    key = _compiled_key(value)
    found = _KNOWN.get(key)
    return _KNOWN.setdefault(key, _compiled(value, key)) if found is None else found


def drawable(value: Any, initializer: Any) -> Any:
    """What `compiled_for` made of a cell or net, with `initializer` where one was."""
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
    """As `same`, of what is compiled."""
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
    """A key that knows its hash."""

    def __init__(self, key: Any):
        self.key, self.hash = key, hash(key)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Hashed and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


class Unread:
    """What a compiled cell has for a field that `init` alone reads: reading it is an error."""

    def __init__(self, name: str):
        object.__setattr__(self, "name", name)

    def __getattribute__(self, name: str) -> NoReturn:
        field = object.__getattribute__(self, "name")
        remedy = "keep what a step needs in a field of its own, or leave it out of `init_only`"
        raise fail(field, "it read by a step", "`init` alone to read it", remedy)

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        self.__getattribute__("__call__")

    def __bool__(self) -> NoReturn:
        self.__getattribute__("__bool__")

    def __eq__(self, other: object) -> bool:
        if type(other) is not Unread:
            self.__getattribute__("__eq__")
        return True  # The name stands beside it wherever two are compared.

    def __hash__(self) -> int:
        return hash(Unread)

    def __repr__(self) -> str:
        return "<unread>"


_BY_VALUE = {int, bool, str, bytes, type(None), Unread}


def _contents(value: Static) -> Any:
    """All that it holds, as a key."""
    held = _attributes(value)
    try:
        return held.get(_COMPILED) or tuple([(name, same(each)) for name, each in held.items()])
    except TypeError:
        _refuse_unhashable(value)


def _attributes(value: Any) -> dict[str, Any]:
    """What an instance holds, in its `__dict__` and in slots, but what it can compute again."""
    slots, computed = _layout(type(value))
    if not slots and not computed:
        return vars(value)
    held = vars(value) | {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {name: each for name, each in held.items() if name not in computed}


@functools.lru_cache(maxsize=1024)
def _layout(kind: type) -> tuple[tuple[str, ...], frozenset[str]]:
    """(names of the slots, names of cached properties)."""
    members = [item for base in kind.__mro__ for item in vars(base).items()]
    slots = [name for name, x in members if isinstance(x, types.MemberDescriptorType)]
    computed = [name for name, x in members if isinstance(x, functools.cached_property)]
    return tuple(slots), frozenset(computed)


def _class_constants(kind: type) -> tuple[Any, ...]:
    """What the classes of a user hold now, methods and constants, as a key."""
    return tuple(
        [
            (name, _same_or_one(value))
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


def _same_or_one(value: Any) -> Any:
    """Its key, or where it does not hash one of the object itself."""
    try:
        return same(value)
    except (TypeError, ValueError):
        return _One(value)


class _One:
    """An object, equal to itself alone. It is kept, so that no other comes to its address."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is _One and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _refuse_unhashable(value: Static) -> NoReturn:
    """Raise for the attribute that does not hash."""
    for name, each in _attributes(value).items():
        try:
            same(each)
        except TypeError:
            seen, wanted = f"a {type(each).__name__}", "a value that hashes: a number, a tuple, ..."
            remedy = "pass a tuple for a list; an array is a parameter, so return it from `init`"
            raise fail(f"{type(value).__name__}.{name}", seen, wanted, remedy) from None
    raise AssertionError("everything hashes")
