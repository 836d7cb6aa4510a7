"""Frozen dataclasses to JSON and back, strictly.

A dataclass becomes an object with its class name under "type" first, then its fields, defaults included:
a file that was written once means the same after a default has changed. Reading wants exactly the
fields of the class: an unknown, a missing or a mistyped field is an error that names its path.

What an earlier version wrote is read by the class that it became. A class that was renamed lists its earlier names:
`former_names: ClassVar[tuple[str, ...]] = ("Sampled",)`. A class whose fields have changed has a classmethod
`upgraded(data: dict[str, Any]) -> dict[str, Any]`, from the fields of any earlier version to those of today; a new
field gets the value that gives the earlier behaviour."""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be: one line with expected, got and what to do."""


def to_json(value: Any, path: str = "config") -> Any:
    """Plain JSON data (dict, list, str, int, float, bool, None) of a config value.

    Raises ConfigError with the path of the first field that JSON cannot hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: to_json(getattr(value, f.name), f"{path}.{f.name}")
            for f in dataclasses.fields(value)
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [to_json(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value}")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigError(f"{path}: expected dataclasses, tuples, text and numbers, got {value!r}")


def dumps(value: Any) -> str:
    """The text of a config file: indented, one field a line, in the order of the class."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n"


def hash_of(value: Any) -> str:
    """12 hexadecimal digits that change when any field does."""
    text = json.dumps(to_json(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_json(expected: Any, data: Any, path: str = "config") -> Any:
    """The value of type `expected` that `to_json` wrote.

    Raises ConfigError with the path of the first field that does not fit."""
    origin = typing.get_origin(expected)
    if origin in (Union, types.UnionType):
        return _from_union(typing.get_args(expected), data, path)
    if origin is Literal:
        if data not in typing.get_args(expected):
            choices = ", ".join(repr(choice) for choice in typing.get_args(expected))
            raise ConfigError(f"{path}: expected one of {choices}, got {data!r}")
        return data
    if origin is tuple:
        return _from_tuple(typing.get_args(expected), data, path)
    if dataclasses.is_dataclass(expected):
        return _from_object(typing.cast(type, expected), data, path)
    if expected is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if expected is type(None) or expected is None:
        if data is not None:
            raise ConfigError(f"{path}: expected null, got {data!r}")
        return None
    if expected in (str, bool, int, float):
        if type(data) is not expected:
            raise ConfigError(f"{path}: expected {expected.__name__}, got {data!r}")
        return data
    raise ConfigError(f"{path}: fields of type {expected} cannot be read from JSON")


def names_of(cls: type) -> tuple[str, ...]:
    """The names under which a class is read: today's first, then those of earlier versions."""
    return (cls.__name__, *getattr(cls, "former_names", ()))


def _from_union(members: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in members:
        return None
    classes = [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]
    by_name = {name: cls for cls in classes for name in names_of(cls)}
    if isinstance(data, dict):
        name = data.get("type")
        if name not in by_name:
            choices = " or ".join(cls.__name__ for cls in classes)
            raise ConfigError(f"{path}: expected type {choices}, got {name!r}")
        return from_json(by_name[name], data, path)
    others = [m for m in members if m is not type(None) and not dataclasses.is_dataclass(m)]
    failures = []
    for member in others:
        try:
            return from_json(member, data, path)
        except ConfigError as error:
            failures.append(str(error))
    raise ConfigError(failures[0] if failures else f"{path}: expected an object, got {data!r}")


def _from_tuple(members: tuple[Any, ...], data: Any, path: str) -> Any:
    if not isinstance(data, list | tuple):
        raise ConfigError(f"{path}: expected a list, got {data!r}")
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(from_json(members[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if len(members) != len(data):
        raise ConfigError(f"{path}: expected {len(members)} values, got {len(data)}")
    pairs = zip(members, data, strict=True)
    return tuple(from_json(m, item, f"{path}[{i}]") for i, (m, item) in enumerate(pairs))


def _from_object(cls: type, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a {cls.__name__} object, got {data!r}")
    given = dict(data)
    name = given.pop("type", None)
    if name not in names_of(cls):
        raise ConfigError(f"{path}: expected type {cls.__name__!r}, got {name!r}")
    if hasattr(cls, "upgraded"):
        given = cls.upgraded(given)
    hints = field_types(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key in given:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            advice = f"perhaps you meant {close[0]!r}" if close else f"fields: {', '.join(names)}"
            raise ConfigError(f"{path}: {cls.__name__} has no field {key!r}; {advice}")
    missing = [name for name in names if name not in given]
    if missing:
        raise ConfigError(f"{path}: {cls.__name__} lacks {', '.join(missing)}")
    return cls(**{name: from_json(hints[name], given[name], f"{path}.{name}") for name in names})


def check(value: T, path: str = "config") -> T:
    """The value itself, after its fields' types were checked; for configs written in Python."""
    return from_json(type(value), to_json(value, path), path)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One line "field: old -> new" for each leaf in which two `to_json` trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{path}.{key}" if path else key
            yield from differences(old.get(key), new.get(key), inner)
    elif old != new:
        yield f"{path}: {json.dumps(old)} -> {json.dumps(new)}"
