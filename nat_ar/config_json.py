"""Frozen dataclasses to JSON and back, strictly.

A dataclass becomes an object with its class name under "type" first, then its fields, defaults included:
a file that was written once means the same after a default has changed. Reading wants exactly the
fields of the class: an unknown, a missing or a mistyped field is an error that names its path.

What an earlier version wrote is read by the class that it became. A class that was renamed lists its earlier names:
`former_names: ClassVar[tuple[str, ...]] = ("Sampled",)`. A class whose fields have changed has a classmethod
`upgraded(data: dict[str, Any]) -> dict[str, Any]`, from the fields of any earlier version to those of today; a new
field gets the value that gives the earlier behaviour.

An open kind of config is a frozen dataclass that derives from `Open`: `class Corpus(config_json.Open)`. A field
annotated with it (or with `Corpus | None`) holds any frozen dataclass that derives from it, wherever that is defined.
The JSON of a class from outside this package has the file (or the module) that defines it under "from", and reading
runs that file unless it was run before: a run is code, as a config file is. Read only those you trust."""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import math
import os
import sys
import traceback
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be: one line with expected, got and what to do."""


class Config:
    """Base of configs. The types of all fields are checked when one is made, before its own __post_init__ compares
    them: a mistake names its field."""

    def __post_init__(self) -> None:
        _require_types(self)

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        own = vars(cls).get("__post_init__")
        if own is None:
            return

        @functools.wraps(own)
        def checked(self: Any) -> None:
            _require_types(self)
            own(self)

        cls.__post_init__ = checked  # type: ignore[method-assign]


class Open(Config):
    """Base of the open kinds of config, see above: whatever names it among its bases is a kind."""


def _require_types(config: Any) -> None:
    """Raises ConfigError that names the first field whose value is none of its type."""
    cls: type = type(config)
    hints = field_types(cls)
    for field in dataclasses.fields(config):
        if hints[field.name] is Any:  # a command line puts its own options in place of some fields
            continue
        value = getattr(config, field.name)
        from_json(hints[field.name], value, f"{cls.__name__}.{field.name}")


def to_json(value: Any, path: str = "config") -> Any:
    """Plain JSON data (dict, list, str, int, float, bool, None) of a config value.

    Raises ConfigError with the path of the first field that JSON cannot hold."""
    if _is_dataclass(type(value)):
        fields = {
            f.name: to_json(getattr(value, f.name), f"{path}.{f.name}")
            for f in dataclasses.fields(value)
        }
        origin = _origin_of(type(value))
        return {
            "type": type(value).__name__,
            **({} if origin is None else {"from": origin}),
            **fields,
        }
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
    return hash_of_json(to_json(value))


def hash_of_json(data: Any) -> str:
    """`hash_of` the value that was written as this JSON data, in whichever version."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def files_of(data: Any) -> set[str]:
    """The Python files that define classes of a value that was written as this JSON data."""
    if isinstance(data, list):
        return set().union(*map(files_of, data))
    if not isinstance(data, dict):
        return set()
    origin = data.get("from")
    own = (
        {origin} if "type" in data and isinstance(origin, str) and origin.endswith(".py") else set()
    )
    return own.union(*map(files_of, data.values()))


def from_json(expected: Any, data: Any, path: str = "config") -> Any:
    """The value of type `expected` that `to_json` wrote. A config inside it, which was checked when it was made, may
    stand for its JSON.

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
    if _is_open(expected):
        return _from_union((expected,), data, path)
    if dataclasses.is_dataclass(expected):
        return _from_object(typing.cast(type, expected), data, path)
    if expected is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if expected is float and isinstance(data, float) and not math.isfinite(data):
        raise ConfigError(f"{path}: expected a finite number, got {data}")
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
    if isinstance(data, dict):
        return _from_object(_class_of(members, data, path), data, path)
    classes = tuple(member for member in members if _is_class(member))
    if isinstance(data, classes):
        return data
    others = [m for m in members if m is not type(None) and not _is_class(m)]
    failures = []
    for member in others:
        try:
            return from_json(member, data, path)
        except ConfigError as error:
            failures.append(str(error))
    if failures and not classes:
        raise ConfigError(failures[0])
    choices = " or ".join(cls.__name__ for cls in classes_of(classes)) or "null"
    raise ConfigError(f"{path}: expected {choices}, got {data!r}")


def _class_of(members: tuple[Any, ...], data: dict[str, Any], path: str) -> type:
    """The class that an object names, out of those that a field of these types may hold."""
    name, origin = data.get("type"), data.get("from")
    classes = classes_of(members)
    if origin is not None and not any(_is_named(cls, name, origin) for cls in classes):
        _import(origin, name, path)
        classes = classes_of(members)
    named = [cls for cls in classes if _is_named(cls, name, origin)]
    if not named:
        choices = [_with_origin(cls.__name__, _origin_of(cls)) for cls in classes]
        raise ConfigError(
            f"{path}: expected type {' or '.join(dict.fromkeys(choices))}, got "
            f"{_with_origin(repr(name), origin)}"
        )
    return named[-1]  # of a file that was run again, the class of the last time


def _is_named(cls: type, name: Any, origin: Any) -> bool:
    return name in names_of(cls) and _origin_of(cls) == origin


def _with_origin(name: str, origin: Any) -> str:
    return name if origin is None else f"{name} from {origin}"


def classes_of(annotations: tuple[Any, ...]) -> list[type]:
    """The dataclasses that a field of one of these types may hold; of an open kind, all that are defined by now."""
    classes: dict[type, None] = {}
    for annotation in annotations:
        if _is_open(annotation):
            classes |= dict.fromkeys(_deriving_from(annotation))
        elif _is_dataclass(annotation):
            classes[annotation] = None
    return list(classes)


def _deriving_from(kind: type[Any]) -> Iterator[type]:
    for cls in kind.__subclasses__():  # in the order of their definitions
        if _is_dataclass(cls) and not _is_open(cls):
            yield cls
        yield from _deriving_from(cls)


def _is_open(annotation: Any) -> bool:
    return isinstance(annotation, type) and Open in annotation.__bases__


def _is_dataclass(annotation: Any) -> bool:
    """Of itself: a class without the decorator has the fields of its base only."""
    return isinstance(annotation, type) and "__dataclass_fields__" in vars(annotation)


def _is_class(annotation: Any) -> bool:
    return _is_open(annotation) or _is_dataclass(annotation)


def _origin_of(cls: type) -> str | None:
    """Where a class of an open kind is defined: a Python file or a dotted module; None for this package's own."""
    is_ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    return None if is_ours or not issubclass(cls, Open) else cls.__module__


def _import(origin: Any, name: Any, path: str) -> None:
    """Defines the classes of a file or a module. Raises ConfigError where that cannot be."""
    if not isinstance(origin, str):
        raise ConfigError(f"{path}.from: expected a Python file or a module, got {origin!r}")
    if origin.endswith(".py"):
        if not Path(origin).is_file():
            raise ConfigError(
                f"{path}: {name} is defined in {origin}, which does not exist here; work in the directory in "
                "which it was used, or restore the file"
            )
        run_file(origin)
        return
    if origin == "__main__":
        raise ConfigError(
            f"{path}: {name} was defined in a notebook or a script, which cannot be imported; move it into a file"
        )
    try:
        importlib.import_module(origin)
    except ImportError as error:
        raise ConfigError(
            f"{path}: {name} is defined in the module {origin}, which cannot be imported: {error}; install it, or "
            "name its directory in PYTHONPATH"
        ) from error


def run_file(path: str | Path) -> types.ModuleType:
    """The module that a Python file defines, run anew each time. Its name is its path, relative where it lies below
    the working directory: that is what JSON writes under "from".

    A file is code: run only those you trust. Raises ConfigError with the line at which it failed."""
    name = os.path.relpath(path)
    if name.startswith(os.pardir):
        name = os.path.abspath(path)
    module = types.ModuleType(name)
    module.__file__ = str(path)
    before = sys.modules.get(name)
    # Dataclasses and type hints look up the names of a class's module here.
    sys.modules[name] = module
    try:
        exec(compile(Path(path).read_bytes(), str(path), "exec"), vars(module))  # noqa: S102
    except Exception as error:  # a user's code may raise anything
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"{path}:{line}: {kind}{error}") from error
    return module


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
    if isinstance(data, cls):
        return data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a {cls.__name__} object, got {data!r}")
    given = dict(data)
    name = given.pop("type", None)
    given.pop("from", None)
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


MAX_SEED = 2**32 - 1


def require_at_least(least: int, **values: float | int | None) -> None:
    """Raises ConfigError that names the first field below its bound; None passes."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")


def require_above(bound: int, **values: float | int) -> None:
    """Raises ConfigError that names the first field that is not above its bound."""
    for name, value in values.items():
        if value <= bound:
            raise ConfigError(f"{name} must be above {bound}, got {value}")


def require_seed(seed: int) -> None:
    """Raises ConfigError where NumPy or JAX cannot draw by a field `seed`."""
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must be from 0 to {MAX_SEED}, got {seed}")


def require_share(name: str, value: float | int, *, may_be_one: bool = True) -> None:
    """Raises ConfigError where a field that is a share or a probability is none."""
    if not 0.0 <= value <= 1.0 or (value == 1.0 and not may_be_one):
        expected = "from 0 to 1" if may_be_one else "in [0, 1)"
        raise ConfigError(f"{name} must be {expected}, got {value}")
