"""Whether the files of a prepared directory are what was written.

Small files are hashed at every start. To hash a large corpus takes minutes, in every process: of files of LARGE bytes
and more the manifest has the time when each was written ("modified"), and one that has this time and its size is taken
as it is. `prepare` on a directory that is made hashes all of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from nat_ar.runtime import files

LARGE = 2**26
Check = Literal["usual", "whole", "sizes"]
"""Of which files the hash is compared as well: of those that may have changed, of all, or of none, where another
process does it."""


def times(directory: Path, names: Iterable[str]) -> dict[str, int]:
    """When each of the large files was written, in nanoseconds."""
    stats = {name: (directory / name).stat() for name in names}
    return {name: stat.st_mtime_ns for name, stat in stats.items() if stat.st_size >= LARGE}


def require(directory: Path, manifest: dict[str, Any], check: Check = "usual") -> None:
    """Raises ValueError that names a file which is not the manifest's."""
    known = manifest.get("modified", {})
    for name, file in manifest["files"].items():
        path = directory / name
        stat = path.stat() if path.exists() else None
        if stat is None or stat.st_size != file["bytes"]:
            state = "is missing" if stat is None else f"has {stat.st_size} bytes"
            raise ValueError(
                f"{path} {state}, expected {file['bytes']} bytes: the prepared data are damaged; "
                "remove the directory and prepare it again"
            )
        is_known = check == "usual" and known.get(name) == stat.st_mtime_ns
        if check != "sizes" and not is_known and files.file_hash(path) != file["sha256"]:
            raise ValueError(
                f"{path} has changed since it was prepared (its SHA-256 is not the manifest's); "
                "remove the directory and prepare it again"
            )
