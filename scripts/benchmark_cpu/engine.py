"""ctranslate2: the same weights in CTranslate2, an independent engine, in turns with ours.

nat_ar.export.ctranslate2 exports the weights; each engine is timed in a process of its own (engine_peer.py) that waits
while it is not its turn. CTranslate2 goes from pieces to pieces, we from token ids to token ids. In one process with
XLA's threads it took three to five times as long at batch 1. It takes exactly as many steps as we do
(min_decoding_length, max_decoding_length) and must produce our tokens: those of greedy search, and in beam search the
same hypotheses after the last free step (our last step is a forced EOS, theirs is not).

Its threads spin for a while after a call (GNU OpenMP's default). So each call of either engine starts after a PAUSE and
is made twice, of which the second counts: neither is timed while its threads wake up. OMP_WAIT_POLICY=passive would
make the pause needless and have CTranslate2 wake its threads at every operation."""

import contextlib
import dataclasses
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nat_ar.data import vocabulary
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.evaluation.speed import intervals, machine
from nat_ar.special_tokens import EOS, PAD
from scripts.benchmark_cpu import models, text, timing
from scripts.benchmark_cpu.models import Program, Scale, System, Workshop
from scripts.benchmark_cpu.report import Figure, Row, Section
from scripts.benchmark_cpu.timing import Worker

PAUSE = 0.05
LEAST_EQUAL = 0.9
"""Share of the sentences whose tokens must be equal: when two tokens differ by rounding only, engines may choose
differently, and their translations diverge from there."""
FLOAT32 = "CTranslate2 float32"


def run(section: Section, scale: Scale) -> None:
    try:
        export = importlib.import_module("nat_ar.export.ctranslate2")
        package = importlib.import_module("ctranslate2")
    except ImportError as error:
        section.notes.append(f"Skipped: {error}; install requirements-bench.txt.")
        return
    systems = models.systems(scale.transformer)
    chosen = [systems["greedy"], systems["beam_4"]]
    workshop = Workshop(scale)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        words = _vocabulary(Path(scratch) / "vocabulary", scale)
        directory = Path(scratch) / "exported"
        _export(export, workshop, chosen[0], words, directory)
        engines = {
            name: running.enter_context(_engine(directory, kind, threads))
            for name, kind, threads in _kinds(machine.num_threads())
        }
        section.notes.append(
            f"ctranslate2 {package.__version__}, {machine.num_threads()} threads unless stated. "
            + _require_equal(engines[FLOAT32], words, workshop, chosen[0])
        )
        for rows in (scale.batches[0], scale.large):
            _compare(section, rows, chosen, workshop, words, engines)


def _kinds(threads: int) -> list[tuple[str, str, int]]:
    """Name, compute type and threads of every engine. Its int8 gets slower with more threads."""
    alone = [("CTranslate2 int8, 1 thread", "int8", 1)] if threads > 1 else []
    return [(FLOAT32, "float32", threads), ("CTranslate2 int8", "int8", threads), *alone]


def _vocabulary(directory: Path, scale: Scale) -> Vocabulary:
    """A vocabulary with a piece for every token id: the engine reads and writes pieces."""
    sentences = list(text.pairs(3 * scale.vocabulary))
    return vocabulary.train(
        (source for source, _ in sentences),
        (target for _, target in sentences),
        directory,
        VocabularyConfig(size=scale.vocabulary),
    )


def _export(
    export: Any, workshop: Workshop, system: System, words: Vocabulary, directory: Path
) -> None:
    """The weights of our model."""
    directory.mkdir()
    export.write(
        workshop.model(system.method),
        system.method,
        words,
        directory,
        decoding=system.decoding,
        quantization=None,
        identity={},
    )


def _engine(directory: Path, kind: str, threads: int) -> Worker:
    script = os.path.join(os.path.dirname(__file__), "engine_peer.py")
    return Worker([sys.executable, script, str(directory), kind, str(threads)], dict(os.environ))


def _translate(
    engine: Worker, pieces: list[list[str]], steps: int, beam: int, hypotheses: int = 1
) -> dict[str, Any]:
    """Seconds, and the hypotheses of every sentence, in exactly `steps` steps."""
    return engine.ask({"pieces": pieces, "steps": steps, "beam": beam, "hypotheses": hypotheses})


def _pieces(program: Program, words: Vocabulary) -> list[list[str]]:
    """The sources of a program without EOS, which the engine adds."""
    return [
        words.source_pieces([token for token in row if token not in (PAD, EOS)])
        for row in program.source.tolist()
    ]


def _require_equal(engine: Worker, words: Vocabulary, workshop: Workshop, greedy: System) -> str:
    """How many translations have equal tokens, as a sentence. Raises AssertionError if they are too few."""
    scale = workshop.scale
    target_ids = {
        piece: token for token, piece in enumerate(words.target_pieces(range(words.target_size)))
    }
    beam = System("beam_4", "beam 4, four best", greedy.method, models.Beam(4, n_best=4))
    programs = workshop.programs(
        [(system, scale.large, scale.positions) for system in (greedy, beam)]
    )
    counts = []
    for program, size in zip(programs, (1, 4), strict=True):
        free = scale.positions - 1
        theirs = _translate(engine, _pieces(program, words), free, size, size)["hypotheses"]
        equal = 0
        for mine, other in zip(program().tolist(), theirs, strict=True):
            ids = {tuple(target_ids[piece] for piece in pieces) for pieces in other}
            equal += {tuple(tokens[:free]) for tokens in mine} == ids
        if equal < LEAST_EQUAL * scale.large:
            raise AssertionError(
                f"{program.system.label}: only {equal} of {scale.large} translations have the tokens of "
                "CTranslate2: the engines would be timed on different work"
            )
        kind = "greedy" if size == 1 else "the four hypotheses of beam 4"
        counts.append(f"{kind}: equal tokens for {equal} of {scale.large} sentences")
    return f"{'; '.join(counts)} (float32)."


def _compare(
    section: Section,
    rows: int,
    chosen: list[System],
    workshop: Workshop,
    words: Vocabulary,
    engines: Mapping[str, Worker],
) -> None:
    scale = workshop.scale
    rounded = [dataclasses.replace(system, weights="int8") for system in chosen]
    programs, int8_programs = (
        workshop.programs([(system, rows, scale.positions) for system in systems])
        for systems in (chosen, rounded)
    )
    works: dict[tuple[str, str], timing.Call] = {}
    for program, int8_program, beam in zip(programs, int8_programs, (1, 4), strict=True):
        works[program.system.label, "nat_ar"] = _second(program)
        works[program.system.label, "nat_ar int8"] = _second(int8_program)
        pieces = _pieces(program, words)
        for name, engine in engines.items():
            work = functools.partial(_translate, engine, pieces, scale.positions, beam)
            steps = {len(best) for hypotheses in work()["hypotheses"] for best in hypotheses}
            if steps != {scale.positions}:
                raise models.TooShortError(
                    f"{name}, {program.system.label}: expected {scale.positions} steps, got "
                    f"{sorted(steps)}"
                )
            works[program.system.label, name] = functools.partial(_seconds, work)
    seconds = timing.take_turns(
        f"ctranslate2, batch {rows}",
        list(works.values()),
        seconds=scale.seconds,
        pause=PAUSE,
    )
    of = dict(zip(works, seconds, strict=True))
    table: list[Row] = []
    for (label, name), mine in of.items():
        table.append(
            {
                "search": label,
                "engine": name,
                "ms/sentence": intervals.median(1e3 * mine / rows),
                "x nat_ar": intervals.median_ratio(of[label, "nat_ar"], mine),
            }
        )
    section.tables[f"Batch {rows}, {seconds.shape[1]} rounds"] = table
    for system in chosen:
        faster = intervals.median_ratio(of[system.label, FLOAT32], of[system.label, "nat_ar"])
        name = f"ctranslate2/batch {rows}/{system.name}/speed over CTranslate2 float32"
        section.figures.append(Figure(name, faster, bar=1.0))


def _seconds(work: Callable[[], dict[str, Any]]) -> float:
    return work()["seconds"]


def _second(work: Callable[[], Any]) -> timing.Call:
    """Times the second of two calls."""
    call = timing.timed(work)

    def twice() -> float:
        call()
        return call()

    return twice
