"""What pip is told: on each Python one JAX, the same with and without a GPU. Nothing is asked of the network; that the
lines resolve was tried by `pip install --dry-run` on each Python."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
LINES = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
REQUIRED = [Requirement(text) for line in LINES if (text := line.partition("#")[0].strip())]
README = (ROOT / "README.md").read_text("utf-8")


def jax_on(python: str, requirements: list[Requirement]) -> list[Requirement]:
    """Those of JAX whose markers hold on this Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return [
        one
        for one in requirements
        if one.name == "jax" and (one.marker is None or one.marker.evaluate(environment))
    ]


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_a_gpu_gets_the_jax_that_this_python_has_anyway(python: str, extra: str) -> None:
    """Once, README's line named the version of Python 3.11, which the requirements of 3.12 and 3.13 exclude."""
    (plain,) = jax_on(python, REQUIRED)
    (with_gpu,) = jax_on(python, [Requirement(text) for text in EXTRAS[extra]])
    assert with_gpu.extras == {extra}
    assert with_gpu.specifier == plain.specifier
    assert str(plain.specifier).startswith("==")


def test_the_readme_installs_an_extra_that_is_there_and_no_version() -> None:
    named = re.findall(r'pip install -e "\.\[(\w+)\]"', README)
    assert named
    assert set(named) <= set(EXTRAS)
    assert not re.findall(r"jax\[.*==", README)
