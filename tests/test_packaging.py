"""What pip is told, what a wheel holds, and the versions that the scripts install. Nothing is asked of the network;
that the lines resolve was tried by `pip install --dry-run` on each Python."""

import ast
import importlib.metadata
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nat_ar
from nat_ar.runtime import extras
from nat_ar.training import tracking

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def requirements(path: str) -> list[Requirement]:
    lines = (
        line.partition("#")[0].strip() for line in (ROOT / path).read_text("utf-8").splitlines()
    )
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def named(texts: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def locked(python: str) -> dict[str, str]:
    """Package -> version that requirements.txt gives this Python."""
    found = {}
    for requirement in requirements("requirements.txt"):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            found[canonicalize_name(requirement.name)] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_version_in_range_of_whatever_the_package_asks_for(python: str) -> None:
    versions = locked(python)
    for name, requirement in named(PROJECT["dependencies"] + EXTRAS["debian"]).items():
        assert versions[name] in requirement.specifier, requirement


def test_the_metadata_leave_room() -> None:
    """For the JAX of an environment that is there."""
    for requirement in named(PROJECT["dependencies"]).values():
        assert not any(part.operator == "==" for part in requirement.specifier), requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_extras_for_a_gpu_resolve_to_the_locked_jax(python: str) -> None:
    """`pip install -c requirements.txt ".[cuda12]"`: no version in the extra that the lock contradicts."""
    for extra in ("cuda12", "cuda13"):
        (requirement,) = named(EXTRAS[extra]).values()
        assert (requirement.name, requirement.extras) == ("jax", {extra})
        assert locked(python)["jax"] in requirement.specifier
        assert extra in (importlib.metadata.metadata("jax").get_all("Provides-Extra") or [])


def test_the_readme_installs_an_extra_that_is_there_and_no_version() -> None:
    """Once, its line named the version of Python 3.11, which the requirements of 3.12 and 3.13 exclude."""
    readme = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r'pip install -c requirements\.txt -e "\.\[(\w+)\]"', readme)
    assert named
    assert set(named) <= set(EXTRAS)
    assert not re.findall(r"jax\[.*==", readme)


def test_each_package_of_an_extra_is_in_it() -> None:
    for package, extra in extras.EXTRAS.items():
        assert canonicalize_name(package) in named(EXTRAS[extra])
    assert set(tracking.PACKAGES.values()) <= set(extras.EXTRAS)
    assert set(tracking.PACKAGES) <= set(EXTRAS)


def test_what_the_package_imports_is_asked_for() -> None:
    known = {*sys.stdlib_module_names, "nat_ar"}
    asked = named(PROJECT["dependencies"] + [text for texts in EXTRAS.values() for text in texts])
    asked |= {"jaxlib": Requirement("jax"), "orbax": Requirement("jax")}
    for path in (ROOT / "nat_ar").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for name in {name.partition(".")[0] for name in names} - known:
                assert canonicalize_name(name) in asked, f"{path}: {name}"


def test_versions_agree() -> None:
    assert PROJECT["version"] == nat_ar.__version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(rf"^version: {re.escape(nat_ar.__version__)}$", citation, re.MULTILINE)


def test_a_wheel_has_every_package_and_every_config(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **fields: given.update(fields))
    runpy.run_path("setup.py")
    (mapped, folder), *_ = given["package_dir"].items()
    folders = {
        name.replace(".", "/").replace(mapped.replace(".", "/"), folder, 1)
        for name in given["packages"]
    }
    files = [*(ROOT / "nat_ar").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
    assert {path.parent.relative_to(ROOT).as_posix() for path in files} <= folders
    assert (ROOT / "nat_ar/py.typed").exists()
