"""Files that are complete or not there, lines that are whole, and directories that one process at a time
writes to."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nat_ar.config_json import ConfigError

LOCK_NAME = "lock"


class InUseError(ConfigError):
    """Another process is at a directory, and cannot be waited for."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names no file, as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(
            f"{path} cannot be written: {error}; make room, and run the same command"
        ) from error


def require_writable(directory: Path) -> None:
    """Makes the directory where it is missing. Raises OSError, before the work is done, where its result could not be
    written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from error


def write_text(path: Path, text: str) -> None:
    """UTF-8, lines as they are, in one step: after a crash or a power cut the file holds the new text or
    what it held before."""
    path = _real(path)
    partial = path.with_name(path.name + ".partial")
    with naming(path), _held(partial) as file:
        file.truncate(0)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Adds one line, and makes it last. What a crash left of an unfinished line before it goes first; what another
    process is writing is waited for."""
    with naming(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read(1) not in (b"", b"\n"):  # rare: only then is all of it read
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[str]:
    """The whole lines of a UTF-8 text, split at LF only: a translation may hold any other separator, and an
    unfinished line at the end is what a crash left. Raises ValueError that names file and line."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8: {error.reason}") from error


def as_name(text: str) -> str:
    """What of a text can be part of a file's name: "Beam_size_4" of "Beam(size=4)". Two texts may have one."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_")


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: Any) -> str:
    """SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """The same with a checksum of all its fields, for a JSON file."""
    return {**value, "checksum": json_hash(value)}


def without_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """What was signed. Raises ValueError where it is not what was; passes what never had a checksum, as
    early versions wrote it."""
    fields = {name: field for name, field in value.items() if name != "checksum"}
    if value.get("checksum") not in (None, json_hash(fields)):
        raise ValueError("it has changed since it was written and signed")
    return fields


def read_json(path: Path, *, remedy: str, is_signed: bool = False) -> dict[str, Any]:
    """The fields of a JSON file. Raises ValueError that names it and says the remedy.

    Without `is_signed`, a file without a checksum is read as early versions wrote it; with it, such a file is
    an error: one whose key "checksum" was damaged looks the same."""
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not fields")
        if is_signed and value.get("checksum") is None:
            raise ValueError("its checksum is missing")
        return without_checksum(value)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path} cannot be used: {error}; {remedy}") from error


@contextlib.contextmanager
def new_directory(directory: Path, *, but: str = "") -> Iterator[Path]:
    """A place beside `directory` to fill, which takes its name in one step at the end.

    `directory` is either complete or not there; where it is a symbolic link, what it names is filled. After an error
    the place is removed; what a killed process left is removed at the next start. Raises ValueError where `directory`
    already holds files, `but` not what was looked for, and ConfigError where another process is filling it."""
    check_new_directory(directory, but=but)
    directory = _real(directory)
    partial = directory.with_name(directory.name + ".partial")
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = directory.with_name(directory.name + ".lock")
    with _held(lock, refuses=directory):
        try:
            check_new_directory(directory, but=but)  # another process may just have filled it
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                with naming(directory):
                    yield partial
            except BaseException:
                shutil.rmtree(partial)
                raise
            if directory.exists():
                directory.rmdir()
            rename_directory(partial, directory)
        finally:
            lock.unlink(missing_ok=True)


def check_new_directory(directory: Path, *, but: str = "") -> None:
    """Raises ValueError where `directory` is a file or holds files, `but` not what was looked for."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        found = f"holds files{', but ' if but else ''}{but}" if directory.is_dir() else "is a file"
        raise ValueError(f"{directory} {found}: name a new or an empty directory")


def make_directory(directory: Path) -> None:
    """With its parents, where it is missing. A symbolic link to a place that does not exist yet makes that place."""
    _real(directory).mkdir(parents=True, exist_ok=True)


def _real(path: Path) -> Path:
    """What a symbolic link names: to replace the link itself would leave the user's file as it was."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def rename_directory(partial: Path, directory: Path) -> None:
    """Gives a filled directory its name in one step, after everything in it has reached the disk: after a power
    cut the name stands for all of it, or is not there."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    os.replace(partial, directory)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    """Makes a file's content, or the names in a directory, last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """This process alone writes to the directory until the block ends, or the process does, however.

    Raises ConfigError, and says who, where another process holds it. The file `lock` stays behind and means
    nothing by itself: the operating system keeps the lock, and gives it back when its process is gone."""
    with held(directory / LOCK_NAME, refuses=directory):
        yield


@contextlib.contextmanager
def shared(directory: Path) -> Iterator[None]:
    """This process writes to the directory until the block ends, and others may that share it too; who asks for it
    alone (`locked`) is refused. Raises InUseError where another process has it alone."""
    with _held(directory / LOCK_NAME, refuses=directory, is_shared=True):
        yield


@contextlib.contextmanager
def held(path: Path, *, refuses: Path | str | None = None) -> Iterator[None]:
    """No other process holds this file, which is made where it is missing, until the block ends. Where one does, it is
    waited for; with `refuses`, InUseError says that this is in use."""
    with _held(path, refuses=refuses):
        yield


@contextlib.contextmanager
def _held(
    path: Path, *, refuses: Path | str | None = None, is_shared: bool = False
) -> Iterator[BinaryIO]:
    """The file, open at its end, which no other process holds until the block ends, or only such as share it.

    Where one does it is waited for; with `refuses`, an InUseError says who uses that instead, and the file holds our
    process's number, or nothing where it is shared."""
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    while True:
        with path.open("ab+") as file:
            try:
                fcntl.flock(file, kind | (0 if refuses is None else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                number = file.read().decode("ascii", "replace").strip()
                who, them = (
                    (f"process {number}", "it")
                    if number
                    else ("processes that make parts of it", "them")
                )
                raise InUseError(
                    f"{refuses} is in use by {who}; wait for {them}, stop {them}, or name another directory"
                ) from None
            if not _is_at(path, file):
                continue  # whoever held it before us has removed or renamed it: what we hold is nobody's
            if refuses is not None:
                file.truncate(0)
                file.write(b"" if is_shared else f"{os.getpid()}\n".encode())
                file.flush()
            yield file
            return


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the path still names the open file, which others may remove or replace at any moment."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
