"""Where things are kept that can be made again: compiled programs, libraries."""

import os
import stat
import tempfile
from pathlib import Path


def directory(name: str) -> Path:
    """The existing directory `name` of $XDG_CACHE_HOME/nat_ar, or of ~/.cache/nat_ar. Where there is no home directory,
    or nothing can be written there, as in many containers: of this user's own in the place for temporary files.

    Raises OSError where that cannot be made, or belongs to somebody else."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path is none, says the specification of the variable, and would differ from place to place.
        root = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"
        path = root / "nat_ar" / name
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK | os.X_OK):
            return path
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        pass
    return _temporary(name)


def _temporary(name: str) -> Path:
    own = Path(tempfile.gettempdir()) / f"nat_ar-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    status = own.lstat()
    # Anyone may write beside it, and libraries are loaded from it.
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise PermissionError(
            f"{own} is not this user's alone: remove it, or set XDG_CACHE_HOME to a directory that can be written"
        )
    path = own / name
    path.mkdir(exist_ok=True)
    return path
