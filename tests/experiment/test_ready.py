"""Ready configs by name, from the repository and from an installed package."""

import shutil
from pathlib import Path

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.experiment import ready
from nat_ar.experiment.config import load_experiment, load_file
from nat_ar.experiment.study import load_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def place_of(name: str) -> Path:
    """In the folder of the ready configs, that of the repository or of the package."""
    path = ready.file_of(name)
    assert path is not None
    return path.relative_to(ready.folder())


def test_every_ready_config_has_a_name_and_is_found_by_it() -> None:
    paths = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
    assert {place_of(name) for name in ready.names()} == paths
    assert len(ready.names()) == len(paths)


def test_the_name_of_a_folder_is_its_study() -> None:
    assert place_of("toy") == place_of("toy/study") == Path("toy/study.py")
    assert {"toy", "toy/teacher", "multi30k_en_de"} <= set(ready.names())
    assert "toy/study" not in ready.names()


@pytest.mark.parametrize(
    "name", ["nothing", "toy/nothing", "toy.py", "configs/toy/study.py", "", "/"]
)
def test_what_is_no_name_is_not_found(name: str) -> None:
    assert ready.file_of(name) is None


def test_configs_load_by_name_from_any_directory() -> None:
    assert load_study("toy") == load_file(ROOT / "configs/toy/study.py")
    assert load_experiment("toy/teacher") == load_file(ROOT / "configs/toy/teacher.py")


def test_a_file_of_that_name_comes_first() -> None:
    Path("toy").write_text("config = 5", "utf-8")
    with pytest.raises(ConfigError, match="toy holds a int"):
        load_study("toy")


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"got toys, which does not exist; .*toy, .*toy/teacher"):
        load_file("toys")


def test_configs_inside_the_package_are_those_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a wheel has them; there is no repository around it."""
    shutil.copytree(ROOT / "configs/toy", tmp_path / "nat_ar/configs/toy")
    monkeypatch.setattr(ready, "PACKAGE", tmp_path / "nat_ar")
    assert "toy" in ready.names()
    assert "multi30k_en_de" not in ready.names()
    assert load_study("toy") == load_file(ROOT / "configs/toy/study.py")
