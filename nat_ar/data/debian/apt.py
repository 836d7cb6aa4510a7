"""Packages from the machine's own apt, without root, and the files in them."""

import dataclasses
import fnmatch
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nat_ar.data.pair import Report
from nat_ar.runtime import files

ALTERNATIVE = (
    "without Debian's packages, use a Hugging Face data set (corpus=HuggingFace(...)) or your own "
    "files (corpus=TextFiles(...))"
)


class Package(NamedTuple):
    """A package as apt lists it."""

    name: str
    version: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Apt:
    """The machine's apt with its sources and keys, but with package lists of our own, so that it needs no root."""

    folder: Path
    """absolute"""
    language: str

    @property
    def lists(self) -> Path:
        return self.folder / "lists"

    def check(self) -> None:
        """Raises ValueError if the machine has no apt."""
        missing = [name for name in ("apt-get", "apt-cache", "dpkg-deb") if not shutil.which(name)]
        if missing:
            raise ValueError(
                f"the Debian corpus needs {', '.join(missing)}, which this machine does not have; "
                f"{ALTERNATIVE}"
            )

    def _run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        options = {
            "Dir::State::Lists": str(self.lists),
            "Dir::Cache": str(self.folder / "cache"),
            "Acquire::Languages": f"en,{self.language}",
            "Acquire::GzipIndexes": "false",  # the lists are read as text
            "APT::Sandbox::User": "root",  # if we are root: the sandbox user could not write here
        }
        assignments = [part for name in options for part in ("-o", f"{name}={options[name]}")]
        return subprocess.run(
            [program, *assignments, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )

    def update(self, report: Report) -> None:
        """Fetches the package lists, once; delete the folder to fetch them anew."""
        stamp = self.folder / "updated"
        if stamp.exists():
            return
        (self.lists / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        result = self._run("apt-get", "update")
        if result.returncode or not list(self.lists.glob("*_Packages")):
            raise ValueError(
                f"apt-get update failed: {_last_lines(result)}; check the network and the "
                f"machine's apt sources; {ALTERNATIVE}"
            )
        if "Failed to fetch" in result.stderr:
            # apt carries on without that source; the next run tries again
            report.count("apt-get update: a source was not reached", _last_lines(result), number=0)
        else:
            stamp.touch()

    def packages(self, pattern: str) -> dict[str, Package]:
        """The newest version of every package whose full name matches the regular expression."""
        listed = self._run("apt-cache", "pkgnames").stdout.split()
        names = sorted(name for name in listed if re.fullmatch(pattern, name))
        packages: dict[str, Package] = {}
        if not names:
            return packages
        shown = self._run("apt-cache", "--no-all-versions", "show", *names).stdout
        for stanza in shown.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|SHA256): (.+)$", stanza, re.MULTILINE))
            if len(fields) == 3:
                package = Package(fields["Package"], fields["Version"], fields["SHA256"])
                packages[package.name] = package
        return packages

    def download(self, package: Package, archive: Path) -> None:
        """Downloads to `archive`, which exists only if complete."""
        partial = archive.parent / "partial" / package.name
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        result = self._run("apt-get", "download", f"{package.name}={package.version}", cwd=partial)
        debs = list(partial.glob("*.deb"))
        if result.returncode or len(debs) != 1 or files.file_hash(debs[0]) != package.sha256:
            raise ValueError(
                f"apt-get download {package.name}={package.version} failed: "
                f"{_last_lines(result)}; if the archive has a newer version by now, delete "
                f"{self.folder} and run again"
            )
        debs[0].replace(archive)
        shutil.rmtree(partial)


def _last_lines(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr or result.stdout).strip().splitlines()
    return " / ".join(lines[-2:]) or f"exit status {result.returncode}"


def unpack(archive: Path, sha256: str, folder: Path, members: Sequence[str]) -> None:
    """Unpacks the files of a .deb that match one of the patterns, and its copyright file, into `folder`."""
    members = (*members, "*/copyright")
    stamp = folder / ".unpacked"
    content = "\n".join([sha256, *members])
    if stamp.exists() and stamp.read_text() == content:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                # By hand: tarfile has filters since Python 3.11.4, and Debian 12 has 3.11.2.
                file = tar.extractfile(member) if member.isfile() else None
                if file and any(fnmatch.fnmatchcase(member.name, name) for name in members):
                    path = folder / member.name
                    if not path.resolve().is_relative_to(folder.resolve()):
                        raise ValueError(f"{archive}: {member.name} leads out of the archive")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as copy:
                        shutil.copyfileobj(file, copy)
        process.stdout.read()  # dpkg-deb must be able to write its last bytes
    if process.returncode:
        raise ValueError(f"{archive}: dpkg-deb cannot read it; delete it and run again")
    stamp.write_text(content)
