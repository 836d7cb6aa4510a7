"""stream RUN: live captions. Words in as they come, at each the caption out.

Any run can: every prefix of the source is translated anew, by a policy of nat_ar/streaming/policy.py. In a terminal the
caption is drawn in place as it changes; elsewhere each update is a line."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from io import BufferedIOBase
from typing import cast

from nat_ar import config_json
from nat_ar.data.units import Unit
from nat_ar.evaluation import latency
from nat_ar.evaluation.speed import machine
from nat_ar.experiment.run import Run
from nat_ar.pipeline.stream import caption as open_captioner
from nat_ar.runtime import console
from nat_ar.streaming import arrivals, view
from nat_ar.streaming.arrivals import Arrival
from nat_ar.streaming.caption import Caption, Update
from nat_ar.streaming.captioner import Captioner
from nat_ar.streaming.view import View

USUAL_TOKENS = 62
"""subwords of a source for which everything is compiled before the first word is read; longer ones wait once"""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Caption what is typed, a pipe or a file, word by word; a line is a text."""

    run_directory: str
    """the trained run"""
    policy: str = "Retranslate()"
    """what is shown when the source goes on, such as "Retranslate(mask_k=2)" or "AppendOnly()" (docs/captions.md)"""
    input: str = "-"
    """file to caption; -: standard input, at a terminal the keyboard (Ctrl-D ends it)"""
    pace: float | None = None
    """words a second at which the input is read, such as 2.5, a speaker's; default: as fast as it comes"""
    decoding: str | None = None
    """such as "Greedy()"; default: the run's own"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, a step, or average:5, the mean of the best five"""

    def __post_init__(self) -> None:
        if self.pace is not None:
            config_json.require_above(0, pace=self.pace)


def run(arguments: Stream) -> None:
    console.say(machine.summary([Run.of(arguments.run_directory).dtype()]))
    captioner = open_captioner(
        arguments.run_directory,
        arguments.policy,
        decoding=arguments.decoding,
        checkpoint=arguments.checkpoint,
    )
    with _source(arguments) as source:
        captioner.warm_up(USUAL_TOKENS)
        shown = _view(captioner)
        captions: list[Caption] = []
        updates: list[Update] = []
        try:
            for arrival in _arrivals(source, arguments.pace, captioner.source_unit, shown):
                before = updates[-1].shown if updates else ()
                updates.append(_next(captioner, arrival))
                shown.show(updates[-1], before)
                if updates[-1].is_final:
                    captions.append(Caption(tuple(updates)))
                    updates = []
        finally:
            shown.close()
            if captions:
                console.say(f"nat-ar: {summary(captions, captioner)}")


def _next(captioner: Captioner, arrival: Arrival) -> Update:
    if arrival.unit is None:
        return captioner.end()
    return captioner.read(arrival.unit, is_last=arrival.is_last)


@contextlib.contextmanager
def _source(arguments: Stream) -> Iterator[BufferedIOBase]:
    if arguments.input == "-":
        yield cast(BufferedIOBase, sys.stdin.buffer)
        return
    with open(arguments.input, "rb") as file:
        yield file


def _view(captioner: Captioner) -> View:
    if sys.stdout.isatty():
        return view.Terminal(source_unit=captioner.source_unit, target_unit=captioner.target_unit)
    return view.Lines(cast(BufferedIOBase, sys.stdout.buffer), target_unit=captioner.target_unit)


def _arrivals(
    source: BufferedIOBase, pace: float | None, unit: Unit, shown: View
) -> Iterator[Arrival]:
    if source.isatty():
        found = arrivals.of_keyboard(source.fileno(), unit, shown.typed)
    else:
        found = arrivals.of_stream(source, unit)
    return found if pace is None else arrivals.at_pace(found, pace)


def summary(captions: list[Caption], captioner: Captioner) -> str:
    """ "2 texts, 9 updates: 3.1 ms (p50), 4.0 ms (p99); 0.12 words erased a word, LAAL 3.4 words". Without a reference
    LAAL takes the output's own length."""
    updates = [update for caption in captions for update in caption.updates]
    seconds = sorted(update.seconds for update in updates)
    p50, p99 = (1000 * seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    said = [caption for caption in captions if caption.final]
    number = f"{len(captions)} {'text' if len(captions) == 1 else 'texts'}"
    text = f"{number}, {len(updates)} updates: {p50:.1f} ms (p50), {p99:.1f} ms (p99)"
    if not said:
        return text
    lag = sum(
        latency.length_adaptive_average_lagging(
            caption.delays(), caption.source_length, len(caption.final)
        )
        for caption in said
    ) / len(said)
    erased = latency.normalised_erasure([caption.shown for caption in captions])
    unit = captioner.target_unit
    return f"{text}; {erased:.2f} {unit}s erased a {unit}, LAAL {lag:.1f} {captioner.source_unit}s"
