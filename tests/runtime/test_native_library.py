"""C++ is built once, kept, and done without where it cannot be built."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from nat_ar.runtime import native_library

load = functools.partial(native_library.load, without="all is lost")
SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native_library.SWITCH, raising=False)
    native_library.load.cache_clear()
    yield
    native_library.load.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cc"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def compiler() -> str:
    try:
        return native_library.find_compiler()
    except native_library.UnavailableError as error:
        pytest.skip(str(error))


def kept(tmp_path: Path, pattern: str = "*.so") -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache/nat_ar/native").glob(pattern))


def test_a_library_is_built_once(
    source: Path, compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = load(source)
    assert library is not None
    assert library.answer() == 42
    (name,) = kept(tmp_path)
    assert name.startswith("answer-")
    assert name.endswith(".so")

    native_library.load.cache_clear()
    monkeypatch.setattr(native_library, "build", lambda *_: pytest.fail("it was there already"))
    assert load(source) is not None


def test_another_source_is_another_library(source: Path, compiler: str, tmp_path: Path) -> None:
    load(source)
    native_library.load.cache_clear()
    source.write_text(SOURCE.replace("42", "43"))
    library = load(source)
    assert library is not None
    assert library.answer() == 43
    assert len(kept(tmp_path)) == 2


def test_headers_are_found_and_another_release_of_them_is_another_library(
    source: Path, compiler: str, tmp_path: Path
) -> None:
    source.write_text('#include "number.h"\nextern "C" int answer() { return NUMBER; }\n')
    for number in ("1", "2"):
        (tmp_path / "number.h").write_text(f"#define NUMBER {number}\n")
        library = load(source, headers=native_library.Headers(str(tmp_path), f"release {number}"))
        assert library is not None
        assert library.answer() == int(number)
    assert len(kept(tmp_path)) == 2


def test_source_that_does_not_compile_is_done_without_and_leaves_nothing(
    source: Path, compiler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text("int answer( {\n")
    assert load(source) is None
    assert "warning: answer.cc could not be built, and all is lost" in capsys.readouterr().err
    assert kept(tmp_path, "*") == []


@pytest.mark.parametrize("name", ["*.so", "*.sha256"])
@pytest.mark.parametrize("length", [0, 40])
def test_half_a_library_is_built_again(
    source: Path, compiler: str, tmp_path: Path, name: str, length: int
) -> None:
    """To load one can end the process, and to keep it would mean to do without for ever."""
    load(source)
    native_library.load.cache_clear()
    (path,) = (tmp_path / "cache/nat_ar/native").glob(name)
    whole = path.read_bytes()
    path.unlink()  # this process still maps the old one
    path.write_bytes(whole[:length])
    library = load(source)
    assert library is not None
    assert library.answer() == 42
    assert len(path.read_bytes()) == len(whole)


def test_without_a_compiler_a_warning_says_what_to_do(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load(source) is None
    said = capsys.readouterr().err
    assert "there is none of no-such-compiler" in said
    assert "NAT_AR_NATIVE=0" in said


def test_it_can_be_switched_off(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(native_library.SWITCH, "0")
    assert load(source) is None
    assert capsys.readouterr().err == ""
