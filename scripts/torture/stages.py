"""What the torture consists of: tasks for a pool of processes, and the lines of the table they come to."""

import concurrent.futures
import dataclasses
import functools
import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import tqdm

from nat_ar.data.vocabulary import Vocabulary
from nat_ar.methods.catalogue import AnyMethod
from scripts.torture import batch_invariance, faults, inputs, kills, tiny_study

KILLS_A_MINUTE = 5
SHARES = {"train": 0.22, "study": 0.1, "distill": 0.1, "prepare": 0.1, "methods": 0.48}
"""of the kills; methods: `train` with each in its turn, the others with the small Transformer of tiny_study"""
EXAMPLES_A_MINUTE = 25
"""lists of up to 100 lines"""
CONFIGS_A_MINUTE = 100
ROOMS = (0, 8, 64, 200, 800)
"""KiB left on a disk"""


@dataclasses.dataclass(frozen=True)
class Line:
    what: str
    number: int
    how: str


class LostOrWrongError(AssertionError):
    """With the name of the stage."""


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    tasks: list[functools.partial[Any]]
    """for processes of their own, the longest first"""
    lines: Callable[[list[Any]], list[Line]]
    """from what the tasks answer, in their order"""


def set_up(scratch: Path) -> None:
    """JAX and the loggers of this process."""
    for name in ("absl", "asyncio"):  # Orbax logs what it also raises, and that it only reads
        logging.getLogger(name).setLevel(logging.CRITICAL)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time
    jax.config.update("jax_compilation_cache_dir", str(_compiled(scratch)))


def run(scratch: Path, minutes: float, seed: int) -> list[Line]:
    """All stages, with as many tasks at once as there are cores: most of what is small runs on one. Raises
    LostOrWrongError at the first failure; what runs then is waited for."""
    finished = tiny_study.write(scratch / "finished")
    faults.finish(finished)
    stages = (
        _kills(scratch, minutes, seed),
        _text(scratch, minutes, seed),
        _disks(scratch, finished),
        _configs(finished, minutes, seed),
        _batch_invariance(finished, seed),
        _damage(scratch, finished),
    )
    pool = ProcessPoolExecutor(
        os.cpu_count(),
        multiprocessing.get_context("spawn"),
        initializer=set_up,
        initargs=(scratch,),
    )
    with pool:
        begun = [(stage, [pool.submit(task) for task in stage.tasks]) for stage in stages]
        stage_of = {future: stage.name for stage, futures in begun for future in futures}
        _wait(stage_of)
    return [
        line
        for stage, futures in reversed(begun)
        for line in stage.lines([future.result() for future in futures])
    ]


def _wait(stage_of: dict[Future[Any], str]) -> None:
    done = concurrent.futures.as_completed(stage_of)
    try:
        for future in tqdm.tqdm(
            done, total=len(stage_of), unit="task", disable=not sys.stderr.isatty()
        ):
            try:
                future.result()
            except AssertionError as error:
                raise LostOrWrongError(f"{stage_of[future]}: {error}") from error
    finally:
        for future in stage_of:
            future.cancel()


def _compiled(scratch: Path) -> Path:
    return scratch / "compiled"


def _damage(scratch: Path, finished: Path) -> Stage:
    def lines(answers: list[Any]) -> list[Line]:
        what = "files damaged, cut, removed, locked, of an older format"
        return [Line(what, sum(answers), "one clear line")]

    return Stage("damage", [functools.partial(_meet_damage, finished, scratch)], lines)


def _meet_damage(finished: Path, scratch: Path) -> int:
    for fault in faults.FAULTS:
        faults.run(fault, finished, scratch)
    return len(faults.FAULTS)


def _disks(scratch: Path, finished: Path) -> Stage:
    victims = kills.VICTIMS[:3]  # a study is made of these

    def lines(answers: list[list[str]]) -> list[Line]:
        *said_by_victim, _ = answers
        said = [text for texts in said_by_victim for text in texts]
        how = f"{said.count('it fitted')} fitted, else one clear line; then completed"
        return [
            Line("disks with little room", len(said), how),
            Line("read-only run", 1, "one clear line"),
        ]

    if not faults.has_namespaces():
        missing = Line("full and read-only disks", 0, "not tested: this user may not mount")
        return Stage("disks", [], lambda _: [missing])
    tasks = [functools.partial(_fill_disks, victim, scratch) for victim in victims]
    return Stage("disks", [*tasks, functools.partial(_read_only, finished, scratch)], lines)


def _fill_disks(victim: kills.Victim, scratch: Path) -> list[str]:
    directory, cache = tiny_study.write(scratch / f"disk_{victim.name}"), _compiled(scratch)
    for words in (*victim.before, victim.words):
        assert kills.Process(words, directory, cache).wait(600)
    expected = victim.outcome(directory / victim.made)
    shutil.rmtree(directory / victim.made)
    return [
        faults.on_a_full_disk(victim, directory, cache, room=room, expected=expected)
        for room in ROOMS
    ]


def _read_only(finished: Path, scratch: Path) -> list[str]:
    directory = shutil.copytree(finished, scratch / "read_only")
    return [faults.read_only(("evaluate", "teacher"), "teacher", directory, _compiled(scratch))]


def _configs(finished: Path, minutes: float, seed: int) -> Stage:
    def lines(answers: list[tuple[int, int]]) -> list[Line]:
        ((number, refused),) = answers
        how = f"{refused:,} refused with one line before any file was touched, the others can be"
        return [Line("values of config fields", number, how)]

    number = int(CONFIGS_A_MINUTE * minutes)
    task = functools.partial(inputs.fuzz_configs, finished, number=number, seed=seed)
    return Stage("configs", [task], lines)


def _text(scratch: Path, minutes: float, seed: int) -> Stage:
    def lines(answers: list[int]) -> list[Line]:
        return [Line("lines of hostile text", sum(answers), "a line each, in order")]

    examples = max(1, int(EXAMPLES_A_MINUTE * minutes))
    return Stage("text", [functools.partial(_fuzz_text, scratch, examples, seed)], lines)


def _fuzz_text(scratch: Path, examples: int, seed: int) -> int:
    directory = tiny_study.write(scratch / "text", byte_fallback=True)
    faults.finish(directory)
    return inputs.fuzz_text(directory / "teacher", examples=examples, seed=seed)


def _batch_invariance(finished: Path, seed: int) -> Stage:
    def lines(answers: list[int]) -> list[Line]:
        how = f"the same tokens, scores within 1e-5, under {len(answers)} methods and searches"
        return [Line("translations in other batches", sum(answers), how)]

    words = finished / "data" / "vocabulary"
    tasks = [
        functools.partial(_check_invariance, method, decoding, words, seed)
        for method, decoding in batch_invariance.methods()
    ]
    return Stage("batch invariance", tasks, lines)


def _check_invariance(method: AnyMethod, decoding: Any, words: Path, seed: int) -> int:
    sentences = batch_invariance.sentences(64, longest=12, seed=seed)
    return batch_invariance.check(method, decoding, Vocabulary.load(words), sentences, seed=seed)


def _kills(scratch: Path, minutes: float, seed: int) -> Stage:
    methods = kills.method_victims()
    shares = SHARES | {victim.name: SHARES["methods"] / len(methods) for victim in methods}
    victims = sorted((*kills.VICTIMS, *methods), key=lambda victim: -shares[victim.name])

    def lines(tallies: list[kills.Tally]) -> list[Line]:
        tally_of = dict(zip(victims, tallies, strict=True))
        names = {victim.name: [victim] for victim in kills.VICTIMS}
        names[f"train, {len(methods)} methods and options"] = list(methods)
        return [
            _killed(name, [tally_of[victim] for victim in members])
            for name, members in names.items()
        ]

    prepared = tiny_study.write(scratch / "prepared", max_steps=60, every_steps=10)
    assert kills.Process(kills.PREPARE, prepared, _compiled(scratch)).wait(600)
    tasks = []
    for victim in victims:
        number = max(1, round(KILLS_A_MINUTE * minutes * shares[victim.name]))
        directory = scratch / f"kill_{victim.name}"
        if victim in methods:
            shutil.copytree(prepared, directory)
        else:
            tiny_study.write(directory, max_steps=600, every_steps=20)
        tasks.append(
            functools.partial(
                kills.torture, victim, directory, _compiled(scratch), kills=number, seed=seed
            )
        )
    return Stage("kills", tasks, lines)


def _killed(name: str, tallies: Iterable[kills.Tally]) -> Line:
    number, while_writing, completed = map(
        sum, zip(*(dataclasses.astuple(tally) for tally in tallies), strict=True)
    )
    how = f"{while_writing} while writing; completed {completed} times, bit for bit"
    return Line(f"kills of {name}", number, how)
