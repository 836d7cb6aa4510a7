"""Kills, faults, bad input and company, for as long as you like; prints what was survived.

    bash scripts/torture.sh --minutes 20

Ends with exit status 1 at the first thing that was lost or wrong, and leaves the directory in which it was."""

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jax
import tqdm

from nat_ar.data.vocabulary import Vocabulary
from scripts.torture import company, faults, inputs, kills, letters

KILLS_A_MINUTE = 5
SHARES = {"train": 0.12, "study": 0.2, "distill": 0.1, "prepare": 0.1, "methods": 0.48}
"""of the kills; methods: `train` with each in its turn, the others with the small Transformer of letters"""
EXAMPLES_A_MINUTE = 25
"""lists of up to 60 lines"""
CONFIGS_A_MINUTE = 100
ROOMS = (0, 8, 64, 200, 800)
"""KiB left on a disk"""


@dataclasses.dataclass(frozen=True)
class Line:
    what: str
    number: int
    how: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="about how long, on two cores")
    parser.add_argument("--seed", type=int, help="of all that is random; default: the time")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr)
    scratch = Path(tempfile.mkdtemp(prefix="nat_ar_torture_"))
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time
    jax.config.update("jax_compilation_cache_dir", str(scratch / "compiled"))
    lines: list[Line] = []
    start = time.monotonic()
    stages = (_faults, _disks, _configs, _text, _company, _kills)
    for stage in tqdm.tqdm(stages, unit="stage", disable=not sys.stderr.isatty()):
        try:
            lines += stage(scratch, arguments.minutes, seed)
        except AssertionError as error:
            print(_table(lines))
            sys.exit(
                f"LOST OR WRONG in {stage.__name__[1:]} (seed {seed}): {error}\nleft in {scratch}"
            )
    shutil.rmtree(scratch)
    print(_table(lines))
    print(
        f"nothing lost, nothing wrong; seed {seed}, {(time.monotonic() - start) / 60:.1f} minutes"
    )


def _table(lines: list[Line]) -> str:
    rows = [f"| {line.what} | {line.number:,} | {line.how} |" for line in lines]
    return "\n".join(["| what | number | how it ended |", "|---|---|---|", *rows])


def _faults(scratch: Path, minutes: float, seed: int) -> list[Line]:
    finished = letters.write(scratch / "faults")
    faults.finish(finished)
    for fault in faults.FAULTS:
        faults.meet(fault, finished, scratch)
    number = len(faults.FAULTS)
    return [
        Line("files damaged, cut, removed, locked, of an older format", number, "one clear line")
    ]


def _disks(scratch: Path, minutes: float, seed: int) -> list[Line]:
    if not faults.has_namespaces():
        return [Line("full and read-only disks", 0, "not tested: this user may not mount")]
    said = []
    for victim in kills.VICTIMS[:3]:  # a study is made of these
        directory = letters.write(scratch / f"disk_{victim.name}")
        cache = scratch / "compiled"
        for words in (*victim.before, victim.words):
            assert kills.Process(words, directory, cache).wait(600)
        expected = victim.outcome(directory / victim.made)
        shutil.rmtree(directory / victim.made)
        said += [
            faults.on_a_full_disk(victim, directory, cache, room=room, expected=expected)
            for room in ROOMS
        ]
    fitted = said.count("it fitted")
    faults.read_only(("evaluate", "teacher"), "teacher", directory, cache)
    return [
        Line(
            "disks with little room",
            len(said),
            f"{fitted} fitted, else one clear line; then completed",
        ),
        Line("read-only run", 1, "one clear line"),
    ]


def _configs(scratch: Path, minutes: float, seed: int) -> list[Line]:
    number, refused = inputs.fuzz_configs(
        scratch / "faults", number=int(CONFIGS_A_MINUTE * minutes), seed=seed
    )
    how = f"{refused:,} refused with one line before any file was touched, the others can be"
    return [Line("values of config fields", number, how)]


def _text(scratch: Path, minutes: float, seed: int) -> list[Line]:
    directory = letters.write(scratch / "text", byte_fallback=True)
    faults.finish(directory)
    examples = max(1, int(EXAMPLES_A_MINUTE * minutes))
    number = inputs.fuzz_text(directory / "teacher", examples=examples, seed=seed)
    return [Line("lines of hostile text", number, "a line each, in order")]


def _company(scratch: Path, minutes: float, seed: int) -> list[Line]:
    vocabulary = Vocabulary.load(scratch / "faults" / "data" / "vocabulary")
    sentences = company.sentences(64, longest=12, seed=seed)
    number, searches = 0, 0
    for method, decoding in company.methods():
        number += company.check(method, decoding, vocabulary, sentences, seed=seed)
        searches += 1
    how = f"the same tokens, scores within 1e-5, under {searches} methods and searches"
    return [Line("translations in other company", number, how)]


def _kills(scratch: Path, minutes: float, seed: int) -> list[Line]:
    cache = scratch / "compiled"

    def kill(victim: kills.Victim, directory: Path, share: float) -> kills.Tally:
        number = max(1, round(KILLS_A_MINUTE * minutes * share))
        with tqdm.tqdm(
            total=number, unit="kill", desc=victim.name, disable=not sys.stderr.isatty()
        ) as bar:
            return kills.torture(
                victim, directory, cache, kills=number, seed=seed, on_kill=bar.update
            )

    tallies = {}
    for victim in kills.VICTIMS:
        directory = letters.write(scratch / f"kill_{victim.name}", max_steps=600, every_steps=20)
        tallies[victim.name] = kill(victim, directory, SHARES[victim.name])
    directory = letters.write(scratch / "kill_methods", max_steps=60, every_steps=10)
    assert kills.Process(kills.PREPARE, directory, cache).wait(600)
    victims = kills.method_victims()
    found = [kill(victim, directory, SHARES["methods"] / len(victims)) for victim in victims]
    tallies[f"train, {len(victims)} methods and options"] = kills.Tally(
        *(sum(numbers) for numbers in zip(*map(dataclasses.astuple, found), strict=True))
    )
    return [
        Line(
            f"kills of {what}",
            tally.kills,
            f"{tally.while_writing} while writing; completed {tally.completed} times, bit for bit",
        )
        for what, tally in tallies.items()
    ]


if __name__ == "__main__":
    main()
