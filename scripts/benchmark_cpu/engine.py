"""ctranslate2: the same weights in CTranslate2, an independent engine, in turns with ours, each at its best.

nat_ar.export.ctranslate2 exports the weights. Both engines run with several numbers of threads, float32 and int8, each
in a process of its own (thread_worker.py, engine_peer.py) that waits while it is not its turn, and the number of
threads with which an engine is fastest counts (contest.py). CTranslate2 goes from pieces to pieces, we from token ids
to token ids. In one process with XLA's threads it took three to five times as long at batch 1. It takes exactly as many
steps as we do (min_decoding_length, max_decoding_length) and must produce our tokens: those of greedy search, and in
beam search the same hypotheses after the last free step (our last step is a forced EOS, theirs is not).

Its threads spin for a while after a call (GNU OpenMP's default). So each call of either engine starts after a PAUSE and
is made twice, of which the second counts: neither is timed while its threads wake up. OMP_WAIT_POLICY=passive would
make the pause needless and have CTranslate2 wake its threads at every operation."""

import contextlib
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from nat_ar.data import vocabulary
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.evaluation.speed import machine
from nat_ar.nn.packed import Weights
from nat_ar.special_tokens import EOS, PAD
from scripts.benchmark_cpu import contest, models, text, threads, timing
from scripts.benchmark_cpu.contest import Setting, Timed
from scripts.benchmark_cpu.models import Scale, System, Workshop
from scripts.benchmark_cpu.report import Figure, Section
from scripts.benchmark_cpu.timing import Worker

PAUSE = 0.05
LEAST_EQUAL = 0.9
"""Share of the sentences whose tokens must be equal: when two tokens differ by rounding only, engines may choose
differently, and their translations diverge from there."""
OURS, THEIRS = "nat_ar", "CTranslate2"
KINDS: tuple[Weights, ...] = ("float32", "int8")
"""Compute types of theirs, weights of ours."""
SEARCHES = {"greedy": 1, "beam_4": 4}
"""system -> hypotheses"""


def run(section: Section, scale: Scale) -> None:
    try:
        export = importlib.import_module("nat_ar.export.ctranslate2")
        package = importlib.import_module("ctranslate2")
    except ImportError as error:
        section.notes.append(f"Skipped: {error}; install requirements-bench.txt.")
        return
    systems = models.systems(scale.transformer)
    counts = contest.thread_counts(machine.num_threads())
    workshop, batches = Workshop(scale), (scale.batches[0], scale.large)
    names = [models.name_of(name, kind) for name in SEARCHES for kind in KINDS]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        words = _vocabulary(Path(scratch) / "vocabulary", scale)
        directory = Path(scratch) / "exported"
        _export(export, workshop, systems["greedy"], words, directory)
        theirs = {
            (kind, number): running.enter_context(_engine(directory, kind, number))
            for kind in KINDS
            for number in counts
        }
        equal = _require_equal(theirs["float32", counts[-1]], words, workshop, systems["greedy"])
        section.notes.append(
            f"ctranslate2 {package.__version__}; {' and '.join(map(str, counts))} threads, of which each engine's "
            f"fastest counts, kind by kind. {equal}"
        )
        ours = {
            number: running.enter_context(threads.start(number, scale, names, batches))
            for number in counts
        }
        for rows in batches:
            pieces = _pieces(models.sources(rows, scale.positions + 1, scale.vocabulary), words)
            for name, beam in SEARCHES.items():
                timed = _compare(name, beam, rows, pieces, scale, ours, theirs)
                label = systems[name].label
                section.tables[f"{label}, batch {rows}, {timed[0].seconds.size} rounds"] = (
                    contest.rows(timed, OURS, sentences=rows)
                )
                for kind in KINDS:
                    faster = contest.speed_over(timed, OURS, THEIRS, kind)
                    figure = f"ctranslate2/batch {rows}/{name}/{kind}/speed over CTranslate2"
                    section.figures.append(Figure(figure, faster, bar=1.0))


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


def _pieces(source: Int[np.ndarray, "rows bucket"], words: Vocabulary) -> list[list[str]]:
    """Sources without EOS, which the engine adds."""
    return [
        words.source_pieces([token for token in row if token not in (PAD, EOS)])
        for row in source.tolist()
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
        theirs = _translate(engine, _pieces(program.source, words), free, size, size)["hypotheses"]
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
    name: str,
    beam: int,
    rows: int,
    pieces: list[list[str]],
    scale: Scale,
    ours: Mapping[int, Worker],
    theirs: Mapping[tuple[Weights, int], Worker],
) -> list[Timed]:
    """The seconds of one search at one batch, of every engine, kind and number of threads."""
    works: dict[Setting, timing.Call] = {}
    kind: Weights
    for kind in KINDS:
        for number, worker in ours.items():
            call = threads.call(worker, models.name_of(name, kind), rows, calls=2)
            works[Setting(OURS, kind, number)] = call
    for (kind, number), engine in theirs.items():
        work = functools.partial(_translate, engine, pieces, scale.positions, beam)
        steps = {len(best) for hypotheses in work()["hypotheses"] for best in hypotheses}
        if steps != {scale.positions}:
            raise models.TooShortError(
                f"{THEIRS} {kind}, {name}: expected {scale.positions} steps, got {sorted(steps)}"
            )
        works[Setting(THEIRS, kind, number)] = functools.partial(_seconds, work)
    seconds = timing.take_turns(
        f"ctranslate2, {name}, batch {rows}",
        list(works.values()),
        seconds=scale.seconds,
        pause=PAUSE,
    )
    return [Timed(setting, mine) for setting, mine in zip(works, seconds, strict=True)]


def _seconds(work: Callable[[], dict[str, Any]]) -> float:
    return work()["seconds"]
