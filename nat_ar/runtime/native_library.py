"""Builds and loads C++ of ours, with the compiler that the machine has.

A library is built at its first use, for exactly this processor, and kept in $XDG_CACHE_HOME/nat_ar/native
(~/.cache/nat_ar/native) under a name that depends on its source, the compiler, the processor and the release
of the headers that it includes, beside a file with its SHA-256: one that a crash or a full disk left incomplete is
built again. Nothing needs it: where it cannot be built, XLA or NumPy does the work, and one line says so."""

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from nat_ar.runtime import cache, console, files

SWITCH = "NAT_AR_NATIVE"
"""Environment variable; 0: build and load nothing."""
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-w")
BUILD_SECONDS = 300
HASH_SUFFIX = ".sha256"


class UnavailableError(RuntimeError):
    """There is no such library on this machine; the message says why."""


@dataclasses.dataclass(frozen=True)
class Headers:
    """What a source includes that is not the compiler's own."""

    directory: str
    version: str


@functools.cache
def load(
    source: Path, *, without: str, headers: Headers | None = None, parts: tuple[str, ...] = ()
) -> ctypes.CDLL | None:
    """The library of a C++ file; None, after a warning that says why, where there is none. `without` is what the
    warning says of life without it: "decoding takes twice as long". `parts`: the files beside it that it includes."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return ctypes.CDLL(str(_built(source, headers, parts)))
    except (UnavailableError, OSError) as error:
        console.say(
            f"warning: {source.name} could not be built, and {without}: {error}; "
            f"install a C++ compiler, or set {SWITCH}=0 to hear no more of it"
        )
        return None


def _built(source: Path, headers: Headers | None, parts: tuple[str, ...]) -> Path:
    compiler = find_compiler()
    key = hashlib.sha256(source.read_bytes())
    for part in parts:
        key.update(source.with_name(part).read_bytes())
    for part in (*FLAGS, headers.version if headers is not None else "", _target(compiler)):
        key.update(part.encode())
    library = cache.directory("native") / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not _is_whole(library):
        build(compiler, source, library, headers)
    return library


def _is_whole(library: Path) -> bool:
    """Whether it is what was built. To load less can end the process."""
    written = library.with_suffix(HASH_SUFFIX)
    is_there = library.is_file() and written.is_file()
    return is_there and written.read_bytes().decode("ascii", "replace") == files.file_hash(library)


def find_compiler() -> str:
    """The path of $CXX, or of the first of COMPILERS on this machine. Raises UnavailableError."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else COMPILERS
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise UnavailableError(f"there is none of {', '.join(names)}")


def _target(compiler: str) -> str:
    """What the compiler says of itself and of this processor."""
    return _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])


def build(compiler: str, source: Path, library: Path, headers: Headers | None) -> None:
    """Writes beside the library and moves it into place, so that nobody loads half of one."""
    handle, partial = tempfile.mkstemp(dir=library.parent, suffix=".partial")
    os.close(handle)
    try:
        include = [] if headers is None else ["-isystem", headers.directory]
        _run([compiler, *FLAGS, "-shared", *include, str(source), "-o", partial])
        files.write_text(library.with_suffix(HASH_SUFFIX), files.file_hash(Path(partial)))
        os.replace(partial, library)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=BUILD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise UnavailableError(f"{Path(command[0]).name} failed: {lines[0].strip()}")
    return done.stdout
