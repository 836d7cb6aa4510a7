"""There is a place for what can be made again, whatever the environment."""

import os
import tempfile
import types
from pathlib import Path

import pytest

from nat_ar.runtime import cache, compilation


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's own is made, in a temporary directory of the test's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"nat_ar-{os.getuid()}"


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in the system's list, as under `docker run --user 12345`, and without $HOME."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)


def settings_after_use_cache(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """JAX's, where nobody has set any."""
    settings: dict[str, object] = {compilation.SETTING: None}
    config = types.SimpleNamespace(values=settings, update=settings.__setitem__)
    monkeypatch.setattr(compilation, "jax", types.SimpleNamespace(config=config))
    monkeypatch.delenv(compilation.CACHE, raising=False)
    compilation.use_cache()
    return settings


def test_it_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.directory("xla") == tmp_path / "x" / "nat_ar" / "xla"
    assert cache.directory("xla").is_dir()


@pytest.mark.parametrize("value", [None, "", "cache"])
def test_it_is_in_the_home_directory_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Not in the working directory: an empty or a relative XDG_CACHE_HOME is none."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory("xla") == tmp_path / ".cache" / "nat_ar" / "xla"


def test_without_a_home_directory_every_verb_still_has_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless(monkeypatch)
    set_to = settings_after_use_cache(monkeypatch)
    assert set_to[compilation.SETTING] == str(temporary / "xla")
    assert temporary.stat().st_mode & 0o077 == 0


def test_a_home_directory_that_cannot_be_written_is_none(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert cache.directory("native") == temporary / "native"


def test_what_others_may_write_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    homeless(monkeypatch)
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(PermissionError, match="is not this user's alone: remove it, or set XDG"):
        cache.directory("native")
    assert settings_after_use_cache(monkeypatch)[compilation.SETTING] is None
    assert "warning: compiled programs are not kept" in capsys.readouterr().err
