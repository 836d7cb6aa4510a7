"""The configs that come with nat_ar, by name: toy is configs/toy/study.py, toy/teacher is configs/toy/teacher.py.

They lie in configs/ beside the package in the repository; setup.py puts them into it for a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
DEFAULT = "study"
"""the file that the name of a folder means"""


def folder() -> Path:
    """Where they lie."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """Sorted; the shorter name where there are two."""
    paths = (path.relative_to(folder()) for path in folder().glob("*/*.py"))
    return sorted(
        path.parent.as_posix() if path.stem == DEFAULT else path.with_suffix("").as_posix()
        for path in paths
    )


def file_of(name: str | Path) -> Path | None:
    """The file of the ready config with this name (toy/study too); None: no ready config is called so."""
    parts = Path(name).parts
    if len(parts) == 1:
        parts = (*parts, DEFAULT)
    path = folder().joinpath(*parts[:-1], f"{parts[-1]}.py") if len(parts) == 2 else None
    return path if path is not None and path.is_file() else None
