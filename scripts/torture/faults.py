"""Damage done on purpose: each ends with one clear line that names the place, never with a traceback, never
with other numbers."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nat_ar import __main__
from nat_ar.data import distilled
from nat_ar.runtime import files
from scripts.torture import kills

Apply = Callable[[Path], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to a finished directory of scripts.torture.tiny_study, and how a command then answers."""

    name: str
    apply: Apply
    """in force while the command runs"""
    words: tuple[str, ...]
    says: str
    """pattern of its error line"""


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    said: str
    """on stderr"""


def answer(*words: str) -> Answer:
    """A command in this process, whose JAX stays set up as it is."""
    said = io.StringIO()
    try:
        printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            __main__.main(list(words), set_up=lambda verb: None)
    except SystemExit as end:
        return Answer(int(end.code or 0), said.getvalue())
    return Answer(0, said.getvalue())


def parse_only(verb: str, config: str, words: tuple[str, ...], parsed: list[Any]) -> Answer:
    """As `answer`, but the command is not run: its arguments go to `parsed`."""
    command: Any = importlib.import_module(f"nat_ar.commands.{verb}")
    before = command.run
    command.run = parsed.append
    try:
        return answer(verb, config, *words)
    finally:
        command.run = before


def finish(directory: Path) -> None:
    """Prepares, trains and evaluates the teacher of a fresh directory of tiny_study.write."""
    with contextlib.chdir(directory):
        for words in (kills.PREPARE, kills.TRAIN, ("evaluate", "teacher")):
            ended = answer(*words)
            assert ended.status == 0, ended.said


def run(fault: Fault, finished: Path, scratch: Path) -> str:
    """Applies the fault to a copy; returns the error line. Raises AssertionError where that is not as it should be."""
    directory = shutil.copytree(finished, scratch / "faulty")
    try:
        with contextlib.chdir(directory), fault.apply(directory):
            ended = answer(*fault.words)
    finally:
        shutil.rmtree(directory)
    return check(fault.name, ended, fault.says)


def check(name: str, ended: Answer, says: str) -> str:
    *_, line = ended.said.splitlines() or [""]
    assert ended.status == 2, f"{name}: exit status {ended.status}: {ended.said}"
    assert "Traceback" not in ended.said, f"{name}: {ended.said}"
    assert re.match(f"nat-ar: error: .*{says}", line), f"{name}: expected {says!r} in {line!r}"
    return line


def at_once(apply: Callable[[Path], object]) -> Apply:
    """A change that lasts."""

    @contextlib.contextmanager
    def applied(directory: Path) -> Iterator[None]:
        apply(directory)
        yield

    return applied


def flipped(pattern: str) -> Apply:
    """One bit in the middle of the largest file that matches."""

    def flip(directory: Path) -> None:
        path = _largest(directory, pattern)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        _replace({path: content})

    return at_once(flip)


def sprinkled(pattern: str) -> Apply:
    """A bit of every 64 bytes of every file that matches: one alone may hit what nobody reads, since Orbax
    leaves the index of each process in a checkpoint after it has merged them."""

    def flip(directory: Path) -> None:
        contents = {path: bytearray(path.read_bytes()) for path in _matching(directory, pattern)}
        for content in contents.values():
            for place in range(32, len(content), 64):
                content[place] ^= 1
        _replace(contents)

    return at_once(flip)


def halved(pattern: str) -> Apply:
    """Every file that matches loses its second half."""

    def halve(directory: Path) -> None:
        contents = {path: path.read_bytes() for path in _matching(directory, pattern)}
        _replace({path: content[: len(content) // 2] for path, content in contents.items()})

    return at_once(halve)


def removed(pattern: str) -> Apply:
    return at_once(lambda directory: _largest(directory, pattern).unlink())


def edited(name: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Apply:
    """Another content of a JSON file, of the form in which it was written."""

    def write(directory: Path) -> None:
        path = directory / name
        fields = json.loads(path.read_bytes())
        _replace({path: json.dumps(edit(fields), ensure_ascii=False).encode()})

    return at_once(write)


def _largest(directory: Path, pattern: str) -> Path:
    return max(_matching(directory, pattern), key=lambda path: (path.stat().st_size, path))


def _matching(directory: Path, pattern: str) -> list[Path]:
    paths = [path for path in directory.glob(pattern) if path.is_file()]
    assert paths, f"{pattern} matches no file: the fault would change nothing"
    return paths


def _replace(contents: Mapping[Path, bytes | bytearray]) -> None:
    """Writes what a fault makes of files. Raises AssertionError where it makes no other of any."""
    changed = [path for path, content in contents.items() if path.read_bytes() != content]
    assert changed, f"the fault changes nothing of {', '.join(map(str, contents))}"
    for path in changed:
        path.write_bytes(contents[path])


def _old_format(facts: dict[str, Any]) -> dict[str, Any]:
    return files.signed({**files.without_checksum(facts), "format": 0})


def _other_texts(shard: dict[str, Any]) -> dict[str, Any]:
    """The checksum is that of the translations that were written."""
    return {**shard, "texts": [text[::-1] + "!" for text in shard["texts"]]}


@contextlib.contextmanager
def _changed_shard(directory: Path) -> Iterator[None]:
    """As after a kill between the last shard and the distilled directory, and a change to a shard."""

    def stop(*_: object, **__: object) -> None:
        raise OSError("stopped here")

    before = distilled.write
    distilled.write = stop  # type: ignore[assignment]
    try:
        assert answer(*DISTILL).said.endswith("stopped here\n")
    finally:
        distilled.write = before
    with edited("distilled.shards/000000004.json", _other_texts)(directory):
        yield


DISTILL = ("distill", "teacher", "--directory", "distilled", "--shard-sentences", "4")
EVALUATE = ("evaluate", "teacher", "--checkpoint", "latest")
TRANSLATE = ("translate", "teacher", "--input", "test.tsv", "--checkpoint", "latest")
TRAIN_ANOTHER = ("train", "teacher.py", "--run", "another")
COMPARE = ("compare", "teacher", "--teacher", "teacher")
CHECKPOINT = r"teacher/checkpoints/\d+"
FAULTS = (
    Fault(
        "parameters, a bit of 64 bytes",
        sprinkled("teacher/checkpoints/*/params/**/d/*"),
        TRANSLATE,
        f"{CHECKPOINT}/params cannot be used",
    ),
    Fault(
        "parameters, cut",
        halved("teacher/checkpoints/*/params/**/d/*"),
        EVALUATE,
        f"{CHECKPOINT}/params cannot be used",
    ),
    Fault(
        "progress, cut",
        halved("teacher/checkpoints/*/progress/metadata"),
        TRANSLATE,
        f"{CHECKPOINT}/progress cannot be used",
    ),
    Fault(
        "progress, gone",
        removed("teacher/checkpoints/*/progress/metadata"),
        TRANSLATE,
        f"{CHECKPOINT}/progress cannot be used",
    ),
    Fault(
        "optimizer, a bit of 64 bytes",
        sprinkled("teacher/checkpoints/*/training/**/d/*"),
        kills.TRAIN,
        f"{CHECKPOINT}/training cannot be used",
    ),
    Fault("vocabulary, a bit", flipped("teacher/vocabulary/*"), TRANSLATE, "teacher/vocabulary"),
    Fault(
        "vocabulary, gone",
        removed("teacher/vocabulary/*"),
        TRANSLATE,
        "expected joint.model, or source.model and target.model",
    ),
    Fault("config, cut", halved("teacher/config.json"), TRANSLATE, "teacher/config.json"),
    Fault("config, a bit", flipped("teacher/config.json"), TRANSLATE, "teacher/config.json"),
    Fault("facts, a bit", flipped("teacher/facts.json"), TRANSLATE, "teacher/facts.json"),
    Fault("facts, gone", removed("teacher/facts.json"), TRANSLATE, "teacher/facts.json"),
    Fault("array, a bit", flipped("data/train/*.npy"), TRAIN_ANOTHER, r"data/train/.*\.npy"),
    Fault("array, cut", halved("data/train/*.npy"), TRAIN_ANOTHER, r"data/train/.*\.npy"),
    Fault("text, a bit", flipped("data/test/target.txt"), EVALUATE, "data/test/target.txt"),
    Fault("manifest, a bit", flipped("data/manifest.json"), TRAIN_ANOTHER, "data/manifest.json"),
    Fault("manifest, cut", halved("data/manifest.json"), EVALUATE, "data/manifest.json"),
    Fault(
        "results, a bit", flipped("teacher/results.jsonl"), COMPARE, r"teacher/results.jsonl:\d+: "
    ),
    Fault(
        "translations, a bit",
        flipped("teacher/translations/*"),
        COMPARE,
        "teacher/translations/",
    ),
    Fault("shard, changed", _changed_shard, DISTILL, "distilled.shards/000000004.json"),
    Fault(
        "a second process",
        lambda directory: files.locked(directory / "teacher"),
        kills.TRAIN,
        "is in use by process",
    ),
    Fault(
        "an older format",
        edited("teacher/facts.json", _old_format),
        TRANSLATE,
        "has format 0, this version reads 1",
    ),
)


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
"""mounts of its own, which end with the command"""
SMALL_DISK = """
room=$1 made=$2; shift 2
mkdir disk && mount -t tmpfs -o size=1g tmpfs disk || exit 99
cp -r $(ls -A | grep -v '^disk$') disk && cd disk || exit 99
mount -o remount,size=$(( $(du -sk . | cut -f1) + room ))k "$PWD" || exit 99
"$@" > /dev/null 2> ../first.txt
echo $? > ../first.status
mount -o remount,size=1g "$PWD" || exit 99
"$@" > /dev/null 2> ../second.txt
status=$?
[ $status = 0 ] && cp -r "$made" "../$made.found"
exit $status
"""
READ_ONLY = """
made=$1; shift
mount --bind "$made" "$made" && mount -o remount,bind,ro "$made" || exit 99
"$@" > /dev/null 2> first.txt
"""


def has_namespaces() -> bool:
    """Whether this user may mount at all."""
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode
        == 0
    )


def on_a_full_disk(
    victim: kills.Victim, directory: Path, cache: Path, *, room: int, expected: Any
) -> str:
    """The command with `room` KiB left, and again after room was made: the first ends with a clear line, or
    fits; the second comes to the `expected` outcome. Returns what the first said. `directory` is one of
    tiny_study.write in which everything before the victim is done, and nothing of the victim."""
    made = directory / f"{victim.made}.found"
    for path in (made, directory / "disk"):
        shutil.rmtree(path, ignore_errors=True)
    _in_namespace(SMALL_DISK, (str(room), victim.made), victim.words, directory, cache)
    first = Answer(
        int((directory / "first.status").read_text()), (directory / "first.txt").read_text("utf-8")
    )
    said = "it fitted"
    if first.status:
        said = check(
            f"{victim.name} with {room} KiB",
            first,
            "(No space left|cannot be written|the disk has .* left)",
        )
    assert victim.outcome(made) == expected, f"{victim.name} with {room} KiB, resumed: {made}"
    return said


def read_only(words: tuple[str, ...], made: str, directory: Path, cache: Path) -> str:
    """The command where what it writes to cannot be written to; returns its error line."""
    status = _in_namespace(READ_ONLY, (made,), words, directory, cache, may_fail=True)
    ended = Answer(status, (directory / "first.txt").read_text("utf-8"))
    return check(f"{words[0]} read-only", ended, "Read-only file system")


def _in_namespace(
    script: str,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    directory: Path,
    cache: Path,
    *,
    may_fail: bool = False,
) -> int:
    ended = subprocess.run(
        [*NAMESPACE, script, "sh", *arguments, sys.executable, "-m", "nat_ar", *words],
        cwd=directory,
        env={**os.environ, **kills.settings(cache)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 99, f"mounting failed: {ended.stderr}"
    assert may_fail or ended.returncode == 0, (directory / "second.txt").read_text("utf-8")
    return ended.returncode
