"""Whether a file can be the UTF-8 text that it is read as, and what it looks like where it cannot.

A fault of a line is counted, and the line left out; a fault of the whole file is an error. Looks at the beginning."""

import re

LOOKED_AT = 1 << 16
"""Bytes at the beginning of a file, after unpacking."""
_SIGNATURES = (
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\xfe\xff", "UTF-16"),
    (b"\xff\xfe", "UTF-16"),
    (b"\x1f\x8b", "a gzip file within a gzip file"),
    (b"PK\x03\x04", "a zip archive (.zip, .xlsx, .docx)"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF-", "PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself"),
    (b"<!DOCTYPE html", "a web page"),
    (b"<html", "a web page"),
)
_INVALID = re.compile(rb"[\x80-\xff]")


def check(start: bytes, name: str) -> None:
    """Raises ValueError that says what a file with this beginning looks like, unless it may be UTF-8 text."""
    looks = looks_like(start)
    if looks is not None:
        raise ValueError(
            f"{name}: expected UTF-8 text, a sentence a line, got what looks like {looks}; convert it first"
        )


def looks_like(start: bytes) -> str | None:
    """What no UTF-8 text looks like; None for text, also with some broken lines."""
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if b"\x00" in start:
        return _with_zeros(start)
    lines = start.split(b"\n")
    if len(lines) == 1 and start.count(b"\r") > 1:
        return "lines that end in CR alone"
    *whole, last = lines
    foreign = [line for line in (whole or [last]) if _INVALID.search(line)]
    broken = sum(not _is_utf8(line) for line in foreign)
    if broken >= 3 and broken > len(foreign) / 2:
        return (
            f"another encoding, such as Windows-1252: {broken} of {len(lines)} lines are not UTF-8"
        )
    return None


def _with_zeros(start: bytes) -> str:
    """Latin text in UTF-16 has a zero in every other place, in UTF-32 in three of four."""
    zeros = start.count(0) / len(start)
    odd, even = start[1::2].count(0), start[::2].count(0)
    if zeros > 0.6:
        return "UTF-32"
    if max(odd, even) > 4 * min(odd, even) and zeros > 0.2:
        return "UTF-16"
    return "a binary file: it has bytes of value 0"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
