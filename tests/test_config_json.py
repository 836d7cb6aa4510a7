"""Configs survive JSON exactly, and what does not fit is named by its path."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from nat_ar import config_json


@dataclasses.dataclass(frozen=True)
class Square:
    side: float = 1.0


@dataclasses.dataclass(frozen=True)
class Circle:
    radius: float = 2.0


@dataclasses.dataclass(frozen=True)
class Drawing:
    shape: Square | Circle = Square()
    colour: Literal["red", "blue"] = "red"
    sizes: tuple[int, ...] = (1, 2)
    note: str | None = None


def test_round_trip_keeps_the_member_of_a_union() -> None:
    drawing = Drawing(Circle(3.0), "blue", (4, 5, 6), "x")
    assert (
        config_json.from_json(Drawing, json.loads(json.dumps(config_json.to_json(drawing))))
        == drawing
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_is_named(value: float) -> None:
    with pytest.raises(
        config_json.ConfigError, match=r"config\.shape\.side: expected a finite num"
    ):
        config_json.check(Drawing(Square(value)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "red"}, "perhaps you meant 'colour'"),
        ({"colour": "green"}, "config.colour: expected one of 'red', 'blue', got 'green'"),
        ({"sizes": [1, "2"]}, r"config.sizes\[1\]: expected int, got '2'"),
        ({"sizes": [True]}, r"config.sizes\[0\]: expected int, got True"),
        ({"shape": {"type": "Triangle"}}, "expected type Square or Circle, got 'Triangle'"),
        ({"note": 3}, "config.note: expected str, got 3"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    data = {**config_json.to_json(Drawing()), **change}
    with pytest.raises(config_json.ConfigError, match=message):
        config_json.from_json(Drawing, data)


def test_a_missing_field_is_an_error_even_if_it_has_a_default() -> None:
    data = config_json.to_json(Drawing())
    del data["note"]
    with pytest.raises(config_json.ConfigError, match="Drawing lacks note"):
        config_json.from_json(Drawing, data)


def test_hash_changes_with_any_field_and_only_then() -> None:
    assert config_json.hash_of(Drawing()) == config_json.hash_of(Drawing())
    assert config_json.hash_of(Drawing()) != config_json.hash_of(Drawing(sizes=(1, 3)))


def test_differences_name_the_field() -> None:
    old = config_json.to_json(Drawing())
    new = config_json.to_json(Drawing(Square(2.0)))
    assert list(config_json.differences(old, new)) == ["shape.side: 1.0 -> 2.0"]


def test_check_finds_a_wrong_type_in_a_config_written_in_python() -> None:
    with pytest.raises(config_json.ConfigError, match=r"config.shape.side: expected float"):
        config_json.check(Drawing(Square("wide")))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """Was Oval(width, height); then Ellipse without `angle`."""

    former_names: ClassVar[tuple[str, ...]] = ("Oval",)

    axes: tuple[float, float]
    angle: float = 0.5

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "width" in data:
            data = {"axes": [data["width"], data["height"]]}
        return {"angle": 0.0, **data}


@pytest.mark.parametrize(
    "written",
    [
        {"type": "Oval", "width": 1.0, "height": 2.0},
        {"type": "Ellipse", "axes": [1.0, 2.0]},
        {"type": "Ellipse", "axes": [1.0, 2.0], "angle": 0.0},
    ],
)
@pytest.mark.parametrize("expected", [Ellipse, Ellipse | Square])
def test_what_an_earlier_version_wrote_is_read_as_it_was_meant(
    expected: Any, written: dict[str, Any]
) -> None:
    assert config_json.from_json(expected, written) == Ellipse((1.0, 2.0), 0.0)


def test_an_earlier_name_is_not_offered_and_an_earlier_field_without_its_fellow_is_refused() -> (
    None
):
    with pytest.raises(
        config_json.ConfigError, match="expected type Ellipse or Square, got 'Line'"
    ):
        config_json.from_json(Ellipse | Square, {"type": "Line"})
    with pytest.raises(config_json.ConfigError, match="Ellipse has no field 'heigt'"):
        config_json.from_json(Ellipse, {"type": "Ellipse", "axes": [1.0, 2.0], "heigt": 1.0})


@dataclasses.dataclass(frozen=True)
class Tone(config_json.Open):
    """An open kind."""


@dataclasses.dataclass(frozen=True)
class Hue(Tone):
    angle: float = 0.0


@dataclasses.dataclass(frozen=True)
class Deep(Hue):
    """One of the kind by way of another."""


@dataclasses.dataclass(frozen=True)
class Poster:
    tone: Tone
    border: Tone | None = None
    hue: Hue = Hue()


OUTSIDE = f"""
from __future__ import annotations
import dataclasses
from {__name__} import Hue, Poster, Tone

@dataclasses.dataclass(frozen=True)
class Grey(Tone):
    levels: tuple[Level, ...]

@dataclasses.dataclass(frozen=True)
class Level:
    value: float

config = Poster(Grey((Level(0.5),)), border=Hue(3.0))
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that adds to the kind Tone, named from the working directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("outside.py")
    path.write_text(OUTSIDE, "utf-8")
    return path


def test_a_class_from_a_file_outside_is_written_with_its_file_and_read_back(outside: Path) -> None:
    config = config_json.run_file(outside.absolute()).config
    data = config_json.to_json(config)
    assert data["tone"] == {
        "type": "Grey",
        "from": "outside.py",
        "levels": [{"type": "Level", "value": 0.5}],
    }
    assert data["hue"] == {"type": "Hue", "from": __name__, "angle": 0.0}
    assert config_json.check(config) == config


def test_reading_runs_the_file_that_defines_a_class(tmp_path: Path, outside: Path) -> None:
    data = {"type": "Grey", "from": "outside.py", "levels": [{"type": "Level", "value": 0.5}]}
    with pytest.raises(
        config_json.ConfigError, match=r"Grey is defined in other\.py, which does not"
    ):
        config_json.from_json(Tone, {**data, "from": "other.py"})
    read = config_json.from_json(Tone, data)
    assert type(read).__name__ == "Grey"
    assert config_json.to_json(read) == data
    outside.unlink()  # it was run, and is not run again
    assert config_json.from_json(Tone, data) == read


def test_a_file_that_was_run_again_gives_its_latest_class(outside: Path) -> None:
    first = config_json.run_file(outside).config
    outside.write_text(
        OUTSIDE.replace("value: float", "value: float\n    name: str = 'x'"), "utf-8"
    )
    second = config_json.run_file(outside).config
    assert config_json.check(second) == second
    with pytest.raises(config_json.ConfigError, match=r"levels\[0\]: Level lacks name"):
        config_json.check(first)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (
            "no_such_module",
            "Grey is defined in the module no_such_module, which cannot be imported",
        ),
        ("json", r"expected type Hue from .* or Deep from .*, got 'Grey' from json$"),
        ("__main__", "Grey was defined in a notebook or a script"),
        (3, "config.from: expected a Python file or a module, got 3"),
        (None, r"expected type Hue from .* or Deep from .*, got 'Grey'$"),
    ],
)
def test_a_class_that_cannot_be_found_is_named_with_where_it_should_be(
    origin: Any, message: str
) -> None:
    with pytest.raises(config_json.ConfigError, match=message):
        config_json.from_json(Tone, {"type": "Grey", "from": origin})


def test_only_the_kind_is_open() -> None:
    deep = config_json.to_json(Deep(2.0))
    assert config_json.from_json(Tone | None, deep) == Deep(2.0)
    assert config_json.from_json(Tone | None, None) is None
    with pytest.raises(config_json.ConfigError, match="expected type 'Hue', got 'Deep'"):
        config_json.from_json(Hue, deep)
    with pytest.raises(config_json.ConfigError, match=r"expected type Hue from .*, got 'Tone'"):
        config_json.from_json(Tone, {"type": "Tone"})


def test_a_class_without_the_decorator_is_no_config() -> None:
    class Bare(Hue):
        shade: float = 0.5

    with pytest.raises(config_json.ConfigError, match=r"config\.tone: expected dataclasses"):
        config_json.check(Poster(Bare()))


def test_a_file_that_fails_is_named_with_its_line(outside: Path) -> None:
    outside.write_text("x = 1\nraise KeyError(x)\n", "utf-8")
    with pytest.raises(config_json.ConfigError, match=r"outside\.py:2: KeyError: 1"):
        config_json.run_file(outside)
