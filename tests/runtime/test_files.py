"""Files are complete or not there; a directory has one writer."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.runtime import files

FILL = """
import sys, time
from pathlib import Path
from nat_ar.runtime import files
with files.new_directory(Path(sys.argv[1])) as partial:
    (partial / "first").touch()
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD = """
import sys, time
from pathlib import Path
from nat_ar.runtime import files
with files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_text_is_written_as_it_is_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("old\n", "grüße\r\nनमस्ते 🎉\n"):
        files.write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_was_there_stays_until_the_new_text_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.txt cannot be written: .*No space left on device; make"):
        files.write_text(path, "new")
    assert path.read_text() == "old"


def test_a_directory_gets_its_name_when_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between the two would leave the name on files that are empty."""
    partial, directory = tmp_path / "data.partial", tmp_path / "data"
    (partial / "train").mkdir(parents=True)
    (partial / "train" / "source.npy").write_bytes(b"tokens")
    (partial / "manifest.json").write_bytes(b"{}")
    expected = {path.stat().st_ino for path in [partial, *partial.rglob("*")]}
    synced = []

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, directory.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    files.rename_directory(partial, directory)
    assert {inode for inode, named in synced if not named} == expected
    assert [inode for inode, named in synced if named] == [tmp_path.stat().st_ino]
    assert (directory / "train" / "source.npy").read_bytes() == b"tokens"


def test_lines_split_at_newlines_only_and_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "translations.txt"
    path.write_bytes("eins\u2028a\x85b\r\n\nzwei\nunfini".encode())
    assert files.read_lines(path) == ["eins\u2028a\x85b\r", "", "zwei"]
    files.append_line(path, "drei")
    assert files.read_lines(path) == ["eins\u2028a\x85b\r", "", "zwei", "drei"]
    for content, lines in [(b"", []), (b"\n", [""]), (b"cut", [])]:
        path.write_bytes(content)
        assert files.read_lines(path) == lines
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match=r"translations\.txt:2: not UTF-8"):
        files.read_lines(path)


def test_appending_makes_the_file(tmp_path: Path) -> None:
    for line in ("grüße", "b"):
        files.append_line(tmp_path / "a.txt", line)
    assert (tmp_path / "a.txt").read_text("utf-8") == "grüße\nb\n"


def test_signed_fields_come_back_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    fields = {"b": 1, "a": ["ü", None, 0.1]}
    files.write_text(path, json.dumps(files.signed(fields)))
    assert files.read_json(path, remedy="") == fields
    path.write_text(path.read_text().replace('"b": 1', '"b": 2'))
    with pytest.raises(
        ValueError, match=r"a\.json cannot be used: it has changed .*; make it again"
    ):
        files.read_json(path, remedy="make it again")
    path.write_text('{"b": 2}')  # never signed
    assert files.read_json(path, remedy="") == {"b": 2}
    for text, why in [("[1]", "it holds a list"), ("{", "Expecting"), ("\xff", "utf-8")]:
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=why):
            files.read_json(path, remedy="")
    with pytest.raises(ValueError, match=r"nothing\.json cannot be used: .*No such file"):
        files.read_json(tmp_path / "nothing.json", remedy="")


def test_no_bit_of_a_signed_file_flips_unnoticed(tmp_path: Path) -> None:
    """Those of names, numbers, texts, punctuation and of the checksum itself."""
    path = tmp_path / "a.json"
    fields = {"first": 4, "texts": ["B A D", "ü"], "seconds": 0.25, "device": "a processor"}
    written = json.dumps(files.signed(fields), ensure_ascii=False).encode()
    for place, bit in itertools.product(range(len(written)), range(8)):
        damaged = bytearray(written)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.json cannot be used: .*; make it again"):
            files.read_json(path, remedy="make it again", is_signed=True)


def test_a_file_that_must_be_signed_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ('{"b": 2}', '{"b": 2, "checksum": null}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="its checksum is missing"):
            files.read_json(path, remedy="", is_signed=True)


def test_the_second_process_is_told_who_is_the_first(tmp_path: Path) -> None:
    """At once: if it waited, it would get the lock when the first ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=f"is in use by process {holder.pid};"),
            files.locked(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)  # a crash leaves the file, and no lock
        holder.wait()
    assert (tmp_path / files.LOCK_NAME).exists()
    for _ in range(2):  # and a block that ends gives it back
        with files.locked(tmp_path):
            assert int((tmp_path / files.LOCK_NAME).read_text()) == os.getpid()


def test_a_directory_that_another_process_fills_is_left_to_it(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    command = [sys.executable, "-c", FILL, str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as filler:
        assert filler.stdout is not None
        assert filler.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=f"data is in use by process {filler.pid};"),
            files.new_directory(directory),
        ):
            pass
        filler.communicate("")
        assert filler.returncode == 0
    assert os.listdir(tmp_path) == ["data"]
    assert os.listdir(directory) == ["first"]


def test_a_lock_that_its_holder_removed_is_held_by_nobody(tmp_path: Path) -> None:
    """The second opens the file before the first removes it: it must not lock what has no name any more."""
    lock = tmp_path / "lock"
    with files._held(lock, refuses=tmp_path):
        held_by_name = lock.stat().st_ino
        lock.unlink()
    with files._held(lock, refuses=tmp_path) as file:
        assert os.fstat(file.fileno()).st_ino == lock.stat().st_ino
    assert held_by_name


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    """To another disk, as many have it. The work is not lost at its end, nor the link."""
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    for name in ("empty", "missing", "a.txt"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    for name in ("empty", "missing"):
        with files.new_directory(tmp_path / name) as partial:
            (partial / "work").write_text("done")
        assert (tmp_path / "disk" / name / "work").read_text() == "done"
        with pytest.raises(ValueError, match=f"{name} holds files"):
            files.check_new_directory(tmp_path / name)
    for text in ("old", "new"):
        files.write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "disk" / "a.txt").read_text() == text
    assert all((tmp_path / name).is_symlink() for name in ("empty", "missing", "a.txt"))
    assert sorted(os.listdir(tmp_path / "disk")) == ["a.txt", "empty", "missing"]
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    for _ in range(2):
        files.make_directory(tmp_path / "run")
    assert (tmp_path / "disk" / "run").is_dir()


def test_lines_of_several_writers_are_whole(tmp_path: Path) -> None:
    """A line that is still being written is not taken for what a crash left."""
    path = tmp_path / "results.jsonl"
    line = "x" * 1_000
    threads = [
        threading.Thread(target=lambda: [files.append_line(path, line) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.read_lines(path) == [line] * 80


def test_a_text_of_two_writers_is_that_of_one(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    texts = [letter * 5_000 for letter in "abcd"]
    threads = [
        threading.Thread(target=lambda text=text: [files.write_text(path, text) for _ in range(10)])
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["table.md"]


def test_a_file_that_goes_while_it_is_looked_at_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer renames it at the worst moment: once we have its status, and before we ask for its name's."""
    path = tmp_path / "table.md"
    fstat = os.fstat

    def renamed_meanwhile(number: int) -> os.stat_result:
        monkeypatch.undo()
        path.with_name("table.md.partial").rename(path)
        return fstat(number)

    monkeypatch.setattr(os, "fstat", renamed_meanwhile)
    files.write_text(path, "ours")
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["table.md"]
